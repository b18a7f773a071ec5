"""Gated steering: the vector acts only inside the free text of a JSON answer, never on its structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from als.errors import UserError
from als.generation.json_gate import JsonGate
from als.generation.solve import solve
from als.prompts.solver import is_json
from als.records import Problem, ResultLine

if TYPE_CHECKING:
    from als.engines.base import Engine
    from als.generation.settings import Settings


def run(engine: Engine, problems: Sequence[Problem], settings: Settings) -> Iterator[ResultLine]:
    """Answer every problem with the argmax of each step, each row steered where its own gate is open."""
    assert settings.steering is not None, "als_gated steers"
    if not is_json(settings.prompt_idx):
        raise UserError(f"als_gated steers inside JSON answers, which prompt {settings.prompt_idx} does not ask for")
    lines = solve(engine, problems, settings, steering=settings.steering, gates=JsonGate)
    return (line for line, _ in lines)
