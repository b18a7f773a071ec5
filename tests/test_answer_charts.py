"""Figures of single answers: where the tokens of a trace go, and lines whose trace is none."""

from __future__ import annotations

import pytest

from als.answer_charts import layout, tokens_of
from als.errors import UserError
from test_runlog import a_line


def test_tokens_follow_each_other_and_lines_break_where_they_are_full() -> None:
    assert layout(["ab", "cde", "f", "g"], columns=5) == [(0, 0, "ab"), (0, 2, "cde"), (1, 0, "f"), (1, 1, "g")]


def test_a_line_break_ends_the_line_and_can_be_seen() -> None:
    assert layout(["a", ".\n", "b\tc"], columns=9) == [(0, 0, "a"), (0, 1, ".⏎"), (1, 0, "b c")]


def test_a_trace_is_read() -> None:
    trace = {"tokens": ["a", "b"], "cosines": [0.5, -1], "steered": [0, 1]}
    tokens = tokens_of(a_line(0, trace=trace))
    assert tokens is not None
    assert (tokens.pieces, tokens.cosines, tokens.steered) == (["a", "b"], [0.5, -1.0], [False, True])
    assert tokens_of(a_line(0)) is None


@pytest.mark.parametrize(
    "trace",
    [
        [],
        {"tokens": ["a"]},
        {"tokens": ["a"], "cosines": ["x"], "steered": [1]},
        {"tokens": ["a"], "cosines": [], "steered": [1]},
        {"tokens": 3, "cosines": [], "steered": []},
    ],
)
def test_a_trace_that_is_none(trace) -> None:
    with pytest.raises(UserError, match="trace of answer 0"):
        tokens_of(a_line(0, trace=trace))
