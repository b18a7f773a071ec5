"""What is said of a vector: numbers, None where nothing can be known, warnings for noise and none for signal."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import save_file

from als.cli import compute_steering_vector
from als.diagnostics import cautions, diagnose
from als.records import Completion, Problem, Verdict, hash_question, result_line
from als.vectors import load_vector
from test_estimation import HIDDEN, LAYERS, METHODS, a_sample, estimated, random_labels, states_along


def test_noise_is_called_noise() -> None:
    good = random_labels(100)
    sample = a_sample(good)
    told = diagnose(sample, estimated("mean_diff", sample, states_along(np.zeros(100))), None)
    layer = told.judged_layers[0]
    assert told.auc_low[layer] < 0.5 < told.auc_high[layer]
    assert told.split_half_cosine[layer] < 0.5
    halves, auc = cautions(told)
    assert "layer" in halves
    assert "cosine is below 0.5" in halves
    assert "AUC" in auc
    assert "--match_length" in auc


@pytest.mark.parametrize("method", METHODS)
def test_signal_is_not_doubted(method: str) -> None:
    good = random_labels(100)
    sample = a_sample(good)
    told = diagnose(sample, estimated(method, sample, states_along(3.0 * good)), None)
    assert told.auc_low[told.best_auc_layer] > 0.8
    assert cautions(told) == []


def test_scores_of_noise_are_not_above_chance() -> None:
    """The mean AUC over many draws is 0.5: scored answers have no part in their vector, nor has their problem."""
    found = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        problems = np.repeat(np.arange(30), 2)
        good = generator.random(60) < 0.4
        states = generator.normal(size=(30, 2, HIDDEN))[problems] + 0.3 * generator.normal(size=(60, 2, HIDDEN))
        sample = a_sample(good, problems)
        found += diagnose(sample, estimated("mean_diff", sample, states.astype(np.float32)), None).auc
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_the_best_layer_is_that_of_the_best_auc() -> None:
    good = random_labels(100)
    states = states_along(np.zeros(100))
    states[:, 2, 0] += 3 * good
    sample = a_sample(good)
    told = diagnose(sample, estimated("mean_diff", sample, states), None)
    assert told.best_auc_layer == 2
    assert told.judged_layers == [1, 2]
    assert all("at layer 1 " in sentence or "at layer 1," in sentence for sentence in cautions(told))
    assert len(cautions(told)) == 2


def test_the_correlation_with_length() -> None:
    good = random_labels(80)
    lengths = np.random.default_rng(0).integers(20, 90, size=80).astype(float)
    states = states_along(2.0 * good, lengths / 30)
    sample = a_sample(good)
    result = estimated("mean_diff", sample, states)
    told = diagnose(sample, result, lengths)
    expected = [scipy.stats.pearsonr(result.scores[:, layer], lengths).statistic for layer in range(LAYERS)]
    assert told.length_correlation == pytest.approx(expected)
    assert told.tokens_good == pytest.approx(lengths[good].mean())
    assert told.tokens_bad == pytest.approx(lengths[~good].mean())
    assert told.v_norm == pytest.approx(result.vector.norm(dim=-1).tolist())
    assert told.h_norm == pytest.approx(np.linalg.norm(states, axis=2).mean(axis=0).tolist())
    assert told.ratio[0] == pytest.approx(told.v_norm[0] / told.h_norm[0])
    assert diagnose(sample, result, np.full(80, 48.0)).length_correlation == [None] * LAYERS


@pytest.mark.parametrize("n_good", [1, 4])
def test_too_few_to_tell(n_good: int) -> None:
    good = np.arange(20) < n_good
    sample = a_sample(good)
    told = diagnose(sample, estimated("mean_diff", sample, states_along(1.0 * good)), np.arange(20.0))
    nothing = [None] * LAYERS
    columns = (told.split_half_cosine, told.auc, told.auc_low, told.auc_high, told.length_correlation)
    assert all(column == nothing for column in columns)
    assert told.best_auc_layer is None
    assert told.judged_layers == [LAYERS - 2]
    assert all(told.v_norm)
    assert "fewer than 5" in "".join(cautions(told))
    json.dumps(told.to_json(), allow_nan=False)


def test_many_answers_to_few_problems_are_few() -> None:
    good = np.arange(40) % 2 == 0
    sample = a_sample(good, np.arange(40) // 10)
    assert estimated("mean_diff", sample, states_along(1.0 * good)).scores is None


# --- The command


def write_folder(folder: Path, states: np.ndarray, good: np.ndarray, *, problems=None, lengths=None, right=None) -> str:
    """A state folder with examples.jsonl; returns the option's value. With `right`, labels are the verifiers'."""
    (folder / "hidden_states").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"split": "train"}))
    lines = []
    for i, (state, label) in enumerate(zip(states, good, strict=True)):
        name = "good" if label else "bad"
        save_file(
            {"mean_state": torch.from_numpy(state).clone()}, folder / "hidden_states" / f"idx_{i}_{name}.safetensors"
        )
        number = i if problems is None else problems[i]
        tokens = 30 if lengths is None else int(lengths[i])
        completion = Completion("text", 9, tokens, "stop", 0.1)
        verdict = Verdict(str(number), str(number), bool(label if right is None else right[i]), "boxed")
        verdicts = {} if right is None else {"verdicts": {"answer": bool(label)}}
        problem = Problem(i, f"What is {number} + 0?", str(number))
        lines.append(result_line(problem, "prompt", completion, verdict, label=name, **verdicts).to_json())
    (folder / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder / "hidden_states")


def run(states_dir: str, *more: str) -> int:
    output = str(Path(states_dir).parent / "v.safetensors")
    return compute_steering_vector.main(["--states_dir", states_dir, "--output_file", output, "--overwrite", *more])


def made(states_dir: str):
    return load_vector(Path(states_dir).parent / "v.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_the_command_prints_stores_and_is_silent_about_signal(method, tmp_path, capsys) -> None:
    good = random_labels(60)
    lengths = np.random.default_rng(0).integers(20, 90, size=60)
    states = states_along(*[2.0 * good] * 5)
    folder = write_folder(tmp_path / "run", states, good, lengths=lengths)
    assert run(folder, "--method", method, "--seed", "7") == 0
    captured = capsys.readouterr()
    assert "note" not in captured.err
    assert "best AUC" in captured.out
    vector = made(folder)
    told = vector.metadata["diagnostics"]
    assert f"{told['auc'][1]:.3f} [{told['auc_low'][1]:.3f}, {told['auc_high'][1]:.3f}]" in captured.out
    assert f"{told['split_half_cosine'][1]:.2f}" in captured.out
    assert all(len(told[name]) == LAYERS for name in ("v_norm", "ratio", "auc", "length_correlation"))
    assert told["auc_low"][told["best_auc_layer"]] > 0.8
    assert (told["splits"], told["folds"]) == (20, 5)
    expected = {"method": method, "seed": 7, "match_length": False, "within_problem": False, "skip_bad": False}
    assert expected.items() <= vector.metadata.items()
    assert vector.metadata["states_dir"] == str((tmp_path / "run" / "hidden_states").resolve())
    assert len(vector.metadata["problem_hashes"]) == 60
    assert vector.metadata["masked_problem_hashes"] == [hash_question("What is 1 + 0?", masked=True)]


def test_the_command_warns_of_noise_once_each(tmp_path, capsys) -> None:
    good = random_labels(60)
    assert run(write_folder(tmp_path / "run", states_along(np.zeros(60)), good)) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert len(notes) == 2


def test_labels_that_say_nothing_are_called_so(tmp_path, capsys) -> None:
    """A direction that tells good labels from bad ones, which have nothing to do with right and wrong."""
    good, right = random_labels(80), random_labels(80, 0.5, seed=1)
    folder = write_folder(tmp_path / "run", states_along(*[2.0 * good] * 5), good, right=right)
    assert run(folder) == 0
    captured = capsys.readouterr()
    assert f"| good  | {(good & right).sum():>5} | {(good & ~right).sum():>5} |" in captured.out
    [note] = [line for line in captured.err.splitlines() if line.startswith("note")]
    assert "Cohen's kappa" in note
    assert "--label_by answer" in note
    agreement = made(folder).metadata["labels"]["agreement"]
    assert agreement["bad_wrong"] == (~good & ~right).sum()
    assert agreement["kappa_low"] < 0 < agreement["kappa_high"]
    folder = write_folder(tmp_path / "agreeing", states_along(*[2.0 * good] * 5), good, right=good)
    assert run(folder) == 0
    assert "note" not in capsys.readouterr().err


def test_problem_hashes_are_of_what_counts(tmp_path, capsys) -> None:
    """Matched pairs, problems with both labels, and of a moving average all whose weight is not nothing."""
    good = np.array([True] * 6 + [False] * 8)
    lengths = [50] * 5 + [900] + [50] * 5 + [200] * 3
    folder = write_folder(tmp_path / "a", states_along(2.0 * good), good, lengths=lengths)
    assert run(folder, "--match_length") == 0
    assert "4 answers that compare with no other left out" in capsys.readouterr().out
    kept = [*range(5), *range(6, 11)]
    assert made(folder).metadata["problem_hashes"] == sorted(hash_question(f"What is {i} + 0?") for i in kept)
    assert made(folder).metadata["n_good"] == made(folder).metadata["n_bad"] == 5
    assert made(folder).metadata["match_length"] is True
    assert run(folder, "--averaging_method", "ema", "--ema_beta", "0") == 0
    assert made(folder).metadata["problem_hashes"] == sorted(hash_question(f"What is {i} + 0?") for i in (5, 13))
    problems = [*range(6), *range(4, 12)]  # 4 and 5 have both
    folder = write_folder(tmp_path / "b", states_along(2.0 * good), good, problems=problems)
    assert run(folder, "--within_problem") == 0
    assert made(folder).metadata["problem_hashes"] == sorted(hash_question(f"What is {i} + 0?") for i in (4, 5))


def test_without_examples_there_is_still_a_check_but_no_length(tmp_path, capsys) -> None:
    good = random_labels(60)
    folder = write_folder(tmp_path / "run", states_along(4.0 * good), good)
    (tmp_path / "run" / "examples.jsonl").unlink()
    assert run(folder) == 0
    told = made(folder).metadata["diagnostics"]
    assert told["length_correlation"] == [None] * LAYERS
    assert told["auc_low"][0] > 0.8
    for option in ("--match_length", "--within_problem"):
        assert run(folder, option) == 2
        assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--match_length",), "--match_length leaves none"),
        (("--within_problem",), "--samples_per_problem"),
        (("--method", "lda"), "--method lda needs"),
        (("--method", "svm"), "svm"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(options, words, tmp_path, capsys) -> None:
    good = np.arange(12) < 3
    lengths = np.where(good, 10, 100)
    folder = write_folder(tmp_path / "run", states_along(1.0 * good), good, lengths=lengths)
    try:
        code = run(folder, *options)
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "run" / "v.safetensors").exists()


def test_few_examples_leave_blanks(tmp_path, capsys) -> None:
    good = np.arange(6) < 2
    folder = write_folder(tmp_path / "run", states_along(1.0 * good), good)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert run(folder) == 0
    captured = capsys.readouterr()
    assert "nan" not in captured.out.lower()
    assert "fewer than 5" in captured.err
    assert json.loads(json.dumps(made(folder).metadata["diagnostics"], allow_nan=False))["auc"] == [None] * LAYERS


def test_a_bad_file_left_out_loses_its_weight(tmp_path, capsys) -> None:
    """Its problem loses its contrast too, so within problems the other kind of its answers goes with it."""
    good = np.tile([True, False], 10)
    problems = np.repeat(np.arange(10), 2)
    states = states_along(2.0 * good)
    folder = write_folder(tmp_path / "run", states, good, problems=problems)
    (Path(folder) / "idx_6_good.safetensors").write_bytes(b"torn")
    assert run(folder, "--within_problem") == 2
    assert run(folder, "--within_problem", "--skip_bad") == 0
    rest = np.delete(np.arange(20), [6, 7])
    expected = states[rest][good[rest]].mean(axis=0) - states[rest][~good[rest]].mean(axis=0)
    torch.testing.assert_close(made(folder).vector, torch.from_numpy(expected))
    assert made(folder).metadata["n_good"] == made(folder).metadata["n_bad"] == 9


def test_a_best_auc_by_chance_is_called_so(tmp_path, capsys) -> None:
    """Noise in 20 layers, of which the best has an interval above 0.5."""
    good = random_labels(60)
    states = np.random.default_rng(5).normal(size=(60, 20, HIDDEN)).astype(np.float32)
    assert run(write_folder(tmp_path / "run", states, good)) == 0
    captured = capsys.readouterr()
    told = made(str(tmp_path / "run" / "hidden_states")).metadata["diagnostics"]
    best = told["best_auc_layer"]
    assert told["auc_low"][best] > 0.5
    [note] = [line for line in captured.err.splitlines() if "held-out" in line]
    assert f"at layers {best} and 18, where" in note
    assert f"p = {told['best_auc_p']:.3f}" in note
    assert 0.05 < told["best_auc_p"] < 1
    said = (
        f"{told['auc'][best]:.3f} at layer {best}, p = {told['best_auc_p']:.3f} (best AUCs of 199 label permutations)"
    )
    assert said in captured.out


def test_permutations_are_refused_or_left_out(tmp_path, capsys) -> None:
    good = random_labels(60)
    folder = write_folder(tmp_path / "run", states_along(2.0 * good), good)
    assert run(folder, "--permutations", "-1") == 2
    assert "--permutations -1" in capsys.readouterr().err
    assert run(folder, "--permutations", "0") == 0
    assert "no p-value (see --permutations)" in capsys.readouterr().out
    assert made(folder).metadata["diagnostics"]["best_auc_p"] is None
    assert run(folder, "--method", "lda", "--permutations", "4") == 0
    assert made(folder).metadata["diagnostics"]["best_auc_p"] == 0.2
    assert run(folder) == 0
    assert made(folder).metadata["diagnostics"]["permutations"] == 199
