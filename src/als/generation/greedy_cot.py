"""Greedy chain of thought: the baseline that steering is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from als.generation.solve import solve
from als.records import Problem, ResultLine

if TYPE_CHECKING:
    from als.engines.base import Engine
    from als.generation.settings import Settings


def run(engine: Engine, problems: Sequence[Problem], settings: Settings) -> Iterator[ResultLine]:
    """Answer every problem with the argmax of each step."""
    return (line for line, _ in solve(engine, problems, settings))
