"""Which problems go together: the halves in which a vector is made twice, the folds that it has not seen.

Problems, and never single answers, are dealt out, since two answers to one question are alike: first into blocks,
so that states can be summed by block in one pass, and halves and folds are then made of blocks. Arrays only.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.float32]
Array = TypeVar("Array", States, Floats)

BLOCKS = 20
FOLDS = 5
SPLITS = 20
"""How often the blocks are halved."""
LEAST = 5
"""Problems of each label, below which nothing is cross-validated or halved."""


def is_enough(good: Bools, problems: Ints) -> bool:
    """Whether both labels have answers to enough problems."""
    return all(len(np.unique(problems[side])) >= LEAST for side in (good, ~good))


def deal(good: Bools, problems: Ints, *, seed: int) -> Ints:
    """Deal problems at random into blocks: [N] the block of each answer's problem.

    Each label's problems lie in consecutive blocks (the first follows the last), equally many in each but for one.

    Args:
        good: [N].
        problems: [N] number of each answer's problem.
        seed: of the dealing.
    """
    generator = np.random.default_rng(seed)
    block = np.zeros(problems.max() + 1, dtype=np.int64)
    both = np.intersect1d(problems[good], problems[~good])
    block[generator.permutation(both)] = np.arange(len(both)) % BLOCKS
    for side in (good, ~good):
        only = np.setdiff1d(problems[side], both)
        block[generator.permutation(only)] = (len(both) + np.arange(len(only))) % BLOCKS
    return block[problems]


def halvings(seed: int) -> Bools:
    """[SPLITS, BLOCKS] which blocks make the first half.

    Of two neighbouring blocks each half gets one, so that few problems are halved evenly too. No halving comes
    twice, nor as its mirror image.
    """
    pairs = BLOCKS // 2
    numbers = np.random.default_rng(seed).choice(2 ** (pairs - 1), SPLITS, replace=False)
    first = (numbers[:, None] >> np.arange(pairs)) & 1 == 1  # [SPLITS, pairs]
    return np.stack((first, ~first), axis=2).reshape(SPLITS, BLOCKS)


def training() -> Bools:
    """[FOLDS, BLOCKS] which blocks each fold's vector is made from: all but every FOLDS-th."""
    return np.not_equal(np.arange(BLOCKS) % FOLDS, np.arange(FOLDS)[:, None])


def relative(values: Array, problems: Ints) -> Array:
    """Values [N, ...] less the mean of their problem's."""
    _, numbers, counts = np.unique(problems, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, numbers, values)
    return (values - (sums.T / counts).T[numbers]).astype(values.dtype)
