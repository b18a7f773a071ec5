"""Numbers with their uncertainty, of one run and of two on the same problems, and tables of them.

Statistics come from scipy; this module chooses and formats. Knows no model and no run folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from als.environment import seconds_notes

EXTRA_COLUMNS = {
    "steered_fraction": "steered",
    "json_valid": "JSON valid",
    "steps": "steps",
    "first_reward": "first reward",
    "last_reward": "last reward",
    "judge_errors": "judge errors",
    "truncated": "truncated",
    "strict_accuracy": "strict accuracy",
    "rules": "right by rule",
}
"""What only some modes or versions have -> their columns; a column appears where some run has it."""
_SHARES = ("steered_fraction", "json_valid", "truncated")
_COUNTS = ("judge_errors",)  # their columns appear where some run has more than 0


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share.

    Args:
        correct: successes, 0 to n.
        n: trials, at least 1.
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_text(correct: int, n: int) -> str:
    """Accuracy with its interval, in percent: `31.2 % [22.9, 41.1]`."""
    low, high = wilson_interval(correct, n)
    return f"{correct / n:.1%} [{low * 100:.1f}, {high * 100:.1f}]".replace("%", " %")


def paired_difference_interval(
    first: Sequence[bool], other: Sequence[bool], *, resamples: int = 10_000, seed: int = 42
) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the second share less the first, resampling pairs.

    Percentiles, not BCa: in simulations of 30 to 400 pairs of which 5 to 40 % differ, BCa covered the true
    difference as often where many pairs differ, and up to 10 points less often where few do.

    Args:
        first: whether each problem was answered right, [n], at least one.
        other: the same of the other arm, in the same order.

    Returns:
        None where every pair has the same difference: resampling shows no spread, and so no uncertainty.
    """
    import numpy as np
    from scipy.stats import bootstrap

    before, after = np.asarray(first, dtype=np.int8), np.asarray(other, dtype=np.int8)  # [n]
    assert before.shape == after.shape, "the arms have to be paired"
    if np.ptp(after - before) == 0:
        return None
    interval = bootstrap(
        (before, after),
        lambda first, other, axis: (other - first).mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(before)),  # resamples at once: some ten megabytes
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def mcnemar_p(helped: int, harmed: int) -> float:
    """The p-value of McNemar's exact test, two-sided: could as many problems be helped as harmed?

    Args:
        helped: problems that the first arm got wrong and the other one right.
        harmed: the reverse.
    """
    from scipy.stats import binomtest

    discordant = helped + harmed
    return float(binomtest(helped, discordant).pvalue) if discordant else 1.0  # where both agree plays no part


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of several comparisons, corrected after Holm (1979), in the same order."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def mcnemar_power(n: int, difference: float, discordant_share: float, *, alpha: float = 0.05) -> float:
    """The chance that McNemar's exact test of n pairs finds a difference.

    The test's exact power given the number of discordant pairs, averaged over that number, which is binomial
    (Duffy 1984, "Asymptotic and exact power for the McNemar test", Biometrics 40:1005).

    Args:
        n: pairs.
        difference: the true difference between the two shares, 0 to discordant_share.
        discordant_share: the true share of pairs of which one is right and the other wrong.
        alpha: p-values up to this one count.
    """
    import numpy as np
    from scipy.stats import binom

    discordant = np.arange(n + 1)  # [n + 1], as are all below
    most = binom.ppf(alpha / 2, discordant, 0.5)
    most -= binom.cdf(most, discordant, 0.5) > alpha / 2  # of the rarer kind, for p to count; -1 where it never does
    helped = (1 + difference / discordant_share) / 2 if discordant_share else 0.5
    found = binom.cdf(most, discordant, helped) + binom.sf(discordant - most - 1, discordant, helped)
    return float(np.sum(binom.pmf(discordant, n, discordant_share) * found))


