"""A sweep -> a heat map of accuracy, layer by alpha, one panel for each scale and tau.

It knows `als.selection` and how `als.charts` turns figures into files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from als.charts import render
from als.selection import Outcome

COLOURS = "viridis"
BRIGHT = 0.6
"""Share of the scale above which white does not show on these colours."""


def draw_sweep(outcomes: Sequence[Outcome], chosen: Outcome) -> bytes:
    """The figure as PNG. The cell of alpha 0, which is the same everywhere, fills its column in every panel."""
    return render(_figure(outcomes, chosen), "png")


def _figure(outcomes: Sequence[Outcome], chosen: Outcome) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(_panel(o) for o in outcomes if o.cell.alpha != 0)) or [_panel(outcomes[0])]
    alphas = sorted({o.cell.alpha for o in outcomes})
    layers = sorted({o.cell.layer_idx for o in outcomes})
    size = (1.6 + (1.2 + 0.7 * len(alphas)) * len(panels), 2.2 + 0.32 * len(layers))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    accuracies = [100 * o.accuracy for o in outcomes]
    limits = (min(accuracies), max(accuracies))
    for axes, panel in zip(grid, panels, strict=True):
        cells = [o for o in outcomes if _panel(o) == panel or o.cell.alpha == 0]
        _draw_panel(axes, cells, (layers, alphas), limits)
        axes.set_title(panel, fontsize="medium")
        if chosen in cells:
            _mark(axes, chosen, layers, alphas)
    grid[0].set_ylabel("layer")
    figure.colorbar(ScalarMappable(Normalize(*limits), COLOURS), ax=list(grid), label="accuracy, %")
    figure.suptitle(f"{outcomes[0].n} problems; framed: chosen")
    return figure


def _panel(outcome: Outcome) -> str:
    tau = outcome.cell.similarity_threshold
    return f"{outcome.cell.alpha_scale}, tau {'none' if tau is None else f'{tau:g}'}"


def _draw_panel(
    axes: Any, cells: Sequence[Outcome], places: tuple[list[int], list[float]], limits: tuple[float, float]
) -> None:
    import numpy as np

    layers, alphas = places
    values = np.full((len(layers), len(alphas)), np.nan)
    for outcome in cells:
        rows = slice(None) if outcome.cell.alpha == 0 else layers.index(outcome.cell.layer_idx)
        values[rows, alphas.index(outcome.cell.alpha)] = 100 * outcome.accuracy
    image = axes.imshow(values, origin="lower", aspect="auto", cmap=COLOURS, vmin=limits[0], vmax=limits[1])
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "black" if image.norm(value) > BRIGHT else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize="x-small", color=ink)
    axes.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_xlabel("alpha")


def _mark(axes: Any, chosen: Outcome, layers: list[int], alphas: list[float]) -> None:
    """A frame around the chosen cell, or around the whole column of alpha 0."""
    from matplotlib.patches import Rectangle

    nothing = chosen.cell.alpha == 0
    row, height = (0, len(layers)) if nothing else (layers.index(chosen.cell.layer_idx), 1)
    corner = (alphas.index(chosen.cell.alpha) - 0.5, row - 0.5)
    axes.add_patch(Rectangle(corner, 1, height, fill=False, edgecolor="red", linewidth=2))
