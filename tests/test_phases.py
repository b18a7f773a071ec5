"""The three phases end to end on the real model, through the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from als.cli import collect_states, compute_steering_vector, create_chart, main
from als.records import hash_question
from als.runlog import Shard, read_json, read_lines
from als.states import Example, StateFolder, find_states, read_states
from als.vectors import load_vector

N = 12
STATES = "output/SmolLM2-135M-Instruct-arithmetic/state_collection/prompt0_answer"
EVALS = "output/SmolLM2-135M-Instruct-arithmetic"


@pytest.fixture(scope="module")
def options(smollm2_path) -> list[str]:
    model = ["--model_name_or_path", str(smollm2_path), "--dtype", "float32", "--device", "cpu"]
    return [*model, "--dataset", "arithmetic", "--max_new_tokens", "48", "--batch_size", "8"]


@pytest.fixture(scope="module")
def here(tmp_path_factory, options) -> Path:
    """A folder in which states were collected and a vector was computed."""
    folder = tmp_path_factory.mktemp("phases")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert collect_states.main([*options, "--label_by", "answer", "--end_data_idx", str(N)]) == 0
        arguments = ["--states_dir", f"{STATES}/hidden_states", "--output_file", "vectors/v_p0.pt"]
        assert compute_steering_vector.main(arguments) == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(here, monkeypatch) -> None:
    monkeypatch.chdir(here)


def test_a_state_file_for_every_example(here) -> None:
    lines = read_lines(here / STATES / "examples.jsonl")
    assert sorted(line.index for line in lines) == list(range(N))
    names = {path.name for path in (here / STATES / "hidden_states").iterdir()}
    assert names == {f"idx_{line.index}_{line.details['label']}.safetensors" for line in lines}
    assert {line.details["label"] for line in lines} == {"good", "bad"}
    assert all((line.details["label"] == "good") == line.correct for line in lines)


def test_the_vector_is_the_difference_of_means_and_knows_its_origin(here) -> None:
    files = find_states(here / STATES / "hidden_states")
    states = list(zip((file.label for file in files), read_states(files), strict=True))
    means = {label: torch.stack([h for name, h in states if name == label]).mean(0) for label in ("good", "bad")}
    vector = load_vector(here / "vectors" / "v_p0.pt")
    assert vector.vector.shape == (30, 576)
    torch.testing.assert_close(vector.vector, means["good"] - means["bad"], rtol=1e-4, atol=1e-4)
    hashes = {line.problem_hash for line in read_lines(here / STATES / "examples.jsonl")}
    assert set(vector.metadata["problem_hashes"]) == hashes
    assert vector.metadata["collection"]["split"] == "train"
    assert vector.metadata["states_dir"] == str((here / STATES / "hidden_states").resolve())
    questions = {line.question for line in read_lines(here / STATES / "examples.jsonl")}
    masked = {hash_question(question, masked=True) for question in questions}
    assert set(vector.metadata["masked_problem_hashes"]) == masked
    assert len(masked) < len(hashes)  # additions of other numbers are one question
    assert vector.metadata["n_good"] + vector.metadata["n_bad"] == N
    labels = json.loads((here / STATES / "summary.json").read_text())["labels"]
    assert vector.metadata["labels"] == labels
    assert labels["agreement"] is None  # labels by answer are correctness itself
    assert labels["good"] == vector.metadata["n_good"]


def test_collecting_again_resumes_by_example(here, options, capsys) -> None:
    """A missing state file is made again, equal to what it was; what is there is left alone."""
    folder = here / STATES
    before = {path.name: path.read_bytes() for path in (folder / "hidden_states").iterdir()}
    lost = sorted(before)[3]
    (folder / "hidden_states" / lost).unlink()
    again = [*options, "--label_by", "answer", "--end_data_idx", str(N)]
    assert collect_states.main(again) == 2  # not without being told to
    assert collect_states.main([*again, "--resume", "--batch_size", "1"]) == 0
    after = {path.name: path for path in (folder / "hidden_states").iterdir()}
    assert set(after) == set(before)
    assert all(path.read_bytes() == before[name] for name, path in after.items() if name != lost)
    assert sorted(line.index for line in read_lines(folder / "examples.jsonl")) == list(range(N))


def test_a_state_that_changed_its_label_in_a_share_is_not_collected_again(here, options, tmp_path) -> None:
    """The state was lost, and a share collected it again with the other label: the line of that label counts."""
    folder = tmp_path / STATES
    shutil.copytree(here / STATES, folder)
    lines = {line.index: line for line in read_lines(folder / "examples.jsonl")}
    label = lines[3].details["label"]
    other = "bad" if label == "good" else "good"
    states = folder / "hidden_states"
    (states / f"idx_3_{label}.safetensors").unlink()
    share = StateFolder(folder, shard=Shard(1, 2))
    with share.open(read_json(folder / "config.json"), resume=True):
        share.drop_unfinished()
        assert 3 not in share.done()
        share.add(Example(lines[3].with_details(label=other), other, torch.ones(30, 576)))
    assert {file.line.details["label"] for file in find_states(states) if file.index == 3} == {other}
    again = StateFolder(folder)
    with again.open(read_json(folder / "config.json"), resume=True):
        again.drop_unfinished()
        assert again.done() == set(range(N))  # nothing is left to collect
        assert {line.details["label"] for line in again.lines if line.index == 3} == {other}
        again.finish(set(range(N)))
        assert {line.details["label"] for line in again.lines if line.index == 3} == {other}


def evaluate(options: list[str], mode: str, *more: str) -> int:
    return main.main([*options, "--generation_mode", mode, "--prompts_to_run", "0", "--end_data_idx", "6", *more])


def completions(folder: Path) -> dict[int, str]:
    return {line.index: line.completion for line in read_lines(folder / "results.jsonl")}


def test_greedy_als_and_their_folders(here, options, capsys) -> None:
    template = ["--vector_name_template", "vectors/v_p{prompt_idx}.pt"]
    assert evaluate(options, "greedy_cot") == 0
    assert evaluate(options, "als", *template) == 0
    assert evaluate(options, "als", *template, "--alpha", "0") == 0
    strong = ("--alpha", "0.5", "--alpha_scale", "residual", "--similarity_threshold", "none", "--layer_idx", "10")
    assert evaluate(options, "als", *template, *strong) == 0
    folders = sorted(path.parent.relative_to(here / EVALS) for path in (here / EVALS).glob("*_eval/*/summary.json"))
    assert [str(folder) for folder in folders] == [
        "als_eval/prompt_0",
        "als_eval/prompt_0_alpha0",
        "als_eval/prompt_0_alpha0.5_residual_layer10_taunone",
        "greedy_cot_eval/prompt_0",
    ]
    texts = {
        folder.name if "als" in str(folder) else "greedy": completions(here / EVALS / folder) for folder in folders
    }
    assert texts["prompt_0_alpha0"] == texts["greedy"]
    assert texts["prompt_0_alpha0.5_residual_layer10_taunone"] != texts["greedy"]
    lines = read_lines(here / EVALS / "als_eval/prompt_0_alpha0.5_residual_layer10_taunone/results.jsonl")
    assert all(line.details["steered_fraction"] == 1 for line in lines)
    assert all(
        "steered_fraction" not in line.details for line in read_lines(here / EVALS / folders[3] / "results.jsonl")
    )
    assert "accuracy, 95 % Wilson interval" in capsys.readouterr().out


def test_a_run_is_resumed_widened_and_charted(here, options) -> None:
    name = ("--run_name", "resumed")
    assert evaluate(options, "greedy_cot", *name, "--end_data_idx", "2") == 0
    assert evaluate(options, "greedy_cot", *name) == 2
    assert evaluate(options, "greedy_cot", *name, "--resume", "--max_new_tokens", "23") == 2
    assert evaluate(options, "greedy_cot", *name, "--resume", "--batch_size", "3") == 0
    folder = here / EVALS / "greedy_cot_eval" / "prompt_0_resumed"
    assert evaluate(options, "greedy_cot", "--run_name", "straight") == 0
    assert completions(folder) == completions(folder.with_name("prompt_0_straight"))
    assert json.loads((folder / "summary.json").read_text())["n"] == 6
    assert create_chart.main(["--log_file", str(folder / "logistics.pt"), "--output_dir", "charts"]) == 0
    assert {path.suffix for path in (here / "charts").iterdir()} == {".png", ".svg"}


def test_another_vector_goes_to_another_folder(here, options) -> None:
    template = ["--vector_name_template", "vectors/v_p{prompt_idx}.pt"]
    (here / "vectors" / "other.pt").write_bytes((here / "vectors" / "v_p0.pt").read_bytes())
    again = ("--end_data_idx", "1", "--alpha", "0.2")
    assert evaluate(options, "als", "--vector_name_template", "vectors/other.pt", *again) == 0
    assert evaluate(options, "als", *template, *again) == 0
    assert (here / EVALS / "als_eval" / "prompt_0_alpha0.2_other" / "summary.json").exists()
    assert (here / EVALS / "als_eval" / "prompt_0_alpha0.2" / "summary.json").exists()


def test_labels_by_verifiers_record_four_verdicts(here, options, capsys) -> None:
    assert collect_states.main([*options, "--end_data_idx", "2", "--good_example_threshold", "1"]) == 0
    folder = here / EVALS / "state_collection" / "prompt0_thresh1"
    for line in read_lines(folder / "examples.jsonl"):
        assert set(line.details["verdicts"]) == {"calculation", "answer", "completeness", "understanding"}
        approved = sum(passed is True for passed in line.details["verdicts"].values())
        assert line.details["label"] == ("good" if approved >= 1 else "bad")
    captured = capsys.readouterr()
    assert "of labels against correctness" in captured.out
    assert "agree with correctness beyond chance" in captured.err
    assert "at least 20 of each label" in captured.err
    labels = json.loads((folder / "summary.json").read_text())["labels"]
    table = [labels["agreement"][f"{name}_{right}"] for name in ("good", "bad") for right in ("right", "wrong")]
    assert sum(table) == labels["good"] + labels["bad"] == 2
    assert labels["agreement"]["kappa_low"] <= 0


def test_several_samples_of_each_problem(here, options, capsys) -> None:
    """Folder, lines, resume, and a vector that contrasts answers to the same question."""
    drawn = [*options, "--label_by", "answer", "--samples_per_problem", "3", "--temperature", "1.0"]
    drawn += ["--start_data_idx", "2", "--end_data_idx", "8", "--max_new_tokens", "24"]
    folder = here / f"{STATES}_samples3"
    assert collect_states.main(drawn) == 0
    lines = {line.index: line for line in read_lines(folder / "examples.jsonl")}
    assert sorted(lines) == list(range(2 * 3, 8 * 3))
    for index, line in lines.items():
        assert (line.details["problem_index"], line.details["sample"]) == divmod(index, 3)
    questions = {problem: {lines[problem * 3 + k].question for k in range(3)} for problem in range(2, 8)}
    assert all(len(asked) == 1 for asked in questions.values())
    assert len(set.union(*questions.values())) == 6
    assert any(len({lines[problem * 3 + k].completion for k in range(3)}) > 1 for problem in range(2, 8))
    config = json.loads((folder / "config.json").read_text())
    assert (config["samples_per_problem"], config["temperature"]) == (3, 1.0)
    assert "samples_per_problem" not in json.loads((here / STATES / "config.json").read_text())
    lost = folder / "hidden_states" / f"idx_10_{lines[10].details['label']}.safetensors"
    before = lost.read_bytes()
    lost.unlink()
    assert collect_states.main([*drawn, "--resume", "--temperature", "0.5"]) == 2
    assert "temperature: then 1.0, now 0.5" in capsys.readouterr().err
    assert collect_states.main([*drawn, "--resume", "--batch_size", "1"]) == 0
    torch.testing.assert_close(load(lost.read_bytes()), load(before), rtol=1e-4, atol=1e-4)
    assert {line.index: line.completion for line in read_lines(folder / "examples.jsonl")} == {
        index: line.completion for index, line in lines.items()
    }


def test_a_single_answer_has_no_temperature(here, options, capsys) -> None:
    assert collect_states.main([*options, "--temperature", "0.5", "--run_name", "never"]) == 2
    assert "--samples_per_problem" in capsys.readouterr().err
    assert collect_states.main([*options, "--samples_per_problem", "0", "--run_name", "never"]) == 2
    assert collect_states.main([*options, "--samples_per_problem", "2", "--temperature", "0"]) == 2
