"""Which problems of a split: seeded draws, the files that keep them, and ranges.

    write_subset(Path("subsets") / subset_name("openai/gsm8k", "test", 200), draw(1319, 200, seed=42))

A subset file has one index of the data set's split a line. This module knows indices and files; what a
problem says, or where a data set lies, it does not know.
"""

import random
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath

from als.errors import UserError
from als.files import write_text
from als.records import Problem

_INDEX = re.compile(r"[0-9]{1,12}")


def draw(population: int | Sequence[int], n_samples: int, seed: int) -> list[int]:
    """Draw indices without repetition, sorted.

    The same seed gives the same indices under every Python version: of the random generator only `random`
    is used, whose sequence Python promises to keep, and not `sample`, for which it promises nothing.

    Args:
        population: the indices to draw from, or how many there are, counted from 0.
        n_samples: how many to draw.
        seed: any whole number.
    """
    pool = list(range(population)) if isinstance(population, int) else sorted(set(population))
    if not 1 <= n_samples <= len(pool):
        raise UserError(
            f"--n_samples {n_samples!r} cannot be drawn from a split of {len(pool)} problems: "
            f"give a number from 1 to {len(pool)}"
        )
    rng = random.Random(seed)
    for place in range(n_samples):  # the first n_samples steps of a shuffle
        chosen = place + int(rng.random() * (len(pool) - place))
        pool[place], pool[chosen] = pool[chosen], pool[place]
    return sorted(pool[:n_samples])


def subset_name(dataset: str, split: str, n: int) -> str:
    """The file name of a subset: openai/gsm8k, test, 200 -> openai-gsm8k_test_200.txt."""
    parts = [part for part in PurePath(dataset).parts if part not in ("/", ".", "..", "~")]
    return f"{'-'.join(parts)}_{split}_{n}.txt"


def write_subset(path: Path, indices: Iterable[int]) -> None:
    """Write one index a line, whole or not at all; a file with other indices is left alone.

    Raises:
        UserError: the file exists and says something else, or cannot be written.
    """
    text = "".join(f"{index}\n" for index in indices)
    try:
        if path.exists():
            _check_same(path, text)
            return
        write_text(path, text)
    except OSError as error:
        raise UserError(
            f"the subset {str(path)!r} cannot be written ({error.strerror or error}): choose another folder"
        ) from error


def _check_same(path: Path, text: str) -> None:
    if path.read_bytes() != text.encode():
        raise UserError(
            f"the subset {str(path)!r} exists and holds other indices: choose another --output_dir, or "
            "remove that file if no run needs it any more"
        )


def read_subset(path: Path | str, *, allowed: Collection[int]) -> list[int]:
    """The indices of a subset file, in its order.

    Args:
        path: the file; blank lines in it do not count.
        allowed: the indices that the split has.

    Raises:
        UserError: no such file, nothing in it, or a line that is no index of the split or a repeated one.
    """
    path, known, first_at = Path(path).expanduser(), frozenset(allowed), dict[int, int]()
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        index = _index(line.strip(), f"{path} line {number}", known)
        if index in first_at:
            raise UserError(f"{path} line {number}: index {index} stands on line {first_at[index]} already: remove one")
        first_at[index] = number
    if not first_at:
        raise UserError(f"the subset {str(path)!r} is empty: one index a line is needed")
    return list(first_at)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"the subset {str(path)!r} is not text: one index a line is needed") from error
    except OSError as error:
        raise UserError(
            f"the subset {str(path)!r} cannot be read ({error.strerror or error}): make one with "
            "create_subsets.py, or give another --fixed_subset_path"
        ) from error


def _index(text: str, where: str, known: frozenset[int]) -> int:
    if not _INDEX.fullmatch(text):
        raise UserError(f"{where}: {text!r} is not a row number such as 17: correct that line")
    if int(text) not in known:
        raise UserError(f"{where}: index {text} is not in the split, which has {_span(known)}")
    return int(text)


def _span(indices: Collection[int]) -> str:
    return f"{len(indices)} problems, from {min(indices)} to {max(indices)}" if indices else "no problems"


def select(problems: Sequence[Problem], *, start: int, end: int | None, indices: Sequence[int] | None) -> list[Problem]:
    """The problems whose index lies in [start, end) and, where `indices` is given, among those.

    The order stays that of the data set. An end beyond the split means its end.
    """
    known = {problem.index for problem in problems}
    missing = sorted(set(indices or ()) - known)
    if missing:
        raise UserError(f"index {missing[0]} is not in the split, which has {_span(known)}: choose another")
    wanted = known if indices is None else set(indices)
    chosen = [
        problem
        for problem in problems
        if problem.index in wanted and start <= problem.index and (end is None or problem.index < end)
    ]
    if start < 0 or not chosen:
        raise UserError(
            f"--start_data_idx {start!r} and --end_data_idx {end!r} leave no problem to work on: the end is "
            f"exclusive, and {'the split' if indices is None else 'the chosen subset'} has {_span(wanted)}"
        )
    return chosen
