"""Which problems a vector has seen: a vector must not be judged on the answers that it was made from.

The vector's file holds the hashes of its problems, of the questions as they are and with their numbers masked. Knows
vectors and problems; what follows from the counts is the commands' business.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from als.errors import UserError
from als.records import Problem, hash_question

if TYPE_CHECKING:
    from als.vectors import SteeringVector


def seen_problems(vector: SteeringVector, problems: Sequence[Problem]) -> tuple[int, int]:
    """How many of the problems the vector was made from, and how many others are the same but for their numbers."""
    own, masked = (_hashes(vector, name) for name in ("problem_hashes", "masked_problem_hashes"))
    others = [problem for problem in problems if problem.problem_hash not in own]
    alike = sum(hash_question(problem.question, masked=True) in masked for problem in others)
    return len(problems) - len(others), alike


def check_leakage(vector: SteeringVector, problems: Sequence[Problem], *, allowed: bool) -> None:
    """Refuse problems that the vector was made from.

    Problems that are the same but for their numbers are only warned about: data sets have them by nature.

    Raises:
        UserError: there are some, and that is not allowed.
    """
    if "problem_hashes" not in vector.metadata:
        warnings.warn("the vector does not know its problems: whether it was made from these is unknown", stacklevel=2)
    same, alike = seen_problems(vector, problems)
    if same and not allowed:
        raise UserError(
            f"the vector was made from {same} of the {len(problems)} problems to be evaluated; evaluate on others, "
            "or give --allow_leakage, which the run's config.json will say"
        )
    if same:
        warnings.warn(f"the vector was made from {same} of the {len(problems)} problems to be evaluated", stacklevel=2)
    if alike:
        warnings.warn(
            f"{alike} of the {len(problems)} problems are, but for their numbers, ones that the vector was made from",
            stacklevel=2,
        )


def _hashes(vector: SteeringVector, name: str) -> set[str]:
    found = vector.metadata.get(name)
    return {value for value in found if isinstance(value, str)} if isinstance(found, list) else set()
