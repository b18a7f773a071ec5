"""A null test -> a figure: the accuracies of the controls, and where the vector and the unsteered model stand.

It knows `als.null` and how `als.charts` turns figures into files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from als.charts import render
from als.null import Standing


def draw_null(standings: Sequence[Standing], unsteered: float, *, n: int) -> bytes:
    """The figure as PNG: a row of dots a kind of control, equal accuracies piled up.

    Args:
        standings: at least one, of the same vector.
        unsteered: the accuracy without any vector.
        n: how many problems everything was run on.
    """
    return render(_figure(standings, unsteered, n), "png")


def _figure(standings: Sequence[Standing], unsteered: float, n: int) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7, 2.4 + 0.9 * len(standings)), layout="constrained")
    axes = figure.add_subplot()
    for place, standing in enumerate(standings):
        _draw_kind(axes, standing, place)
    axes.axvline(100 * standings[0].accuracy, color="tab:red", label=f"v: {100 * standings[0].accuracy:.1f} %")
    axes.axvline(100 * unsteered, color="black", linestyle="--", label=f"unsteered: {100 * unsteered:.1f} %")
    axes.set_yticks(range(len(standings)), [_label(standing) for standing in standings])
    axes.set_ylim(-0.6, len(standings) - 0.2)
    axes.set_xlabel(f"accuracy on {n} problems")
    axes.xaxis.set_major_formatter(PercentFormatter())
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_kind(axes: Any, standing: Standing, place: int) -> None:
    for accuracy, count in Counter(standing.controls).items():
        heights = [place + min(0.12, 0.7 / count) * i for i in range(count)]
        axes.plot([100 * accuracy] * count, heights, "o", color="tab:blue", markersize=5, clip_on=False)


def _label(standing: Standing) -> str:
    return standing.kind if standing.p is None else f"{standing.kind}\np = {standing.p:.3f}"
