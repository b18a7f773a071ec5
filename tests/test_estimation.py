"""From states to a vector: the arithmetic of each weighting against loops, and confounds that weights take away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from als.diagnostics import diagnose
from als.estimation import (
    FITS,
    Estimate,
    Sample,
    contrast_weights,
    difference,
    ema_weights,
    estimate_by_fits,
    estimate_by_means,
    pair_off,
)
from als.folds import BLOCKS, FOLDS, SPLITS, deal, halvings
from als.roc import auc_interval

LAYERS, HIDDEN = 3, 12
METHODS = ("mean_diff", *FITS)


def a_sample(good: np.ndarray, problems: np.ndarray | None = None, **options) -> Sample:
    """Without weights, the plain difference of means."""
    problems = np.arange(len(good)) if problems is None else problems
    weights = options.pop("weights", None)
    weights = contrast_weights(good, np.zeros_like(problems)) if weights is None else weights
    return Sample(good, problems, deal(good, problems, seed=0), weights, **options)


def random_labels(n: int, share: float = 0.4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


def random_states(n: int, seed: int = 0) -> np.ndarray:
    """Far from the origin, as residual streams are."""
    return (np.random.default_rng(seed).normal(size=(n, LAYERS, HIDDEN)) + 20).astype(np.float32)


def reader(states: np.ndarray):
    def read(order: np.ndarray) -> Iterator[torch.Tensor]:
        return (torch.from_numpy(states[i]) for i in order)

    return read


def estimated(method: str, sample: Sample, states: np.ndarray) -> Estimate:
    if method == "mean_diff":
        return estimate_by_means(sample, reader(states), reader(states), seed=0)
    return estimate_by_fits(sample, states, FITS[method], seed=0)


def cosine(a, b) -> float:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# --- Weights


def test_the_plain_mean() -> None:
    good, states = random_labels(40), random_states(40)
    vector = estimated("mean_diff", a_sample(good), states).vector
    expected = states[good].astype(float).mean(axis=0) - states[~good].astype(float).mean(axis=0)
    np.testing.assert_allclose(vector, expected, atol=2e-6)


@pytest.mark.parametrize("beta", [0.0, 0.8, 0.99])
def test_the_moving_average(beta: float) -> None:
    good, states = random_labels(30), random_states(30)
    averages: dict[bool, np.ndarray] = {}
    for label, state in zip(good.tolist(), states.astype(float), strict=True):
        averages[label] = beta * averages[label] + (1 - beta) * state if label in averages else state
    weights = ema_weights(good, beta)
    assert weights[good].sum() == pytest.approx(1)
    assert weights[~good].sum() == pytest.approx(1)
    used = weights > 0
    vector = estimated("mean_diff", a_sample(good[used], weights=weights[used]), states[used]).vector
    np.testing.assert_allclose(vector, averages[True] - averages[False], atol=5e-6)


def test_within_problems_every_problem_counts_the_same() -> None:
    """Five problems of unequal numbers of right and wrong answers, and two with one kind only."""
    counts = [(1, 3), (2, 2), (5, 1), (1, 1), (3, 4), (4, 0), (0, 6)]
    good = np.array([right for g, b in counts for right in [True] * g + [False] * b])
    problems = np.array([problem for problem, (g, b) in enumerate(counts) for _ in range(g + b)])
    states = random_states(len(good))[:, 0].astype(float)
    weights = contrast_weights(good, problems)
    differences = []
    for problem in range(5):
        right = [h for h, g, p in zip(states, good, problems, strict=True) if p == problem and g]
        wrong = [h for h, g, p in zip(states, good, problems, strict=True) if p == problem and not g]
        differences.append(np.mean(right, axis=0) - np.mean(wrong, axis=0))
    np.testing.assert_allclose(np.where(good, weights, -weights) @ states, np.mean(differences, axis=0))
    assert (weights[problems >= 5] == 0).all()


def test_nothing_to_contrast_weighs_nothing() -> None:
    assert not contrast_weights(np.array([True, False]), np.array([0, 1])).any()
    assert not contrast_weights(np.array([True, False]), np.array([0, 0]), np.array([10.0, 100.0])).any()


def test_pairs_of_like_length() -> None:
    good = np.array([True, True, True, False, False, False, False])
    lengths = np.array([10, 100, 300, 101, 109, 1000, 11.2])  # 10 and 11.2 are 12 % apart
    assert pair_off(good, lengths).tolist() == [False, True, False, True, False, False, False]


def test_pairs_leave_no_difference_in_length() -> None:
    """Bad answers a fifth longer, as many of them as of good ones: as many pairs as possible would keep that."""
    generator = np.random.default_rng(0)
    good = np.arange(600) < 300
    logs = 4.5 + generator.normal(scale=0.3, size=600) + 0.2 * ~good
    paired = pair_off(good, np.exp(logs).round())
    assert paired[good].sum() == paired[~good].sum() > 200
    before, after = (logs[chosen & ~good].mean() - logs[chosen & good].mean() for chosen in (good | True, paired))
    assert before > 0.15
    assert abs(after) < 0.01


def test_lengths_can_be_matched_within_problems() -> None:
    good = np.array([True, False, False, True, False])
    weights = contrast_weights(good, np.array([0, 0, 0, 1, 1]), np.array([50.0, 20, 51, 50, 90]))
    assert weights.tolist() == [1, 0, 1, 0, 0]


# --- Confounds


def states_along(*effects: np.ndarray, noise: float = 1.0) -> np.ndarray:
    """[N, LAYERS, HIDDEN]: the k-th effect [N] moves states along axis k, at every layer."""
    n = len(effects[0])
    states = noise * np.random.default_rng(1).normal(size=(n, LAYERS, HIDDEN)) + 20
    for axis, effect in enumerate(effects):
        states[:, :, axis] += effect[:, None]
    return states.astype(np.float32)


def test_matching_length_takes_away_what_goes_with_length() -> None:
    generator = np.random.default_rng(2)
    good = random_labels(800, share=0.5)
    lengths = np.exp(4.5 + generator.normal(scale=0.3, size=800) + 0.3 * ~good).round()
    states = states_along(1.0 * good, 8 * np.log(lengths))  # axis 0 is what is sought, axis 1 goes with length
    plain = estimated("mean_diff", a_sample(good), states).vector[0]
    weights = contrast_weights(good, np.zeros(800, dtype=int), lengths)
    used = weights > 0
    sample = a_sample(good[used], weights=weights[used])
    matched = estimated("mean_diff", sample, states[used])
    assert plain[1].abs() > 2
    assert matched.vector[0, 1].abs() < 0.2
    assert matched.vector[0, 0] == pytest.approx(1, abs=0.25)
    told = diagnose(sample, matched, lengths[used])
    assert told.tokens_good == pytest.approx(told.tokens_bad, rel=0.02)


def difficulty() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """good, problems, states: eight answers to each of 60 problems; easy ones are answered right more often."""
    generator = np.random.default_rng(3)
    problems = np.repeat(np.arange(60), 8)
    ease = generator.normal(size=60)[problems]
    good = generator.random(480) < 1 / (1 + np.exp(-2 * ease))
    return good, problems, states_along(1.0 * good, 4 * ease)


@pytest.mark.parametrize("method", METHODS)
def test_within_problems_difficulty_is_not_learnt(method: str) -> None:
    good, problems, states = difficulty()
    wanted, confound = np.eye(HIDDEN)[0], np.eye(HIDDEN)[1]
    plain = estimated(method, a_sample(good, problems), states).vector[0]
    weights = contrast_weights(good, problems)
    used = weights > 0
    sample = a_sample(good[used], problems[used], weights=weights[used], within_problem=True)
    within = estimated(method, sample, states[used])
    assert abs(cosine(plain, confound)) > 0.6 or method in ("lda", "logistic")  # these two see through it partly
    assert abs(cosine(within.vector[0], confound)) < 0.25
    if method != "pca":  # it goes where states vary most, and within problems that is nowhere
        assert cosine(within.vector[0], wanted) > 0.8
        told = diagnose(sample, within, None)
        assert all(low > 0.5 for low in told.auc_low)


def test_within_problems_auc_compares_answers_to_one_question() -> None:
    """All that tells answers apart is how easy the question was: across problems much, within them nothing."""
    good, problems, states = difficulty()
    states[:, :, 0] = 20
    across = a_sample(good, problems)
    assert diagnose(across, estimated("mean_diff", across, states), None).auc_low[0] > 0.7
    weights = contrast_weights(good, problems)
    used = weights > 0
    within = a_sample(good[used], problems[used], weights=weights[used], within_problem=True)
    told = diagnose(within, estimated("mean_diff", within, states[used]), None)
    assert all(low < 0.5 < high for low, high in zip(told.auc_low, told.auc_high, strict=True))


# --- Halves and folds, against loops


@pytest.fixture(params=["single", "samples"])
def case(request) -> tuple[Sample, np.ndarray]:
    """Answers with a little signal: one a problem, or three, where a problem has good and bad ones."""
    good = random_labels(90)
    problems = np.arange(90) if request.param == "single" else np.repeat(np.arange(30), 3)
    return a_sample(good, problems), states_along(0.5 * good, np.zeros(90))


def naive_vector(sample: Sample, states: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[L, D] difference of means of the chosen answers."""
    right = [h for h, g, c in zip(states.astype(float), sample.good, chosen, strict=True) if g and c]
    wrong = [h for h, g, c in zip(states.astype(float), sample.good, chosen, strict=True) if not g and c]
    return np.mean(right, axis=0) - np.mean(wrong, axis=0)


