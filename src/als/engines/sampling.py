"""Sampling whose outcome a row's own seed decides, whatever else is in the batch.

Inverse transform sampling: with u uniform on [0, 1), the first token at which the cumulative probability exceeds u is a
draw from softmax(logits / T). Each row takes its u from a generator of its own, one number a token, so neither its
neighbours nor the batch size change its tokens. (Noise for every token of the vocabulary, as in the Gumbel-max
trick, takes half as long as a step of a small model on a CPU.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw(logits: Tensor, generators: Sequence[torch.Generator | None], temperature: float) -> Tensor:
    """Draw a token for every row, by the row's own generator: [B, V] logits -> [B] int64."""
    # In double precision, where sums over a vocabulary keep the unlikely tokens apart.
    cumulative = (logits.float() / temperature).softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)  # [B, V]
    drawn = [torch.rand(1, dtype=torch.float64, device=logits.device, generator=generator) for generator in generators]
    # Strictly above, so that no token of probability 0 is drawn where u is 0.
    tokens = torch.searchsorted(cumulative, torch.stack(drawn) * cumulative[:, -1:], right=True)[:, 0]
    return tokens.clamp_max(logits.shape[-1] - 1)
