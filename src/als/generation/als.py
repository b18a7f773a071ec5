"""Amortized latent steering: greedy decoding with alpha*v added to the residual stream (arXiv 2509.18116)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from als.generation.solve import solve
from als.records import Problem, ResultLine

if TYPE_CHECKING:
    from als.engines.base import Engine
    from als.generation.settings import Settings


def run(engine: Engine, problems: Sequence[Problem], settings: Settings) -> Iterator[ResultLine]:
    """Answer every problem with the argmax of each step, steering every emitting position."""
    assert settings.steering is not None, "als steers"
    return (line for line, _ in solve(engine, problems, settings, steering=settings.steering))
