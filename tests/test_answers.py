"""Extraction and judgement of answers: the cases of tests/cases, and what data cannot say.

A regression is a line in one of those files: `numeric_answers` and `math_answers` hold an answer, a gold
answer and the verdict; `completions` hold a generated text, what is to be extracted and by which rule.
"""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from als.answers import extract, judge, numbers
from als.answers.worker import Worker
from als.benchmarks import BENCHMARKS
from als.errors import UserError
from als.records import Verdict

CASES = Path(__file__).parent / "cases"


def load(name: str) -> list[Any]:
    cases = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(case, id=f"{name}-{i}-{case['why'].replace(' ', '_')}") for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", load("numeric_answers") + load("math_answers"))
def test_answer(case: dict[str, Any]) -> None:
    correct = judge.judge_answer(case["answer"], case["gold"], benchmark=case["benchmark"])
    assert correct is case["correct"], case


@pytest.mark.parametrize("case", load("completions"))
def test_completion(case: dict[str, Any]) -> None:
    where = {"benchmark": case["benchmark"], "prompt_idx": case["prompt_idx"]}
    verdict = judge.judge_completion(case["completion"], case["gold"], **where)
    expected = Verdict(answer=case["answer"], gold=case["gold"], correct=case["correct"], rule=case["rule"])
    assert verdict == expected
    assert extract.extract_answer(case["completion"], **where) == case["answer"]


def test_there_are_enough_cases() -> None:
    assert sum(map(len, map(load, ("numeric_answers", "math_answers", "completions")))) >= 150


def test_unknown_benchmark_is_named_with_the_allowed_ones() -> None:
    with pytest.raises(UserError, match=r"'gsm9k'.*gsm8k, math-500, aime_2024, arithmetic"):
        extract.extract("18", benchmark="gsm9k", prompt_idx=0)
    with pytest.raises(UserError, match="'gsm9k'"):
        judge.judge_answer("18", "18", benchmark="gsm9k")


def test_unknown_prompt_index_is_named_with_the_allowed_ones() -> None:
    with pytest.raises(UserError, match=r"7 .*choose one of 0, 1"):
        extract.extract("18", benchmark="gsm8k", prompt_idx=7)


def test_values_are_exact() -> None:
    assert numbers.parse_number("0.1") == Fraction(1, 10)
    assert numbers.parse_number("123456789012345678901234567890.1") == Fraction(1234567890123456789012345678901, 10)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_gold_answer_of_a_kind_equals_itself(benchmark: str) -> None:
    assert judge.judge_answer("7", "7", benchmark=benchmark)
    assert not judge.judge_answer("7", "8", benchmark=benchmark)
    assert not judge.judge_answer("7", "", benchmark=benchmark)


def test_math_is_judged_outside_the_main_thread_and_in_several_threads_at_once() -> None:
    pairs = [(f"(x+{n})^2", f"x^2+{2 * n}x+{n * n}") for n in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda pair: judge.judge_answer(*pair, benchmark="math-500"), pairs)
    assert list(found) == [True] * len(pairs)
    assert threading.current_thread() is threading.main_thread()


def test_a_helper_that_cannot_start_is_an_error_and_no_wrong_answer() -> None:
    worker = Worker("als.answers.there_is_no_such_module", "f", seconds=1)
    with pytest.raises(RuntimeError, match="there_is_no_such_module"):
        worker.call("1", "2")


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = ["sympy", "math_verify", "latex2sympy2_extended", "word2number", "torch", "transformers"]
    code = f"import sys, als.answers.judge; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
