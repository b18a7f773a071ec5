"""The helper process: its limits are CPU time and memory, it says why a call failed, and it runs no file of the cwd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from als.answers.judge import judge_completion
from als.answers.worker import WALL_FACTOR, Reply, Worker
from als.records import Completion, Problem, ResultLine, result_line
from als.runlog import RunFolder
from als.stats import runs_table

FUNCTIONS = """
import os, time

def warm_up(): pass
def echo(text): return text
def sleep(seconds): time.sleep(float(seconds)); return "awake"
def busy():
    while True: pass
def recurse(): return recurse()
def allocate(): return len(bytearray(8 * 2**30))
def kill(): os.kill(os.getpid(), 9)
def leave(): os._exit(7)
"""
ENDLESS = r"\boxed{\binom{99999999}{9999999}}"


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Makes workers of the functions above, with so many CPU seconds a call."""
    (tmp_path / "worker_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(function: str, seconds: float = 1.0) -> Worker:
        made.append(Worker("worker_functions", function, seconds=seconds))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_call_is_limited_by_its_cpu_time_and_not_by_the_load_of_the_machine(worker) -> None:
    assert worker("sleep", seconds=0.3).call("1.5") == Reply("awake")
    assert worker("busy", seconds=0.3).call() == Reply(error="time limit of 0.3 CPU seconds")


def test_a_helper_that_only_sleeps_ends_too(worker) -> None:
    limit = 0.05 * WALL_FACTOR
    assert worker("sleep", seconds=0.05).call("600") == Reply(error=f"time limit of {limit:g} wall-clock seconds")


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("recurse", "RecursionError"),
        ("allocate", "MemoryError"),
        ("kill", "helper ended with signal 9"),
        ("leave", "helper ended with exit code 7"),
    ],
)
def test_a_call_that_fails_says_why_and_the_next_one_works(worker, function: str, error: str) -> None:
    failing = worker(function)
    assert failing.call() == Reply(error=error)
    assert failing.call() == Reply(error=error)
    assert worker("echo").call("a") == Reply("a")


def test_the_limit_holds_where_the_parent_ignores_its_signals(worker) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGPROF, signal.SIGALRM)}
    try:
        assert worker("busy", seconds=0.3).call() == Reply(error="time limit of 0.3 CPU seconds")
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def a_judged_line(index: int, completion: str, gold: str) -> ResultLine:
    verdict = judge_completion(completion, gold, benchmark="math-500", prompt_idx=0)
    return result_line(Problem(index, f"{index}?", gold), "P", Completion(completion, 1, 2, "stop", 0.1), verdict)


def test_an_answer_that_meets_the_limit_is_wrong_and_counted(tmp_path: Path) -> None:
    """In the verdict, the results line, the summary and the table."""
    lines = [a_judged_line(0, ENDLESS, "5"), a_judged_line(1, r"\boxed{x+x}", "2x"), a_judged_line(2, "no", "5")]
    assert [line.correct for line in lines] == [False, True, False]
    assert [line.to_json().get("judge_error", "none") for line in lines] == [
        "time limit of 3 CPU seconds",
        "none",
        "none",
    ]
    with RunFolder(tmp_path / "run").open({"mode": "greedy_cot"}) as folder:
        for line in lines:
            folder.append(line)
        summary = folder.finish({0, 1, 2})
    assert summary is not None
    assert (summary["n"], summary["correct"], summary["judge_errors"]) == (3, 1, 1)
    head, _, row = ([cell.strip() for cell in line.split("|")] for line in runs_table([("a", summary)]).splitlines())
    assert row[head.index("judge errors")] == "1"
    assert "judge errors" not in runs_table([("a", {**summary, "judge_errors": 0})])


@pytest.mark.parametrize(
    ("flags", "path"),
    [([], []), (["-P"], [os.curdir]), (["-P"], ["", ""])],
    ids=["python -c", "PYTHONPATH with a dot", "PYTHONPATH with empty entries"],
)
def test_no_file_of_the_working_directory_is_run(tmp_path: Path, flags: list[str], path: list[str]) -> None:
    """Each of these puts the working directory on the parent's sys.path."""
    for name in ("sympy", "math_verify"):
        (tmp_path / f"{name}.py").write_text(f"open('ran_{name}', 'w').close()\n")
    source = str(Path(judge_completion.__code__.co_filename).parents[2])
    code = "from als.answers.judge import judge_answer; print(judge_answer('x+x', '2x', benchmark='math-500'))"
    run = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, source])},
        capture_output=True,
        text=True,
        check=False,
    )
    ran = sorted(found.name for found in tmp_path.glob("ran_*"))
    assert (run.stdout.strip(), ran) == ("True", []), run.stderr
