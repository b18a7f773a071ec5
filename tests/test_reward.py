"""Verdicts are read from what the model wrote, and weighed."""

import pytest

from als.prompts.verifier import CHECKS, verifier_messages
from als.records import Completion
from als.reward import WEIGHTS, approvals, read_verdict, reward


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("All is well.\nVerdict: True", True),
        ("verdict: FALSE", False),
        ("**Verdict:** True", True),
        ("**Verdict: False**.", False),
        ('Verdict: "true"', True),
        ("Verdict = `False`", False),
        ("At first Verdict: True, but then\nVerdict: False", False),
        ("The solution is true.", None),
        ("Verdict: truely", None),
        ("", None),
        ("So the calculation fails.\nVerdict: False\n```", False),
        ("Verdict: True\nif the solution passes", None),  # the instruction, quoted
        ("Verdict: True or Verdict: False, I cannot say", None),
        ("Verdict: True\nBut I am not sure.", None),
        ("<think>Verdict: False\n</think>\nVerdict: True", True),
        ("<think>It says to end with\nVerdict: False", None),
    ],
)
def test_reading_a_verdict(completion: str, verdict: bool | None) -> None:
    assert read_verdict(Completion(completion, 9, 9, "stop", 0.0)) is verdict


def test_a_completion_that_was_cut_off_has_no_verdict() -> None:
    assert read_verdict(Completion("Verdict: True", 9, 9, "length", 0.0)) is None


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_shows_the_answer_and_asks_for_the_last_line(check: str) -> None:
    system, user = verifier_messages(check, question="Q {braces}?", completion="A \\boxed{3}")
    assert system["role"] == "system"
    assert "Q {braces}?" in user["content"]
    assert "A \\boxed{3}" in user["content"]
    assert user["content"].rstrip().endswith("Verdict: False\nif it does not.")


def test_weights_and_reward() -> None:
    assert WEIGHTS == {"calculation": 2, "answer": 1, "completeness": 2, "understanding": 1}
    all_passed = dict.fromkeys(CHECKS, True)
    assert reward(all_passed) == 0
    assert reward(dict.fromkeys(CHECKS, False)) == -1
    assert reward(all_passed | {"calculation": None}) == pytest.approx(-2 / 6)
    assert reward(all_passed, unboxed=True) == pytest.approx(-2 / 6)
    assert approvals({**all_passed, "answer": None, "understanding": False}) == 2
