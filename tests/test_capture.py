"""Captured mean states against one teacher-forced pass over prompt and answer, read by hooks of the tests' own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from als.engines.transformers_engine import TransformersEngine
from als.steering import Steering
from oracle import TINY_PROMPTS, block_outputs, llama_blocks, mean_states

TOLERANCE = 1e-4  # of the reference state's norm, for every component


def answer_ids(tokenizer: Any, output: Any) -> list[int]:
    """The generated tokens, from the text; `check_greedy` shows that they are the right ones."""
    ids = tokenizer(output.completion.text, add_special_tokens=False)["input_ids"]
    if len(ids) < output.completion.completion_tokens:
        ids.append(tokenizer.eos_token_id)
    assert len(ids) == output.completion.completion_tokens
    return ids


@torch.no_grad()
def check_greedy(model: Any, prompt: list[int], answer: list[int]) -> None:
    """Each of these tokens is what the model chooses there."""
    logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
    assert logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == answer


def largest_error(captured: torch.Tensor, reference: torch.Tensor) -> float:
    """Over layers: the largest component of the difference, as a share of the reference's norm."""
    return float(((captured - reference).abs().amax(dim=-1) / reference.norm(dim=-1)).max())


@pytest.fixture(scope="module")
def smollm2_reference(smollm2, smollm2_runs, smollm2_prompts):
    """[L, D] for each prompt, for the answers of the run in batches of eight."""
    model, tokenizer = smollm2
    references = []
    for prompt, output in zip(smollm2_prompts, smollm2_runs(8)[0], strict=True):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = answer_ids(tokenizer, output)
        check_greedy(model, ids, answer)
        references.append(mean_states(model, llama_blocks(model), ids, answer))
    return references


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_means_on_smollm2_are_those_of_one_pass(smollm2_runs, smollm2_reference, batch_size):
    outputs, _ = smollm2_runs(batch_size)
    assert {output.completion.finish_reason for output in outputs} == {"stop", "length"}
    for output, reference in zip(outputs, smollm2_reference, strict=True):
        assert output.mean_state.shape == (30, 576)
        assert output.mean_state.dtype == torch.float32
        assert output.mean_state.device.type == "cpu"
        assert largest_error(output.mean_state, reference) < TOLERANCE


def test_tolerance_notices_a_position_too_many_or_too_few(smollm2, smollm2_runs, smollm2_prompts, smollm2_reference):
    """The likely mistakes: the end token's own state counted, the last prompt token's left out."""
    model, tokenizer = smollm2
    output = smollm2_runs(8)[0][1]
    assert output.completion.finish_reason == "stop"
    prompt = tokenizer(smollm2_prompts[1], add_special_tokens=False)["input_ids"]
    answer = answer_ids(tokenizer, output)
    streams = block_outputs(model, llama_blocks(model), input_ids=torch.tensor([prompt + answer]), use_cache=False)
    for wrong in (slice(len(prompt) - 1, None), slice(len(prompt), -1), slice(len(prompt) - 1, -2)):
        means = torch.stack([stream[0, wrong].mean(dim=0) for stream in streams])
        assert largest_error(means, smollm2_reference[1]) > 10 * TOLERANCE


@pytest.fixture(scope="module")
def tiny_run(tiny_model, tiny_tokenizer):
    """architecture, batch size -> model and the outputs of prompts whose answers end at different lengths."""

    def run(architecture: str, batch_size: int, **options: Any) -> tuple[Any, list[Any]]:
        model = copy.deepcopy(tiny_model(architecture))
        model.generation_config.eos_token_id = [0, 17, 29, 41, 73, 88]
        engine = TransformersEngine(model, tiny_tokenizer, batch_size=batch_size)
        options = {"max_new_tokens": 20, "capture_states": True, **options}
        outputs = dict(engine.generate(TINY_PROMPTS, **options))
        return model, [outputs[i] for i in range(len(TINY_PROMPTS))]

    return run


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "gemma3", "mistral", "falcon", "gpt2"])
def test_means_on_tiny_models_are_those_of_one_pass(tiny_run, tiny_tokenizer, architecture, batch_size):
    """Absolute and rotary positions, sliding windows, tuples; rows leave the batch early and late."""
    model, outputs = tiny_run(architecture, batch_size)
    blocks = model.transformer.h if architecture in ("falcon", "gpt2") else llama_blocks(model)
    for prompt, output in zip(TINY_PROMPTS, outputs, strict=True):
        ids, answer = tiny_tokenizer(prompt)["input_ids"], answer_ids(tiny_tokenizer, output)
        check_greedy(model, ids, answer)
        assert largest_error(output.mean_state, mean_states(model, blocks, ids, answer)) < TOLERANCE


