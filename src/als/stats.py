"""Numbers with their uncertainty, and the table in which runs are shown side by side.

Statistics come from scipy; this module chooses and formats. Knows no model and no run folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Z = 1.959964
"""The normal quantile of a 95 % interval."""
EXTRA_COLUMNS = {
    "steered_fraction": "steered",
    "json_valid": "JSON valid",
    "steps": "steps",
    "first_reward": "first reward",
    "last_reward": "last reward",
}
"""Means that only some modes have -> their columns; a column appears where some run has it."""
_SHARES = ("steered_fraction", "json_valid")


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


def auc_interval(
    scores: Floats, positive: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64] | None = None
) -> tuple[Floats, Floats, Floats]:
    """Area under the ROC curve with a 95 % interval, column by column.

    The variance is DeLong's (1988), with groups Obuchowski's (1997), which is the same where every score is a group
    of its own; the interval is taken on the logit scale. Where no pair tells anything about the variance (all or none
    are in order, or all tied), it is Wilson's of as many trials as the smaller side has groups.

    Args:
        scores: [N, L].
        positive: [N]; both kinds, each of at least two groups.
        groups: [N] number of the group of scores that depend on each other; without them all are independent.

    Returns:
        AUC, low and high, [L] each. A tie counts as half in order.
    """
    import numpy as np

    groups = np.arange(len(scores)) if groups is None else np.unique(groups, return_inverse=True)[1]
    above, below = _placements(scores[positive], scores[~positive])
    auc = above.mean(axis=0)
    sides = [_by_group(above - auc, groups[positive]), _by_group(below - auc, groups[~positive])]
    (first, n_first), (second, n_second) = sides
    n_groups, shared = groups.max() + 1, min(len(first), len(second))
    variance = sum((n / (n - 1) * (side**2).sum(axis=0) for side, n in sides), start=np.zeros_like(auc))
    variance += 2 * n_groups / (n_groups - 1) * (first[:shared] * second[:shared]).sum(axis=0)
    low, high = _logit_interval(auc, np.sqrt(np.maximum(variance, 0)))
    flat = (variance <= 1e-12) | (auc <= 0) | (auc >= 1)
    wilson_low, wilson_high = _wilson(auc, min(n_first, n_second))
    return auc, np.where(flat, wilson_low, low), np.where(flat, wilson_high, high)


def _placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Share of the negatives below each positive [M, L], and of the positives above each negative [N, L]."""
    import numpy as np
    from scipy.stats import rankdata

    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate((positive, negative)), axis=0)
    return (ranks[:m] - rankdata(positive, axis=0)) / n, 1 - (ranks[m:] - rankdata(negative, axis=0)) / m


def _by_group(deviations: Floats, groups: npt.NDArray[np.int64]) -> tuple[Floats, int]:
    """Sums of the deviations over each group as a share of their number [G, L], and how many groups there are."""
    import numpy as np

    sums = np.zeros((groups.max() + 1, deviations.shape[1]))
    np.add.at(sums, groups, deviations)
    return sums / len(deviations), len(np.unique(groups))


def _logit_interval(share: Floats, error: Floats) -> tuple[Floats, Floats]:
    """Share -+ Z * error on the logit scale, where it cannot leave 0 to 1."""
    import numpy as np
    from scipy.special import expit, logit

    inside = np.clip(share, 1e-12, 1 - 1e-12)
    half = Z * error / (inside * (1 - inside))
    return expit(logit(inside) - half), expit(logit(inside) + half)


def _wilson(share: Floats, n: int) -> tuple[Floats, Floats]:
    """Wilson's 95 % interval of shares of n trials, which need not be whole numbers of successes."""
    import numpy as np

    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return centre - half, centre + half


def runs_table(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A Markdown table of runs.

    Args:
        runs: (what the run is called, its summary.json), in the order of the rows.
    """
    extra = [column for column in EXTRA_COLUMNS if any(column in summary for _, summary in runs)]
    head: tuple[str, ...] = ("run", "n", "accuracy, 95 % Wilson interval", "answered", "tokens", "seconds", "tokens/s")
    head += tuple(EXTRA_COLUMNS[column] for column in extra)
    rows = [
        (
            name,
            str(summary["n"]),
            accuracy_text(summary["correct"], summary["n"]),
            _percent(summary["answered"]),
            str(summary["generated_tokens"]),
            f"{summary['seconds']:.1f}",
            "" if summary["tokens_per_second"] is None else f"{summary['tokens_per_second']:.0f}",
            *(_cell(column, summary.get(column)) for column in extra),
        )
        for name, summary in runs
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(cells[1:], widths[1:], strict=True)),
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return _percent(value) if column in _SHARES else f"{value:.2f}"
