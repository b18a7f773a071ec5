"""The area under the ROC curve: pair by pair, and how often its interval holds it."""

import numpy as np
import pytest
import scipy.stats

from als.roc import auc_interval


def columns(share: float, *, good: int, bad: int, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Scores [good + bad, n] of normal samples whose true AUC is `share`, and which rows are positive."""
    positive = np.arange(good + bad) < good
    shift = scipy.stats.norm.ppf(share) * 2**0.5
    return np.random.default_rng(0).normal(size=(good + bad, n)) + shift * positive[:, None], positive


def test_auc_and_delongs_variance_pair_by_pair() -> None:
    """Ties included, against loops over pairs."""
    scores, positive = columns(0.7, good=9, bad=14, n=3)
    scores = scores.round(1)
    auc, low, high = auc_interval(scores, positive)
    for column in range(3):
        good, bad = scores[positive, column], scores[~positive, column]
        order = np.array([[1.0 if g > b else 0.5 if g == b else 0.0 for b in bad] for g in good])
        error = (order.mean(axis=1).var(ddof=1) / 9 + order.mean(axis=0).var(ddof=1) / 14) ** 0.5
        share = order.mean()
        assert auc[column] == pytest.approx(share)
        reach = 2.306004 * error / (share * (1 - share))  # t of 8 degrees of freedom, as tables have it
        ends = [1 / (1 + np.exp(-(np.log(share / (1 - share)) + sign * reach))) for sign in (-1, 1)]
        assert (low[column], high[column]) == pytest.approx(tuple(ends))


@pytest.mark.parametrize("share", [0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize(("good", "bad"), [(20, 20), (15, 80), (100, 60)])
def test_auc_intervals_cover(share: float, good: int, bad: int) -> None:
    scores, positive = columns(share, good=good, bad=bad)
    _, low, high = auc_interval(scores, positive)
    assert 0.94 <= ((low <= share) & (share <= high)).mean() <= 0.985


def test_auc_intervals_of_samples_of_the_same_problems() -> None:
    """Four answers to each of 60 problems, whose scores share most of their chance; labels go by problem."""
    generator = np.random.default_rng(0)
    problems = np.repeat(np.arange(60), 4)
    positive = problems < 30
    scores = generator.normal(size=(60, 2000))[problems] + 0.5 * generator.normal(size=(240, 2000))
    covered = {}
    for name, groups in (("alone", None), ("together", problems)):
        _, low, high = auc_interval(scores, positive, groups)
        covered[name] = ((low <= 0.5) & (high >= 0.5)).mean()
    assert 0.93 <= covered["together"] <= 0.97
    assert covered["alone"] < 0.8


def test_auc_intervals_of_both_labels_in_a_problem() -> None:
    """A problem's difficulty moves its right and its wrong answers alike: chance that drops out of the difference."""
    generator = np.random.default_rng(0)
    problems = np.repeat(np.arange(40), 2)
    positive = np.arange(80) % 2 == 0
    scores = 2 * generator.normal(size=(40, 2000))[problems] + generator.normal(size=(80, 2000))
    _, low, high = auc_interval(scores, positive, problems)
    assert 0.92 <= ((low <= 0.5) & (high >= 0.5)).mean() <= 0.98
    _, wide_low, wide_high = auc_interval(scores, positive)
    assert ((high - low) < 0.7 * (wide_high - wide_low)).mean() > 0.95


@pytest.mark.parametrize(("good", "bad", "auc"), [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.5)])
def test_auc_intervals_without_variance_keep_their_width(good: float, bad: float, auc: float) -> None:
    """In order, in reverse, all tied: Wilson's interval for five trials, and no certainty."""
    scores = np.array([good] * 5 + [bad] * 9)[:, None]
    found, low, high = auc_interval(scores, np.arange(14) < 5)
    expected = scipy.stats.binomtest(round(5 * auc), 5).proportion_ci(0.95, method="wilson") if auc != 0.5 else None
    assert found == auc
    if expected:
        assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    else:
        assert low[0] == pytest.approx(1 - high[0])
        assert high[0] > 0.8
