"""Solver prompts: what they ask for, and that a question goes in untouched."""

import json

import pytest

from als.benchmarks import BENCHMARKS
from als.errors import UserError
from als.prompts import solver
from als.prompts.solver import PROMPT_INDICES, is_json, solver_messages


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("prompt_idx", PROMPT_INDICES)
def test_two_turns_with_the_question_as_it_is(benchmark: str, prompt_idx: int) -> None:
    question = r"Let $f(x) = {x}^2$, {0} and {question} \boxed{?} [[question]] %s. What is $f(2)$?"
    system, user = solver_messages(question, benchmark=benchmark, prompt_idx=prompt_idx)
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"].startswith(question)
    assert solver.QUESTION_SLOT not in system["content"]
    assert len(system["content"]) < 250


def test_boxed_prompt_differs_by_family_only() -> None:
    texts = {name: solver_messages("Q", benchmark=name, prompt_idx=0)[0]["content"] for name in BENCHMARKS}
    assert all(r"\boxed{}" in text and "step by step" in text for text in texts.values())
    assert texts["gsm8k"] == texts["arithmetic"] == texts["aime_2024"] != texts["math-500"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_json_prompt_shows_an_object_of_exactly_the_two_keys(benchmark: str) -> None:
    system, user = solver_messages("Q", benchmark=benchmark, prompt_idx=1)
    assert "JSON" in system["content"]
    example = json.loads(user["content"].splitlines()[-1])
    assert tuple(example) == solver.JSON_KEYS


def test_which_index_is_json() -> None:
    assert [is_json(prompt_idx) for prompt_idx in PROMPT_INDICES] == [False, True]


@pytest.mark.parametrize("prompt_idx", [-1, 2])
def test_unknown_index(prompt_idx: int) -> None:
    with pytest.raises(UserError, match=rf"prompt index {prompt_idx} .*choose one of 0, 1"):
        solver_messages("Q", benchmark="gsm8k", prompt_idx=prompt_idx)
    with pytest.raises(UserError, match="choose one of 0, 1"):
        is_json(prompt_idx)


def test_unknown_benchmark() -> None:
    with pytest.raises(UserError, match="'svamp'"):
        solver_messages("Q", benchmark="svamp", prompt_idx=0)
