"""Do the labels good and bad agree with what is right and wrong? A 2 x 2 table, balanced accuracy, Cohen's kappa.

    kappa = (p_o - p_e) / (1 - p_e)        p_o: share of answers on which both agree; p_e: by chance (Cohen 1960)

0 is what labels give that know nothing of correctness, 1 is full agreement. Problems, not answers, are resampled for
the interval, because answers to one problem are alike. Results lines in, plain numbers and sentences out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from als.records import ResultLine
from als.stats import markdown_table

LEAST = 20
"""Examples of a label below which there is a warning."""
RESAMPLES = 10_000

Counts = npt.NDArray[np.int64]
"""[..., 4]: good and right, good and wrong, bad and right, bad and wrong."""


@dataclass(frozen=True)
class Agreement:
    """Labels against correctness."""

    good_right: int
    good_wrong: int
    bad_right: int
    bad_wrong: int
    balanced_accuracy: float | None
    """Mean of the shares of right answers labelled good and of wrong ones labelled bad; None without both."""
    kappa: float
    kappa_low: float
    """Ends of the 95 % bootstrap interval."""
    kappa_high: float


@dataclass(frozen=True)
class Labels:
    """How many answers have each label, and how these agree with correctness."""

    good: int
    bad: int
    agreement: Agreement | None
    """None where labels are correctness itself (--label_by answer)."""

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def describe_labels(lines: Sequence[ResultLine]) -> Labels | None:
    """Count the labels of examples; None where no line has a label. Failures are passed over."""
    labelled = [line for line in lines if "label" in line.details]
    if not labelled:
        return None
    good = sum(line.details["label"] == "good" for line in labelled)
    by_verifiers = any("verdicts" in line.details for line in labelled)
    return Labels(good, len(labelled) - good, _agreement(labelled) if by_verifiers else None)


def _agreement(lines: Sequence[ResultLine]) -> Agreement:
    problems = np.unique([line.problem_hash for line in lines], return_inverse=True)[1]
    cells = [2 * (line.details["label"] != "good") + (not line.correct) for line in lines]
    counts: Counts = np.zeros((problems.max() + 1, 4), dtype=np.int64)  # [problems, 4]
    np.add.at(counts, (problems, cells), 1)
    table = counts.sum(axis=0)
    low, high = kappa_interval(counts)
    good_right, good_wrong, bad_right, bad_wrong = map(int, table)
    measures = (balanced_accuracy(table), float(kappa(table)), low, high)
    return Agreement(good_right, good_wrong, bad_right, bad_wrong, *measures)


def kappa(tables: Counts) -> npt.NDArray[np.float64]:
    """Cohen's kappa of each table [..., 4]; 0 where either side has one value only, which tells nothing."""
    a, b, c, d = np.moveaxis(np.asarray(tables, dtype=np.float64), -1, 0)
    n = a + b + c + d
    by_chance = ((a + b) * (a + c) + (c + d) * (b + d)) / n**2
    spread = 1 - by_chance
    varied = spread > 0
    return np.where(varied, ((a + d) / n - by_chance) / np.where(varied, spread, 1), 0.0)


def kappa_interval(counts: Counts, *, seed: int = 42) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of kappa, resampling problems.

    Half an answer is added to each cell, as Agresti and Coull add to shares: an empty cell stays empty in every plain
    resample. In simulations of 32 answers, 7 % of them labelled bad, plain intervals held kappa in 58 %, these in 99 %.

    Args:
        counts: [problems, 4].
        seed: of the resampling.
    """
    kinds, times = np.unique(np.concatenate((counts, np.eye(4, dtype=np.int64))), axis=0, return_counts=True)
    shares = times - 0.5 * (kinds.sum(axis=1) == 1)  # the four added answers count half each
    drawn = np.random.default_rng(seed).multinomial(len(counts), shares / shares.sum(), size=RESAMPLES)
    low, high = np.quantile(kappa(drawn @ kinds), (0.025, 0.975))
    return float(low), float(high)


def balanced_accuracy(table: Counts) -> float | None:
    """Mean of the share of right answers labelled good and the share of wrong ones labelled bad."""
    good_right, good_wrong, bad_right, bad_wrong = map(int, table)
    right, wrong = good_right + bad_right, good_wrong + bad_wrong
    return (good_right / right + bad_wrong / wrong) / 2 if right and wrong else None


def report(labels: Labels) -> str:
    """The table and the two measures; an empty text where labels are correctness itself."""
    found = labels.agreement
    if found is None:
        return ""
    rows = [
        ("good", str(found.good_right), str(found.good_wrong)),
        ("bad", str(found.bad_right), str(found.bad_wrong)),
    ]
    accuracy = "unknown" if found.balanced_accuracy is None else f"{found.balanced_accuracy:.2f}"
    measures = f"balanced accuracy {accuracy}, Cohen's kappa {_kappa_text(found)}, of labels against correctness"
    return f"{markdown_table(('label', 'right', 'wrong'), rows)}\n{measures}"


def _kappa_text(found: Agreement) -> str:
    return f"{found.kappa:.2f} [{found.kappa_low:.2f}, {found.kappa_high:.2f}]"


def label_cautions(labels: Labels) -> list[str]:
    """A sentence for each reason not to trust the labels."""
    said = []
    if labels.agreement is not None and labels.agreement.kappa_low <= 0:
        said.append(
            f"the labels do not agree with correctness beyond chance (Cohen's kappa {_kappa_text(labels.agreement)}): "
            "collect with --label_by answer, another --good_example_threshold, or a stronger model as "
            "--verifier_model_name_or_path"
        )
    few = [f"{n} {name}" for name, n in (("good", labels.good), ("bad", labels.bad)) if n < LEAST]
    if few:
        said.append(f"only {' and '.join(few)} examples: collect more, at least {LEAST} of each label")
    return said
