"""Labels against correctness: known values, scikit-learn's, and how often the interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

from als.agreement import balanced_accuracy, describe_labels, kappa, kappa_interval, label_cautions, report
from als.records import Completion, Problem, ResultLine, Verdict, failure_line, result_line


def example(number: int, *, good: bool, right: bool, verdicts: bool = True) -> ResultLine:
    """An answer to problem `number`."""
    details = {"label": "good" if good else "bad"} | ({"verdicts": {}} if verdicts else {})
    verdict = Verdict("1", "1" if right else "2", right, "boxed")
    return result_line(Problem(number, f"Q{number}", "1"), "", Completion("", 1, 1, "stop", 0.1), verdict, **details)


def examples(good_right: int, good_wrong: int, bad_right: int, bad_wrong: int, **more) -> list[ResultLine]:
    cells = [(True, True), (True, False), (False, True), (False, False)]
    pairs = [
        cell for cell, n in zip(cells, (good_right, good_wrong, bad_right, bad_wrong), strict=True) for _ in range(n)
    ]
    return [example(i, good=good, right=right, **more) for i, (good, right) in enumerate(pairs)]


def as_problems(table: tuple[int, ...]) -> np.ndarray:
    """[problems, 4]: one answer each."""
    return np.repeat(np.eye(4, dtype=np.int64), table, axis=0)


def test_kappa_of_a_textbook_example() -> None:
    """Fifty proposals, two readers: 20 yes and yes, 15 no and no, 5 and 10 on which they differ."""
    assert kappa(np.array([20, 5, 10, 15])) == pytest.approx(0.4)


@pytest.mark.parametrize("table", [(12, 18, 0, 2), (40, 3, 9, 48), (5, 30, 20, 1), (10, 0, 0, 10)])
def test_both_measures_as_scikit_learn_has_them(table) -> None:
    good = np.repeat([True, True, False, False], table)
    right = np.repeat([True, False, True, False], table)
    assert kappa(np.array(table)) == pytest.approx(cohen_kappa_score(good, right))
    assert balanced_accuracy(np.array(table)) == pytest.approx(balanced_accuracy_score(right, good))


def test_labels_of_one_kind_have_a_kappa_of_nothing() -> None:
    assert kappa(np.array([[5, 3, 0, 0], [8, 0, 0, 0], [0, 0, 4, 2]])).tolist() == [0, 0, 0]
    assert balanced_accuracy(np.array([8, 0, 0, 0])) is None
    low, high = kappa_interval(as_problems((5, 3, 0, 0)))
    assert low < 0 < high


def test_the_interval_is_that_of_the_large_sample_formula() -> None:
    """Fleiss, Cohen and Everitt 1969, equation 13, for two categories."""
    table = np.array([300, 60, 90, 250])
    p = table.reshape(2, 2) / table.sum()
    rows, columns, k = p.sum(1), p.sum(0), float(kappa(table))
    chance = float(rows @ columns)
    first = sum(p[i, i] * (1 - (rows[i] + columns[i]) * (1 - k)) ** 2 for i in range(2))
    second = (1 - k) ** 2 * sum(p[i, j] * (columns[i] + rows[j]) ** 2 for i in range(2) for j in range(2) if i != j)
    error = np.sqrt((first + second - (k - chance * (1 - k)) ** 2) / table.sum()) / (1 - chance)
    assert kappa_interval(as_problems(tuple(table))) == pytest.approx((k - 1.96 * error, k + 1.96 * error), abs=0.005)


@pytest.mark.parametrize(
    ("chances", "n"), [((0.35, 0.25, 0.1, 0.3), 80), ((0.45, 0.05, 0.05, 0.45), 32), ((0.372, 0.558, 0.028, 0.042), 32)]
)
def test_the_interval_covers(chances, n: int) -> None:
    """Also where few answers are labelled bad, so that a cell is often empty."""
    generator = np.random.default_rng(0)
    truth, covered = float(kappa(np.array(chances))), 0
    for _ in range(150):
        low, high = kappa_interval(as_problems(tuple(generator.multinomial(n, chances))))
        covered += low <= truth <= high
    assert covered / 150 >= 0.91


def test_the_interval_is_wider_where_answers_share_a_problem() -> None:
    together = 4 * as_problems((28, 20, 8, 24))  # four equal answers to each problem
    alone = as_problems((112, 80, 32, 96))
    widths = [high - low for low, high in (kappa_interval(together), kappa_interval(alone))]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.1)


def test_labels_that_say_nothing_are_called_so() -> None:
    """30 of 32 called good, 12 of them right."""
    found = describe_labels([*examples(12, 18, 0, 2), failure_line(Problem(99, "Q", "1"), ValueError("no"))])
    assert found is not None
    assert (found.good, found.bad) == (30, 2)
    assert found.to_json()["agreement"]["good_wrong"] == 18
    text = report(found)
    assert "| good  |    12 |    18 |" in text
    assert "| bad   |     0 |     2 |" in text
    assert "balanced accuracy 0.55, Cohen's kappa 0.08 [" in text
    agreement, few = label_cautions(found)
    assert "Cohen's kappa 0.08 [" in agreement
    assert all(way in agreement for way in ("--label_by answer", "threshold", "--verifier_model_name_or_path"))
    assert few == "only 2 bad examples: collect more, at least 20 of each label"


def test_good_labels_are_not_doubted() -> None:
    found = describe_labels(examples(30, 6, 5, 30))
    assert found is not None
    assert label_cautions(found) == []


def test_labels_that_are_correctness_are_only_counted() -> None:
    found = describe_labels(examples(30, 0, 0, 19, verdicts=False))
    assert found is not None
    assert found.agreement is None
    assert report(found) == ""
    assert label_cautions(found) == ["only 19 bad examples: collect more, at least 20 of each label"]
    assert describe_labels([failure_line(Problem(0, "Q", "1"), ValueError("no"))]) is None
