"""The slow, plain reading of the steering formula, which the tests hold the implementation against.

    h' = h + alpha * s * v * [cos(h, v) < tau]        s = 1 (raw), 1/|v| (unit), |h|/|v| (residual)

It shares nothing with als.steering and the engine: one prompt at a time and so no padding, no cache, the whole
sequence computed again for every token, and every emitting position (the last prompt token and each token
generated so far) steered in each of those passes by a hook of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TINY_PROMPTS = [
    "w3 w9 w27",
    "w4 w5 w6 w70 w8 w9 w10",
    "w90",
    "w90 w1 w2 w3 w4 w5 w6 w7 w30 w31 w32",
    "w11 w80 w12 w81 w13",
    "w60 w61",
    "w8 w7 w6 w5 w4 w3",
    "w44 w45 w46 w47",
]
"""Prompts of unequal length for the tiny models of conftest, whose words are w1, w2, ..."""
ENDS = [0, 17, 29, 41, 73, 88]
"""Several end tokens, so that answers of a tiny model end at different lengths."""


@dataclass(frozen=True)
class Formula:
    """What the oracle adds at one block; `vector` is the [D] row of that block."""

    vector: Tensor
    layer: int
    alpha: float
    scale: str
    tau: float | None


@dataclass(frozen=True)
class Answer:
    """The tokens the oracle chose and, an entry an emitting position, what it did to the states."""

    tokens: list[int]
    steered: list[bool]
    cosines: list[float]

    @property
    def steered_fraction(self) -> float:
        return sum(self.steered) / len(self.steered)

    @property
    def mean_cosine(self) -> float:
        return sum(self.cosines) / len(self.cosines)


def llama_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks, by the name that Llama and its relatives give them."""
    return model.model.layers


@torch.no_grad()
def decode(
    model: Any,
    prompt: Sequence[int],
    *,
    formula: Formula | None,
    max_new_tokens: int,
    eos: Sequence[int],
    blocks: nn.ModuleList | None = None,
) -> Answer:
    """Decode one prompt greedily, without a cache; formula None is plain greedy."""
    tokens: list[int] = []
    steered: list[bool] = []
    cosines: list[float] = []

    def steer_emitting_positions(_block: nn.Module, _args: Any, output: Any) -> Any:
        stream = (output[0] if isinstance(output, tuple) else output).clone()  # [1, T, D]
        steered.clear()
        cosines.clear()
        for position in range(len(prompt) - 1, stream.shape[1]):
            changed, cosine, on = _apply(stream[0, position], formula)
            stream[0, position] = changed
            steered.append(on)
            cosines.append(cosine)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    hooks = []
    if formula is not None:
        block = (llama_blocks(model) if blocks is None else blocks)[formula.layer]
        hooks.append(block.register_forward_hook(steer_emitting_positions))
    try:
        while len(tokens) < max_new_tokens and (not tokens or tokens[-1] not in eos):
            ids = torch.tensor([[*prompt, *tokens]], device=model.device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
            tokens.append(int(logits[0, -1].argmax()))
    finally:
        for hook in hooks:
            hook.remove()
    return Answer(tokens, list(steered), list(cosines))


def _apply(h: Tensor, formula: Formula) -> tuple[Tensor, float, bool]:
    """One state [D] through the formula: the new state, cos(h, v), and whether it was steered."""
    v = formula.vector.to(h)
    h_norm, v_norm = math.sqrt(float((h * h).sum())), math.sqrt(float((v * v).sum()))
    cosine = float((h * v).sum()) / (h_norm * v_norm)
    if formula.tau is not None and cosine >= formula.tau:
        return h, cosine, False
    s = {"raw": 1.0, "unit": 1.0 / v_norm, "residual": h_norm / v_norm}[formula.scale]
    return h + formula.alpha * s * v, cosine, True


@torch.no_grad()
def block_outputs(model: Any, blocks: nn.ModuleList, **inputs: Any) -> list[Tensor]:
    """What each block puts out in one forward pass: L tensors [B, T, D]."""
    seen: dict[int, Tensor] = {}

    def remember(layer: int) -> Any:
        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            seen[layer] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    hooks = [block.register_forward_hook(remember(layer)) for layer, block in enumerate(blocks)]
    try:
        model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[layer] for layer in range(len(blocks))]


@torch.no_grad()
def mean_states(model: Any, blocks: nn.ModuleList, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Mean block outputs over emitting positions, from one pass over prompt and answer: [L, D]."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    outputs = block_outputs(model, blocks, input_ids=ids, use_cache=False)
    emitting = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return torch.stack([stream[0, emitting].mean(dim=0) for stream in outputs])
