"""Where a vector stands among its null controls: rank and permutation p.

    result = stand("random", accuracy=0.31, controls=[0.28, 0.30, ...])

If the vector's direction meant nothing, it would be one more draw of the same kind, and each rank equally likely. So
p = (1 + controls at least as good) / (1 + controls), one-sided, and never below 1 / (1 + controls). Plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """A vector among controls of one kind."""

    kind: str
    accuracy: float
    """The vector's."""
    controls: tuple[float, ...]
    """Accuracies of the controls, in the order of their seeds."""
    rank: int
    """1 for the best; controls that are as good stand before the vector."""
    p: float | None
    """None where the controls are no draws, as for `negative`."""


def stand(kind: str, accuracy: float, controls: Sequence[float]) -> Standing:
    """Compare a vector's accuracy with those of its controls, all on the same problems.

    Accuracies that differ by less than any count of problems can are the same.
    """
    as_good = sum(control >= accuracy - 1e-12 for control in controls)
    p = (1 + as_good) / (1 + len(controls)) if kind != "negative" else None
    return Standing(kind, accuracy, tuple(controls), 1 + as_good, p)


def markdown(standings: Sequence[Standing], *, n: int) -> str:
    """A sentence a kind."""
    return "\n".join(_sentence(standing, n) for standing in standings)


def _sentence(standing: Standing, n: int) -> str:
    controls = [round(100 * accuracy, 1) for accuracy in standing.controls]
    if standing.p is None:
        return f"- negative: {100 * standing.accuracy:.1f} % with v, {controls[0]:.1f} % with -v, of {n} problems"
    return (
        f"- {standing.kind}: rank {standing.rank} of {len(controls) + 1}, permutation p = {standing.p:.3f}; "
        f"v {100 * standing.accuracy:.1f} %, controls {min(controls):.1f} to {max(controls):.1f} %, "
        f"mean {100 * sum(standing.controls) / len(controls):.1f} %"
    )
