"""Call a function in a helper process that can be killed, so that no input can stop or crash this one.

    Sandbox("als.answers.judge", "compare_expressions", seconds=3.0).call("x+x", "2x") -> True

A computer-algebra call cannot be interrupted reliably from inside: a signal waits for a long integer power
to finish, works in the main thread only, and does nothing about memory. So the helper arms a timer whose
default action kills it, limits its own memory, and is started anew by the next call. It lives on between
calls: one costs some 50 microseconds, a start about a second. This module knows nothing of mathematics.
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
from typing import IO, Any

MEMORY_BYTES = 3 * 2**30
_START = "from als.answers.sandbox import serve; serve()"


class Sandbox:
    """A function of strings that returns a JSON value, run in a process of its own.

    Usable from several threads, one call at a time. A forked child gets a helper of its own.
    """

    def __init__(self, module: str, function: str, *, seconds: float) -> None:
        self._order = {"module": module, "function": function, "seconds": seconds}
        self._lock = threading.Lock()
        self._helper: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        atexit.register(self.close)

    def call(self, *arguments: str) -> Any:
        """The function's value; None where it failed, ran out of time or memory, or took the helper down.

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

    def _ask(self, arguments: tuple[str, ...]) -> Any:
        if self._helper is None or self._helper.poll() is not None:
            self.close()
            self._helper = self._start()
        try:
            reply = _exchange(self._helper, arguments)
        except BaseException:  # interrupted half-way: the next reply would answer the wrong question
            self.close()
            raise
        if reply is None:
            self.close()
        return reply["value"] if reply else None

    def _start(self) -> subprocess.Popen[str]:
        paths = os.pathsep.join(path or "." for path in sys.path)
        helper = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,  # Ctrl-C is this process's affair
        )
        if _exchange(helper, self._order) is None:
            raise RuntimeError(f"the helper process for {self._order['module']} ended with {helper.wait()}")
        return helper


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
    _reply(replies, True)
    _be_quiet_and_small()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, order["seconds"])  # SIGALRM's default action ends the process
        value = _evaluate(getattr(module, order["function"]), json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(replies, value)


def _evaluate(function: Any, arguments: list[str]) -> Any:
    try:
        return function(*arguments)
    except (Exception, RecursionError, MemoryError):
        return None


def _reply(replies: IO[str], value: Any) -> None:
    replies.write(json.dumps({"value": value}) + "\n")
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
