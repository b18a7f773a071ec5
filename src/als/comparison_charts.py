"""A comparison -> a figure: accuracy against seconds a problem, and how the difference went over the data set.

    draw_comparison(comparison, Path("charts/comparison.png"))

It knows `als.comparison` and how `als.charts` turns figures into files; it knows no run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from als.charts import render
from als.comparison import ArmResult, Comparison, Difference
from als.files import replace_bytes
from als.models import model_label
from als.stats import running_difference


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draw the figure; its format is told from the name's ending, one of `als.charts.FORMATS`.

    A chart of the same name that looks otherwise is replaced with a warning.
    """
    content = render(_figure(comparison), path.suffix.removeprefix(".").lower())
    replace_bytes(path, content, what="chart")


def _figure(comparison: Comparison) -> Any:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colours = [colormaps["tab10"](place % 10) for place in range(len(comparison.arms))]
    figure = Figure(figsize=(11, 4.4 + 0.24 * len(comparison.arms)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for arm, colour in zip(comparison.arms, colours, strict=True):
        _draw_arm(left, arm, colour)
    for one, colour in zip(comparison.differences, colours[1:], strict=True):
        _draw_difference(right, one, colour)
    _finish_left(left, comparison)
    _finish_right(right, comparison)
    figure.suptitle(_title(comparison))
    figure.legend(handles=left.get_legend_handles_labels()[0], loc="outside lower center", frameon=False)
    return figure


def _draw_arm(axes: Any, arm: ArmResult, colour: Any) -> None:
    low, high = arm.accuracy_interval
    name = f"{arm.name}: {100 * arm.accuracy:.1f} %"
    axes.plot([arm.seconds_per_problem], [100 * arm.accuracy], marker="o", linestyle="", color=colour, label=name)
    axes.vlines(arm.seconds_per_problem, 100 * low, 100 * high, color=colour)


def _finish_left(axes: Any, comparison: Comparison) -> None:
    from matplotlib.ticker import PercentFormatter

    seconds = [arm.seconds_per_problem for arm in comparison.arms]
    if min(seconds) > 0 and max(seconds) > 10 * min(seconds):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(left=0, right=1.1 * max(seconds) or 1)
    axes.set_xlabel("seconds a problem")
    axes.set_ylabel("accuracy, 95 % Wilson interval")
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.grid(alpha=0.3)


def _draw_difference(axes: Any, one: Difference, colour: Any) -> None:
    running = running_difference(one.changes)
    places = range(1, len(running) + 1)
    axes.plot(places, [100 * mean for mean, _ in running], color=colour, linewidth=1.4)
    known = [(place, *interval) for place, (_, interval) in zip(places, running, strict=True) if interval]
    if known:
        at, lows, highs = zip(*known, strict=True)
        axes.fill_between(
            at, [100 * low for low in lows], [100 * high for high in highs], color=colour, alpha=0.15, linewidth=0
        )


def _finish_right(axes: Any, comparison: Comparison) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axhline(0, color="black", linewidth=0.8)
    # The first few problems know next to nothing, and their bands would leave no room for the others.
    axes.set_ylim(*_room(comparison))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("problems, in the order of the data set")
    axes.set_ylabel(f"points against {comparison.arms[0].name} so far\n(band: 95 % t interval at each place)")
    axes.grid(alpha=0.3)


def _room(comparison: Comparison) -> tuple[float, float]:
    """Limits in points that hold everything from a tenth of the way on, and 0."""
    held = [0.0]
    for one in comparison.differences:
        running = running_difference(one.changes)
        for mean, interval in running[len(running) // 10 :]:
            held += [mean, *(interval or ())]
    low, high = 100 * min(held), 100 * max(held)
    margin = 0.05 * (high - low) or 1.0
    return max(low - margin, -105), min(high + margin, 105)


def _title(comparison: Comparison) -> str:
    model, dataset = (comparison.setting.get(name) for name in ("model", "dataset"))
    subject = " on ".join(part for part in (model and model_label(model), dataset) if part)
    return f"{subject}, {comparison.n} problems" if subject else f"{comparison.n} problems"
