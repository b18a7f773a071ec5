"""Judge a completion by plain math-verify, so that an accuracy compares with published ones.

The whole completion goes through `parse` with its default extraction (LaTeX and plain expressions), the gold answer
as LaTeX (math-500) or as a plain expression (the others), and `verify` compares them: what lighteval's tasks for
these benchmarks do. In place of math-verify's own timers, which count wall-clock time, a helper process limits it.
"""

from functools import cache

from als.answers.worker import Worker
from als.benchmarks import benchmark_named
from als.records import Verdict

SECONDS = 10.0
"""CPU time of one completion; math-verify itself allows 5 s for each parse and each comparison."""


def judge_completion(completion_text: str, gold: str, *, benchmark: str, prompt_idx: int) -> Verdict:
    """Extract and compare; the answer is the text that math-verify took it from."""
    kind = "latex" if benchmark_named(benchmark).family == "math" else "expression"
    reply = _worker().call(completion_text, gold, kind)
    answer, correct = reply.value or (None, False)
    return Verdict(answer, gold, correct=correct, rule=None if answer is None else "math_verify", error=reply.error)


@cache
def _worker() -> Worker:
    return Worker(__name__, "compare_completion", seconds=SECONDS)


def warm_up() -> None:
    """Load the library and build its tables, before the helper's limits apply."""
    import logging

    logging.disable(logging.CRITICAL)  # only called in the helper process, whose error output goes nowhere
    compare_completion("so it is $2x$, or 3", "x+x", "latex")


def compare_completion(completion_text: str, gold: str, kind: str) -> tuple[str | None, bool]:
    """The text of the extracted answer, and whether it equals the gold answer; without any protection."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    wanted, config = (f"${gold}$", LatexExtractionConfig()) if kind == "latex" else (gold, ExprExtractionConfig())
    theirs = parse(wanted, [config], parsing_timeout=None)
    mine = parse(completion_text, parsing_timeout=None)
    answer = next((str(item) for item in reversed(mine) if isinstance(item, str)), None)
    return answer, bool(verify(theirs, mine, timeout_seconds=None))
