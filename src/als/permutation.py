"""How often labels that mean nothing reach the best held-out AUC: the null distribution of the maximum over layers.

    p = (1 + permutations whose best layer is at least as good) / (1 + permutations)

The interval of a layer's AUC holds for a layer that was fixed beforehand. The best of many layers is above it by
chance, so it is compared with the best layers under permuted labels (Nichols and Holmes 2002, doi 10.1002/hbm.1058).
For each permutation all of the procedure is done again: pairing, weights, folds and the vectors of the folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from als.contrast import Contrast, lengths, problem_numbers, select, shuffle_labels
from als.estimation import FITS, Fit, Sample, fitted_scores
from als.folds import FOLDS, Bools, Floats, Ints, States, is_enough, relative, training
from als.roc import auc_columns
from als.states import StateFile, read_by_layer

PERMUTATIONS = 199
"""By default, with mean_diff."""


@dataclass(frozen=True, eq=False)
class Draw:
    """The answers that are contrasted under one assignment of labels."""

    used: Bools
    """[N] which answers count; n of them."""
    sample: Sample

    @property
    def positions(self) -> Ints:
        """[n] the places of those that count."""
        return np.flatnonzero(self.used)


def best_auc_p(contrast: Contrast, found: Sequence[StateFile], *, seed: int, permutations: int) -> float | None:
    """The p-value of the best layer's held-out AUC.

    Args:
        contrast: how the vector is made.
        found: all state files, in the order of indices.
        seed: of the vector's folds, and of the permutations.
        permutations: how many, at least 1.

    Returns:
        None where the labels as they are have too few problems for a held-out AUC.
    """
    from tqdm import tqdm

    good = np.array([file.label == "good" for file in found])
    draws = draw_labels(contrast, good, problem_numbers(found), lengths(found), seed=seed, permutations=permutations)
    if draws[0] is None:
        return None
    layers = tqdm(read_by_layer(found), desc="permutations", unit="layer", delay=2)
    return p_value(best_aucs(contrast.method, draws, layers))


def draw_labels(
    contrast: Contrast, good: Bools, problems: Ints, tokens: Floats | None, *, seed: int, permutations: int
) -> list[Draw | None]:
    """The labels as they are, and then permuted ones; None where these give no held-out AUC.

    Args:
        contrast: how.
        good: [N] the labels.
        problems: [N] number of each answer's problem; a problem's labels are permuted as `shuffle_labels` says.
        tokens: [N] length of each answer, where known.
        seed: of the folds, and of the permutations.
        permutations: how many.
    """
    labels = [good]
    for number in range(permutations):
        labels.append(shuffle_labels(good, problems, within_problem=contrast.within_problem, seed=(seed, number)))
    return [_draw(contrast, each, problems, tokens, seed=seed) for each in labels]


def _draw(contrast: Contrast, good: Bools, problems: Ints, tokens: Floats | None, *, seed: int) -> Draw | None:
    used, sample = select(contrast, good, problems, tokens, seed=seed)
    if sample is None or not is_enough(sample.good, sample.problems):
        return None
    return Draw(used, sample)


def best_aucs(method: str, draws: Sequence[Draw | None], layers: Iterable[States]) -> Floats:
    """The best layer's held-out AUC of each draw: [P]; infinite where a draw gives none, so that it is no evidence.

    Args:
        method: how a vector is made.
        draws: P assignments of labels.
        layers: the states [N, D] of each layer.
    """
    known = [draw for draw in draws if draw is not None]
    score = _means(known) if method == "mean_diff" else _fits(known, FITS[method])
    best = np.zeros(len(known))
    for states in layers:
        scores = np.full((len(states), len(known)), np.inf)  # an answer that does not count stands above all others
        good = np.zeros(scores.shape, dtype=bool)
        for column, (draw, values) in enumerate(zip(known, score(states), strict=True)):
            within = draw.sample.within_problem
            scores[draw.used, column] = relative(values, draw.sample.problems) if within else values
            good[draw.used, column] = draw.sample.good
        np.maximum(best, auc_columns(scores, good), out=best)
    every = np.full(len(draws), np.inf)
    every[[draw is not None for draw in draws]] = best
    return every


def p_value(best: Floats) -> float:
    """The share of draws, the first one included, that reach the first one."""
    return float(np.mean(best >= best[0]))


Score = Callable[[States], Iterable[Floats]]
"""States [N, D] of a layer -> for each draw, the held-out scores [n] of its answers."""


def _means(draws: Sequence[Draw]) -> Score:
    """Scores of mean_diff, all draws in two matrix products a layer."""

    rows = torch.from_numpy(np.concatenate([_fold_weights(draw) for draw in draws]))  # [P * FOLDS, N]

    def score(states: States) -> Iterable[Floats]:
        centred = torch.from_numpy(states - states.mean(axis=0))  # [N, D]
        units = torch.nn.functional.normalize(rows @ centred, dim=-1)  # [P * FOLDS, D]
        along = units @ centred.T  # [P * FOLDS, N]
        halfway = (rows.abs() * along).sum(dim=-1, keepdim=True) / 2
        return map(_own_folds, draws, (along - halfway).double().numpy().reshape(len(draws), FOLDS, -1))

    return score


def _fold_weights(draw: Draw) -> States:
    """What each answer counts in the vector of each fold, bad ones negative: [FOLDS, N] float32."""
    rows = np.zeros((FOLDS, len(draw.used)), dtype=np.float32)
    for row, seen in zip(rows, training()[:, draw.sample.blocks], strict=True):
        part = draw.sample.part(seen)
        row[draw.positions[seen]] = np.where(part.good, part.weights, -part.weights)
    return rows


def _own_folds(draw: Draw, along: Floats) -> Floats:
    """Of the scores [FOLDS, N] by all folds' vectors, each answer's by the vector that has not seen it: [n]."""
    return np.asarray(along[draw.sample.blocks % FOLDS, draw.positions])


def _fits(draws: Sequence[Draw], fit: Fit) -> Score:
    """Scores of a fitted method, FOLDS fits a draw and layer."""

    def score(states: States) -> Iterable[Floats]:
        return (fitted_scores(fit, states[draw.used], draw.sample) for draw in draws)

    return score
