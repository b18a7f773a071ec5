"""What all modes share: problems -> prompts -> engine -> judged results lines.

    Problem -> prompt -> engine -> Completion -> extract -> judge -> ResultLine

A mode is a function of (engine, problems, settings) that yields results lines as they become final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from als.answers.judges import judge_by
from als.answers.thinking import opened_block
from als.generation.json_gate import holds_valid_object
from als.prompts.solver import is_json, solver_messages
from als.records import Completion, Problem, ResultLine, Verdict, failure_line, result_line

if TYPE_CHECKING:
    from als.engines.base import Engine, Gate, Output, Sampling
    from als.generation.settings import Settings
    from als.steering import Steering


COSINE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Which quantiles of cos(h, v) before steering a results line holds."""


@dataclass(frozen=True)
class Prepared:
    """Problems with their prompts, and the lines of those that no prompt could be made for."""

    problems: list[Problem]
    prompts: list[str]
    """The exact texts that the model is given, the beginning of the answer included."""
    opening: str
    """How every answer begins: a <think> that the chat template opens, then the prefill. Part of the completion."""
    failures: list[ResultLine]

    def asked(self, position: int) -> str:
        """A prompt without the beginning of the answer: what a results line calls the prompt."""
        return self.prompts[position].removesuffix(self.opening)

    def by_index(self) -> dict[int, str]:
        """The same of all problems, by the problem's index."""
        return {problem.index: self.asked(position) for position, problem in enumerate(self.problems)}


def prepare(engine: Engine, problems: Sequence[Problem], settings: Settings) -> Prepared:
    """Render the exact prompt text of each problem."""
    encodable, prompts, failures = [], [], []
    for problem in problems:
        messages = solver_messages(
            problem.question,
            benchmark=settings.benchmark,
            prompt_idx=settings.prompt_idx,
            system_prompt=settings.system_prompt,
        )
        prompt = engine.render(messages, prefill=settings.prefill)
        try:
            prompt.encode()  # no tokenizer takes half a surrogate pair
        except UnicodeEncodeError as error:
            failures.append(failure_line(problem, error))
            continue
        encodable.append(problem)
        prompts.append(prompt)
    opening = template_opening(
        engine, benchmark=settings.benchmark, prompt_idx=settings.prompt_idx, system_prompt=settings.system_prompt
    )
    return Prepared(encodable, prompts, opening + settings.prefill, failures)


def template_opening(engine: Engine, *, benchmark: str, prompt_idx: int, system_prompt: str | None) -> str:
    """The <think> with which the chat template begins every answer; empty where it opens none.

    Told by a question of its own: one of the problems' may end with the mark.
    """
    messages = solver_messages("Hello.", benchmark=benchmark, prompt_idx=prompt_idx, system_prompt=system_prompt)
    return opened_block(engine.render(messages))


def with_opening(output: Output, opening: str) -> Output:
    """The output with the beginning of the answer, which was given and not generated, in its completion's text."""
    return replace(output, completion=replace(output.completion, text=opening + output.completion.text))


def judge(text: str, problem: Problem, settings: Settings) -> Verdict:
    """Extract the answer of a completion and judge it, by the run's judge."""
    benchmark, prompt_idx = settings.benchmark, settings.prompt_idx
    return judge_by(settings.judge, text, problem.gold, benchmark=benchmark, prompt_idx=prompt_idx)


def line_or_failure(
    make: Callable[[], ResultLine], problem: Problem, prompt: str, completion: Completion
) -> ResultLine:
    """The line that `make` returns, or that of the failure where it raises."""
    try:
        return make()
    except Exception as error:  # whatever goes wrong with one answer must not end a run of thousands
        return failure_line(problem, error, prompt=prompt, completion=completion)


def solve(
    engine: Engine,
    problems: Sequence[Problem],
    settings: Settings,
    *,
    steering: Steering | None = None,
    gates: Callable[[], Gate] | None = None,
    capture_states: bool = False,
    sampling: Callable[[Sequence[Problem]], Sampling] | None = None,
) -> Iterator[tuple[ResultLine, Output | None]]:
    """Answer each problem once and judge it, in batches of the engine's size, in any order within a batch.

    Args:
        sampling: makes, for problems, the draws of one answer each; without it every token is the argmax. The rest
            is what `engines.base.Engine.generate` says.

    Yields:
        (line, output); the output is None where the line is a failure.
    """
    prepared = prepare(engine, problems, settings)
    yield from ((line, None) for line in prepared.failures)
    outputs = engine.generate(
        prepared.prompts,
        max_new_tokens=settings.max_new_tokens,
        steering=steering,
        gates=partial(_fed, gates, prepared.opening) if gates else None,
        capture_states=capture_states,
        sampling=sampling(prepared.problems) if sampling else None,
    )
    for position, bare in outputs:
        output = with_opening(bare, prepared.opening)
        problem, prompt = prepared.problems[position], prepared.asked(position)
        make = partial(_line, problem, prompt, output, settings, steered=steering is not None)
        line = line_or_failure(make, problem, prompt, output.completion)
        yield line, None if line.failed else output


def _fed(gates: Callable[[], Gate], opening: str) -> Gate:
    """A gate that has read how the answer begins."""
    gate = gates()
    gate.feed(opening)
    return gate


def _line(problem: Problem, prompt: str, output: Output, settings: Settings, *, steered: bool) -> ResultLine:
    details = form_details(output.completion.text, output.tokens, settings)
    if steered:
        details |= steering_details([output])
    verdict = judge(output.completion.text, problem, settings)
    return result_line(problem, prompt, output.completion, verdict, **details)


def form_details(text: str, tokens: Sequence[int], settings: Settings) -> dict[str, Any]:
    """What a results line says of an answer's form: repetition and, where JSON was asked for, whether it is valid."""
    details: dict[str, Any] = {"repetition": round(repetition(tokens), 4)}
    return details | ({"json_valid": holds_valid_object(text)} if is_json(settings.prompt_idx) else {})


def repetition(tokens: Sequence[int]) -> float:
    """The share of 4-grams of tokens that have occurred before in the same answer; 0 where there is none."""
    grams = list(zip(*(tokens[i:] for i in range(4)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def steering_details(outputs: Sequence[Output], shown: int = 0) -> dict[str, Any]:
    """What a results line says of steering: statistics over all tokens of these completions, and one's trace.

    Cosines and doses are rounded: what else is in a batch changes their last digits, and a resumed run should
    equal a straight one as far as can be seen.

    Args:
        outputs: completions of one problem, by a steered engine.
        shown: the one whose text the line holds.
    """
    import torch

    traces = [output.trace for output in outputs if output.trace is not None]
    cosines = torch.cat([trace.cosines for trace in traces]).double()
    doses = torch.cat([trace.relative_doses for trace in traces]).double()
    quantiles = torch.quantile(cosines, torch.tensor(COSINE_QUANTILES, dtype=torch.float64))
    steered, pieces = traces[shown].steered.tolist(), outputs[shown].pieces
    return {
        "steered_fraction": float(torch.cat([trace.steered for trace in traces]).double().mean()),
        "mean_cosine": round(float(cosines.mean()), 4),
        "cosine_quantiles": [round(value, 4) for value in quantiles.tolist()],
        "mean_relative_dose": round(float(doses.mean()), 6),
        "first_steered_token": steered.index(True) if any(steered) else None,
        "trace": {
            "tokens": list(pieces or ()),
            "cosines": [round(value, 3) for value in traces[shown].cosines.tolist()],
            "steered": [int(on) for on in steered],
        },
    }
