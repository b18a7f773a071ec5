"""Keys and values of the rows in flight, written in place.

transformers' own growing cache concatenates, which copies all of it for every token, and it can neither take in
new rows nor forget columns that no row needs any more. Here each layer owns an arena [rows, heads, columns, size]:
every row's tokens end at the same column, rows of other lengths begin at others, and what attention sees is a view.

    cache = arena_cache(model, rows=32)     # None where layers keep something else than keys and values
    model(input_ids, past_key_values=cache, ...)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


SLACK = 1.5
"""Columns, and rows, of an arena for each that is needed."""


class ArenaLayer(DynamicLayer):  # type: ignore[misc]
    """One decoder block's keys and values.

    Attributes:
        keys, values: [B, H, T, D] views of what is in use: the last T columns up to the cursor.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._most_rows = rows
        self._rows = 0
        self._start = self._end = 0
        self._arenas: list[Tensor] = []  # keys and values: [rows, H, columns, D], D may differ

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append columns for every row in use; [B, H, t, D] each."""
        if not self.is_initialized:
            self._begin(key_states, value_states)
        new = key_states.shape[-2]
        if self._end + new > self._columns:
            self._place(rows=self._rows, new=new)
        for arena, states in zip(self._arenas, (key_states, value_states), strict=True):
            arena[: self._rows, :, self._end : self._end + new] = states
        self._end += new
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was; only rows that move are copied. Indices on the CPU cost no waiting."""
        if not self.is_initialized:
            return
        sources = beam_idx.tolist()
        if len(sources) > len(self._arenas[0]):
            self._place(rows=len(sources))
        moved = [row for row, source in enumerate(sources) if row != source]
        if moved:
            there = slice(self._start, self._end)
            for arena in self._arenas:
                arena[moved, :, there] = arena[[sources[row] for row in moved], :, there]
        self._rows = len(sources)
        self._show()

    def join(self, other: ArenaLayer) -> None:
        """Put another cache's rows below these, their last columns side by side."""
        width = other._end - other._start
        rows = self._rows + other._rows
        if self._end < width or rows > len(self._arenas[0]):
            self._place(rows=rows, before=max(width - (self._end - self._start), 0))
        self._start = min(self._start, self._end - width)
        for arena, states in zip(self._arenas, (other.keys, other.values), strict=True):
            arena[self._rows : rows, :, self._end - width : self._end] = states
        self._rows = rows
        self._show()

    def trim(self, width: int) -> None:
        """Forget all but the last `width` columns."""
        self._start = self._end - width
        self._show()

    @property
    def _columns(self) -> int:
        return self._arenas[0].shape[2]

    def _begin(self, key_states: Tensor, value_states: Tensor) -> None:
        self.lazy_initialization(key_states, value_states)
        self._rows = len(key_states)
        self._arenas = [states.new_zeros(self._rows, states.shape[1], 0, states.shape[3])
                        for states in (key_states, value_states)]  # fmt: skip

    def _place(self, *, rows: int, before: int = 0, new: int = 0) -> None:
        """Move what is in use to the front of the arena, behind `before` free columns; make room for rows and columns.

        More than is needed is allotted, so that the cost of moving is spread over many steps; but not for rows that
        have left, because the last of many answers is often many times as long as the others.

        Args:
            rows: that the arena must hold.
            before: free columns in front of those in use.
            new: free columns behind them.
        """
        width = self._end - self._start
        needed = before + width + new
        there = slice(before, before + width)
        for i, arena in enumerate(self._arenas):
            held = arena[: self._rows, :, self._start : self._end]
            if SLACK * needed > arena.shape[2] or rows > len(arena):
                # Zeros: what is masked still gets multiplied by a weight of 0, which leaves NaN as NaN.
                most = min(self._most_rows, int(SLACK * rows))
                shape = (most, arena.shape[1], int(SLACK * needed) + 16, arena.shape[3])
                self._arenas[i] = arena.new_zeros(shape)
            else:
                held = held.clone()  # where it goes may overlap with where it is
            self._arenas[i][: self._rows, :, there] = held
        self._start, self._end = before, before + width
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (arena[: self._rows, :, self._start : self._end] for arena in self._arenas)


def arena_cache(model: PreTrainedModel, *, rows: int) -> Cache | None:
    """An empty cache for at most so many rows.

    Sliding windows are a matter of the mask here: all columns are kept, and rows do not see those behind their
    window. None for models some of whose blocks keep something else than keys and values (a recurrent state,
    say): those make a cache of their own, which rows can leave and not join.
    """
    layers = DynamicCache(config=model.config).layers
    kinds = set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())
    plain = {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}
    if not plain or not kinds <= {"full_attention", "sliding_attention"}:
        return None
    return Cache(layers=[ArenaLayer(rows) for _ in layers])


def arena_layers(cache: Cache) -> list[ArenaLayer]:
    """The layers that hold something; blocks that share another's keys and values leave theirs empty."""
    return [layer for layer in cache.layers if isinstance(layer, ArenaLayer) and layer.is_initialized]
