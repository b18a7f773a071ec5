"""What an answer takes, against what the cache of one really holds, and the batch size that follows."""

import copy

import pytest
import torch

from als.engines import memory
from als.engines.memory import cache_bytes, fitting_batch_size


@pytest.mark.parametrize(("name", "per_token"), [("llama", 5 * 2 * 2 * 8 * 4), ("gpt2", 5 * 2 * 32 * 4)])
def test_keys_and_values_of_every_layer_and_head(tiny_model, name, per_token) -> None:
    assert cache_bytes(tiny_model(name)) == (0, per_token)


def test_a_recurrent_state_does_not_grow(tiny_model) -> None:
    """One block in four keeps keys and values; the state of the others is the same whatever the length."""
    fixed, per_token = cache_bytes(tiny_model("qwen3_5"))
    assert per_token == 2 * 2 * 8 * 4
    assert fixed > 4 * 4 * 8 * 8 * 4


def test_batch_size_follows_free_memory_and_length(tiny_model, monkeypatch) -> None:
    model = tiny_model("llama")

    def fits(free: int, prompt: int = 100, new: int = 900) -> int:
        monkeypatch.setattr(memory, "_free_bytes", lambda _model: free)
        return fitting_batch_size(model, prompt_tokens=prompt, max_new_tokens=new)

    assert fits(0) == 1
    assert fits(2**40) == memory.MOST
    some = fits(20_000_000)
    assert 1 < some < memory.MOST
    assert fits(40_000_000) in (2 * some, 2 * some + 1)
    assert fits(20_000_000, new=1900) in range(some // 2 - 1, some // 2 + 2)
    # What is promised for each is at least what its keys and values take in an arena.
    assert some * 1000 * 1.5 * cache_bytes(model)[1] <= 0.8 * 20_000_000


def test_eager_attention_also_holds_the_scores_of_a_prompt(tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(memory, "_free_bytes", lambda _model: 2_000_000_000)
    model = copy.deepcopy(tiny_model("llama"))  # other tests share that one
    heads, prompt = model.config.num_attention_heads, 2000
    fits = {}
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        fits[attention] = fitting_batch_size(model, prompt_tokens=prompt, max_new_tokens=1)
    assert fits["sdpa"] > fits["eager"] > 1
    assert fits["eager"] * heads * prompt**2 * 8 <= 0.8 * 2_000_000_000  # float32 scores and their softmax


@pytest.mark.gpu
def test_the_batch_that_was_chosen_fits_on_cuda(smollm2_path, smollm2_prompts) -> None:
    from als.engines.transformers_engine import TransformersEngine
    from als.models import load_model

    model, tokenizer = load_model(smollm2_path, dtype="bfloat16", device="cuda")
    others = torch.empty(torch.cuda.mem_get_info()[0] - 4 * 2**30, dtype=torch.uint8, device="cuda")
    engine = TransformersEngine(model, tokenizer)
    longest = engine.check_prompts(smollm2_prompts, max_new_tokens=512)
    chosen = engine.batch_size = fitting_batch_size(model, prompt_tokens=longest, max_new_tokens=512)
    assert 1 < chosen < memory.MOST
    engine.ends = []
    assert len(list(engine.generate(smollm2_prompts[:1] * chosen, max_new_tokens=512))) == chosen
    assert engine.batch_size == chosen  # not halved on the way
    del others
