"""Intervals against published values, and the table."""

import pytest

from als.stats import accuracy_text, runs_table, wilson_interval


def test_wilson_interval_against_a_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_accuracy_text() -> None:
    assert accuracy_text(30, 96) == "31.2 % [22.9, 41.1]"


def test_table_lines_up() -> None:
    summary = {
        "n": 96, "correct": 30, "answered": 1.0, "generated_tokens": 9000, "seconds": 12.0, "tokens_per_second": 750.0,
    }  # fmt: skip
    lines = runs_table([("greedy_cot prompt_0", summary), ("als", summary)]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "31.2 % [22.9, 41.1]" in lines[2]
