"""From state files to an estimate: which answers are contrasted, as the options of phase 2 say, and by which method.

    contrast = Contrast(method="mean_diff", match_length=True)
    files, sample = choose(contrast, find_states(folder), seed=42)
    estimate = make_estimate(contrast, files, sample, seed=42)

The arithmetic is in `estimation`; this module knows what lies in a folder of states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from als.errors import UserError
from als.estimation import FITS, Estimate, Sample, contrast_weights, ema_weights, estimate_by_fits, estimate_by_means
from als.folds import LEAST, Bools, Floats, Ints, deal, is_enough
from als.states import StateFile, all_states, read_states, read_states_again


@dataclass(frozen=True)
class Contrast:
    """How good answers are contrasted with bad ones; the fields are the flags of compute_steering_vector."""

    method: str = "mean_diff"
    averaging_method: str = "mean"
    ema_beta: float = 0.9
    match_length: bool = False
    within_problem: bool = False

    @classmethod
    def of_vector(cls, metadata: Mapping[str, Any]) -> Contrast:
        """How a vector was made, as its file says; what the file does not say was the default.

        Raises:
            UserError: in a way that is not known.
        """
        known = {field.name: metadata.get(field.name) for field in fields(cls)}
        contrast = cls(**{name: value for name, value in known.items() if value is not None})
        if contrast.method not in ("mean_diff", *FITS) or contrast.averaging_method not in ("mean", "ema"):
            raise UserError(
                f"the vector's file says it was made by --method {contrast.method!r} with --averaging_method "
                f"{contrast.averaging_method!r}, which this version does not know; make the vector again"
            )
        return contrast

    def weights(self, good: Bools, problems: Ints, tokens: Floats | None) -> Floats:
        """[N] how much each answer counts; see `estimation`."""
        if self.averaging_method == "ema":
            return ema_weights(good, self.ema_beta)
        groups = problems if self.within_problem else np.zeros_like(problems)
        return contrast_weights(good, groups, tokens if self.match_length else None)


def choose(
    contrast: Contrast, found: Sequence[StateFile], *, seed: int, shuffled: int | None = None
) -> tuple[list[StateFile], Sample]:
    """The files that count, and how much.

    Args:
        contrast: how.
        found: state files, in the order of indices.
        seed: by which problems are dealt to halves and folds.
        shuffled: the seed by which labels are dealt out anew, within problems where those are contrasted; None for
            the labels that the answers have.

    Raises:
        UserError: nothing is left, or what decides it is not known.
    """
    good = np.array([file.label == "good" for file in found])
    problems, tokens = problem_numbers(found), lengths(found)
    for name in ("match_length", "within_problem"):
        if getattr(contrast, name) and tokens is None:
            raise UserError(
                f"--{name} needs to know the answers, and no examples.jsonl lies beside the states; "
                "give the folder that collect_states made, or leave it out"
            )
    if shuffled is not None:
        good = shuffle_labels(good, problems, within_problem=contrast.within_problem, seed=shuffled)
    used, sample = select(contrast, good, problems, tokens, seed=seed)
    if sample is None:
        raise _nothing_left(contrast, good)
    return [file for file, counts in zip(found, used, strict=True) if counts], sample


def select(
    contrast: Contrast, good: Bools, problems: Ints, tokens: Floats | None, *, seed: int
) -> tuple[Bools, Sample | None]:
    """Which of N answers count, [N], and those that do; None where none does."""
    weights = contrast.weights(good, problems, tokens)
    used = weights > 0
    if not used.any():
        return used, None
    good, problems = good[used], problems[used]
    blocks = deal(good, problems, seed=seed)
    return used, Sample(good, problems, blocks, weights[used], contrast.within_problem)


def shuffle_labels(good: Bools, problems: Ints, *, within_problem: bool, seed: int | Sequence[int]) -> Bools:
    """Labels dealt out at random: [N].

    What is alike stays alike: a problem's labels move together, to a problem with equally many answers, so that easy
    problems are still good all over. Within problems, labels change places among a problem's answers instead.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(problems == problem) for problem in np.unique(problems)]
    dealt = good.copy()
    if within_problem:
        for own in members:
            dealt[own] = generator.permutation(good[own])
        return dealt
    for answers in {len(own) for own in members}:
        rows = np.array([own for own in members if len(own) == answers])  # [problems, answers]
        dealt[rows] = good[generator.permutation(rows)]
    return dealt


def _nothing_left(contrast: Contrast, good: Bools) -> UserError:
    given = [f"--{name}" for name in ("match_length", "within_problem") if getattr(contrast, name)]
    advice = {
        "--match_length": "collect more examples, or leave it out",
        "--within_problem": "collect states with --samples_per_problem 4 or more, or leave it out",
    }
    return UserError(
        f"{' '.join(given)} leaves none of {int(good.sum())} good and {int((~good).sum())} bad answers: no two of them "
        f"can be compared; {advice[given[-1]]}"
    )


def problem_numbers(files: Sequence[StateFile]) -> Ints:
    """[N] number of each answer's problem; without examples.jsonl each answer counts as one."""
    names = [file.line.problem_hash if file.line else str(file.index) for file in files]
    return np.unique(names, return_inverse=True)[1]


def lengths(files: Sequence[StateFile]) -> Floats | None:
    """[N] tokens of each answer; None without examples.jsonl."""
    tokens = [file.line.completion_tokens for file in files if file.line]
    return np.array(tokens, dtype=np.float64) if len(tokens) == len(files) else None


def make_estimate(
    contrast: Contrast, files: Sequence[StateFile], sample: Sample, *, seed: int, checked: bool = True
) -> Estimate:
    """The vector by the method, in one pass over the files and another to check it, or with all states in memory.

    Args:
        contrast: how.
        files: those that count.
        sample: how much.
        seed: of the halvings.
        checked: whether to make what diagnostics need, which takes most of the time.
    """
    if contrast.method == "mean_diff":
        first, again = (partial(_in_order, files, read) for read in (read_states, read_states_again))
        return estimate_by_means(sample, first, again, seed=seed, checked=checked)
    _check_enough(contrast.method, sample)
    bar = partial(tqdm, desc=contrast.method, unit="layer", disable=not checked)
    states = all_states(files)
    return estimate_by_fits(sample, states, FITS[contrast.method], seed=seed, progress=bar, checked=checked)


def _in_order(
    files: Sequence[StateFile], read: Callable[[Sequence[StateFile]], Iterator[Tensor]], order: Ints
) -> Iterator[Tensor]:
    return read([files[i] for i in order])


def _check_enough(method: str, sample: Sample) -> None:
    """Raise a UserError where a fit would be to a handful of answers."""
    if not is_enough(sample.good, sample.problems):
        raise UserError(
            f"--method {method} needs answers to at least {LEAST} problems of each label, and there are "
            f"{int(sample.good.sum())} good and {int((~sample.good).sum())} bad answers; collect more examples, or "
            "take --method mean_diff"
        )
