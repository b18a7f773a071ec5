"""A run's folder: append, resume, refuse, move aside, and the files derived from the lines."""

import errno
import fcntl
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch

from als.errors import UserError
from als.records import Completion, Problem, ResultLine, Verdict, failure_line, hash_question, result_line
from als.runlog import (
    RunFolder,
    Shard,
    config_hash,
    lines_files,
    read_folder_lines,
    read_lines,
    summarise,
    warn_of_no_locks,
)

CONFIG = {"mode": "greedy_cot", "model": "m", "prompt_idx": 0, "prompts": (0, 1)}


def a_line(index: int, *, correct: bool = True, seconds: float = 0.5, **details: object) -> ResultLine:
    problem = Problem(index, f"What is {index} + 1?", str(index + 1))
    completion = Completion("so it is\n\u2028 7 \ud83d", 10, 20, "stop", seconds)
    verdict = Verdict("7" if correct else None, problem.gold, correct, "boxed")
    return result_line(problem, "the prompt", completion, verdict, **details)


def a_run(path: Path, *indices: int) -> RunFolder:
    folder = RunFolder(path)
    with folder.open(CONFIG):
        for index in indices:
            folder.append(a_line(index))
    return folder


def test_a_line_survives_the_file(tmp_path: Path) -> None:
    line = a_line(3, steered_fraction=0.25)
    assert ResultLine.from_json(json.loads(json.dumps(line.to_json()))) == line
    assert "details" not in line.to_json()
    assert line.to_json()["steered_fraction"] == 0.25


def test_question_hash_ignores_case_and_white_space() -> None:
    assert hash_question("What is  2 + 3?\n") == hash_question("what is 2 +\u00a03?")
    assert hash_question("What is 2 + 3?") != hash_question("What is 2 + 4?")
    assert hash_question("What is 2 + 3?", masked=True) == hash_question("what is 20.5 +  1,300?", masked=True)
    assert hash_question("What is 2 + 3?", masked=True) != hash_question("What is 2 - 3?", masked=True)
    assert hash_question("What is 2 + 3?", masked=True) != hash_question("What is 2 + 3 + 4?", masked=True)


def test_resume_goes_on_by_index(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0, 2)
    again = RunFolder(tmp_path / "run")
    with again.open(CONFIG, resume=True):
        assert again.done() == {0, 2}
        again.append(a_line(1))
    assert [line.index for line in read_lines(tmp_path / "run" / "results.jsonl")] == [0, 2, 1]


def test_traces_stay_on_the_disk_and_not_in_memory(tmp_path: Path) -> None:
    line = a_line(0).with_details(trace={"tokens": ["a"]}, steered_fraction=0.5)
    folder = RunFolder(tmp_path / "run")
    with folder.open(CONFIG):
        folder.append(line)
        assert folder.lines == [line.without_trace()]
    with folder.open(CONFIG, resume=True):
        assert folder.lines == [line.without_trace()]
    assert read_folder_lines(tmp_path / "run") == [line]
    assert line.without_trace().details["steered_fraction"] == 0.5


def test_a_torn_last_line_is_dropped_with_a_notice_and_others_stay(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0, 1)
    path = tmp_path / "run" / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    again = RunFolder(tmp_path / "run")
    with pytest.warns(UserWarning, match="unfinished"):
        again.open(CONFIG, resume=True)
    with again:
        assert again.done() == {0}
        again.append(a_line(1))
    assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0, 1)
    path = tmp_path / "run" / "results.jsonl"
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(UserError, match="line 1"):
        read_lines(path)


def test_results_are_never_overwritten_in_silence(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0)
    with pytest.raises(UserError, match=r"--resume.*--overwrite"):
        RunFolder(tmp_path / "run").open(CONFIG)


def test_overwrite_moves_aside_and_deletes_nothing(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0)
    for _ in range(2):
        with RunFolder(tmp_path / "run").open(CONFIG, overwrite=True) as folder:
            folder.append(a_line(5))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["run", "run.1", "run.2"]
    assert [line.index for line in read_lines(tmp_path / "run.1" / "results.jsonl")] == [0]


def test_another_configuration_is_refused_field_by_field(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0)
    with pytest.raises(UserError, match=r"model: then 'm', now 'n'; seed: then None, now 1"):
        RunFolder(tmp_path / "run").open(CONFIG | {"model": "n", "seed": 1}, resume=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"] == "m"


def test_logistics_is_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").open(CONFIG) as folder:
        folder.append(a_line(2, correct=False, seconds=2.0))
        folder.append(a_line(0, correct=True, seconds=1.0))
        summary = folder.finish({0, 2})
    log = torch.load(tmp_path / "run" / "logistics.pt", weights_only=True)
    assert log == {"results_history": [True, False], "time_history": [1.0, 2.0]}
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["n"], summary["accuracy"], summary["answered"]) == (2, 0.5, 0.5)
    assert summary["tokens_per_second"] == pytest.approx(40 / 3)


