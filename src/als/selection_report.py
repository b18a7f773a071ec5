"""A sweep in words: the table of its cells as CSV and as Markdown, and the content of chosen.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from als.selection import Outcome
from als.stats import accuracy_text, wilson_interval
from als.stats import markdown_table as table

COLUMNS = (
    "layer_idx", "alpha", "alpha_scale", "similarity_threshold", "n", "correct", "accuracy", "low", "high",
    "mean_relative_dose", "folder",
)  # fmt: skip


def csv_table(outcomes: Sequence[Outcome], folders: Sequence[str]) -> str:
    """A line a cell, in the order of the grid; `low` and `high` are the 95 % Wilson interval."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for outcome, folder in zip(outcomes, folders, strict=True):
        low, high = wilson_interval(outcome.correct, outcome.n)
        row = asdict(outcome.cell) | {"n": outcome.n, "correct": outcome.correct, "accuracy": outcome.accuracy}
        row["similarity_threshold"] = _tau(outcome)
        writer.writerow(row | {"low": low, "high": high, "mean_relative_dose": outcome.dose, "folder": folder})
    return text.getvalue()


def markdown_table(outcomes: Sequence[Outcome], chosen: Outcome, top: Outcome) -> str:
    """The cells, the best first, with the chosen one marked."""
    rows = [
        (
            f"layer {o.cell.layer_idx}, alpha {o.cell.alpha:g} {o.cell.alpha_scale}, tau {_tau(o)}",
            accuracy_text(o.correct, o.n),
            f"{o.dose:.2%}".replace("%", " %"),
            "chosen" if o is chosen else "best" if o is top else "",
        )
        for o in sorted(outcomes, key=lambda o: (-o.correct, o.dose))
    ]
    return table(("setting", "accuracy, 95 % Wilson interval", "relative dose", ""), rows)


def choice(chosen: Outcome, top: Outcome, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The content of chosen.json: the four settings under the names of their flags, and how they were come by."""
    return asdict(chosen.cell) | {
        "n": chosen.n,
        "accuracy": chosen.accuracy,
        "mean_relative_dose": chosen.dose,
        "best": asdict(top.cell) | {"accuracy": top.accuracy, "mean_relative_dose": top.dose},
        "settings_tried": len(outcomes),
        "rule": "the smallest dose within one standard error of the best accuracy",
    }


def _tau(outcome: Outcome) -> str:
    tau = outcome.cell.similarity_threshold
    return "none" if tau is None else f"{tau:g}"
