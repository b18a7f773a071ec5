"""Whether a vector deserves trust: do halves of the answers agree on it, and does it tell answers it has not seen?

    split-half cosine   of v from one half of the problems and v from the other, mean of 20 halvings
    held-out AUC        how often a good answer's h.v is above a bad one's; 5-fold cross-validation
    best AUC            the largest of these; its p-value comes from permuted labels, see `permutation`
    length correlation  of those held-out h.v with the answers' tokens

Estimate in, plain numbers and sentences out. Knows no file, and of methods only what they estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from als.estimation import Estimate, Sample
from als.folds import FOLDS, LEAST, SPLITS, Bools, Floats, relative
from als.roc import auc_interval

AGREE = 0.5
"""Split-half cosine below which there is a warning."""
LEVEL = 0.05
"""p-value above which the best AUC may be chance."""
DEFAULT_LAYER = -2
"""Where main steers unless told otherwise."""


Column = Sequence[float | None]
"""A number a layer; None where it cannot be known."""


@dataclass(frozen=True)
class Diagnostics:
    """Plain numbers, to be printed and stored beside the vector."""

    n_good: int
    n_bad: int
    n_problems: int
    tokens_good: float | None
    """Mean length of the good answers, by their weights; None where lengths are unknown."""
    tokens_bad: float | None
    v_norm: Column
    h_norm: Column
    """Mean |h| over the answers."""
    ratio: Column
    """|v| / mean |h|."""
    split_half_cosine: Column
    auc: Column
    auc_low: Column
    """Ends of the 95 % interval."""
    auc_high: Column
    length_correlation: Column
    """Pearson's, of held-out scores and completion tokens; within problems where the contrast is."""
    best_auc_layer: int | None
    best_auc_p: float | None
    """How often permuted labels give a best layer as good; None where that was not computed."""
    permutations: int

    def to_json(self) -> dict[str, Any]:
        """All of it, and what halves and folds were made."""
        return asdict(self) | {"splits": SPLITS, "folds": FOLDS}

    @property
    def judged_layers(self) -> list[int]:
        """The layers that warnings are about: that of the best AUC, and where steering adds unless told otherwise."""
        default = max(len(self.v_norm) + DEFAULT_LAYER, 0)
        return sorted({default} if self.best_auc_layer is None else {default, self.best_auc_layer})


def diagnose(
    sample: Sample,
    estimate: Estimate,
    lengths: Floats | None,
    *,
    best_auc_p: float | None = None,
    permutations: int = 0,
) -> Diagnostics:
    """Everything that can be told.

    Args:
        sample: the answers.
        estimate: the vector and the held-out scores.
        lengths: [N] tokens of each answer, where they are known.
        best_auc_p: of the best layer's AUC, where it was computed; see `permutation`.
        permutations: from how many.
    """
    v_norm = estimate.vector.norm(dim=-1).double().numpy()  # [L]
    h_norm = estimate.mean_state_norm.double().numpy()
    unknown = np.full(len(v_norm), np.nan)
    auc = low = high = correlation = unknown
    if estimate.scores is not None:
        scores = relative(estimate.scores, sample.problems) if sample.within_problem else estimate.scores
        auc, low, high = auc_interval(scores, sample.good, sample.problems)
        correlation = unknown if lengths is None else _length_correlation(sample, scores, lengths)
    return Diagnostics(
        n_good=int(sample.good.sum()),
        n_bad=int((~sample.good).sum()),
        n_problems=len(np.unique(sample.problems)),
        tokens_good=None if lengths is None else _mean_tokens(sample, sample.good, lengths),
        tokens_bad=None if lengths is None else _mean_tokens(sample, ~sample.good, lengths),
        v_norm=_column(v_norm),
        h_norm=_column(h_norm),
        ratio=_column(np.divide(v_norm, h_norm, out=unknown.copy(), where=h_norm > 0)),
        split_half_cosine=_column(unknown if estimate.split_half is None else estimate.split_half),
        auc=_column(auc),
        auc_low=_column(low),
        auc_high=_column(high),
        length_correlation=_column(correlation),
        best_auc_layer=None if estimate.scores is None else int(auc.argmax()),
        best_auc_p=best_auc_p,
        permutations=permutations,
    )


def _column(values: Floats) -> Column:
    return [float(value) if np.isfinite(value) else None for value in values]


def _mean_tokens(sample: Sample, side: Bools, lengths: Floats) -> float:
    return float(sample.weights[side] @ lengths[side])


def _length_correlation(sample: Sample, scores: Floats, lengths: Floats) -> Floats:
    """[L]; NaN where all lengths or all scores are the same."""
    tokens = relative(lengths, sample.problems) if sample.within_problem else lengths
    x, y = scores - scores.mean(axis=0), (tokens - tokens.mean())[:, None]
    product = np.sqrt((x**2).sum(axis=0) * (y**2).sum())
    correlation: Floats = np.full(len(product), np.nan)
    np.divide((x * y).sum(axis=0), product, out=correlation, where=product > 0)
    return correlation


def cautions(diagnostics: Diagnostics) -> list[str]:
    """A sentence for each reason to doubt the vector, at the layers that matter."""
    if diagnostics.best_auc_layer is None:
        return [
            f"fewer than {LEAST} problems with a good answer, or with a bad one: nothing tells whether the vector "
            "means anything; collect more examples"
        ]
    layers = diagnostics.judged_layers
    apart = [layer for layer in layers if (diagnostics.split_half_cosine[layer] or 0) < AGREE]
    chance = [layer for layer in layers if _may_be_chance(diagnostics, layer)]
    said = []
    if apart:
        cosines = ", ".join(f"{diagnostics.split_half_cosine[layer] or 0:.2f}" for layer in apart)
        said.append(
            f"two halves of the answers give vectors whose cosine is below {AGREE} {_at(apart)} ({cosines}): most of "
            "the vector is chance; collect more examples, or steer at another --layer_idx"
        )
    if chance:
        said.append(
            f"the vector does not tell held-out good answers from bad ones {_at(chance)}, where "
            f"{_why(diagnostics, chance)}; collect more examples, steer at another --layer_idx, or compare like with "
            "like by --match_length or --within_problem"
        )
    return said


def _chosen(diagnostics: Diagnostics, layer: int) -> bool:
    """Whether the layer was picked for its AUC and a p-value takes that into account."""
    return layer == diagnostics.best_auc_layer and diagnostics.best_auc_p is not None


def _may_be_chance(diagnostics: Diagnostics, layer: int) -> bool:
    """By the p-value of the maximum for the best layer, by the AUC's interval for a layer fixed beforehand."""
    if _chosen(diagnostics, layer):
        return (diagnostics.best_auc_p or 0) > LEVEL
    low, high = diagnostics.auc_low[layer], diagnostics.auc_high[layer]
    return low is None or high is None or low <= 0.5 <= high


def _why(diagnostics: Diagnostics, layers: Sequence[int]) -> str:
    reasons = ["AUC's interval includes 0.5"] if not all(_chosen(diagnostics, layer) for layer in layers) else []
    if any(_chosen(diagnostics, layer) for layer in layers):
        reasons.append(f"permuted labels reach the best AUC as well (p = {diagnostics.best_auc_p:.3f})")
    return " or ".join(reasons)


def _at(layers: Sequence[int]) -> str:
    return f"at layer{'s' if len(layers) > 1 else ''} {' and '.join(map(str, layers))}"
