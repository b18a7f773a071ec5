"""Gated steering: the vector acts only inside the free text of a JSON answer, never on its structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from als.generation.json_gate import JsonGate
from als.generation.solve import solve
from als.prompts.solver import FREE_TEXT_KEY
from als.records import Problem, ResultLine

if TYPE_CHECKING:
    from als.engines.base import Engine
    from als.generation.settings import Settings


def run(engine: Engine, problems: Sequence[Problem], settings: Settings) -> Iterator[ResultLine]:
    """Answer every problem with the argmax of each step, each row steered where its own gate is open."""
    assert settings.steering is not None, "als_gated steers"
    lines = solve(engine, problems, settings, steering=settings.steering, gates=lambda: JsonGate(FREE_TEXT_KEY))
    for line, _ in lines:
        yield replace(line, details={**line.details, "json_valid": is_valid(line.completion)})


def is_valid(completion: str) -> bool:
    """Whether a completion holds a whole JSON object, text and code fences around it aside."""
    gate = JsonGate(FREE_TEXT_KEY)
    gate.feed(completion)
    return gate.complete