def detectable_difference(n: int, discordant: int, *, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest difference between two shares that McNemar's exact test of n pairs finds with this power.

    The share of discordant pairs is taken as it was seen, or as the difference where that is larger: it is a
    property of the arms that the test does not judge by.

    Args:
        n: pairs.
        discordant: pairs seen of which one is right and the other wrong.
        power: the chance of finding it, between alpha and 1.
        alpha: p-values up to this one count.

    Returns:
        A share, 0 to 1; None where n is too small to find even a difference of 1.
    """
    from scipy.optimize import brentq

    def surplus(difference: float) -> float:
        return mcnemar_power(n, difference, max(discordant / n, difference), alpha=alpha) - power

    return float(brentq(surplus, 0.0, 1.0)) if n > 0 and surplus(1.0) >= 0 else None


def running_difference(changes: Sequence[int]) -> list[tuple[float, tuple[float, float] | None]]:
    """The mean of the changes so far, after each of them, with the 95 % t interval of that mean.

    Each interval is that of its place alone: a run that is stopped at a place of one's choice has no such surety.

    Args:
        changes: 1 where a problem was helped, -1 where it was harmed, else 0; [n].

    Returns:
        n pairs; the interval is None as long as all changes are the same.
    """
    import numpy as np
    from scipy.stats import t

    values = np.asarray(changes, dtype=float)  # [n]
    n = np.arange(1, len(values) + 1)
    means = values.cumsum() / n
    variances = ((values**2).cumsum() / n - means**2).clip(min=0) * n / np.maximum(n - 1, 1)
    spread = variances > 1e-9  # rounding aside
    scales = np.sqrt(np.where(spread, variances, 1) / n)
    lows, highs = t.interval(0.95, np.maximum(n - 1, 1), loc=means, scale=scales)
    intervals = [(float(low), float(high)) for low, high in zip(lows, highs, strict=True)]
    return [
        (float(mean), interval if varies else None)
        for mean, interval, varies in zip(means, intervals, spread, strict=True)
    ]


def runs_table(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A Markdown table of runs, and notes on whether their seconds compare.

    Args:
        runs: (what the run is called, its summary.json), in the order of the rows.
    """
    extra = [column for column in EXTRA_COLUMNS if any(_has(column, summary) for _, summary in runs)]
    head: tuple[str, ...] = ("run", "n", "accuracy, 95 % Wilson interval", "answered", "tokens", "seconds", "tokens/s")
    head += tuple(EXTRA_COLUMNS[column] for column in extra)
    rows = [
        (
            name,
            str(summary["n"]),
            accuracy_text(summary["correct"], summary["n"]),
            percent(summary["answered"]),
            str(summary["generated_tokens"]),
            f"{summary['seconds']:.1f}",
            "" if summary["tokens_per_second"] is None else f"{summary['tokens_per_second']:.0f}",
            *(_cell(column, summary.get(column)) for column in extra),
        )
        for name, summary in runs
    ]
    notes = seconds_notes([(name, summary.get("environments", ())) for name, summary in runs])
    return "\n".join([markdown_table(head, rows), *(f"\n- Note: {note}." for note in notes)])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that lines up as plain text too: the first column to the left, numbers to the right."""
    head, *rows = [[cell.replace("|", r"\|") for cell in row] for row in (head, *rows)]  # a bar would begin a cell
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(cells[1:], widths[1:], strict=True)),
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def percent(share: float) -> str:
    """A share in whole percent: `31 %`."""
    return f"{share * 100:.0f} %"


def _has(column: str, summary: Mapping[str, Any]) -> bool:
    return bool(summary.get(column)) if column in _COUNTS else column in summary


def strict_text(accuracy: float | None) -> str:
    """An accuracy without its interval: `31.2 %`; nothing where it is not known."""
    return "" if accuracy is None else f"{accuracy * 100:.1f} %"


def rules_text(rules: Mapping[str, Mapping[str, int]]) -> str:
    """Right answers of all that each extraction rule found: `boxed 15/20, last_number 1/4`."""
    return ", ".join(f"{rule} {count['correct']}/{count['n']}" for rule, count in rules.items())


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column == "rules":
        return rules_text(value)
    if column == "strict_accuracy":
        return strict_text(value)
    if column in _COUNTS:
        return str(value)
    return percent(value) if column in _SHARES else f"{value:.2f}"
