"""Mean residual streams, collected while a model generates.

One hook a decoder block adds the last position's state to a running sum, so memory does not grow with the
number of tokens. Only the decoding loop knows which answer a batch row belongs to: it keeps `slots` current.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from als.models import decoder_blocks, residual_stream
from als.steering import without_compiled_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StateSums:
    """Sums of the residual stream over emitting positions, for each answer and layer.

    Attributes:
        slots: [B] int64, the row of `sums` that each batch row adds to; written by the decoding loop.
        sums: L tensors [rows, D] float32, each on its block's device.
    """

    def __init__(self, rows: int, slots: Tensor) -> None:
        self.rows = rows
        self.slots = slots
        self.sums: list[Tensor] = []

    def take(self, rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Divide these rows by their numbers of emitting positions, and begin them anew.

        Returns:
            For each row [L, D] float32 on CPU.
        """
        total = torch.stack([layer[rows.to(layer.device)].cpu() for layer in self.sums], dim=1)  # [rows, L, D]
        for layer in self.sums:
            layer[rows.to(layer.device)] = 0
        return list(total / torch.tensor(counts)[:, None, None])


@contextmanager
def sum_states(model: PreTrainedModel, states: StateSums) -> Iterator[None]:
    """Add every emitting position's state at every layer to `states` while the block is open."""

    def hook(layer: int) -> Any:
        def add(_block: torch.nn.Module, _args: Any, output: Any) -> None:
            stream = residual_stream(output)  # [B, T, D]
            if layer == len(states.sums):
                states.sums.append(stream.new_zeros(states.rows, stream.shape[-1], dtype=torch.float32))
            total = states.sums[layer]
            add_rows(total, states.slots.to(total.device), stream[:, -1])

        return add

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(decoder_blocks(model))]
    try:
        with without_compiled_code():
            yield
    finally:
        for handle in handles:
            handle.remove()


def add_rows(total: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add each value to its row, in place, where a row that matters comes once: one that comes twice is undefined.

    That is what sets it apart from index_add_, which wakes every thread of a CPU for the few numbers of a layer, thirty
    times a step.

    Args:
        total: [rows, D] float32.
        rows: [B] int64.
        values: [B, D], any floating dtype.
    """
    total.index_copy_(0, rows, total.index_select(0, rows).add_(values))
