"""The commands that tell whether steering did anything, end to end on a tiny model: sweep, null_test, leakage, charts.

The model says nonsense, so every accuracy is 0 and every comparison a tie: what is checked is which runs are made, that
they steer as they should, and what is written.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from als.benchmarks import load_problems
from als.cli import compute_steering_vector, create_chart, main, null_test, sweep
from als.errors import UserError
from als.runlog import read_json, read_lines
from als.vectors import SteeringVector, load_vector, save_vector
from conftest import TINY_HIDDEN, TINY_LAYERS

RUNS = Path("output/tiny-arithmetic")
EXAMPLES = 6


@pytest.fixture(scope="module")
def options(tiny_path) -> list[str]:
    model = ["--model_name_or_path", tiny_path, "--dtype", "float32", "--device", "cpu", "--dataset", "arithmetic"]
    return [*model, "--max_new_tokens", "6", "--end_data_idx", "4", "--vector_name_template", "v{prompt_idx}.pt"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with states, and a vector that was made from them."""
    monkeypatch.chdir(tmp_path)
    states = tmp_path / "hidden_states"
    states.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(2 * EXAMPLES):
        state = torch.randn(TINY_LAYERS, TINY_HIDDEN, generator=generator) + (i % 2)
        save_file({"mean_state": state}, states / f"idx_{i}_{'good' if i % 2 else 'bad'}.safetensors")
    assert compute_steering_vector.main(["--states_dir", "hidden_states", "--output_file", "v0.pt"]) == 0
    return tmp_path


def folders(mode: str = "als") -> list[str]:
    return sorted(path.parent.name for path in (RUNS / f"{mode}_eval").glob("*/summary.json"))


def configurations() -> list[dict[str, object]]:
    return [read_json(RUNS / "als_eval" / name / "config.json") for name in folders()]


# --- Null controls


def test_a_null_test_runs_everything_and_says_where_the_vector_stands(here, options, capsys) -> None:
    kinds = ["--controls", "3", "--kinds", "random", "negative", "shuffled"]
    assert null_test.main([*options, *kinds]) == 0
    controls = ["negative", "random0", "random1", "random2", "shuffled0", "shuffled1", "shuffled2"]
    assert folders() == ["prompt_0", *(f"prompt_0_{name}" for name in controls)]
    assert folders("greedy_cot") == ["prompt_0"]
    assert len({config["vector_sha256"] for config in configurations()}) == 1  # that of v, whatever it is controlled by
    assert {config.get("control") for config in configurations()} == {None, *controls}
    assert "random: rank 4 of 4, permutation p = 1.000" in capsys.readouterr().out
    report = read_json(RUNS / "als_eval/prompt_0/null_test.json")
    assert [(s["kind"], s["rank"], s["p"]) for s in report["standings"]] == [
        ("random", 4, 1.0),
        ("negative", 2, None),
        ("shuffled", 4, 1.0),
    ]
    assert (RUNS / "als_eval/prompt_0/null_test.png").stat().st_size > 5000


def test_a_null_test_goes_on_where_it_stopped(here, options, capsys) -> None:
    arguments = [*options, "--controls", "2", "--kinds", "random"]
    assert null_test.main(arguments) == 0
    before = {path: path.read_bytes() for path in RUNS.rglob("results.jsonl")}
    lost = RUNS / "als_eval/prompt_0_random1/results.jsonl"
    lost.write_bytes(before[lost].split(b"\n")[0] + b"\n")
    assert null_test.main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert null_test.main([*arguments, "--resume"]) == 0
    for path, content in before.items():
        texts = [{line.index: line.completion for line in read_lines(at)} for at in (path,)]
        assert texts[0] == {json.loads(text)["index"]: json.loads(text)["completion"] for text in content.splitlines()}


