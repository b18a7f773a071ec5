"""What all modes share: problems -> prompts -> engine -> judged results lines.

    Problem -> prompt -> engine -> Completion -> extract -> judge -> ResultLine

A mode is a function of (engine, problems, settings) that yields results lines as they become final.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from als.answers.judge import judge_completion
from als.prompts.solver import solver_messages
from als.records import Problem, ResultLine, result_line

if TYPE_CHECKING:
    from als.engines.base import Engine, Output
    from als.steering import Steering


@dataclass(frozen=True)
class Settings:
    """What a mode needs to know beside the engine and the problems."""

    benchmark: str
    prompt_idx: int = 0
    max_new_tokens: int = 1024
    steering: Steering | None = None
    """For the modes that steer."""


def prompts_for(engine: Engine, problems: Sequence[Problem], settings: Settings) -> list[str]:
    """The exact prompt text of each problem."""
    return [
        engine.render(solver_messages(problem.question, benchmark=settings.benchmark, prompt_idx=settings.prompt_idx))
        for problem in problems
    ]


def solve(
    engine: Engine,
    problems: Sequence[Problem],
    settings: Settings,
    *,
    steering: Steering | None = None,
    capture_states: bool = False,
) -> Iterator[tuple[ResultLine, Output]]:
    """Answer and judge problems, in batches of the engine's size, in any order within a batch."""
    prompts = prompts_for(engine, problems, settings)
    outputs = engine.generate(
        prompts, max_new_tokens=settings.max_new_tokens, steering=steering, capture_states=capture_states
    )
    for position, output in outputs:
        problem = problems[position]
        verdict = judge_completion(
            output.completion.text, problem.gold, benchmark=settings.benchmark, prompt_idx=settings.prompt_idx
        )
        details = _steering_details(output) if steering is not None else {}
        yield result_line(problem, prompts[position], output.completion, verdict, **details), output


def _steering_details(output: Output) -> dict[str, Any]:
    return {"steered_fraction": output.steered_fraction, "mean_cosine": output.mean_cosine}
