"""Arithmetic: additions and subtractions of numbers from 2 to 60, made here. 1560 train, 800 test.

The first problem of the test split:

    question "What is 25 + 7?", gold "32"

It needs no network and no file, and it suits small models: one of 135M parameters gets some of it right and
some of it wrong, which phase 2 needs. It finds subtraction harder, hence three additions to one. The problems
are the same on every machine and under every Python version, because they are drawn with `Random.random` alone,
whose sequence for a given seed Python promises to keep; `shuffle` and `sample` come without that promise, and
the order of a set or a hash plays no part.

A pair of operands is used for one addition at most, in one order, so 23 + 45 in one split and 45 + 23 in the
other cannot happen.
"""

import random
from typing import TypeVar

from als.benchmarks.base import BadRow, Benchmark, Row, text_column

T = TypeVar("T")

SEED = 20250918
SIZES = {"train": 1560, "test": 800}
_OPERANDS = range(2, 61)
_ADDITIONS = 0.75  # share of each split


def generate(split: str) -> list[tuple[str, str]]:
    """The (question, gold answer) pairs of a split; three of four are additions, in a drawn order."""
    rng = random.Random(SEED)
    pairs = [(a, b) for a in _OPERANDS for b in _OPERANDS if a <= b]  # 1770 of them
    additions = [_addition(a, b, swap=rng.random() < 0.5) for a, b in _shuffled(pairs, rng)]
    subtractions = [_subtraction(b, a) for a, b in _shuffled(pairs, rng)]
    for name, size in SIZES.items():
        n = int(size * _ADDITIONS)
        problems = _shuffled(additions[:n] + subtractions[: size - n], rng)
        if name == split:
            return problems
        additions, subtractions = additions[n:], subtractions[size - n :]
    raise AssertionError(f"no split {split!r}: the caller checks the name")


def _addition(a: int, b: int, *, swap: bool) -> tuple[str, str]:
    first, second = (b, a) if swap else (a, b)
    return f"What is {first} + {second}?", str(a + b)


def _subtraction(a: int, b: int) -> tuple[str, str]:
    return f"What is {a} - {b}?", str(a - b)


def _shuffled(items: list[T], rng: random.Random) -> list[T]:
    """A drawn order of the items, out of `Random.random` alone; see the module's docstring."""
    shuffled = list(items)
    for last in range(len(shuffled) - 1, 0, -1):
        chosen = int(rng.random() * (last + 1))
        shuffled[last], shuffled[chosen] = shuffled[chosen], shuffled[last]
    return shuffled


def read_row(row: Row) -> tuple[str, str]:
    """A row of a file in this form: columns question and answer, the answer a whole number."""
    answer = text_column(row, "answer").replace(",", "").strip()
    if not answer.removeprefix("-").isdecimal():
        raise BadRow(f"has {answer!r} in column 'answer' where a whole number is needed")
    return text_column(row, "question"), answer


BENCHMARK = Benchmark(
    name="arithmetic",
    family="number",
    read_row=read_row,
    ids=("arithmetic",),
    generate=generate,
    generated_splits=tuple(SIZES),
)
