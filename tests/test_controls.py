"""Null controls of a vector, what a null test says of them, and which problems a vector has seen."""

from __future__ import annotations

import pytest
import torch

from als.controls import control_vector
from als.errors import UserError
from als.leakage import check_leakage, seen_problems
from als.null import markdown, stand
from als.records import Problem, hash_question
from als.vectors import SteeringVector

VECTOR = SteeringVector(torch.randn(4, 64, generator=torch.Generator().manual_seed(1)), {"n_good": 3})


def test_a_random_control_has_the_norm_of_every_layer_and_another_direction() -> None:
    control = control_vector(VECTOR, "random", seed=3)
    torch.testing.assert_close(control.vector.norm(dim=-1), VECTOR.vector.norm(dim=-1))
    cosines = torch.cosine_similarity(control.vector, VECTOR.vector)
    assert (cosines.abs() < 0.5).all()
    assert control.metadata == VECTOR.metadata | {"control": "random", "control_seed": 3, "control_of": VECTOR.sha256}


def test_random_controls_differ_by_seed_and_are_made_again_alike() -> None:
    made = [control_vector(VECTOR, "random", seed=seed).vector for seed in (0, 1, 0)]
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


def test_a_zero_layer_stays_zero() -> None:
    vector = SteeringVector(torch.cat((torch.zeros(1, 8), torch.ones(1, 8))))
    control = control_vector(vector, "random", seed=0)
    assert not control.vector[0].any()
    assert control.vector.isfinite().all()


def test_the_negative_control_undoes_the_vector() -> None:
    assert torch.equal(control_vector(VECTOR, "negative").vector + VECTOR.vector, torch.zeros(4, 64))


def test_rank_and_p() -> None:
    controls = [0.30, 0.32, 0.35, 0.28]
    assert (stand("random", 0.40, controls).rank, stand("random", 0.40, controls).p) == (1, 1 / 5)
    tied = stand("random", 0.35, controls)
    assert (tied.rank, tied.p) == (2, 2 / 5)
    assert stand("random", 0.2, controls).p == 1.0
    assert stand("negative", 0.4, [0.3]).p is None
    assert "rank 2 of 5" in markdown([tied], n=100)


def test_p_is_uniform_where_the_vector_is_one_of_the_draws() -> None:
    """Of 400 null tests with 19 controls about one in ten has p <= 0.1."""
    drawn = torch.rand(400, 20, generator=torch.Generator().manual_seed(0)).tolist()
    ps = [stand("random", row[0], row[1:]).p or 0 for row in drawn]
    assert 0.06 < sum(p <= 0.1 + 1e-9 for p in ps) / 400 < 0.14
    assert 0.42 < sum(p <= 0.5 + 1e-9 for p in ps) / 400 < 0.58


# --- Leakage

QUESTIONS = ["Tom has 3 apples and buys 4.", "What is  7 + 5?", "Who is there?"]


def a_vector(*questions: str) -> SteeringVector:
    hashes = [hash_question(question) for question in questions]
    masked = [hash_question(question, masked=True) for question in questions]
    return SteeringVector(torch.ones(2, 4), {"problem_hashes": hashes, "masked_problem_hashes": masked})


def problems(*questions: str) -> list[Problem]:
    return [Problem(i, question, "1") for i, question in enumerate(questions)]


def test_the_same_question_is_seen_whatever_its_case_and_space() -> None:
    vector = a_vector(*QUESTIONS)
    assert seen_problems(vector, problems("WHAT is 7 + 5?", "What is 8 + 5?", "How are you?")) == (1, 1)


def test_leakage_is_refused_unless_allowed() -> None:
    with pytest.raises(UserError, match=r"2 of the 3 problems.*--allow_leakage"):
        check_leakage(a_vector(*QUESTIONS), problems(*QUESTIONS[:2], "New?"), allowed=False)
    with pytest.warns(UserWarning, match="2 of the 3 problems"):
        check_leakage(a_vector(*QUESTIONS), problems(*QUESTIONS[:2], "New?"), allowed=True)


def test_other_numbers_are_only_warned_about() -> None:
    with pytest.warns(UserWarning, match="1 of the 2 problems are, but for their numbers"):
        check_leakage(a_vector(*QUESTIONS), problems("Tom has 1,250 apples and buys 0.5.", "New?"), allowed=False)


def test_a_vector_that_knows_no_problems_has_seen_none() -> None:
    for metadata in ({}, {"problem_hashes": None}, {"problem_hashes": [3, {}]}):
        assert seen_problems(SteeringVector(torch.ones(2, 4), metadata), problems(*QUESTIONS)) == (0, 0)
