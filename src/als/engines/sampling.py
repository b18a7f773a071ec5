"""Sampling whose outcome a row's own seed decides, whatever else is in the batch.

The Gumbel-max trick: argmax_i(logit_i / T + g_i) with independent standard Gumbel noise g is an exact draw from
softmax(logits / T). With E exponentially distributed, -log(E) is such noise. Each row draws its noise from a
generator of its own, V numbers a token, so neither its neighbours nor the batch size change its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw(logits: Tensor, generators: Sequence[torch.Generator | None], temperature: float) -> Tensor:
    """Draw a token for every row, by the row's own generator: [B, V] logits -> [B] int64."""
    noise = torch.empty_like(logits, dtype=torch.float32)  # [B, V]
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return (logits.float() / temperature - noise.log()).argmax(dim=-1)
