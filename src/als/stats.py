"""Numbers with their uncertainty, and the table in which runs are shown side by side.

Statistics come from scipy; this module chooses and formats. Knows no model and no run folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
