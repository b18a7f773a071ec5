"""Call a function in a helper process that can be killed, so that no input can stop or crash this one.

    Worker("als.answers.judge", "compare_expressions", seconds=3.0).call("x+x", "2x") -> Reply(True)

A computer-algebra call cannot be interrupted reliably from inside: a signal waits for a long integer power
to finish, works in the main thread only, and does nothing about memory. So the helper sets timers whose
default action ends it, limits its own memory, and is started again by the next call. It serves many calls:
one costs some 50 microseconds, a start about a second. This module knows nothing of mathematics.

A worker is not a sandbox: the function has all the rights of this process. Only its time and memory are
limited, and its modules never come from the working directory.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MEMORY_BYTES = 3 * 2**30
WALL_FACTOR = 40
"""A call also ends after so many times its CPU seconds of wall-clock time: a helper that sleeps uses no CPU."""
_START = "import sys; sys.path.insert(0, sys.argv[1]); import als; del sys.path[0]; import als.answers.worker as w; "
_START += "w.serve()"


@dataclass(frozen=True)
class Reply:
    """What a call returned, or why it did not return."""

    value: Any = None
    error: str | None = None
    """For example "time limit of 3 CPU seconds", "helper ended with signal 9" or "RecursionError"."""


class Worker:
    """A function of strings that returns a JSON value, run in a process of its own.

    Usable from several threads, one call at a time. A forked child gets a helper of its own.
    """

    def __init__(self, module: str, function: str, *, seconds: float) -> None:
        """Name the function.

        Args:
            module: has the function and a `warm_up()`, which the helper calls once, without limits.
            function: its name.
            seconds: CPU time that one call may take, of all the helper's threads together.
        """
        self._seconds = seconds
        self._order = {"module": module, "function": function, "seconds": seconds}
        self._lock = threading.Lock()
        self._helper: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        atexit.register(self.close)

    def call(self, *arguments: str) -> Reply:
        """The function's value, or why there is none: it failed, or its helper process ended.

        Raises:
            RuntimeError: the helper process cannot be started.
        """
        if self._owner != os.getpid():  # forked: the pipes, and maybe a held lock, belong to the parent
            self._lock, self._helper, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            return self._ask(arguments)

    def close(self) -> None:
        """End the helper process, if one runs."""
        helper, self._helper = self._helper, None
        if helper is None or self._owner != os.getpid():
            return
        helper.kill()
        with contextlib.suppress(OSError):
            _pipe(helper.stdin).close()
        _pipe(helper.stdout).close()
        helper.wait()

    def _ask(self, arguments: tuple[str, ...]) -> Reply:
        if self._helper is None or self._helper.poll() is not None:
            self.close()
            self._helper = self._start()
        try:
            reply = _exchange(self._helper, arguments)
            if reply is None:
                reply = {"error": self._reason(self._helper)}
                self.close()
        except BaseException:  # interrupted half-way: the next reply would answer the wrong question
            self.close()
            raise
        return Reply(reply.get("value"), reply.get("error"))

    def _start(self) -> subprocess.Popen[str]:
        helper = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(Path(__file__).resolve().parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": _paths(), "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,  # Ctrl-C is this process's affair
        )
        if _exchange(helper, self._order) is None:
            raise RuntimeError(f"the helper process for {self._order['module']} ended with {helper.wait()}")
        return helper

    def _reason(self, helper: subprocess.Popen[str]) -> str:
        """Why the helper sent no reply."""
        try:
            code = helper.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "helper closed its output"
        if code == -signal.SIGPROF:
            return f"time limit of {self._seconds:g} CPU seconds"
        if code == -signal.SIGALRM:
            return f"time limit of {WALL_FACTOR * self._seconds:g} wall-clock seconds"
        return f"helper ended with signal {-code}" if code < 0 else f"helper ended with exit code {code}"


def _paths() -> str:
    """This process's sys.path without the working directory, whose files are data and not code."""
    here = os.path.realpath(".")
    return os.pathsep.join(path for path in sys.path if path and os.path.realpath(path) != here)


def _exchange(helper: subprocess.Popen[str], message: object) -> dict[str, Any] | None:
    """Send a line, read a line; None where the helper is gone."""
    try:
        _pipe(helper.stdin).write(json.dumps(message) + "\n")
        _pipe(helper.stdin).flush()
        line = _pipe(helper.stdout).readline()
    except OSError:
        return None
    return json.loads(line) if line.endswith("\n") else None


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # Popen was given PIPE
    return stream


def serve() -> None:
    """The helper's side: read what to call, then one line of arguments after the other until the end."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no reply
    order = json.loads(sys.stdin.readline())
    module = importlib.import_module(order["module"])
    module.warm_up()
    _reply(replies, value=True)
    _be_quiet_and_small()
    _let_timers_kill()
    for line in sys.stdin:
        _set_timers(order["seconds"])
        reply = _evaluate(getattr(module, order["function"]), json.loads(line))
        _set_timers(0)
        _reply(replies, **reply)


def _let_timers_kill() -> None:
    """Give both timers' signals their default action, which ends the process; a parent may have ignored them."""
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))


def _set_timers(seconds: float) -> None:
    """Limit CPU time, which does not depend on what else the machine does, and far above it wall-clock time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * seconds)


def _evaluate(function: Any, arguments: list[str]) -> dict[str, Any]:
    try:
        return {"value": function(*arguments)}
    except Exception as error:
        return {"error": type(error).__name__}


def _reply(replies: IO[str], **content: Any) -> None:
    replies.write(json.dumps(content) + "\n")
    replies.flush()


def _be_quiet_and_small() -> None:
    """Send error output nowhere and limit memory; after the start, whose failure should be seen."""
    import resource

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(2, 1)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    with contextlib.suppress(ValueError, OSError):  # some systems refuse
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
