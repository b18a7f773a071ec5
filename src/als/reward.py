"""Self-reward: what a model thinks of its own answers, by four checks (arXiv 2505.13308, section on rewards).

    verdicts = verify(engine, [(question, completion), ...], max_new_tokens=256)
    reward(verdicts[0])        # from -1 (all checks failed) to 0 (none); the format rule can take it lower

All checks of all answers go through the engine as one list of prompts. A verdict is read from what the model
wrote and never from the prompt, which names both verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from als.answers.thinking import answer_part
from als.errors import UserError
from als.prompts.verifier import CHECKS, verifier_messages

if TYPE_CHECKING:
    from als.engines.base import Engine, Verifier
    from als.records import Completion, Problem

WEIGHTS: Mapping[str, int] = {"calculation": 2, "answer": 1, "completeness": 2, "understanding": 1}
"""What a failed check costs, before dividing by the sum of weights."""
UNBOXED_PENALTY = 2
"""Cost of an answer without \\boxed{} where the format rule asks for one."""

Verdicts = dict[str, bool | None]
"""Check -> passed; None where the model gave no verdict, which counts as failed and is reported."""

_VERDICT = re.compile(r"\bverdict\b[\s*_\"'`:=]*(true|false)\b[\W_]*$", re.IGNORECASE)


def read_verdict(completion: Completion) -> bool | None:
    """The verdict on the last line of a verifier's completion; None where it has none.

    A completion that was cut off, or that never left its <think>, has none: it may have quoted its instruction last.
    """
    answer = answer_part(completion.text)
    if completion.finish_reason != "stop" or answer is None:
        return None
    lines = [line for line in answer.splitlines() if re.search(r"\w", line)]
    found = _VERDICT.search(lines[-1]) if lines else None
    return found[1].lower() == "true" if found else None


def verify(verifier: Verifier, answers: Sequence[tuple[str, str]], *, max_new_tokens: int) -> list[Verdicts]:
    """Put the four checks to the model for every (question, completion).

    Args:
        verifier: the model that checks.
        answers: what it checks; of a completion the part behind its reasoning block, and nothing of one in it.
        max_new_tokens: tokens that each verdict may have.
    """
    prompts = [
        verifier.render(verifier_messages(check, question=question, completion=answer_part(completion) or ""))
        for question, completion in answers
        for check in CHECKS
    ]
    outputs = dict(verifier.generate(prompts, max_new_tokens=max_new_tokens))
    passed = [read_verdict(outputs[i].completion) for i in range(len(prompts))]
    return [dict(zip(CHECKS, passed[i : i + len(CHECKS)], strict=True)) for i in range(0, len(prompts), len(CHECKS))]


def check_verifiers(
    engine: Engine, problems: Sequence[Problem], *, max_new_tokens: int, verifier_max_new_tokens: int
) -> int:
    """Make sure, before a long run, that the verifiers' prompts will fit, with answer and verdict at their longest.

    Args:
        engine: the model that checks.
        problems: those of the run.
        max_new_tokens: tokens that an answer may have.
        verifier_max_new_tokens: tokens that a verdict may have.

    Returns:
        Tokens that such a prompt may have, the answer in it included.

    Raises:
        UserError: they will not.
    """
    prompts = [
        engine.render(verifier_messages(check, question=problem.question, completion=""))
        for problem in problems
        for check in CHECKS
    ]
    longest = engine.check_prompts(prompts, max_new_tokens=0)
    if engine.context is not None and longest + max_new_tokens + verifier_max_new_tokens > engine.context:
        raise UserError(
            f"a verifier's prompt of {longest} tokens, an answer of --max_new_tokens {max_new_tokens} in it and a "
            f"verdict of --verifier_max_new_tokens {verifier_max_new_tokens} exceed the model's context of "
            f"{engine.context}; "
            f"give two that make at most {max(engine.context - longest, 0)} together"
        )
    return longest + max_new_tokens


def approvals(verdicts: Verdicts) -> int:
    """How many of the checks were passed."""
    return sum(passed is True for passed in verdicts.values())


def reward(verdicts: Verdicts, *, unboxed: bool = False) -> float:
    """Minus the weights of the failed checks over the sum of weights: -1 to 0, and down to -4/3 with the format rule.

    Args:
        verdicts: as `verify` returns them.
        unboxed: the format rule asks for \\boxed{} and the answer has none; costs UNBOXED_PENALTY more.
    """
    cost = sum(WEIGHTS[check] for check, passed in verdicts.items() if passed is not True)
    return -(cost + UNBOXED_PENALTY * unboxed) / sum(WEIGHTS.values())
