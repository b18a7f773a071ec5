"""Both engines say the same: 32 prompts in float32, at every alpha_scale, with and without tau, at three layers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from vllm_bench import PROMPTS, Bench, answers, texts

from als.benchmarks import load_problems
from als.generation import greedy_cot
from als.generation.settings import Settings
from als.steering import Steering, steer

LAYERS = (0, 15, 29)
CASES = list(itertools.product(LAYERS, ("raw", "unit", "residual"), (None, 0.1)))
GAP = 1e-3
"""Two logits that are nearer than this may change places with the order of additions."""


@pytest.mark.parametrize(("layer", "scale", "tau"), CASES)
def test_engines_agree(bench: Bench, layer: int, scale: str, tau: float | None) -> None:
    steering = bench.steering(layer, scale, tau)
    theirs, ours = (answers(engine, bench.prompts, steering=steering) for engine in (bench.transformers, bench.vllm))
    changed = [a != b for a, b in zip(texts(theirs), texts(bench.plain()), strict=True)]
    assert sum(changed) >= PROMPTS // 2  # otherwise engines that do not steer at all would agree, too
    different = [i for i, (a, b) in enumerate(zip(texts(theirs), texts(ours), strict=True)) if a != b]
    assert len(different) <= 1
    for i in different:
        assert gap(bench, bench.prompts[i], theirs[i].completion.text, ours[i].completion.text, steering) < GAP
    same = [pair for i, pair in enumerate(zip(theirs, ours, strict=True)) if i not in different]
    fractions = {a.steered_fraction for a, _ in same}
    assert fractions == {1.0} if tau is None else max(fractions) > min(fractions)
    for a, b in same:
        assert a.completion.completion_tokens == b.completion.completion_tokens
        assert a.completion.finish_reason == b.completion.finish_reason
        assert a.completion.prompt_tokens == b.completion.prompt_tokens
        assert a.mean_cosine == pytest.approx(b.mean_cosine, abs=1e-5)
        # A cosine within a rounding error of tau may fall on either side.
        assert a.steered_fraction == pytest.approx(b.steered_fraction, abs=1 / a.completion.completion_tokens)


def test_engines_agree_without_steering(bench: Bench) -> None:
    ours = answers(bench.vllm, bench.prompts)
    assert sum(a == b for a, b in zip(texts(bench.plain()), texts(ours), strict=True)) >= PROMPTS - 1
    assert {(output.steered_fraction, output.mean_cosine, output.mean_state) for output in ours} == {(None,) * 3}


def test_engines_agree_on_answers_that_begin_with_a_prefill(bench: Bench) -> None:
    prefill = '{"thought process": "'
    settings = Settings("arithmetic", prompt_idx=1, max_new_tokens=12, prefill=prefill)
    problems = load_problems("arithmetic", split="test")[:8]
    theirs, ours = (
        {line.index: line for line in greedy_cot.run(engine, problems, settings)}
        for engine in (bench.transformers, bench.vllm)
    )
    assert all(line.completion.startswith(prefill) and line.completion_tokens <= 12 for line in ours.values())
    assert {line.prompt for line in ours.values()} == {line.prompt for line in theirs.values()}
    assert sum(ours[i].completion == theirs[i].completion for i in theirs) >= len(problems) - 1


@torch.inference_mode()
def gap(bench: Bench, prompt: str, one: str, other: str, steering: Steering) -> float:
    """How far apart the logits are of the first two tokens that differ, after the prompt and what is common."""
    model, tokenizer = bench.transformers.model, bench.transformers.tokenizer
    ids, *pair = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, one, other))
    common, tokens = _first_difference(*pair)
    cache: Any = None
    with steer(model, steering):
        for chunk in [ids, *([token] for token in common)]:
            outputs = model(input_ids=torch.tensor([chunk]), past_key_values=cache, use_cache=True)
            cache = outputs.past_key_values
    logits = outputs.logits[0, -1, tokens]
    return float((logits[0] - logits[1]).abs())


def _first_difference(one: list[int], other: list[int]) -> tuple[list[int], list[int]]:
    """What two lists have in common at the beginning, and the two items after it."""
    at = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[:at], [one[at], other[at]]
