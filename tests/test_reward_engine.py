"""The verifiers through the real engine: one call for all of them, in order, and each as if it were asked alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from als.engines.transformers_engine import TransformersEngine
from als.prompts.verifier import CHECKS, verifier_messages
from als.reward import approvals, read_verdict, reward, verify
from conftest import WORDS
from latentseek_oracle import Judge, judging_tokenizer


class Counting(TransformersEngine):
    """Keeps the prompts of each call of `generate`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.calls: list[list[str]] = []

    def generate(self, prompts: Sequence[str], **options: Any) -> Any:
        self.calls.append(list(prompts))
        return super().generate(prompts, **options)


# --- A random model whose vocabulary holds verdicts: each answer gets verdicts of its own.

NEW = 8
ENDS = [0, 5, 12, 24, 25, 33, 37, 48, 77, 85]  # verdicts among them, so that some answers end with one
ANSWERS = [
    ("w3 w7 ?", "w11 \\boxed{2} w15"),
    ("w19 ?", ""),
    ("w7 w3 w5 ?", "w25 w50 w50-verdict:true w71"),
    ("w35 w39 w43 w47 w51 ?", "w55 w59 w63 w67 w71 w75 w79 w83 w87 w91"),
    ("w3 w7 ?", "w11 \\boxed{2} w15"),
    ("w3 ?", "w7 " * 20),
]


@pytest.fixture(scope="module")
def judging(tiny_model) -> tuple[Any, Any]:
    model = tiny_model("gemma2", max_position_embeddings=512)
    model.generation_config.eos_token_id = ENDS
    return model, judging_tokenizer(WORDS)


@pytest.fixture(scope="module")
def alone(judging) -> list[dict[str, bool | None]]:
    """Asked one by one, without cache."""
    return [Judge(*judging, question, ENDS, NEW).verdicts(text) for question, text in ANSWERS]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 32])
def test_verdicts_are_those_of_each_check_alone(judging, alone, batch_size):
    engine = Counting(*judging, batch_size=batch_size)
    verdicts = verify(engine, ANSWERS, max_new_tokens=NEW)
    assert verdicts == alone
    assert [list(one) for one in verdicts] == [list(CHECKS)] * len(ANSWERS)


def test_all_checks_of_all_answers_are_one_call(judging):
    engine = Counting(*judging, batch_size=4)
    verify(engine, ANSWERS, max_new_tokens=NEW)
    [prompts] = engine.calls
    expected = [
        engine.render(verifier_messages(check, question=question, completion=text))
        for question, text in ANSWERS
        for check in CHECKS
    ]
    assert sorted(prompts) == sorted(expected)


def test_one_batch_is_enough_for_them(judging):
    """With room for all, the model sees all prompts in its first forward pass and none later."""
    rows: list[int] = []
    model, tokenizer = judging
    hook = model.register_forward_pre_hook(
        lambda _model, _args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        verify(TransformersEngine(model, tokenizer, batch_size=32), ANSWERS, max_new_tokens=NEW)
    finally:
        hook.remove()
    assert rows[0] == 4 * len(ANSWERS)
    assert len(rows) <= NEW


def test_answers_keep_their_places(judging, alone):
    """Verdicts go with their answers when these change places; equal answers have equal verdicts."""
    engine = TransformersEngine(*judging, batch_size=3)
    assert verify(engine, ANSWERS[::-1], max_new_tokens=NEW) == alone[::-1]
    assert alone[0] == alone[4]


def test_answers_are_judged_differently(alone):
    assert len({tuple(one.values()) for one in alone}) > 2
    assert {verdict for one in alone for verdict in one.values()} == {True, False, None}


def test_no_answers_no_verdicts(judging):
    assert verify(TransformersEngine(*judging), [], max_new_tokens=NEW) == []


def test_verdicts_are_not_read_from_the_prompt(judging, tiny_tokenizer):
    """Every prompt holds both verdicts; a model that has no word for either gives none, and approves of nothing."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = judging[1].chat_template
    engine = Counting(judging[0], tokenizer, batch_size=4)
    verdicts = verify(engine, ANSWERS, max_new_tokens=20)
    assert all("Verdict: True" in prompt and "Verdict: False" in prompt for prompt in engine.calls[0])
    assert verdicts == [dict.fromkeys(CHECKS)] * len(ANSWERS)
    assert [(reward(one), approvals(one)) for one in verdicts] == [(-1, 0)] * len(ANSWERS)


# --- The real model.

QUESTIONS = [("What is 6 * 7?", "The answer is 42.")]
SMOLLM2_NEW = 14


def test_smollm2_says_the_same_alone_and_together(smollm2):
    together = Counting(*smollm2, batch_size=8)
    verdicts = verify(together, QUESTIONS, max_new_tokens=SMOLLM2_NEW)
    assert len(together.calls) == 1
    engine = TransformersEngine(*smollm2, batch_size=1)
    for (question, text), found in zip(QUESTIONS, verdicts, strict=True):
        for check in CHECKS:
            prompt = engine.render(verifier_messages(check, question=question, completion=text))
            [(_, output)] = engine.generate([prompt], max_new_tokens=SMOLLM2_NEW)
            assert found[check] is read_verdict(output.completion), (question, check)
    assert {True, None} <= {verdict for one in verdicts for verdict in one.values()}