def test_a_null_test_of_fewer_problems_leaves_the_summaries_of_main(here, options, capsys) -> None:
    run = [*options, "--prompts_to_run", "0"]
    for mode in ("greedy_cot", "als"):
        assert main.main([*run, "--generation_mode", mode]) == 0
    summaries = {path: path.read_bytes() for path in RUNS.rglob("summary.json")}
    assert len(summaries) == 2
    arguments = [*options, "--controls", "1", "--kinds", "random", "--end_data_idx", "2", "--resume"]
    capsys.readouterr()
    assert null_test.main(arguments) == 0
    assert {path: path.read_bytes() for path in summaries} == summaries
    report = read_json(next(RUNS.rglob("null_test.json")))
    assert report["n"] == 2  # every arm on the same problems
    assert "holds 4 problems, this command is about 2" in capsys.readouterr().out


def test_main_runs_the_same_control_as_the_null_test(here, options, capsys) -> None:
    assert null_test.main([*options, "--controls", "2", "--kinds", "random"]) == 0
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0", "--control", "random", "--control_seed", "1"]
    assert main.main(run) == 2
    assert "prompt_0_random1" in capsys.readouterr().err
    assert main.main([*run, "--resume"]) == 0


def test_shuffled_controls_shuffle_the_labels_of_the_vectors_states(here, options) -> None:
    from als.controls import control_vector

    vector = load_vector("v0.pt")
    controls = [control_vector(vector, "shuffled", seed=seed).vector for seed in range(20)]
    assert len({control.numpy().tobytes() for control in controls}) == 20
    # The states are good by one more than bad ones everywhere: a fifth or so of that is left by chance.
    assert max(float(control.mean().abs()) for control in controls) < 0.8
    assert float(vector.vector.mean()) > 0.8
    # Labels are dealt out, not states: each control is a difference of means of the same twelve states.
    files = sorted(Path("hidden_states").iterdir(), key=lambda path: int(path.name.split("_")[1]))
    from safetensors.torch import load_file

    states = torch.stack([load_file(path)["mean_state"] for path in files]).double()
    from itertools import combinations

    total = states.sum(dim=0)
    differences = [2 * states[list(side)].sum(dim=0) - total for side in combinations(range(12), EXAMPLES)]
    for control in controls[:3]:
        closest = min(float((control * EXAMPLES - difference).abs().max()) for difference in differences)
        assert closest < 1e-4


def test_shuffled_labels_move_by_problem_or_within_it() -> None:
    import numpy as np

    from als.contrast import shuffle_labels

    problems = np.repeat(np.arange(30), 4)
    good = np.repeat(np.arange(30) < 12, 4) ^ (np.arange(120) % 8 == 0)
    whole = shuffle_labels(good, problems, within_problem=False, seed=1)
    assert not np.array_equal(whole, good)
    rows = sorted(map(tuple, good.reshape(30, 4).tolist()))
    assert sorted(tuple(sorted(row)) for row in whole.reshape(30, 4).tolist()) == sorted(
        tuple(sorted(row)) for row in rows
    )
    within = shuffle_labels(good, problems, within_problem=True, seed=1)
    assert not np.array_equal(within, good)
    assert within.reshape(30, 4).sum(axis=1).tolist() == good.reshape(30, 4).sum(axis=1).tolist()


def test_states_that_came_later_make_no_shuffled_control(here) -> None:
    from als.controls import control_vector

    vector = load_vector("v0.pt")
    before = control_vector(vector, "shuffled", seed=3).vector
    save_file({"mean_state": torch.randn(TINY_LAYERS, TINY_HIDDEN)}, here / "hidden_states/idx_99_good.safetensors")
    assert torch.equal(control_vector(vector, "shuffled", seed=3).vector, before)
    (here / "hidden_states/idx_3_good.safetensors").unlink()
    with pytest.raises(UserError, match="lacks 1 of the 12 states"):
        control_vector(vector, "shuffled", seed=3)


def test_states_of_something_else_make_no_shuffled_control(here, options, capsys) -> None:
    other = here / "other"
    other.mkdir()
    for i in range(2 * EXAMPLES):
        save_file({"mean_state": torch.randn(2, 8)}, other / f"idx_{i}_{'good' if i % 2 else 'bad'}.safetensors")
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0", "--control", "shuffled"]
    assert main.main([*run, "--states_dir", "other"]) == 2
    assert "[2, 8]" in capsys.readouterr().err


# --- Folders