def test_split_half_cosines(case) -> None:
    sample, states = case
    expected = np.zeros(LAYERS)
    for blocks in halvings(0):
        first = blocks[sample.blocks]
        one, other = naive_vector(sample, states, first), naive_vector(sample, states, ~first)
        expected += [cosine(a, b) / SPLITS for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(estimated("mean_diff", sample, states).split_half, expected, atol=1e-5)


def test_held_out_scores_and_their_auc(case) -> None:
    sample, states = case
    expected = np.zeros((90, LAYERS))
    for fold in range(FOLDS):
        held_out = sample.blocks % FOLDS == fold
        assert held_out.any()
        vector = naive_vector(sample, states, ~held_out)
        middle = [states[~held_out & side].astype(float).mean(axis=0) for side in (sample.good, ~sample.good)]
        for i in np.flatnonzero(held_out):
            for layer in range(LAYERS):
                unit = vector[layer] / np.linalg.norm(vector[layer])
                expected[i, layer] = (states[i, layer] - (middle[0][layer] + middle[1][layer]) / 2) @ unit
    result = estimated("mean_diff", sample, states)
    np.testing.assert_allclose(result.scores, expected, atol=1e-4)
    told = diagnose(sample, result, None)
    assert told.auc == pytest.approx([roc_auc_score(sample.good, expected[:, layer]) for layer in range(LAYERS)])
    _, low, high = auc_interval(expected, sample.good, sample.problems)
    assert told.auc_low == pytest.approx(low, abs=1e-6)
    assert told.auc_high == pytest.approx(high, abs=1e-6)


def test_streaming_and_fitting_agree(case) -> None:
    """The same halves, folds, signs and lengths, with the mean difference in the place of a fit."""
    sample, states = case
    streamed = estimated("mean_diff", sample, states)
    fitted = estimate_by_fits(sample, states, lambda part, of: -7 * difference(part, of), seed=0)
    for name in ("vector", "mean_state_norm", "split_half", "scores"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(fitted, name), rtol=1e-4, atol=1e-4)


def test_a_problem_is_never_on_both_sides() -> None:
    """Also where it has good and bad answers, and blocks are evenly filled."""
    problems = np.random.default_rng(0).integers(0, 50, size=200)
    good = random_labels(200)
    blocks = deal(good, problems, seed=1)
    assert all(len(set(blocks[problems == problem])) == 1 for problem in set(problems))
    for side in (good, ~good):
        sizes = [len(set(problems[side & (blocks == block)])) for block in range(BLOCKS)]
        assert max(sizes) - min(sizes) <= 2
    assert (deal(good, problems, seed=2) != blocks).any()


@pytest.mark.parametrize("offset", range(0, 30, 3))
def test_five_problems_of_a_label_are_in_every_half_and_every_fold(offset: int) -> None:
    good = np.arange(5 + offset + 8) < 5
    problems = np.concatenate((np.arange(5), np.arange(offset + 8) + 3))  # some have both labels
    blocks = deal(good, problems, seed=offset)
    assert set(blocks[good] % FOLDS) == set(range(FOLDS))
    for first in halvings(offset):
        assert 2 <= first[blocks[good]].sum() <= 3


def test_halvings_differ_and_halve() -> None:
    found = halvings(0)
    assert found.shape == (SPLITS, BLOCKS)
    assert (found.sum(axis=1) == BLOCKS // 2).all()
    both = {tuple(half) for half in found} | {tuple(~half) for half in found}
    assert len(both) == 2 * SPLITS


# --- Methods


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found(method: str) -> None:
    """Good lies above bad along it, and it is as long as the difference of means."""
    good = random_labels(300)
    planted = np.random.default_rng(5).normal(size=HIDDEN)
    planted /= np.linalg.norm(planted)
    states = random_states(300) - 4 * np.outer(~good, planted)[:, None].astype(np.float32)
    result = estimated(method, a_sample(good), states)
    assert all(cosine(layer, planted) > 0.9 for layer in result.vector)
    means = np.linalg.norm(states[good].mean(axis=0) - states[~good].mean(axis=0), axis=-1)
    np.testing.assert_allclose(result.vector.norm(dim=-1), means, rtol=1e-4)
    assert (result.split_half > 0.8).all()


def test_lda_sees_through_what_varies_with_the_labels_alike() -> None:
    """Two correlated coordinates of which one goes with the label: the discriminant subtracts the other from it."""
    good = random_labels(600)
    shared = 2 * np.random.default_rng(0).normal(size=600)
    states = states_along(shared + 2.0 * good, shared)
    x = states[:, 0].astype(float)
    covariance = np.zeros((HIDDEN, HIDDEN))
    for side in (good, ~good):  # of standardised features, shrunk, and put back into the features' own units
        scale = x[side].std(axis=0)
        covariance += ledoit_wolf((x[side] - x[side].mean(axis=0)) / scale)[0] * np.outer(scale, scale) / 2
    fisher = np.linalg.solve(covariance, x[good].mean(axis=0) - x[~good].mean(axis=0))
    vector = estimated("lda", a_sample(good), states).vector[0]
    assert cosine(vector, fisher) > 0.9999
    assert vector[1] < -0.3 * vector[0] < 0


def test_logistic_regression_is_in_the_units_of_the_states() -> None:
    """Features of very unequal spread: the direction is the slope of what scikit-learn's pipeline predicts."""
    good = random_labels(200)
    states = states_along(*[1.0 * good] * 3) * np.geomspace(0.1, 10, HIDDEN, dtype=np.float32)
    sample = a_sample(good)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / HIDDEN))
    model.fit(states[:, 0], good, logisticregression__sample_weight=100 * sample.weights)
    slope = model.decision_function(np.eye(HIDDEN)) - model.decision_function(np.zeros((1, HIDDEN)))
    assert cosine(estimated("logistic", sample, states).vector[0], slope) > 0.9999


def test_logistic_regression_counts_answers_by_their_weights() -> None:
    """Two kinds of bad answers, one of them weighed down to nothing: the vector turns to the other."""
    kind = np.repeat([0, 1, 2], 100)
    good = kind == 0
    states = states_along(3.0 * (kind == 1), 3.0 * (kind == 2))
    for heavy, axis in ((1, 0), (2, 1)):
        weights = np.where(good, 0.01, np.where(kind == heavy, 0.00999, 0.00001))
        vector = estimated("logistic", a_sample(good, weights=weights), states).vector[0]
        assert cosine(vector, -np.eye(HIDDEN)[axis]) > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_is_always_the_same(method: str) -> None:
    """Nothing to find: zeros but for rounding, and no NaN."""
    good, states = random_labels(40), random_states(40)
    states[:, 1] = 3
    result = estimated(method, a_sample(good), states)
    assert result.vector[1].abs().max() < 1e-6
    assert np.isfinite(result.scores).all()
    assert np.isfinite(result.split_half).all()
    assert result.vector[0].norm() > 0
