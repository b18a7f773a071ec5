"""How many answers fit into memory together, worked out from what one takes: `--batch_size auto`.

Nothing is tried until it crashes: two short forward passes show how the model's cache grows, whatever it keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from als.engines.kv_cache import SLACK, arena_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST = 256
"""Beyond so many rows a step takes longer in proportion, on most machines."""
SHARE = 0.8
"""Of the free memory; the allocator's fragments and other people's processes need some."""


def fitting_batch_size(model: PreTrainedModel, *, prompt_tokens: int, max_new_tokens: int) -> int:
    """Answers that can be in flight together, at least 1 and at most MOST.

    Args:
        model: where it lies says which memory counts.
        prompt_tokens: length of the longest prompt.
        max_new_tokens: length of the longest answer.
    """
    each = _answer_bytes(model, prompt_tokens, max_new_tokens)
    return max(1, min(MOST, int(SHARE * _free_bytes(model) / each)))


def cache_bytes(model: PreTrainedModel) -> tuple[float, float]:
    """(bytes that an answer's cache takes, bytes that each of its tokens adds)."""
    few, many = (_measured(model, tokens) for tokens in (8, 16))
    per_token = (many - few) / 8
    return few - 8 * per_token, per_token


def _answer_bytes(model: PreTrainedModel, prompt_tokens: int, max_new_tokens: int) -> float:
    fixed, per_token = cache_bytes(model)
    config: Any = model.config.get_text_config(decoder=True)
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # While its prompt is run: one block's activations, and the mask; at each step: logits, also in float32.
    block = prompt_tokens * (6 * config.hidden_size + 3 * inner) * model.dtype.itemsize + prompt_tokens**2
    # Only eager attention holds every head's scores, which its softmax turns into float32 and then into shares.
    heads = config.num_attention_heads if config._attn_implementation == "eager" else 0
    scores = heads * prompt_tokens**2 * (8 if model.dtype == torch.float32 else model.dtype.itemsize + 8)
    logits = config.vocab_size * (model.dtype.itemsize + 8)
    return float(fixed + SLACK * per_token * (prompt_tokens + max_new_tokens) + block + scores + logits)


@torch.inference_mode()
def _measured(model: Any, tokens: int) -> int:
    """What the cache of one row of so many tokens holds."""
    ids = torch.ones(1, tokens, dtype=torch.int64, device=model.device)
    cache = model(ids, past_key_values=arena_cache(model, rows=1), use_cache=True).past_key_values
    return sum(_nbytes(value) for layer in cache.layers for value in vars(layer).values())


def _nbytes(value: Any) -> int:
    """Bytes of a tensor, or of those in a dictionary, as recurrent layers keep them. An arena shows as its views."""
    if isinstance(value, dict):
        return sum(map(_nbytes, value.values()))
    return value.nbytes if isinstance(value, torch.Tensor) else 0


def _free_bytes(model: PreTrainedModel) -> int:
    """Free memory of the devices that hold the model."""
    import psutil

    devices = {parameter.device for parameter in model.parameters()}
    gpus = [device for device in devices if device.type == "cuda"]
    if not gpus:
        return int(psutil.virtual_memory().available)
    # What torch has set aside and does not use is free to it as well.
    idle = sum(torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu) for gpu in gpus)
    return idle + sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus)