def test_summary_averages_what_steered_modes_record() -> None:
    summary = summarise([a_line(0, steered_fraction=1.0), a_line(1, steered_fraction=0.5)])
    assert summary["steered_fraction"] == 0.75
    assert "mean_cosine" not in summary


def by_rule(*found: tuple[str | None, bool, str]) -> list[ResultLine]:
    """Lines of (extraction rule, whether the answer is right, finish reason)."""
    lines = [a_line(index, correct=correct) for index, (_, correct, _) in enumerate(found)]
    return [
        replace(line, finish_reason=reason, details={"rule": rule})
        for line, (rule, _, reason) in zip(lines, found, strict=True)
    ]


def test_summary_has_accuracy_by_extraction_rule_and_the_share_cut_off() -> None:
    lines = by_rule(
        ("boxed", True, "stop"),
        ("boxed", False, "stop"),
        ("last_number", True, "length"),
        ("json", True, "stop"),
        (None, False, "length"),
    )
    summary = summarise(lines, prompt_idx=0)
    assert summary["truncated"] == 0.4
    assert (summary["strict_accuracy"], summary["flexible_accuracy"], summary["accuracy"]) == (0.2, 0.6, 0.6)
    assert summary["rules"] == {
        "boxed": {"n": 2, "correct": 1},
        "last_number": {"n": 1, "correct": 1},
        "json": {"n": 1, "correct": 1},
        "none": {"n": 1, "correct": 0},
    }
    assert summarise(lines, prompt_idx=1)["strict_accuracy"] == 0.2  # the one in JSON
    assert "strict_accuracy" not in summarise(lines)  # what was asked for is not known
    empty = summarise([], prompt_idx=0)
    assert (empty["truncated"], empty["strict_accuracy"], empty["rules"]) == (None, None, {})


def test_a_folders_summary_knows_what_its_prompt_asks_for(tmp_path: Path) -> None:
    for prompt_idx, strict in ((0, 0.5), (1, 0.0)):
        with RunFolder(tmp_path / str(prompt_idx)).open(CONFIG | {"prompt_idx": prompt_idx}) as folder:
            for line in by_rule(("boxed", True, "stop"), ("last_number", True, "length")):
                folder.append(line)
            summary = folder.finish({0, 1})
        assert summary is not None
        assert (summary["strict_accuracy"], summary["flexible_accuracy"], summary["truncated"]) == (strict, 1.0, 0.5)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="--output_dir"):
        RunFolder(tmp_path / "file" / "run").open(CONFIG)


def test_config_hash_is_blind_to_order() -> None:
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1}) != config_hash({"a": 1, "b": 3})


def test_a_changed_data_set_is_noticed(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0, 1)
    with RunFolder(tmp_path / "run").open(CONFIG, resume=True) as folder:
        folder.check_problems([Problem(1, "What is 1 + 1?", "2"), Problem(7, "new", "1")])
        with pytest.raises(UserError, match="another problem 1 "):
            folder.check_problems([Problem(1, "Something else?", "2")])


