"""The arena cache against a plain tensor a row: what attention sees after any order of steps, moves and joins."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from als.engines.kv_cache import ArenaLayer, arena_cache

HEADS, KEY, VALUE = 2, 3, 5  # keys and values of unequal size, as multi-head latent attention has them
COUNTER = iter(range(10**9))


def states(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that occur nowhere else."""
    start = next(COUNTER) * 1000.0
    keys = start + torch.arange(rows * HEADS * columns * KEY).reshape(rows, HEADS, columns, KEY)
    values = start + 0.5 + torch.arange(rows * HEADS * columns * VALUE).reshape(rows, HEADS, columns, VALUE)
    return keys, values


class Plain:
    """The same by concatenation: a list of rows, each [H, T, D], and the width of the view."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.rows = list(zip(keys, values, strict=True))

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        new = zip(keys, values, strict=True)
        self.rows = [
            (torch.cat((k, k2), dim=1), torch.cat((v, v2), dim=1))
            for (k, v), (k2, v2) in zip(self.rows, new, strict=True)
        ]


def check(layer: ArenaLayer, plain: Plain) -> None:
    """Each row's columns are the last ones of what attention sees."""
    assert len(layer.keys) == len(layer.values) == len(plain.rows)
    width = layer.get_seq_length()
    assert layer.keys.shape[2] == layer.values.shape[2] == width
    assert layer.get_mask_sizes(1) == (width + 1, 0)
    assert bool(layer.keys.isfinite().all() and layer.values.isfinite().all())
    for i, (keys, values) in enumerate(plain.rows):
        seen = min(width, keys.shape[1])
        assert torch.equal(layer.keys[i, :, width - seen :], keys[:, keys.shape[1] - seen :])
        assert torch.equal(layer.values[i, :, width - seen :], values[:, values.shape[1] - seen :])


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_any_order_of_steps_moves_and_joins(seed: int, capacity: int) -> None:
    choose = random.Random(seed)

    def begun(rows: int, most: int) -> tuple[ArenaLayer, Plain]:
        first = states(rows, choose.randint(1, 9))
        layer = ArenaLayer(most)
        assert layer.get_seq_length() == 0
        keys, values = layer.update(*first)
        assert torch.equal(keys, first[0])
        assert torch.equal(values, first[1])
        return layer, Plain(*first)

    layer, plain = begun(choose.randint(1, capacity), capacity)
    for _ in range(choose.randint(1, 40)):
        action = choose.choice(["step", "step", "step", "reorder", "join", "trim"])
        rows = len(plain.rows)
        if action == "step":
            new = states(rows, choose.choice([1, 1, 1, 4]))
            seen = layer.update(*new)
            plain.update(*new)
            assert seen[0].data_ptr() == layer.keys.data_ptr()
        elif action == "reorder":
            order = [choose.randrange(rows) for _ in range(choose.randint(1, capacity))]
            layer.reorder_cache(torch.tensor(order))
            plain.rows = [plain.rows[i] for i in order]
        elif action == "join" and rows < capacity:
            more = choose.randint(1, capacity - rows)
            other, other_plain = begun(more, more)
            layer.join(other)
            plain.rows += other_plain.rows
        elif action == "trim":
            width = choose.randint(1, layer.get_seq_length())
            layer.trim(width)
            plain.rows = [
                (k[:, max(0, k.shape[1] - width) :], v[:, max(0, v.shape[1] - width) :]) for k, v in plain.rows
            ]
        check(layer, plain)


def test_steps_do_not_copy_what_is_there() -> None:
    """The arena moves a few times in a thousand steps, and its size stays in proportion to what is in use."""
    layer = ArenaLayer(2)
    layer.update(*states(2, 4))
    places = set()
    for _ in range(1000):
        layer.update(*states(2, 1))
        layer.trim(min(layer.get_seq_length(), 20))
        places.add(layer._arenas[0].data_ptr())
    assert len(places) <= 4
    assert layer._arenas[0].shape[2] < 100


def test_rows_that_have_left_are_given_no_more_columns() -> None:
    layer = ArenaLayer(32)
    layer.update(*states(32, 4))
    layer.reorder_cache(torch.tensor([5, 7]))
    for _ in range(100):
        layer.update(*states(2, 1))
    assert all(arena.shape[0] <= 3 and arena.shape[2] >= 104 for arena in layer._arenas)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "deepseek_v3", "gpt2"])
def test_models_with_keys_and_values_get_one(tiny_model, name) -> None:
    cache = arena_cache(tiny_model(name), rows=3)
    assert [type(layer) for layer in cache.layers] == [ArenaLayer] * 5


def test_models_with_another_state_get_none(tiny_model) -> None:
    assert arena_cache(tiny_model("qwen3_5"), rows=3) is None
