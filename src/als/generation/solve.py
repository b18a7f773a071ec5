"""What all modes share: problems -> prompts -> engine -> judged results lines.

    Problem -> prompt -> engine -> Completion -> extract -> judge -> ResultLine

A mode is a function of (engine, problems, settings) that yields results lines as they become final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from als.answers.judge import judge_completion
from als.generation.json_gate import holds_valid_object
from als.prompts.solver import is_json, solver_messages
from als.records import Problem, ResultLine, Verdict, result_line

if TYPE_CHECKING:
    from als.engines.base import Engine, Gate, Output
    from als.generation.settings import Settings
    from als.steering import Steering


def prompts_for(engine: Engine, problems: Sequence[Problem], settings: Settings) -> list[str]:
    """The exact prompt text of each problem."""
    return [
        engine.render(solver_messages(problem.question, benchmark=settings.benchmark, prompt_idx=settings.prompt_idx))
        for problem in problems
    ]


def judge(text: str, problem: Problem, settings: Settings) -> Verdict:
    """Extract the answer of a completion and judge it."""
    return judge_completion(text, problem.gold, benchmark=settings.benchmark, prompt_idx=settings.prompt_idx)


def solve(
    engine: Engine,
    problems: Sequence[Problem],
    settings: Settings,
    *,
    steering: Steering | None = None,
    gates: Callable[[], Gate] | None = None,
    capture_states: bool = False,
) -> Iterator[tuple[ResultLine, Output]]:
    """Answer each problem once and judge it, in batches of the engine's size, in any order within a batch."""
    prompts = prompts_for(engine, problems, settings)
    outputs = engine.generate(
        prompts,
        max_new_tokens=settings.max_new_tokens,
        steering=steering,
        gates=gates,
        capture_states=capture_states,
    )
    for position, output in outputs:
        problem = problems[position]
        verdict = judge(output.completion.text, problem, settings)
        details = form_details(output.completion.text, settings)
        if steering is not None:
            details |= steering_details([output])
        yield result_line(problem, prompts[position], output.completion, verdict, **details), output


def form_details(text: str, settings: Settings) -> dict[str, Any]:
    """What a results line says of an answer's form: where JSON was asked for, whether it is valid."""
    return {"json_valid": holds_valid_object(text)} if is_json(settings.prompt_idx) else {}


def steering_details(outputs: Sequence[Output]) -> dict[str, Any]:
    """What a results line says of steering; several completions count by their tokens."""
    tokens = sum(output.completion.completion_tokens for output in outputs)

    return {
        name: sum(getattr(output, name) * output.completion.completion_tokens for output in outputs) / tokens
        for name in ("steered_fraction", "mean_cosine")
    }