def test_a_folders_name_depends_on_the_command_alone(here, options, capsys) -> None:
    """Vector a and vector b, each by a template without {prompt_idx}: what else is there changes neither name."""
    a, b = (_other_vector(here, name) for name in ("a", "b"))
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0"]
    assert main.main([*run, "--vector_name_template", a]) == 0
    assert main.main([*run, "--vector_name_template", b]) == 0
    assert folders() == ["prompt_0_a", "prompt_0_b"]
    before = (RUNS / "als_eval/prompt_0_b/results.jsonl").read_bytes()
    (RUNS / "als_eval/prompt_0_a").rename(here / "elsewhere")
    assert main.main([*run, "--vector_name_template", b, "--resume"]) == 0
    assert folders() == ["prompt_0_b"]
    assert (RUNS / "als_eval/prompt_0_b/results.jsonl").read_bytes() == before


def test_a_folder_of_another_vector_is_refused_before_a_model_is_loaded(here, options, capsys) -> None:
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0"]
    assert main.main(run) == 0  # v{prompt_idx}.pt
    other = _other_vector(here, "w0").replace("0", "{prompt_idx}")
    before = {path: path.read_bytes() for path in RUNS.rglob("*") if path.is_file()}
    capsys.readouterr()
    for more in ((), ("--resume",)):
        arguments = [*run, "--vector_name_template", other, "--model_name_or_path", "/not/there/tiny", *more]
        assert main.main(arguments) == 2
        said = capsys.readouterr().err
        assert "'v0.pt'" in said
        assert "'w0.pt'" in said
        assert "--run_name" in said
    assert {path: path.read_bytes() for path in RUNS.rglob("*") if path.is_file()} == before
    assert main.main([*run, "--vector_name_template", other, "--run_name", "w0"]) == 0
    assert main.main([*run, "--vector_name_template", other, "--overwrite"]) == 0
    assert folders() == ["prompt_0", "prompt_0.1", "prompt_0_w0"]
    assert read_json(RUNS / "als_eval/prompt_0/config.json")["vector"] == "w0.pt"


def test_a_folder_under_the_name_of_an_earlier_version_is_pointed_out(here, options, capsys) -> None:
    """It was named prompt_0 also where the template is without {prompt_idx}."""
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0", "--vector_name_template", "v0.pt"]
    assert main.main(run) == 0
    (RUNS / "als_eval/prompt_0_v0").rename(RUNS / "als_eval/prompt_0")
    capsys.readouterr()
    assert main.main([*run, "--resume", "--end_data_idx", "1"]) == 0
    said = capsys.readouterr().err
    assert "prompt_0'" in said
    assert "prompt_0_v0'" in said
    assert folders() == ["prompt_0", "prompt_0_v0"]


def _other_vector(here: Path, name: str) -> str:
    """Writes another vector; returns its file's name."""
    vector = load_vector("v0.pt")
    save_vector(here / f"{name}.pt", SteeringVector(vector.vector + len(name) + ord(name[0]), vector.metadata))
    return f"{name}.pt"


# --- What the vector was made with


def test_a_vector_of_another_prompt_or_data_set_is_noted_and_recorded(here, options, capsys) -> None:
    collection = {"prompt_idx": 0, "dataset": "arithmetic", "benchmark": "arithmetic", "split": "train"}
    tensor = torch.ones(TINY_LAYERS, TINY_HIDDEN)
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0", "--end_data_idx", "1"]
    for name, made, differs in (
        ("same", collection, None),
        ("unknown", None, None),
        ("prompt", collection | {"prompt_idx": 1}, {"prompt_idx": 1}),
        ("data", collection | {"dataset": "openai/gsm8k", "benchmark": "gsm8k"}, {"dataset": "openai/gsm8k"}),
        ("file", collection | {"dataset": "./other/train.jsonl"}, {"dataset": "./other/train.jsonl"}),
        ("copy", collection | {"dataset": "/data/arithmetic/train.jsonl"}, None),
    ):
        metadata = {"problem_hashes": []} | ({} if made is None else {"collection": made})
        save_vector(here / f"{name}.pt", SteeringVector(tensor, metadata))
        capsys.readouterr()
        arguments = [*run, "--vector_name_template", f"{name}.pt"]
        assert main.main(arguments) == 0
        path = RUNS / f"als_eval/prompt_0_{name}/config.json"
        config = read_json(path)
        assert config.get("vector_made_with") == differs, name
        noted = [line for line in capsys.readouterr().err.splitlines() if "the vector was made with" in line]
        assert len(noted) == (differs is not None), name
        if differs:
            ((field, value),) = differs.items()
            assert f"{field} {value!r}" in noted[0]
            del config["vector_made_with"]  # as an earlier version wrote it
            path.write_text(json.dumps(config))
            assert main.main([*arguments, "--resume", "--end_data_idx", "2"]) == 0


