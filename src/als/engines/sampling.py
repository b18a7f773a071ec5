"""Sampling whose outcome a row's own seed decides, whatever else is in the batch.

The Gumbel-max trick: argmax_i(logit_i / T + g_i) with independent standard Gumbel noise g is an exact draw from
softmax(logits / T). With E exponentially distributed, -log(E) is such noise. Each row draws its noise from a
generator of its own, V numbers a token, so neither its neighbours nor the batch size change its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RowSamplers:
    """One generator a batch row."""

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def choose(self, logits: Tensor) -> Tensor:
        """Draw a token for every row: [B, V] logits -> [B] int64."""
        noise = torch.empty_like(logits, dtype=torch.float32)  # [B, V]
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return (logits.float() / self.temperature - noise.log()).argmax(dim=-1)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the rows that have left the batch."""
        self._generators = [self._generators[row] for row in rows]
