"""Labelled mean states -> one vector for each layer: which answers count how much, and by which method.

    v = sum_i w_i h_i        w > 0 for good answers, w < 0 for bad ones, each side summing to 1 (mean_diff)

mean_diff reads the states one at a time: once for v, once more to score answers by vectors that have not seen them.
pca, lda and logistic hold all states and fit every layer by scikit-learn. Both deal the problems into the same
blocks, so that diagnostics leave out or halve the same problems. Knows no file; see `vectors` and `states`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from als.folds import BLOCKS, FOLDS, Bools, Floats, Ints, States, halvings, is_enough, relative, training

T = TypeVar("T")

LIKE_LENGTH = 0.1
"""How far apart the natural logarithms of two lengths may be where lengths are matched."""


# --- Which answers count how much


def contrast_weights(good: Bools, groups: Ints, lengths: Floats | None = None) -> Floats:
    """Contrast good and bad answers inside of groups: weights [N], the good ones' and the bad ones' summing to 1 each.

    Every group with both kinds counts the same, and in it every answer of a kind. An answer that nothing is
    contrasted with weighs 0; where that holds for all, so do they.

    Args:
        good: [N].
        groups: [N] number of each answer's group; all the same for the plain difference of means.
        lengths: [N] tokens, where only answers that pair off with one of like length count; see `pair_off`.
    """
    weights = np.zeros(len(good))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if lengths is not None:
            members = members[pair_off(good[members], lengths[members])]
        sides = [members[good[members]], members[~good[members]]]
        if len(sides[0]) and len(sides[1]):
            for side in sides:
                weights[side] = 1 / len(side)
    return weights / max(float(weights[good].sum()), 1.0)


def pair_off(good: Bools, lengths: Floats) -> Bools:
    """Which answers belong to a pair of a good and a bad one of like length: [N].

    Pairs are those of the least total of min(|log ratio|, LIKE_LENGTH). To want as many pairs as possible instead
    would pair every good answer with one that is just as much longer as is allowed, and match nothing.
    """
    from scipy.optimize import linear_sum_assignment

    logs = np.log(np.maximum(lengths, 1))
    positions = [np.flatnonzero(good), np.flatnonzero(~good)]
    cost = np.subtract.outer(logs[positions[0]], logs[positions[1]])
    np.minimum(np.abs(cost, out=cost), LIKE_LENGTH, out=cost)
    rows, columns = linear_sum_assignment(cost)
    near = cost[rows, columns] < LIKE_LENGTH
    paired = np.zeros(len(good), dtype=bool)
    paired[positions[0][rows[near]]] = paired[positions[1][columns[near]]] = True
    return paired


def ema_weights(good: Bools, beta: float) -> Floats:
    """What an exponential moving average that begins with a label's first state gives each answer: [N].

    Args:
        good: [N], in the order of indices.
        beta: weight of the past, from 0 to below 1.
    """
    weights = np.zeros(len(good))
    for side in (np.flatnonzero(good), np.flatnonzero(~good)):
        weights[side] = (1 - beta) * beta ** np.arange(len(side))[::-1]
        weights[side[:1]] = beta ** (len(side) - 1)
    return weights


@dataclass(frozen=True, eq=False)
class Sample:
    """The answers that are contrasted, in the order of indices."""

    good: Bools
    """[N], both kinds among them."""
    problems: Ints
    """[N] number of each answer's problem."""
    blocks: Ints
    """[N] block of its problem; see `folds.deal`."""
    weights: Floats
    """[N] above 0; those of the good and those of the bad sum to 1."""
    within_problem: bool = False
    """Whether an answer is contrasted with those to the same problem only."""

    def part(self, chosen: Bools) -> Sample:
        """Some of the answers, weights summing to 1 again on each side."""
        weights = np.where(chosen, self.weights, 0)
        for side in (self.good, ~self.good):
            weights[side] /= weights[side].sum()
        columns = (self.good[chosen], self.problems[chosen], self.blocks[chosen], weights[chosen])
        return Sample(*columns, self.within_problem)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A vector for each layer, and what diagnostics follow from."""

    vector: Tensor
    """[L, D] float32."""
    mean_state_norm: Tensor
    """[L] float32: mean norm of the mean states, to compare |v| with. A mean state is shorter than the states it
    is the mean of."""
    split_half: Floats | None
    """[L] mean cosine of vectors from two halves; None where there are too few problems."""
    scores: Floats | None
    """[N, L] each state along the unit vector from the folds it is not in; None where there are too few problems."""


# --- mean_diff, one state at a time

Read = Callable[[Ints], Iterator[Tensor]]
"""Positions of answers -> their states [L, D] float32, in that order."""


def estimate_by_means(sample: Sample, read: Read, read_again: Read, *, seed: int, checked: bool = True) -> Estimate:
    """The weighted difference of means, in memory of 2 * BLOCKS states and a few.

    Args:
        sample: the answers.
        read: reads their states for the first time.
        read_again: the same, for states that have been read before.
        seed: of the halvings.
        checked: whether to compare halves and score answers too.
    """
    sums = BlockSums.of(sample, read)
    split_half = scores = None
    if checked and is_enough(sample.good, sample.problems):
        first = halvings(seed)
        one, other = (sums.combine(sums.difference(chosen)) for chosen in (first, ~first))  # [SPLITS, L, D] each
        split_half = torch.nn.functional.cosine_similarity(one, other, dim=-1).mean(dim=0).double().numpy()
        scores = _held_out_scores(sums, sample, read_again)
    return Estimate(sums.vector, sums.mean_state_norm, split_half, scores)


@dataclass(frozen=True, eq=False)
class BlockSums:
    """Weighted sums of states by label and block, from which the vector of any choice of blocks follows."""

    centred: Tensor
    """[2 * BLOCKS, L, D] float32: sums over the good blocks, then over the bad ones, of w * (h - centre)."""
    totals: Floats
    """[2, BLOCKS] sums of weights."""
    centre: Tensor
    """[L, D] float32, halfway between good and bad. |v| is a hundredth of |h|: without it little of v were exact."""
    vector: Tensor
    """[L, D] float32, from all blocks."""
    mean_state_norm: Tensor
    """[L] float32."""

    @classmethod
    def of(cls, sample: Sample, read: Read) -> BlockSums:
        """Add states up, block after block, so that the sum in use stays in the processor's cache."""
        order = np.lexsort((sample.blocks, ~sample.good))
        rows = sample.blocks + np.where(sample.good, 0, BLOCKS)  # [N]
        weights = _largest_one(sample)
        totals: Floats = np.bincount(rows, weights, minlength=2 * BLOCKS).astype(np.float64)
        sums = norms = torch.zeros(0)
        for i, state in zip(order, read(order), strict=True):
            if not norms.numel():
                sums, norms = torch.zeros(2 * BLOCKS, *state.shape), torch.zeros(len(state), dtype=torch.float64)
            sums[rows[i]].add_(state, alpha=float(weights[i]))
            norms += state.norm(dim=-1)
        good, bad = (_mean(sums[side], totals[side]) for side in (slice(BLOCKS), slice(BLOCKS, None)))
        centre = ((good + bad) / 2).float()
        for row, total in zip(sums, totals, strict=True):
            row.sub_(centre, alpha=float(total))
        return cls(sums, totals.reshape(2, BLOCKS), centre, (good - bad).float(), (norms / len(order)).float())

    def shares(self, chosen: Bools) -> Floats:
        """What each sum counts in the means of some blocks: chosen [S, BLOCKS] -> [S, 2, BLOCKS]."""
        weights = np.where(chosen[:, None], 1 / (chosen[:, None] * self.totals).sum(axis=2, keepdims=True), 0)
        return np.asarray(weights)

    def difference(self, chosen: Bools) -> Floats:
        """What each sum counts in the vectors of some blocks: [S, BLOCKS] -> [S, 2 * BLOCKS]."""
        return np.multiply(self.shares(chosen), [[1.0], [-1.0]]).reshape(len(chosen), -1)

    def halfway(self, chosen: Bools) -> Floats:
        """What each sum counts halfway between the good and the bad of some blocks, less the centre."""
        return (self.shares(chosen) / 2).reshape(len(chosen), -1)

    def combine(self, coefficients: Floats) -> Tensor:
        """Weighted sums of the sums: [S, 2 * BLOCKS] -> [S, L, D] float32."""
        rows = torch.from_numpy(coefficients).float() @ self.centred.flatten(1)
        return rows.view(-1, *self.centre.shape)