# --- Sweep


def test_a_sweep_tries_the_grid_chooses_and_leaves_the_test_alone(here, options, capsys) -> None:
    grid = ["--alphas", "0,0.5", "--layers", "all", "--thresholds", "none,0.1", "--scales", "raw,residual"]
    selection = ["--selection_split", "train", "--selection_range", "3:6"]
    assert sweep.main([*options, *grid, *selection]) == 0
    rows = list(csv.DictReader((RUNS / "als_sweep/prompt_0/sweep.csv").open()))
    assert len(rows) == len(folders()) == 1 + TINY_LAYERS * 2 * 2
    assert all("_train" in name for name in folders())
    assert {row["n"] for row in rows} == {"3"}
    assert {int(line.index) for line in read_lines(Path(rows[-1]["folder"]) / "results.jsonl")} == {3, 4, 5}
    chosen = read_json(RUNS / "als_sweep/prompt_0/chosen.json")
    assert (chosen["alpha"], chosen["mean_relative_dose"]) == (0.0, 0.0)  # all are equally bad: the smallest dose
    assert (RUNS / "als_sweep/prompt_0/sweep.png").stat().st_size > 5000
    doses = {float(row["mean_relative_dose"]) for row in rows if row["alpha_scale"] == "residual"}
    assert max(doses) == pytest.approx(0.5, abs=1e-4)
    said = capsys.readouterr().out
    (command,) = [line.strip() for line in said.splitlines() if line.strip().startswith("als-run ")]
    assert "--settings" in command
    assert "--split" not in command


def test_the_printed_command_runs_the_choice_on_the_test(here, options, capsys) -> None:
    import shlex

    grid = ["--alphas", "0.5", "--layers", "1", "--thresholds", "none", "--scales", "residual"]
    assert sweep.main([*options, *grid, "--selection_range", "0:2"]) == 0
    said = capsys.readouterr().out
    (command,) = [line.strip() for line in said.splitlines() if line.strip().startswith("als-run ")]
    assert main.main(shlex.split(command)[1:]) == 0
    written = read_json(RUNS / "als_eval/prompt_0_alpha0.5_residual_layer1_taunone/config.json")
    assert (written["split"], written["alpha"], written["layer_idx"]) == ("test", 0.5, 1)
    assert (written["alpha_scale"], written["similarity_threshold"]) == ("residual", None)


@pytest.mark.parametrize("started_as", ["src/sweep.py", "entry point on the path", "entry point elsewhere"])
def test_the_printed_command_is_one_that_is_there(started_as, here, options, capsys, monkeypatch) -> None:
    """From a checkout the script beside this one; from an installed package the entry point, which may be off PATH."""
    (here / "bin").mkdir()
    for name in ("als-sweep", "als-run"):
        (here / "bin" / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(here / "bin" if started_as == "entry point on the path" else here))
    monkeypatch.setattr("sys.argv", ["src/sweep.py" if started_as == "src/sweep.py" else str(here / "bin/als-sweep")])
    grid = ["--alphas", "0.5", "--layers", "1", "--thresholds", "none", "--scales", "residual"]
    assert sweep.main([*options, *grid, "--selection_range", "0:2"]) == 0
    said = capsys.readouterr().out.splitlines()
    (command,) = [line.strip() for line in said if "--settings" in line]
    expected = {
        "src/sweep.py": "python src/main.py --",
        "entry point on the path": "als-run --",
        "entry point elsewhere": f"{here}/bin/als-run --",
    }
    assert command.startswith(expected[started_as])


