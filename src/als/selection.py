"""Choosing how to steer on problems that are not the test: the grid of settings, and the rule that picks one.

The rule is that of one standard error: among the settings whose accuracy lies within one standard error of the best,
the one with the smallest dose. What wins a grid by a hair has mostly won by luck, and a smaller push is the safer
guess. Plain numbers; knows no model and no run folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from als.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One setting of the grid; the fields have the names of main's flags."""

    alpha: float
    alpha_scale: str
    layer_idx: int
    similarity_threshold: float | None


@dataclass(frozen=True)
class Outcome:
    """What a setting came to."""

    cell: Cell
    n: int
    correct: int
    dose: float
    """Mean of |alpha * s * v| / |h| over all emitting positions, 0 where none was steered."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.n


def grid(
    *, alphas: Sequence[float], scales: Sequence[str], layers: Sequence[int], thresholds: Sequence[float | None]
) -> list[Cell]:
    """Every combination once. An alpha of 0 is the same everywhere: it stands for one cell, at the first layer."""
    cells = [Cell(*values) for values in product(alphas, scales, layers, thresholds)]
    nothing = Cell(0.0, scales[0], layers[0], thresholds[0])
    return list(dict.fromkeys(nothing if cell.alpha == 0 else cell for cell in cells))


def parse_layers(text: str, layers: int) -> list[int]:
    """Layer indices, not negative, of a model with so many: `all`, `every:4` (3, 7, ...), or `10,14,-2`.

    Raises:
        UserError: anything else, or a layer that the model does not have.
    """
    if text == "all":
        return list(range(layers))
    kind, colon, step = text.partition(":")
    if kind == "every" and colon and step.isdecimal() and 1 <= int(step) <= layers:
        return list(range(int(step) - 1, layers, int(step)))
    try:
        given = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--layers {text!r}: expected all, every:<n> with n from 1 to {layers}, or indices such as 10,14,18"
        ) from None
    for layer in given:
        if not -layers <= layer < layers:
            raise UserError(f"--layers {text!r}: the model has {layers} layers, so expected {-layers} to {layers - 1}")
    return list(dict.fromkeys(layer % layers for layer in given))


def choose(outcomes: Sequence[Outcome]) -> Outcome:
    """The smallest dose within one standard error of the best accuracy.

    Among equal doses the better accuracy, among those the earlier in the grid. The standard error is the binomial
    one of the best cell.

    Args:
        outcomes: at least one, all on the same problems.
    """
    top = best(outcomes)
    error = math.sqrt(top.accuracy * (1 - top.accuracy) / top.n)
    # A count and not a share is compared, less what floating point may take from it.
    least = top.n * (top.accuracy - error) - 1e-9
    return min((o for o in outcomes if o.correct >= least), key=lambda o: (o.dose, -o.correct))


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """The highest accuracy; among equals the smallest dose."""
    return min(outcomes, key=lambda o: (-o.correct, o.dose))
