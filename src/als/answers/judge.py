r"""Judge an answer against the gold answer: is it right?

    judge_answer(r"\$18.00", "18", benchmark="gsm8k") -> True
    judge_answer(r"(2, \frac{3}{2})", "(2,1.5)", benchmark="math-500") -> True

gsm8k and arithmetic compare exact numbers, aime_2024 integers from 0 to 999; math-500 compares expressions
with math-verify, whose only user this module is. Nothing a model writes is ever executed, and nothing it
writes can stop a run: long, deep and explosive answers are wrong before anything parses them, and whatever
needs algebra is worked out in a helper process with limits (see `worker`). An answer that meets a limit
counts as wrong, and the reason is recorded.
"""

import math
import re
from functools import cache, lru_cache
from typing import Any

from als.answers import numbers, shapes, spelling
from als.answers.extract import extract
from als.answers.worker import Reply, Worker
from als.benchmarks import benchmark_named
from als.records import Verdict

MAX_ANSWER_CHARS = 1_000
MAX_NESTING = 24
MAX_POWER_DIGITS = 20_000
"""An answer with a number of more digits than this is no answer; the longest in MATH, 2^4950, has 1491."""
SECONDS = 3.0
"""CPU time of one comparison of expressions; the slowest genuine one in MATH takes a fraction of it."""

_DIGITS = r"[\s({]*(\d+)[\s)}]*"
_POWER = re.compile(rf"(\d+)[\s)}}]*\^{_DIGITS}(?:\^{_DIGITS})?")
_TALL_TOWER = re.compile(rf"\d[\s)}}]*\^{_DIGITS}\^{_DIGITS}\^")
_LARGE_FACTORIAL = re.compile(r"\d{4,}[\s)}]*!|![\s)}]*!")


def judge_answer(answer: str | None, gold: str, *, benchmark: str) -> bool:
    """Whether an extracted answer is right; see `compare_answers`.

    Raises:
        UserError: the benchmark is unknown.
    """
    return bool(compare_answers(answer, gold, benchmark=benchmark).value)


def compare_answers(answer: str | None, gold: str, *, benchmark: str) -> Reply:
    """Compare an extracted answer with the gold answer.

    Returns:
        The value is true where the answer is right. Where the comparison failed or met a limit, the value is None
        and the error says why.

    Raises:
        UserError: the benchmark is unknown.
    """
    known = benchmark_named(benchmark)
    if answer is None or not answer.strip() or not gold.strip():
        return Reply(False)
    if known.family == "math":
        return _same_expression(answer, gold)
    if known.name == "aime_2024":
        return Reply(_same_aime(answer, gold))
    return Reply(_same_number(answer, gold))


def judge_completion(completion_text: str, gold: str, *, benchmark: str, prompt_idx: int) -> Verdict:
    """Extract the answer of a completion and judge it."""
    found = extract(completion_text, benchmark=benchmark, prompt_idx=prompt_idx)
    reply = compare_answers(found.answer, gold, benchmark=benchmark)
    return Verdict(found.answer, gold, correct=bool(reply.value), rule=found.rule, error=reply.error)


def _same_number(answer: str, gold: str) -> bool:
    wanted = numbers.parse_number(gold)
    if wanted is None:
        return answer.strip() == gold.strip()
    return numbers.parse_number(answer) == wanted


def _same_aime(answer: str, gold: str) -> bool:
    value = numbers.parse_number(answer)
    return value is not None and 0 <= value <= 999 and value == numbers.parse_number(gold)


def _same_expression(answer: str, gold: str) -> Reply:
    if answer.strip() == gold.strip():
        return Reply(True)
    if len(answer) > MAX_ANSWER_CHARS:
        return Reply(False)
    quick = spelling.same_quickly(answer, gold)
    if quick is not None or is_excessive(answer):
        return Reply(quick is True)
    return _worker().call(answer, gold)


def is_excessive(answer: str) -> bool:
    """Whether an answer is too long, too deeply nested or too large a number to be worth parsing."""
    return len(answer) > MAX_ANSWER_CHARS or _nesting(answer) > MAX_NESTING or _explodes(answer)


def _nesting(text: str) -> int:
    depth = deepest = 0
    for mark in text:
        if mark in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in ")]}":
            depth -= 1
    return deepest


def _explodes(text: str) -> bool:
    """Whether a power or factorial in the text has too many digits to write down."""
    if _TALL_TOWER.search(text) or _LARGE_FACTORIAL.search(text):
        return True
    return any(_power_digits(*found.groups()) > MAX_POWER_DIGITS for found in _POWER.finditer(text))


def _power_digits(base: str, exponent: str, top: str | None) -> float:
    """The digits of base^exponent^top, in logarithms; infinite where even those are out of reach."""
    if max(len(base), len(exponent), len(top or "")) > 12:
        return math.inf
    power = float(exponent)
    if top is not None:
        if power > 1 and float(top) * math.log10(power) > 12:
            return math.inf
        power **= float(top)
    return power * math.log10(max(float(base), 2.0))


@cache
def _worker() -> Worker:
    return Worker(__name__, "compare_expressions", seconds=SECONDS)


def warm_up() -> None:
    """Load the library and build its tables, before the helper's clock runs."""
    import logging

    logging.disable(logging.CRITICAL)  # only ever called in the helper process, which has nobody to tell
    compare_expressions("x + x", "2x")


def compare_expressions(answer: str, gold: str) -> bool:
    """Compare two expressions without any protection; `judge_answer` runs this in a helper process."""
    return shapes.same(answer, gold, _same_value)


def _same_value(answer: str, gold: str) -> bool:
    """Ask math-verify, with both sides parsed."""
    from math_verify import verify

    mine, theirs = _parse(answer), _parse(gold)
    if not mine or not theirs:
        return False
    if not verify(theirs, mine, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    return not _differ_relatively(mine[0], theirs[0])


@lru_cache(maxsize=256)
def _parse(latex: str) -> list[object]:
    """Parse LaTeX; the letter i is the imaginary unit."""
    import sympy  # type: ignore[import-untyped]
    from math_verify import LatexExtractionConfig, parse

    found = parse(f"${' '.join(latex.split())}$", [LatexExtractionConfig()], parsing_timeout=None)
    return [_with_imaginary_unit(item) if isinstance(item, sympy.Expr) else item for item in found]


def _with_imaginary_unit(expression: Any) -> object:
    import sympy

    letters = [symbol for symbol in expression.free_symbols if symbol.name == "i"]
    return expression.subs(dict.fromkeys(letters, sympy.I)) if letters else expression


def _differ_relatively(mine: object, theirs: object) -> bool:
    """Whether two constants differ by more than rounding; the library calls 2^-100 and 2^-101 equal."""
    import sympy

    if not all(isinstance(side, sympy.Expr) and side.is_number for side in (mine, theirs)):
        return False
    a, g = (sympy.N(side, 30) for side in (mine, theirs))
    if a == g or not (a.is_finite and g.is_finite):
        return bool(a != g)
    return bool(abs(a - g) > 1e-5 * max(abs(a), abs(g)))
