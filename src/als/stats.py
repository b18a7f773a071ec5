"""Numbers with their uncertainty, and the table in which runs are shown side by side.

Statistics come from scipy; this module chooses and formats. Knows no model and no run folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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


def runs_table(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A Markdown table of runs.

    Args:
        runs: (what the run is called, its summary.json), in the order of the rows.
    """
    head = ("run", "n", "accuracy, 95 % Wilson interval", "answered", "tokens", "seconds", "tokens/s")
    rows = [
        (
            name,
            str(summary["n"]),
            accuracy_text(summary["correct"], summary["n"]),
            f"{summary['answered']:.0%}".replace("%", " %"),
            str(summary["completion_tokens"]),
            f"{summary['seconds']:.1f}",
            f"{summary['tokens_per_second']:.0f}",
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
