"""Commands in processes that are forked from one with the libraries loaded, and that stop themselves at a given write.

A file of its own, which the forked processes import: they would take another folder's conftest for that of the tests.
"""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


def hear_ctrl_c() -> None:
    """A shell starts background jobs deaf to Ctrl-C, and their children inherit it; not those of these tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Forked:
    """A command in a process that has its libraries from the start; the part of subprocess.Popen that is used here."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["als.cli.main", "als.cli.collect_states", "als.engines.transformers_engine", "als.generation.latentseek"]
        + ["als.states", "als.answers.judge", "transformers.models.llama.modeling_llama"]
        + [f"transformers.models.auto.{name}" for name in ("modeling_auto", "tokenization_auto")]
    )

    def __init__(self, name: str, arguments: list[str], *, stop_at: int | None) -> None:
        self._files = [tempfile.NamedTemporaryFile(suffix=suffix) for suffix in (".out", ".err")]  # noqa: SIM115
        streams = [file.name for file in self._files]
        self._process = self.context.Process(target=run_forked, args=(name, arguments, streams, stop_at))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("forked", timeout)
        out, err = (Path(file.name).read_text() for file in self._files)
        return out, err


def run_forked(name: str, arguments: list[str], streams: list[str], stop_at: int | None) -> None:
    """What the child does: it stops itself, as SIGSTOP does, as soon as the stop_at-th write is on the disk."""
    hear_ctrl_c()
    for stream, path in zip((sys.stdout, sys.stderr), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY), stream.fileno())
    if stop_at is not None:
        written, fsync = itertools.count(1), os.fsync

        def counted(file: int) -> None:
            fsync(file)
            if next(written) == stop_at:
                os.kill(os.getpid(), signal.SIGSTOP)

        os.fsync = counted
    sys.exit(importlib.import_module(f"als.cli.{name}").main(arguments))