def test_a_sweep_advises_what_moves_its_runs(here, options, capsys) -> None:
    """--run_name names the sweep, while its runs lie in main's folders."""
    grid = ["--alphas", "0.5", "--layers", "1", "--thresholds", "none", "--scales", "residual"]
    arguments = [*options, *grid, "--selection_range", "0:2"]
    assert sweep.main(arguments) == 0
    for changed in ([], ["--run_name", "other"], ["--resume", "--seed", "7"]):
        capsys.readouterr()
        assert sweep.main([*arguments, *changed]) == 2
        sentence = capsys.readouterr().err
        assert "--run_name" not in sentence
        assert "--output_dir" in sentence
    assert sweep.main([*arguments, "--output_dir", "elsewhere"]) == 0


def test_a_sweep_goes_on_and_can_end_with_the_test(here, options, capsys) -> None:
    grid = ["--alphas", "0,0.5", "--layers=-1", "--thresholds", "none", "--scales", "raw"]
    arguments = [*options, *grid, "--selection_range", "0:2"]
    assert sweep.main(arguments) == 0
    assert sweep.main(arguments) == 2
    assert sweep.main([*arguments, "--resume", "--final"]) == 0
    assert [name for name in folders() if "train" not in name] == ["prompt_0_alpha0_layer2_taunone"]
    assert "accuracy, 95 % Wilson interval" in capsys.readouterr().out


def test_two_processes_share_a_sweep_and_the_last_one_chooses(here, options, capsys) -> None:
    """The first has finished its share of all cells before the second begins."""
    grid = ["--alphas", "0,0.5", "--layers", "1", "--thresholds", "none", "--scales", "raw"]
    arguments = [*options, *grid, "--selection_range", "0:4"]
    assert sweep.main([*arguments, "--shard", "1/2"]) == 0
    assert "the last one to finish chooses" in capsys.readouterr().out
    assert not (RUNS / "als_sweep/prompt_0/chosen.json").exists()
    assert sweep.main([*arguments, "--shard", "2/2"]) == 0
    said = capsys.readouterr().out
    assert "--shard" not in said[said.index("als-run") :]
    assert read_json(RUNS / "als_sweep/prompt_0/chosen.json")["n"] == 4
    assert sweep.main([*arguments, "--shard", "1/2", "--final", "--resume"]) == 2


def test_settings_are_not_chosen_on_the_test(here, options, capsys) -> None:
    arguments = [*options, "--alphas", "0.5", "--layers", "1", "--selection_split", "test"]
    assert sweep.main([*arguments, "--selection_range", "2:6"]) == 2  # the test are problems 0 to 3
    assert "2 of these 4 problems are among the test's" in capsys.readouterr().err
    assert not RUNS.exists()
    assert sweep.main([*arguments, "--selection_range", "4:6", "--thresholds", "none", "--scales", "raw"]) == 0


def test_another_sweeps_choice_is_not_replaced(here, options, capsys) -> None:
    grid = ["--alphas", "0", "--layers", "1", "--thresholds", "none", "--scales", "raw"]
    assert sweep.main([*options, *grid, "--selection_range", "0:2"]) == 0
    chosen = RUNS / "als_sweep/prompt_0/chosen.json"
    before = chosen.read_bytes()
    assert sweep.main([*options, *grid, "--selection_range", "2:4", "--resume"]) == 2
    assert "selection_range: then '0:2', now '2:4'" in capsys.readouterr().err
    assert chosen.read_bytes() == before
    chosen.write_bytes(before.replace(b'"engine": "transformers"', b'"engine": "vllm"'))
    assert sweep.main([*options, *grid, "--selection_range", "0:2", "--resume"]) == 2
    assert "engine: then 'vllm', now 'transformers'" in capsys.readouterr().err
    assert sweep.main([*options, *grid, "--selection_range", "2:4", "--resume", "--run_name", "other"]) == 0


def test_settings_chosen_for_another_vector_are_told(here, options, capsys) -> None:
    (here / "chosen.json").write_text(json.dumps({"alpha": 0.5, "vector_sha256": "0" * 16}))
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0", "--settings", "chosen.json"]
    assert main.main(run) == 0
    assert "chosen for another vector" in capsys.readouterr().err


