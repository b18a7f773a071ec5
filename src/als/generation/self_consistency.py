"""Self-consistency (arXiv 2203.11171): several samples of each problem, and the answer that most of them give.

Two answers are the same when the judge calls them equal, so 1/2 and 0.5 vote together. A sample's tokens are
decided by the run's seed, the problem and the sample's number, so they do not depend on the batch size, on
the order of problems or on where a run was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from als.answers.judge import compare_answers
from als.generation.solve import form_details, judge, line_or_failure, prepare, steering_details, with_opening
from als.records import Problem, ResultLine, Verdict, result_line

if TYPE_CHECKING:
    from als.engines.base import Engine, Output
    from als.generation.settings import Settings


@dataclass
class Ballot:
    """One answer, as it was first written, and the samples that gave it."""

    answer: str
    voters: list[int] = field(default_factory=list)


def run(engine: Engine, problems: Sequence[Problem], settings: Settings) -> Iterator[ResultLine]:
    """Sample, vote, judge the winner; with settings.steering the samples are steered."""
    from als.engines.base import Sampling

    prepared = prepare(engine, problems, settings)
    yield from prepared.failures
    chosen = settings.self_consistency
    seeds = [[sample_seed(settings.seed, problem, i) for i in range(chosen.samples)] for problem in prepared.problems]
    outputs = engine.generate(
        prepared.prompts,
        max_new_tokens=settings.max_new_tokens,
        steering=settings.steering,
        sampling=Sampling(chosen.temperature, seeds),
    )
    waiting: dict[int, dict[int, Output]] = {}
    for position, output in outputs:
        index, sample = divmod(position, chosen.samples)
        waiting.setdefault(index, {})[sample] = with_opening(output, prepared.opening)
        if len(waiting[index]) == chosen.samples:
            samples = [output for _, output in sorted(waiting.pop(index).items())]
            problem, prompt = prepared.problems[index], prepared.asked(index)
            make = partial(_line, problem, prompt, samples, settings)
            yield line_or_failure(make, problem, prompt, samples[0].completion)


def sample_seed(seed: int, problem: Problem, sample: int) -> int:
    """What decides one sample's tokens: 63 bits of the run's seed, the problem and the sample's number."""
    text = f"{seed}/{problem.problem_hash}/{sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def vote(answers: Sequence[str | None], *, benchmark: str, errors: list[str] | None = None) -> list[Ballot]:
    """Group equal answers, most votes first; among equally many, the answer seen first. None does not vote.

    Args:
        answers: one a sample.
        benchmark: how answers are compared.
        errors: gets the reason of each comparison that failed; such answers vote apart.
    """
    ballots: list[Ballot] = []
    for voter, answer in enumerate(answers):
        if answer is None:
            continue
        ballot = next((b for b in ballots if _equal(answer, b.answer, benchmark, errors)), None)
        if ballot is None:
            ballot = Ballot(answer)
            ballots.append(ballot)
        ballot.voters.append(voter)
    return sorted(ballots, key=lambda ballot: -len(ballot.voters))  # a stable sort keeps the order of ties


def _equal(answer: str, other: str, benchmark: str, errors: list[str] | None) -> bool:
    # The judge calls some answers wrong whatever the gold answer is (AIME's above 999): the same text is the same.
    if answer == other:
        return True
    reply = compare_answers(answer, other, benchmark=benchmark)
    if reply.error is not None and errors is not None:
        errors.append(reply.error)
    return bool(reply.value)


def elect(verdicts: Sequence[Verdict], gold: str, *, benchmark: str) -> tuple[Verdict, int, list[Ballot]]:
    """Vote.

    Args:
        verdicts: one a sample.
        gold: the gold answer alone.
        benchmark: how answers are compared.

    Returns:
        The verdict on the winning answer, the first sample that gave it (0 where none has an answer), all ballots.
    """
    errors = [verdict.error for verdict in verdicts if verdict.error is not None and verdict.answer is None]
    ballots = vote([verdict.answer for verdict in verdicts], benchmark=benchmark, errors=errors)
    winner = ballots[0].voters[0] if ballots else 0
    verdict = verdicts[winner] if ballots else Verdict(None, gold, False, None)
    if errors and verdict.error is None:
        verdict = replace(verdict, error=f"in the vote: {errors[0]}")
    return verdict, winner, ballots


def _line(problem: Problem, prompt: str, outputs: Sequence[Output], settings: Settings) -> ResultLine:
    """The line of one problem: the text is that of the first sample with the winning answer."""
    completions = [output.completion for output in outputs]
    verdicts = [judge(completion.text, problem, settings) for completion in completions]
    verdict, winner, ballots = elect(verdicts, problem.gold, benchmark=settings.benchmark)
    samples = [
        {"completion": c.text, "answer": v.answer, "completion_tokens": c.completion_tokens}
        for c, v in zip(completions, verdicts, strict=True)
    ]
    return result_line(
        problem,
        prompt,
        replace(completions[winner], seconds=sum(completion.seconds for completion in completions)),
        verdict,
        samples=samples,
        votes=[[ballot.answer, len(ballot.voters)] for ballot in ballots],
        generated_tokens=sum(completion.completion_tokens for completion in completions),
        **form_details(completions[winner].text, outputs[winner].tokens, settings),
        **(steering_details(outputs, winner) if settings.steering is not None else {}),
    )
