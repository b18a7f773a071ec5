"""What a model may write to hurt a run: all of it is wrong, within five CPU seconds, and nothing breaks."""

import os
import threading
import time

import pytest

from als.answers import judge
from als.answers.extract import extract
from als.answers.worker import Reply
from als.benchmarks import BENCHMARKS

LIMIT_S = 5.0
"""CPU time of this process; the helper has a limit of its own."""

HUGE = {
    "power tower": "a^(9^9^9)",
    "power tower in braces": "9^{9^{9^{9}}}",
    "large exponent": "x^{1000000000}+7^{99999999}",
    "factorials": "99999!!!!",
    "nested braces": "{" * 10_000 + "1" + "}" * 10_000,
    "nested fractions": r"\frac{1}{" * 10_000 + "2" + "}" * 10_000,
    "nested parentheses": "(" * 10_000 + "1" + ")" * 10_000,
    "open braces": "{" * 10_000,
    "megabyte of digits": "9" * 1_000_000,
    "megabyte of letters": "abcdefghij" * 100_000,
    "megabyte of spaces": " " * 1_000_000 + "1",
    "megabyte of boxes": r"\boxed{" * 150_000,
    "megabyte of backslashes": "\\" * 1_000_000,
    "megabyte of dollars": "$" * 1_000_000,
    "megabyte of phrases": "the answer is\n" * 70_000,
    "megabyte of keys": '"final answer": ' * 60_000,
    "megabyte of fractions": r"\frac{1}{2}+" * 80_000,
    "megabyte of listed boxes": r"\boxed{1}, " * 90_000,
    "megabyte of boxes in a growing list": "".join(rf"\boxed{{{n}}}, " for n in range(60_000)),
    "megabyte of aligned chains": r"\begin{align}" * 75_000,
    "megabyte of open formulas": r"\(" * 500_000,
    "megabyte of labels": "Answer: 1\n" * 100_000,
    "megabyte of headings": "#### " * 200_000,
    "megabyte of choices": "(A) " * 250_000,
    "megabyte of sines": r"\sin 1^\circ " * 80_000,
    "code": "__import__('os').kill(0, 9)",
    "null characters": "\0" * 1000,
    "lone surrogate": "\ud800",
    "control characters": "".join(map(chr, range(32))),
}
SLOW = {
    "binomial": r"\binom{99999999}{9999999}",
    "integral": r"\int_0^1 e^{x^2}\sin(x^3) dx",
}
CUT_OFF = Reply(error="time limit of 3 CPU seconds")


def judge_in_time(answer: str, gold: str, benchmark: str) -> None:
    start = time.process_time()
    assert judge.judge_answer(answer, gold, benchmark=benchmark) is False
    assert time.process_time() - start < LIMIT_S


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("answer", HUGE.values(), ids=HUGE.keys())
def test_a_hostile_answer_is_wrong_in_time(answer: str, benchmark: str) -> None:
    judge_in_time(answer, "5", benchmark)


@pytest.mark.parametrize("prompt_idx", [0, 1])
@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE.keys())
def test_a_hostile_completion_is_read_in_time(text: str, prompt_idx: int) -> None:
    start = time.process_time()
    for wrapped in (text, rf"\boxed{{{text}}}", f'{{"final answer": "{text}"}}', f"The answer is {text}"):
        extract(wrapped, benchmark="math-500", prompt_idx=prompt_idx)
        extract(wrapped, benchmark="gsm8k", prompt_idx=prompt_idx)
    assert time.process_time() - start < LIMIT_S


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW.keys())
def test_an_endless_computation_is_cut_off_and_the_next_one_works(answer: str) -> None:
    assert judge.compare_answers(answer, "5", benchmark="math-500") == CUT_OFF
    assert judge.judge_answer("x+x", "2x", benchmark="math-500")


def test_an_endless_computation_is_cut_off_outside_the_main_thread() -> None:
    found: list[Reply] = []
    thread = threading.Thread(
        target=lambda: found.append(judge.compare_answers(SLOW["binomial"], "5", benchmark="math-500"))
    )
    thread.start()
    thread.join()
    assert found == [CUT_OFF]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_helper_of_its_own() -> None:
    assert judge.judge_answer("x+x", "2x", benchmark="math-500")
    child = os.fork()
    if child == 0:
        os._exit(0 if judge.judge_answer("x+x+x", "3x", benchmark="math-500") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert judge.judge_answer("y+y", "2y", benchmark="math-500")
