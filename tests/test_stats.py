"""Intervals, tests and power against published values, values by hand and simulations; and the table."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from als.stats import (
    accuracy_text,
    detectable_difference,
    holm,
    markdown_table,
    mcnemar_p,
    mcnemar_power,
    paired_difference_interval,
    running_difference,
    runs_table,
    wilson_interval,
)


def test_wilson_interval_against_a_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_accuracy_text() -> None:
    assert accuracy_text(30, 96) == "31.2 % [22.9, 41.1]"


def test_table_lines_up() -> None:
    summary = {
        "n": 96, "correct": 30, "answered": 1.0, "generated_tokens": 9000, "seconds": 12.0, "tokens_per_second": 750.0,
    }  # fmt: skip
    lines = runs_table([("greedy_cot prompt_0", summary), ("als", summary)]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "31.2 % [22.9, 41.1]" in lines[2]


def test_a_bar_in_a_cell_is_escaped() -> None:
    """A run's name may hold one, since a folder's may."""
    assert markdown_table(("a|b", "n"), [("x|y|z", "1"), ("w", "22")]).splitlines() == [
        r"| a\|b    |  n |",
        "|---------|---:|",
        r"| x\|y\|z |  1 |",
        "| w       | 22 |",
    ]


def test_table_shows_truncated_answers_and_accuracy_by_rule() -> None:
    summary = {
        "n": 4, "correct": 3, "answered": 1.0, "generated_tokens": 90, "seconds": 1.0, "tokens_per_second": 90.0,
    }  # fmt: skip
    rules = {"boxed": {"n": 2, "correct": 2}, "last_number": {"n": 2, "correct": 1}}
    new = summary | {"truncated": 0.25, "strict_accuracy": 0.5, "flexible_accuracy": 0.75, "rules": rules}
    head, _, old_row, row = (
        [cell.strip() for cell in line.split("|")] for line in runs_table([("old", summary), ("new", new)]).splitlines()
    )
    cells, old_cells = dict(zip(head, row, strict=True)), dict(zip(head, old_row, strict=True))
    assert cells["truncated"] == "25 %"
    assert cells["strict accuracy"] == "50.0 %"
    assert cells["right by rule"] == "boxed 2/2, last_number 1/2"
    assert {old_cells[name] for name in ("truncated", "strict accuracy", "right by rule")} == {""}


def simulated(rng: np.random.Generator, n: int, helped: float, harmed: float) -> tuple[list[bool], list[bool]]:
    """Two arms of which each problem is helped, harmed or left alone (half of those right) with these chances."""
    kinds = rng.choice(4, size=n, p=[helped, harmed, (1 - helped - harmed) / 2, (1 - helped - harmed) / 2])
    return np.isin(kinds, (1, 2)).tolist(), np.isin(kinds, (0, 2)).tolist()


def test_the_interval_is_that_of_the_paired_difference() -> None:
    first, other = simulated(np.random.default_rng(0), 2000, helped=0.08, harmed=0.03)
    changes = np.subtract(other, first, dtype=float)
    low, high = paired_difference_interval(first, other, resamples=5000, seed=1) or (0, 0)
    reach = 1.96 * changes.std() / 2000**0.5  # arms that were not paired would need three times as much
    assert (low, high) == pytest.approx((changes.mean() - reach, changes.mean() + reach), abs=0.002)
    assert paired_difference_interval(first, other, resamples=5000, seed=1) == (low, high)
    assert paired_difference_interval(first, other, resamples=5000, seed=2) != (low, high)
    mirrored = paired_difference_interval(other, first, resamples=5000, seed=1)
    assert mirrored == pytest.approx((-high, -low))


def test_without_spread_there_is_no_interval() -> None:
    assert paired_difference_interval([True, False], [True, False]) is None
    assert paired_difference_interval([False] * 30, [True] * 30) is None
    assert paired_difference_interval([True], [False]) is None


@pytest.mark.parametrize(("helped", "harmed"), [(0.05, 0.05), (0.15, 0.05), (0.3, 0.1)])
def test_coverage_of_the_interval(helped: float, harmed: float) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(300):
        low, high = paired_difference_interval(*simulated(rng, 100, helped, harmed), resamples=1000, seed=seed) or (
            9,
            9,
        )
        covered += low - 1e-9 <= helped - harmed <= high + 1e-9
    assert 0.92 <= covered / 300 <= 0.98  # three standard errors are 0.04


def test_mcnemar_against_the_binomial_by_hand() -> None:
    assert mcnemar_p(10, 2) == mcnemar_p(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert mcnemar_p(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar_p(5, 5) == mcnemar_p(0, 0) == 1


@pytest.mark.parametrize(
    ("helped", "harmed", "p"),
    [
        (31, 21, 0.21160856876151612),
        (121, 59, 4.4344492637551645e-06),
        (3, 17, 0.0025768280029296875),
        (400, 350, 0.07350777405843484),
        (1, 0, 1.0),
    ],
)
def test_mcnemar_as_statsmodels_has_it(helped: int, harmed: int, p: float) -> None:
    """Values of statsmodels 0.15, mcnemar(exact=True)."""
    assert mcnemar_p(helped, harmed) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.2, 0.001, 0.001, 0.9, 0.03, 0.03], [0.4, 0.006, 0.006, 0.9, 0.12, 0.12]),
        ([1e-9, 0.5, 0.5], [3e-9, 1.0, 1.0]),
    ],
)
def test_holm_as_statsmodels_has_it(ps: list[float], adjusted: list[float]) -> None:
    """Values of statsmodels 0.15, multipletests(method="holm")."""
    assert holm(ps) == pytest.approx(adjusted)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 * 0.01; 2 * 0.03; no less than that
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_power_against_a_published_example() -> None:
    # 144 pairs, 25 % discordant one way and 45 % the other: 80 % power, as the tests of R's MESS have it.
    assert mcnemar_power(144, 0.2, 0.7) == pytest.approx(0.80, abs=0.005)
    assert detectable_difference(144, 101) == pytest.approx(0.2, abs=0.003)


def test_power_where_it_is_known() -> None:
    """Six discordant pairs of one kind are the fewest that count at 0.05: 2 / 2**6."""
    assert detectable_difference(6, 0) == pytest.approx(0.8 ** (1 / 6))
    assert detectable_difference(5, 0) is None
    assert detectable_difference(5, 5) is None
    assert detectable_difference(0, 0) is None
    assert detectable_difference(6, 0, alpha=0.025) is None
    assert mcnemar_power(50, 0.0, 0.0) == 0
    assert mcnemar_power(400, 0.0, 0.2) == pytest.approx(0.04, abs=0.01)  # the level, which the exact test stays below


@pytest.mark.parametrize(("n", "discordant", "alpha"), [(200, 40, 0.05), (400, 20, 0.05), (150, 60, 0.025)])
def test_the_detectable_difference_is_found_in_four_of_five_simulations(n: int, discordant: int, alpha: float) -> None:
    difference = detectable_difference(n, discordant, alpha=alpha)
    assert difference is not None
    share = max(discordant / n, difference)
    chances = [(share + difference) / 2, (share - difference) / 2, 1 - share]
    runs = np.random.default_rng(3).multinomial(n, chances, size=4000)
    found = [mcnemar_p(int(helped), int(harmed)) <= alpha for helped, harmed, _ in runs]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)  # three standard errors


def test_running_difference_against_scipy() -> None:
    changes = [1, 1, 0, -1, 0, 0, 1, 0]
    running = running_difference(changes)
    assert [mean for mean, _ in running] == pytest.approx([sum(changes[:n]) / n for n in range(1, 9)])
    assert [interval for _, interval in running[:2]] == [None, None]
    for n in range(3, 9):
        expected = ttest_1samp(changes[:n], 0).confidence_interval(0.95)
        assert running[n - 1][1] == pytest.approx((expected.low, expected.high))
    assert running_difference([0, 0, 0]) == [(0, None)] * 3
    assert running_difference([-1] * 7) == [(-1, None)] * 7
    assert running_difference([]) == []
