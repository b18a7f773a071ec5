"""The p-value of the best AUC: the same procedure for each permutation, and at most 5 % of nulls below 0.05."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from als.contrast import Contrast, problem_numbers, select
from als.diagnostics import diagnose
from als.estimation import FITS, Estimate, Sample, estimate_by_fits, estimate_by_means
from als.permutation import best_auc_p, best_aucs, draw_labels, p_value
from als.roc import auc_columns, auc_interval
from als.states import find_states, read_by_layer
from test_estimation import reader

LAYERS, WIDTH = 30, 16


def correlated_layers(generator: np.random.Generator, n: int, *, layers: int) -> np.ndarray:
    """[N, L, D] float32: each layer is mostly the one before it."""
    states = generator.normal(size=(n, layers, WIDTH))
    for layer in range(1, layers):
        states[:, layer] = 0.9 * states[:, layer - 1] + 0.19**0.5 * states[:, layer]
    return states.astype(np.float32)


def made(contrast: Contrast, states: np.ndarray, sample: Sample) -> Estimate:
    if contrast.method == "mean_diff":
        return estimate_by_means(sample, reader(states), reader(states), seed=0)
    return estimate_by_fits(sample, states, FITS[contrast.method], seed=0)


def p_of(states: np.ndarray, good: np.ndarray, problems: np.ndarray, contrast: Contrast, permutations: int) -> float:
    draws = draw_labels(contrast, good, problems, None, seed=0, permutations=permutations)
    return p_value(best_aucs(contrast.method, draws, states.transpose(1, 0, 2)))


@pytest.mark.parametrize(
    "contrast",
    [
        Contrast(),
        Contrast(within_problem=True),
        Contrast(match_length=True),
        Contrast(averaging_method="ema", ema_beta=0.95),
        Contrast(method="lda"),
        Contrast(method="lda", within_problem=True),
    ],
)
def test_each_draw_has_the_auc_that_diagnostics_give_it(contrast: Contrast) -> None:
    """The labels as they are and three permutations, against the estimate that is made of one vector."""
    generator = np.random.default_rng(1)
    problems = np.repeat(np.arange(24), 2)
    good = generator.random(48) < 0.5
    tokens = generator.integers(20, 60, size=48).astype(float)
    states = correlated_layers(generator, 48, layers=2) + 20
    draws = draw_labels(contrast, good, problems, tokens, seed=0, permutations=3)
    found = best_aucs(contrast.method, draws, states.transpose(1, 0, 2))
    for draw, best in zip(draws, found, strict=True):
        assert draw is not None
        told = diagnose(draw.sample, made(contrast, states[draw.used], draw.sample), None)
        assert best == pytest.approx(max(told.auc), abs=1e-3)
    used, sample = select(contrast, good, problems, tokens, seed=0)
    assert sample is not None
    assert draws[0].used.tolist() == used.tolist()
    assert draws[0].sample.blocks.tolist() == sample.blocks.tolist()
    assert len({tuple(draw.sample.good) for draw in draws}) == 4


@pytest.mark.parametrize("answers", [1, 3])
def test_nulls_are_called_significant_in_five_percent(answers: int) -> None:
    """Of 60 nulls, at most 7; the interval of the best layer lies above 0.5 in more."""
    below, above = 0, 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        problems = np.repeat(np.arange(45), answers)
        good = (generator.random(45) < 0.4)[problems] ^ (generator.random(len(problems)) < 0.1)
        states = correlated_layers(generator, 45, layers=8)[problems]
        states = states + 0.5 * correlated_layers(generator, len(problems), layers=8)
        below += p_of(states, good, problems, Contrast(), permutations=19) <= 0.05
        _, sample = select(Contrast(), good, problems, None, seed=0)
        told = diagnose(sample, made(Contrast(), states, sample), None)
        above += told.auc_low[told.best_auc_layer] > 0.5
    assert below <= 7  # of 60 at 5 %, more than 7 have a chance of 1 %
    assert above > 7


def test_a_direction_is_found() -> None:
    generator = np.random.default_rng(0)
    good = generator.random(60) < 0.4
    states = correlated_layers(generator, 60, layers=LAYERS)
    states[:, 7, 0] += 3 * good
    assert p_of(states, good, np.arange(60), Contrast(), permutations=99) == 0.01


def test_p_counts_the_labels_as_they_are() -> None:
    assert p_value(np.array([0.7, 0.6, 0.7, 0.8])) == 0.75
    assert p_value(np.array([0.9, 0.6, 0.7, 0.8])) == 0.25
    assert p_value(np.array([0.9, 0.6, np.inf, 0.8])) == 0.5  # a draw without an AUC is no evidence


def test_permutations_without_enough_problems_are_no_evidence() -> None:
    """Pairs of like length are few, so that not every permutation leaves five."""
    good = np.arange(12) % 2 == 0
    tokens = np.repeat([10.0, 20, 30, 40, 50, 60], 2)
    contrast = Contrast(match_length=True)
    draws = draw_labels(contrast, good, np.arange(12), tokens, seed=0, permutations=30)
    assert draws[0] is not None
    assert any(draw is None for draw in draws)
    found = best_aucs("mean_diff", draws, correlated_layers(np.random.default_rng(0), 12, layers=2).transpose(1, 0, 2))
    assert [np.isinf(best) for best in found] == [draw is None for draw in draws]


def test_auc_of_columns_with_rows_left_out() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(40, 5)).round(1)
    positive = generator.random((40, 5)) < 0.4
    expected = []
    for column in range(5):
        used = np.arange(40) % 5 != column
        scores[~used, column], positive[~used, column] = np.inf, False
        expected.append(auc_interval(scores[used, column, None], positive[used, column])[0][0])
    assert auc_columns(scores, positive) == pytest.approx(expected)


def test_states_are_read_layer_by_layer_in_bounded_memory(tmp_path) -> None:
    states = correlated_layers(np.random.default_rng(0), 30, layers=5)
    folder = tmp_path / "hidden_states"
    folder.mkdir()
    for i, state in enumerate(states):
        save_file({"mean_state": torch.from_numpy(state)}, folder / f"idx_{i}_{('good', 'bad')[i % 2]}.safetensors")
    found = find_states(folder)
    for layers in (1, 2, 9):
        read = list(read_by_layer(found, at_once=layers * 30 * WIDTH * 4))
        assert all(layer.flags.owndata or layer.base.shape[0] <= layers for layer in read)
        np.testing.assert_array_equal(np.stack(read), states.transpose(1, 0, 2))
    expected = p_of(states, np.arange(30) % 2 == 0, problem_numbers(found), Contrast(), permutations=20)
    assert best_auc_p(Contrast(), found, seed=0, permutations=20) == expected