def _mean(sums: Tensor, totals: Floats) -> Tensor:
    """[L, D] float64, without a second copy of all sums."""
    mean = torch.zeros(sums.shape[1:], dtype=torch.float64)
    for each in sums:
        mean += each
    return mean / float(totals.sum())


def _largest_one(sample: Sample) -> Floats:
    """[N] weights of which each side's largest is 1, so that in a plain mean every state is added as it is."""
    largest = np.where(sample.good, sample.weights[sample.good].max(), sample.weights[~sample.good].max())
    return np.asarray(sample.weights / largest)


def _held_out_scores(sums: BlockSums, sample: Sample, read_again: Read) -> Floats:
    """[N, L]: (h - halfway) . v / |v|, both from the other folds, so that scores of all folds go together."""
    seen = training()
    units = torch.nn.functional.normalize(sums.combine(sums.difference(seen)), dim=-1)  # [FOLDS, L, D]
    halfway = sums.combine(sums.halfway(seen)).double() + sums.centre
    offsets = (units * halfway).sum(dim=-1)  # [FOLDS, L]
    folds = sample.blocks % FOLDS
    order = np.argsort(folds, kind="stable")
    scores = np.empty((len(order), len(sums.vector)))
    for i, state in zip(order, read_again(order), strict=True):
        scores[i] = torch.linalg.vecdot(state, units[folds[i]]) - offsets[folds[i]]
    return scores