def test_tiny_answers_end_both_ways(tiny_run):
    _, outputs = tiny_run("llama", 8)
    assert {output.completion.finish_reason for output in outputs} == {"stop", "length"}
    assert len({output.completion.completion_tokens for output in outputs}) > 2


def test_one_token_is_the_last_prompt_tokens_state(tiny_run, tiny_tokenizer):
    model, outputs = tiny_run("llama", 8, max_new_tokens=1)
    for prompt, output in zip(TINY_PROMPTS, outputs, strict=True):
        ids = torch.tensor([tiny_tokenizer(prompt)["input_ids"]])
        states = torch.stack([s[0, -1] for s in block_outputs(model, llama_blocks(model), input_ids=ids)])
        assert largest_error(output.mean_state, states) < TOLERANCE


def test_last_layer_is_captured_before_the_final_norm(tiny_run, tiny_tokenizer):
    model, outputs = tiny_run("llama", 8, max_new_tokens=1)
    ids = torch.tensor([tiny_tokenizer(TINY_PROMPTS[0])["input_ids"]])
    normed = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1].detach()
    captured = outputs[0].mean_state[-1]
    assert not torch.allclose(captured, normed, rtol=1e-2)
    torch.testing.assert_close(model.model.norm(captured).detach(), normed)


def test_states_are_not_captured_unasked(tiny_run):
    _, outputs = tiny_run("llama", 8, capture_states=False)
    assert [output.mean_state for output in outputs] == [None] * len(outputs)


def test_capture_does_not_change_answers(tiny_run):
    _, with_states = tiny_run("llama", 3)
    _, without = tiny_run("llama", 3, capture_states=False)
    assert [o.completion.text for o in with_states] == [o.completion.text for o in without]


def test_bfloat16_states_are_summed_in_float32(tiny_model, tiny_tokenizer):
    """A hundred bfloat16 additions would lose whole digits; a sum in float32 keeps the mean to bfloat16's own step."""
    model = copy.deepcopy(tiny_model("llama", max_position_embeddings=512)).to(torch.bfloat16)
    model.generation_config.eos_token_id = None
    seen: list[torch.Tensor] = []
    look = llama_blocks(model)[2].register_forward_hook(lambda _block, _args, out: seen.append(out[0, -1].float()))
    try:
        engine = TransformersEngine(model, tiny_tokenizer, batch_size=1)
        [(_, output)] = engine.generate(["w3 w9 w27"], max_new_tokens=100, capture_states=True)
    finally:
        look.remove()
    assert output.completion.completion_tokens == len(seen)
    assert len(seen) > 20
    torch.testing.assert_close(output.mean_state[2], torch.stack(seen).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_captured_states_contain_the_steering(tiny_run):
    """A block's output is what leaves it: at the steered layer, the original plus the vector."""
    vector = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    steering = Steering(vector, layer_idx=2, alpha=0.5, similarity_threshold=None)
    _, plain = tiny_run("llama", 8, max_new_tokens=1)
    _, steered = tiny_run("llama", 8, max_new_tokens=1, steering=steering)
    for before, after in zip(plain, steered, strict=True):
        assert torch.equal(before.mean_state[:2], after.mean_state[:2])
        torch.testing.assert_close(after.mean_state[2], before.mean_state[2] + 0.5 * vector[2])
        assert not torch.allclose(before.mean_state[3:], after.mean_state[3:])


def test_states_of_a_model_that_was_compiled_before(tiny_model, tiny_run, tiny_tokenizer):
    torch._dynamo.reset()
    model = copy.deepcopy(tiny_model("llama"))
    model.generation_config.eos_token_id = [0, 17, 29, 41, 73, 88]
    model.compile(backend="eager")
    engine = TransformersEngine(model, tiny_tokenizer, batch_size=8)
    dict(engine.generate(TINY_PROMPTS, max_new_tokens=20))  # compiled here, without hooks
    outputs = dict(engine.generate(TINY_PROMPTS, max_new_tokens=20, capture_states=True))
    for i, expected in enumerate(tiny_run("llama", 8)[1]):
        assert torch.equal(outputs[i].mean_state, expected.mean_state)
    torch._dynamo.reset()