def test_flags_win_over_settings(here, options) -> None:
    (here / "chosen.json").write_text(json.dumps({"alpha": 0.5, "layer_idx": 1, "similarity_threshold": None, "n": 3}))
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0", "--settings", "chosen.json"]
    assert main.main([*run, "--layer_idx", "0"]) == 0
    assert folders() == ["prompt_0_alpha0.5_layer0_taunone"]


# --- Leakage


def test_problems_of_the_vector_are_refused_unless_allowed(here, options, capsys) -> None:
    problems = load_problems("arithmetic", split="test", benchmark=None)[1:3]
    vector = torch.ones(TINY_LAYERS, TINY_HIDDEN)
    save_vector(here / "v0.pt", SteeringVector(vector, {"problem_hashes": [p.problem_hash for p in problems]}))
    run = [*options, "--generation_mode", "als", "--prompts_to_run", "0"]
    assert main.main(run) == 2
    assert "2 of the 4 problems" in capsys.readouterr().err
    assert not RUNS.exists()
    assert main.main([*run, "--start_data_idx", "3"]) == 0
    assert "allow_leakage" not in read_json(RUNS / "als_eval/prompt_0/config.json")
    capsys.readouterr()
    assert main.main([*run, "--allow_leakage", "--run_name", "leaky"]) == 0
    assert "made from 2 of the 4 problems" in capsys.readouterr().err
    assert read_json(RUNS / "als_eval/prompt_0_leaky/config.json")["allow_leakage"] is True


# --- What the gate did


def test_lines_say_what_steering_did_and_charts_show_it(here, options, capsys) -> None:
    steered = [*options, "--generation_mode", "als", "--prompts_to_run", "0", "--alpha_scale", "residual"]
    assert main.main([*steered, "--similarity_threshold", "0.05"]) == 0
    (name,) = folders()
    log = str(RUNS / "als_eval" / name / "logistics.pt")
    lines = read_lines(RUNS / "als_eval" / name / "results.jsonl")
    for line in lines:
        trace = line.details["trace"]
        assert "".join(trace["tokens"]) == line.completion
        assert len(trace["cosines"]) == len(trace["steered"]) == line.completion_tokens
        assert line.details["steered_fraction"] == sum(trace["steered"]) / line.completion_tokens
        assert all(
            (cosine < 0.05) == bool(on) or abs(cosine - 0.05) < 1e-3
            for cosine, on in zip(trace["cosines"], trace["steered"], strict=True)
        )
        assert line.details["mean_relative_dose"] == pytest.approx(0.3 * line.details["steered_fraction"], abs=1e-5)
        first = line.details["first_steered_token"]
        assert first == (trace["steered"].index(1) if 1 in trace["steered"] else None)
        assert line.details["cosine_quantiles"] == sorted(line.details["cosine_quantiles"])
        assert min(trace["cosines"]) - 1e-3 <= line.details["cosine_quantiles"][0]
    for more in (["--kind", "trace", "--index", "2"], ["--kind", "gate"], ["--kind", "length"]):
        assert create_chart.main(["--log_file", log, *more]) == 0
    assert len(list(Path("charts").glob("*.png"))) == len(list(Path("charts").glob("*.svg"))) == 3
    assert create_chart.main(["--log_file", log, "--kind", "trace", "--index", "77"]) == 2
    assert "77" in capsys.readouterr().err


def test_a_run_that_did_not_steer_has_no_trace_to_draw(here, options, capsys) -> None:
    assert main.main([*options[:-2], "--generation_mode", "greedy_cot", "--prompts_to_run", "0"]) == 0
    log = ["--log_file", str(RUNS / "greedy_cot_eval/prompt_0/logistics.pt")]
    assert create_chart.main([*log, "--kind", "trace", "--index", "0"]) == 2
    assert create_chart.main([*log, "--kind", "gate"]) == 2
    assert capsys.readouterr().err.count("did not steer") == 2
    assert create_chart.main([*log, "--kind", "length"]) == 0