def test_a_run_that_goes_on_is_not_done(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").open(CONFIG) as folder:
        folder.append(a_line(0))
        assert folder.finish({0, 1}) is None
        assert folder.finish({0}) is not None
    with RunFolder(tmp_path / "run").open(CONFIG, resume=True) as folder:
        assert not (tmp_path / "run" / "summary.json").exists()
        folder.append(a_line(1))
        summary = folder.finish({0, 1})
    log = torch.load(tmp_path / "run" / "logistics.pt", weights_only=True)
    with RunFolder(tmp_path / "run").open(CONFIG, resume=True, goes_on=False):
        pass
    assert (tmp_path / "run" / "summary.json").exists()  # somebody had a look, that is all
    assert summary is not None
    assert summary["n"] == len(log["results_history"]) == 2


def test_a_smaller_view_does_not_replace_the_summary(tmp_path: Path) -> None:
    """Ten problems are done; a command about three of them, or about others, leaves a summary of all lines."""
    run = tmp_path / "run"
    with RunFolder(run).open(CONFIG) as folder:
        for index in range(10):
            folder.append(a_line(index, correct=index >= 3))
        assert folder.finish(set(range(10))) is not None
    with RunFolder(run).open(CONFIG, resume=True) as folder:
        view = folder.finish({0, 1, 2})
    assert view is not None
    assert (view["n"], view["accuracy"]) == (3, 0.0)  # what the command asked for
    written = json.loads((run / "summary.json").read_text())
    assert (written["n"], written["accuracy"]) == (10, 0.7)
    assert len(torch.load(run / "logistics.pt", weights_only=True)["results_history"]) == 10
    with RunFolder(run, shard=Shard(0, 2)).open(CONFIG, resume=True) as folder:  # another range, as a share of two
        folder.append(a_line(20))
        assert folder.finish({20, 21}) is None
    assert not (run / "summary.json").exists()
    with RunFolder(run, shard=Shard(1, 2)).open(CONFIG, resume=True) as folder:
        folder.append(a_line(21))
        view = folder.finish({20, 21})
    assert view is not None
    assert view["n"] == 2
    assert json.loads((run / "summary.json").read_text())["n"] == 12


def test_a_summary_stays_until_a_line_is_to_follow(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").open(CONFIG) as folder:
        folder.append(a_line(0))
        folder.finish({0})
    with RunFolder(tmp_path / "run").open(CONFIG, resume=True, goes_on=False) as folder:
        assert (tmp_path / "run" / "summary.json").exists()
        folder.begin()
        assert not (tmp_path / "run" / "summary.json").exists()
        folder.begin()


def test_shards_write_apart_and_read_together(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", shard=Shard(1, 2)).open(CONFIG) as second:
        second.append(a_line(1))
        with RunFolder(tmp_path / "run", shard=Shard(0, 2)).open(CONFIG) as first:
            assert first.done() == {1}
            first.append(a_line(0))
            with pytest.raises(UserError, match="another process"):
                RunFolder(tmp_path / "run").open(CONFIG, resume=True)
            assert first.finish({0, 1}) is not None
    assert {path.name for path in lines_files(tmp_path / "run")} == {"results.1of2.jsonl", "results.2of2.jsonl"}
    assert sorted(line.index for line in read_folder_lines(tmp_path / "run")) == [0, 1]


def test_a_folder_that_was_only_begun_can_be_moved_aside(tmp_path: Path) -> None:
    a_run(tmp_path / "run")
    with RunFolder(tmp_path / "run").open(CONFIG | {"model": "n"}, overwrite=True) as folder:
        folder.append(a_line(0))
    assert (tmp_path / "run.1" / "config.json").exists()


def test_results_without_a_configuration_are_refused(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0)
    (tmp_path / "run" / "config.json").unlink()
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    for options in ({"resume": True}, {}):
        with pytest.raises(UserError, match=r"without config.json.*--overwrite"):
            RunFolder(tmp_path / "run").open(CONFIG | {"model": "n"}, **options)
    assert not (tmp_path / "run" / "config.json").exists()
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before


def test_overwrite_moves_answers_aside_that_have_lost_their_configuration(tmp_path: Path) -> None:
    a_run(tmp_path / "run", 0)
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    (tmp_path / "run" / "config.json").unlink()
    with RunFolder(tmp_path / "run").open(CONFIG | {"model": "n"}, overwrite=True) as folder:
        assert folder.lines == []
        folder.append(a_line(5))
    assert (tmp_path / "run.1" / "results.jsonl").read_bytes() == before
    assert [line.index for line in read_lines(tmp_path / "run" / "results.jsonl")] == [5]


def nfs_flock(file: IO[bytes], kind: int) -> None:
    """flock as NFSv4 has it: a shared lock needs a file open for reading, an exclusive one for writing."""
    access = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
    if access == (os.O_WRONLY if kind & fcntl.LOCK_SH else os.O_RDONLY):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@pytest.mark.parametrize("shard", [Shard(), Shard(0, 2)], ids=["alone", "share"])
def test_locks_of_nfs(shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", nfs_flock)
    with RunFolder(tmp_path / "run", shard=shard).open(CONFIG) as folder:
        folder.append(a_line(0))
    assert [line.index for line in read_folder_lines(tmp_path / "run")] == [0]


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    warn_of_no_locks.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("one", "two"):
            with RunFolder(tmp_path / name).open(CONFIG) as folder:
                folder.append(a_line(0))
    assert [str(warning.message) for warning in caught if "no file locks" in str(warning.message)] == [
        f"the file system of the output folder has no file locks ({os.strerror(reason)}): two processes that write "
        "to one folder will not notice each other; start only one without --shard"
    ]
    assert [line.index for line in read_folder_lines(tmp_path / "two")] == [0]


def test_a_failure_is_tried_again_and_a_success_replaces_it(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").open(CONFIG) as folder:
        folder.append(failure_line(Problem(0, "Q", "1"), ValueError("no")))
        summary = folder.finish({0})
    assert summary is not None
    assert (summary["failures"], summary["tokens_per_second"]) == (1, None)
    with RunFolder(tmp_path / "run").open(CONFIG, resume=True) as folder:
        assert folder.done() == set()
        folder.append(a_line(0))
    assert [line.failed for line in read_folder_lines(tmp_path / "run")] == [False]