# --- pca, lda and logistic, all states at once

Fit = Callable[[States, Sample], Floats]
"""States [n, D] and whose they are -> a direction [D] of any sign and length."""


def principal_component(states: States, sample: Sample) -> Floats:
    """The direction in which the states vary most."""
    from sklearn.decomposition import PCA

    return np.asarray(PCA(n_components=1, svd_solver="arpack", random_state=0).fit(states).components_[0])


def discriminant(states: States, sample: Sample) -> Floats:
    """Fisher's linear discriminant; covariances are shrunk (Ledoit and Wolf), labels count the same."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=(0.5, 0.5))
    return np.asarray(model.fit(states, sample.good).coef_[0])


def logistic_regression(states: States, sample: Sample) -> Floats:
    """Coefficients of a ridge logistic regression on standardised features, in terms of the states.

    C = 1 / D: beforehand, the log odds of an answer are taken to vary by about 1, however wide the states.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    counts = sample.weights * len(states) / sample.weights.sum()
    scaler = StandardScaler().fit(states)
    model = LogisticRegression(C=1 / states.shape[1], max_iter=1000)
    model.fit(scaler.transform(states), sample.good, sample_weight=counts)
    return np.asarray(model.coef_[0] / scaler.scale_)


FITS: dict[str, Fit] = {"pca": principal_component, "lda": discriminant, "logistic": logistic_regression}
"""--method -> how to fit one layer."""


def _unwatched(steps: Sequence[T]) -> Iterable[T]:
    return steps


def estimate_by_fits(
    sample: Sample,
    states: States,
    fit: Fit,
    *,
    seed: int,
    progress: Callable[[Sequence[int]], Iterable[int]] = _unwatched,
    checked: bool = True,
) -> Estimate:
    """A direction fitted layer by layer, good above bad, as long as the difference of means is there.

    Args:
        sample: the answers.
        states: [N, L, D] float32.
        fit: the method.
        seed: of the halvings.
        progress: passes the layers through, and may show how far it is.
        checked: whether to compare halves and score answers too.
    """
    layers = states.shape[1]
    vector, norms = np.zeros(states.shape[1:], dtype=np.float32), np.zeros(layers, dtype=np.float32)
    enough = checked and is_enough(sample.good, sample.problems)
    split_half, scores = np.zeros(layers), np.zeros((len(states), layers))
    for layer in progress(range(layers)):
        here = _centred(states[:, layer], sample)
        norms[layer] = np.linalg.norm(states[:, layer], axis=1).mean()
        length = np.linalg.norm(difference(here, sample))
        vector[layer] = length * oriented(fit, here, sample)
        if enough:
            split_half[layer] = _fitted_cosine(fit, here, sample, seed=seed)
            scores[:, layer] = _fitted_scores(fit, here, sample)
    return Estimate(
        torch.from_numpy(vector), torch.from_numpy(norms), *((split_half, scores) if enough else (None, None))
    )


def _centred(states: States, sample: Sample) -> States:
    """[N, D], less the mean of all or, within problems, of the problem's answers.

    Labels differ by a hundredth of |h|: fits to states as they are would lose digits.
    """
    groups = sample.problems if sample.within_problem else np.zeros_like(sample.problems)
    return relative(states, groups)


def fitted_scores(fit: Fit, states: States, sample: Sample) -> Floats:
    """The held-out scores of one layer by a fitted method: states [N, D] -> [N]."""
    return _fitted_scores(fit, _centred(states, sample), sample)


def difference(states: States, sample: Sample) -> Floats:
    """The weighted difference of means: [n, D] -> [D]."""
    return np.asarray(np.where(sample.good, sample.weights, -sample.weights) @ states)


def oriented(fit: Fit, states: States, sample: Sample) -> Floats:
    """The fitted direction, of length 1 and with good above bad; zeros where the fit finds none."""
    if (states == states[0]).all():
        return np.zeros(states.shape[1])
    direction = np.asarray(fit(states, sample), dtype=np.float64)
    length = np.linalg.norm(direction)
    if not 0 < length < np.inf:
        return np.zeros_like(direction)
    return np.asarray(direction / length * (1 if direction @ difference(states, sample) >= 0 else -1))


def _fitted_cosine(fit: Fit, states: States, sample: Sample, *, seed: int) -> float:
    """Mean cosine of the directions of two halves."""
    cosines = []
    for first in halvings(seed)[:, sample.blocks]:
        one, other = (oriented(fit, states[half], sample.part(half)) for half in (first, ~first))
        cosines.append(one @ other)
    return float(np.mean(cosines))


def _fitted_scores(fit: Fit, states: States, sample: Sample) -> Floats:
    """[N]: (h - halfway) along the direction, both from the other folds."""
    scores = np.empty(len(states))
    for seen in training()[:, sample.blocks]:
        part = sample.part(seen)
        halfway = part.weights @ states[seen] / 2
        scores[~seen] = (states[~seen] - halfway) @ oriented(fit, states[seen], part)
    return scores
