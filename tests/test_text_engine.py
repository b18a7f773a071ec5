"""What engines make of generated tokens: pieces that add up to the text, and the record of what steering did."""

from __future__ import annotations

import pytest
import torch

from als.engines.text import TextEngine
from als.generation.solve import repetition, steering_details


@pytest.fixture
def engine(smollm2) -> TextEngine:
    return TextEngine(*smollm2, context=None)


TEXTS = ["12 + 30 = 42.\n\nSo", " leading space", "naïve — “quoted” 漢字 🦊🦊", "", "x" * 50, "\t\tprint( 'a' )\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_one_a_token_and_add_up_to_the_text(engine, text) -> None:
    tokens = [*engine.tokenizer(text, add_special_tokens=False)["input_ids"], engine.ends[0]]
    output = engine.output(
        prompt_tokens=3, tokens=tokens, seconds=1.0, seen=torch.zeros(len(tokens), 3), mean_state=None
    )
    assert len(output.pieces) == len(tokens)
    assert "".join(output.pieces) == output.completion.text == text
    assert output.completion.finish_reason == "stop"


def test_without_steering_there_are_no_pieces_and_no_trace(engine) -> None:
    output = engine.output(prompt_tokens=3, tokens=[5, 6], seconds=1.0, seen=None, mean_state=None)
    assert (output.pieces, output.trace, output.steered_fraction, output.mean_cosine) == (None,) * 4
    assert output.completion.finish_reason == "length"


def test_repetition_is_the_share_of_four_grams_seen_before() -> None:
    assert repetition([1, 2, 3]) == 0
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([7] * 10) == pytest.approx(6 / 7)  # seven 4-grams, one of them new
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


def test_details_of_several_answers_count_tokens_and_show_one(engine) -> None:
    """Statistics are over all tokens; first steered token and trace are those of the answer that is shown."""
    short = torch.tensor([[0.1, 0.0, 0.0], [0.3, 0.0, 0.0]])
    long = torch.tensor([[-0.5, 1.0, 0.2], [-0.1, 1.0, 0.4], [0.2, 0.0, 0.0], [0.4, 0.0, 0.0]])
    outputs = [
        engine.output(prompt_tokens=1, tokens=list(range(40, 40 + len(seen))), seconds=0, seen=seen, mean_state=None)
        for seen in (short, long)
    ]
    details = steering_details(outputs, 0)
    assert details["steered_fraction"] == pytest.approx(2 / 6)
    assert details["mean_cosine"] == pytest.approx(0.4 / 6, abs=1e-4)
    assert details["mean_relative_dose"] == pytest.approx(0.1, abs=1e-6)
    assert details["cosine_quantiles"][2] == pytest.approx(0.15, abs=1e-4)
    assert details["first_steered_token"] is None
    assert details["trace"]["steered"] == [0, 0]
    shown = steering_details(outputs, 1)
    assert (shown["first_steered_token"], shown["trace"]["cosines"]) == (0, [-0.5, -0.1, 0.2, 0.4])
