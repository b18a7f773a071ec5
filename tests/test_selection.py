"""The grid of a sweep, and the rule that picks from it."""

from __future__ import annotations

import csv
import io

import pytest

from als.errors import UserError
from als.selection import Cell, Outcome, best, choose, grid, parse_layers
from als.selection_report import choice, csv_table, markdown_table


def outcome(correct: int, dose: float, n: int = 200, layer: int = 3) -> Outcome:
    return Outcome(Cell(dose, "raw", layer, None), n, correct, dose)


def test_the_grid_holds_every_combination_once_and_alpha_zero_once() -> None:
    cells = grid(alphas=[0, 0.1, 0.1], scales=["raw", "unit"], layers=[3, 5], thresholds=[None, 0.1])
    assert len(cells) == 1 + 2 * 2 * 2
    assert [cell.alpha for cell in cells].count(0) == 1
    assert Cell(0.1, "unit", 5, None) in cells


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", list(range(10))),
        ("every:4", [3, 7]),
        ("every:1", list(range(10))),
        ("2,5,-1", [2, 5, 9]),
        ("9,-1", [9]),
        ("0", [0]),
    ],
)
def test_layers_are_read(text, expected) -> None:
    assert parse_layers(text, 10) == expected


@pytest.mark.parametrize("text", ["", "every", "every:", "every:0", "every:11", "10", "-11", "1,,2", "some", "1.5"])
def test_layers_that_are_none(text) -> None:
    with pytest.raises(UserError, match="--layers"):
        parse_layers(text, 10)


def test_the_smallest_dose_within_one_standard_error_of_the_best_is_chosen() -> None:
    # 100 of 200: a standard error of 7.07 problems, so 93 are within it and 92 are not.
    top, near, far = outcome(100, 0.6), outcome(93, 0.2), outcome(92, 0.1)
    assert best([far, near, top]) is top
    assert choose([top, near, far]) is near
    assert choose([top, far]) is top


def test_equal_doses_are_told_apart_by_accuracy_and_a_sure_best_has_no_error() -> None:
    worse, better = outcome(95, 0.2), outcome(97, 0.2, layer=4)
    assert choose([outcome(100, 0.6), worse, better]) is better
    assert choose([outcome(200, 0.6), outcome(199, 0.1)]).correct == 200
    assert choose([outcome(0, 0.6), outcome(0, 0.1)]).dose == 0.1


def test_no_steering_wins_where_nothing_is_better_by_more_than_luck() -> None:
    assert choose([outcome(60, 0.0), outcome(66, 0.3), outcome(63, 0.1)]).dose == 0.0


def test_the_table_and_the_choice_say_what_was_found() -> None:
    outcomes = [outcome(100, 0.6), outcome(95, 0.2)]
    rows = list(csv.DictReader(io.StringIO(csv_table(outcomes, ["a", "b"]))))
    assert [row["correct"] for row in rows] == ["100", "95"]
    assert [row["folder"] for row in rows] == ["a", "b"]
    assert float(rows[0]["low"]) < 0.5 < float(rows[0]["high"])
    text = markdown_table(outcomes, outcomes[1], outcomes[0])
    assert [line.split("|")[4].strip() for line in text.splitlines()[2:]] == ["best", "chosen"]
    said = choice(outcomes[1], outcomes[0], outcomes)
    assert (said["alpha"], said["layer_idx"], said["best"]["alpha"]) == (0.2, 3, 0.6)
