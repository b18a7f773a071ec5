"""environment.json: an entry a process, none lost, lines that name theirs, and tables that say when seconds differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from als.cli import collect_states, compare_runs, main
from als.environment import COMPARED, add_entry, end_entry, environments_of, read_entries, seconds_notes
from als.errors import UserError
from als.runlog import read_folder_lines, read_json
from als.stats import runs_table

NODE = {"host": "node1", "devices": ["GPU"], "batch_size": 32, "als": "1", "torch": "2", "transformers": "5"}
NODE |= {"vllm": None}
RUNS = Path("output/tiny-arithmetic")


def test_processes_that_write_at_once_lose_no_entry(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from als.environment import add_entry, end_entry\n"
        "for i in range(20):\n    end_entry(Path(sys.argv[1]), add_entry(Path(sys.argv[1]), {'shard': sys.argv[2]}))"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"{k}/4"]) for k in range(1, 5)]
    assert [process.wait(timeout=100) for process in started] == [0] * 4
    entries = read_entries(tmp_path)
    assert len(entries) == 80
    assert all(entry["start"] <= entry["end"] for entry in entries.values())
    assert {entry["shard"] for entry in entries.values()} == {"1/4", "2/4", "3/4", "4/4"}


def test_an_entry_has_no_end_until_its_process_ends(tmp_path: Path) -> None:
    first, other = add_entry(tmp_path, NODE), add_entry(tmp_path, NODE)
    end_entry(tmp_path, first)
    entries = read_entries(tmp_path)
    assert list(entries) == [first, other]
    assert entries[first]["end"] is not None
    assert entries[other]["end"] is None
    assert {field: entries[other][field] for field in COMPARED} == NODE


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    assert read_entries(tmp_path) == {}  # of an earlier version
    for content in ("{}", "[1]", "[" * 100_000, "["):
        (tmp_path / "environment.json").write_text(content)
        with pytest.raises(UserError, match=r"environment.json"):
            read_entries(tmp_path)
        assert (tmp_path / "environment.json").read_text() == content


def test_environments_of_lines() -> None:
    entries = {"a": NODE | {"start": "1"}, "b": NODE | {"start": "2"}, "c": NODE | {"batch_size": 8}}
    assert environments_of(["a", "b", "a"], entries) == [NODE]
    assert environments_of(["c", "a", None], entries) == [NODE | {"batch_size": 8}, NODE, None]
    assert environments_of([None, "lost"], entries) == []


def test_seconds_compare_within_one_environment_only() -> None:
    small, other = NODE | {"batch_size": 8}, NODE | {"host": "node2", "devices": ["GPU", "GPU"]}
    assert seconds_notes([("x", [NODE]), ("y", [NODE])]) == []
    assert seconds_notes([("x", []), ("y", [])]) == []
    assert seconds_notes([("x", [NODE]), ("y", [small]), ("z", [NODE])]) == [
        "seconds compare only within each of these groups: x, z (batch_size 32); y (batch_size 8)"
    ]
    assert seconds_notes([("x", [NODE]), ("y", [other])]) == [
        "seconds compare only within each of these groups: "
        "x (host node1, devices GPU); y (host node2, devices GPU + GPU)"
    ]
    assert seconds_notes([("x", [NODE, small])]) == [
        "the lines of x were written in 2 environments, so its seconds do not compare with each other "
        "(batch_size 32; batch_size 8)"
    ]
    assert seconds_notes([("x", [NODE]), ("y", [])]) == [
        "seconds compare only within each of these groups: x (environment known); y (environment unknown)"
    ]


@pytest.fixture(scope="module")
def options(tiny_path) -> list[str]:
    model = ["--model_name_or_path", tiny_path, "--dtype", "float32", "--device", "cpu", "--dataset", "arithmetic"]
    return [*model, "--max_new_tokens", "6"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_line_names_the_process_that_wrote_it(options, capsys) -> None:
    run = [*options, "--generation_mode", "greedy_cot", "--prompts_to_run", "0", "--resume"]
    assert main.main([*run, "--end_data_idx", "4"]) == 0
    first = capsys.readouterr()
    assert "Note" not in first.out
    folder = RUNS / "greedy_cot_eval/prompt_0"
    config = (folder / "config.json").read_bytes()
    assert main.main([*run, "--end_data_idx", "4"]) == 0  # nothing to do, no entry
    assert main.main([*run, "--end_data_idx", "6", "--batch_size", "2"]) == 0
    entries = json.loads((folder / "environment.json").read_text())
    assert [(entry["batch_size"], entry["problem_range"], entry["shard"]) for entry in entries] == [
        (32, [0, 4], "1/1"),
        (2, [0, 6], "1/1"),
    ]
    import socket

    import torch
    import transformers

    from als import __version__

    versions = {"als": __version__, "torch": torch.__version__, "transformers": transformers.__version__, "vllm": None}
    for entry in entries:
        assert {name: entry[name] for name in versions} == versions
        assert entry["host"] == socket.gethostname()
        assert len(entry["devices"]) == 1
        assert f"{torch.get_num_threads()} threads" in entry["devices"][0]
        assert entry["start"] <= entry["end"]
    named = {line.index: line.details["environment"] for line in read_folder_lines(folder)}
    assert named == dict.fromkeys(range(4), entries[0]["id"]) | dict.fromkeys((4, 5), entries[1]["id"])
    assert [one["batch_size"] for one in read_json(folder / "summary.json")["environments"]] == [32, 2]
    assert "2 environments" in capsys.readouterr().out
    assert (folder / "config.json").read_bytes() == config


def test_the_page_and_old_folders(options, capsys) -> None:
    run = [*options, "--generation_mode", "greedy_cot", "--prompts_to_run", "0", "--end_data_idx", "3"]
    for name, batch_size in (("a", "3"), ("b", "1")):
        assert main.main([*run, "--run_name", name, "--batch_size", batch_size]) == 0
    a, b = (RUNS / f"greedy_cot_eval/prompt_0_{name}" for name in ("a", "b"))
    capsys.readouterr()
    compare = [str(a), str(b), "--resamples", "100"]
    assert compare_runs.main(compare) == 0
    assert (
        "- Note: seconds compare only within each of these groups: greedy_cot prompt_0_a (batch_size 3); "
        "greedy_cot prompt_0_b (batch_size 1)." in capsys.readouterr().out
    )
    for folder in (a, b):  # as an earlier version left it
        (folder / "environment.json").unlink()
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        for line in lines:
            del line["environment"]
        (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compare_runs.main(compare) == 0
    assert "seconds compare only" not in capsys.readouterr().out
    assert main.main([*run, "--run_name", "a", "--resume"]) == 0
    assert "environments" not in read_json(a / "summary.json")
    assert main.main([*run, "--run_name", "a", "--resume", "--end_data_idx", "4"]) == 0
    assert "(environment unknown; environment known)" in capsys.readouterr().out


def test_state_folders_have_one_too(options) -> None:
    collect = [*options, "--label_by", "answer", "--end_data_idx", "2"]
    assert collect_states.main([*collect, "--shard", "2/2"]) == 0
    assert collect_states.main([*collect, "--shard", "1/2"]) == 0
    folder = RUNS / "state_collection/prompt0_answer"
    entries = read_entries(folder)
    assert [entry["shard"] for entry in entries.values()] == ["2/2", "1/2"]
    named = {
        line.index: entries[line.details["environment"]]["shard"] for line in read_folder_lines(folder, "examples")
    }
    assert named == {0: "1/2", 1: "2/2"}


def test_the_table_has_its_notes_below() -> None:
    summary = {"n": 4, "correct": 1, "answered": 1.0, "generated_tokens": 9, "seconds": 1.0, "tokens_per_second": 9.0}
    small = summary | {"environments": [NODE | {"batch_size": 8}]}
    table = runs_table([("x", summary | {"environments": [NODE]}), ("y", small)])
    assert table.splitlines()[-1] == (
        "- Note: seconds compare only within each of these groups: x (batch_size 32); y (batch_size 8)."
    )
    assert "Note" not in runs_table([("x", summary), ("y", summary)])
