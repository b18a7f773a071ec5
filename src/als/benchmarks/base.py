"""What a benchmark is, and how its rows become problems.

It knows no single data set's columns (those are in the file of each data set) and not where rows come from
(`sources`); it knows no prompt and no model.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from als.errors import UserError
from als.records import Problem

Row = Mapping[str, Any]
Located = tuple[str, Row]  # where the row is, in words for a message; the row

SPLIT_LABELS = ("train", "test", "validation", "valid", "val", "dev")
_PART = re.compile(r"_\d+_of_\d+(_[0-9a-f]+)?$")


class BadRow(Exception):
    """A row without what its benchmark needs; whoever knows where the row is makes a UserError of it."""


class NoGold(BadRow):
    """A row in order but for its empty answer: nobody can be judged by it, so it is left out."""


@dataclass(frozen=True)
class HubSource:
    """Where one split lies on the hub."""

    id: str
    config: str | None
    split: str


@dataclass(frozen=True)
class Benchmark:
    """One data set: what it is called, where it lies, how a row becomes a question and a gold answer."""

    name: str
    """What --benchmark takes."""
    family: Literal["number", "math"]
    """The form of its answers: a plain number, or any mathematical expression."""
    read_row: Callable[[Row], tuple[str, str]]
    """row -> (question, gold answer); raises BadRow, or NoGold to have the row left out."""
    ids: tuple[str, ...]
    """What --dataset may say to mean this data set from its usual place."""
    sources: Mapping[str, HubSource] = field(default_factory=dict)
    """That place, by split."""
    generate: Callable[[str], list[tuple[str, str]]] | None = None
    """For a data set that is made rather than read: split -> (question, gold answer) pairs."""
    generated_splits: tuple[str, ...] = ()
    train_comes_from_elsewhere: bool = False
    """The train split is another data set's, so what it shares with the test split has to be taken out."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that its usual place has."""
        return self.generated_splits or tuple(self.sources)

    def is_meant_by(self, dataset: str) -> bool:
        """Whether `dataset` is a name of this data set, and not a copy of it under another id."""
        return normalise(dataset) in map(normalise, self.ids)

    def source(self, dataset: str, split: str) -> HubSource:
        """Where on the hub `split` of `dataset` lies; another id than the usual ones means that id itself."""
        if not self.is_meant_by(dataset):
            return HubSource(dataset, None, split)
        self.check_split(split)
        return self.sources[split]

    def check_split(self, split: str) -> None:
        """Raise a UserError if the usual place has no such split."""
        if split not in self.splits:
            raise UserError(unknown_split(split, self.name, self.splits))

    def config_of_split(self, split: str) -> str | None:
        """Which of the hub repository's configurations a split is taken from; None where it has one only."""
        source = self.sources.get(split)
        return None if source is None else source.config

    def names_of_split(self, split: str) -> tuple[str, ...]:
        """What a copy may call this split: the name asked for, then the one that it has on the hub."""
        source = self.sources.get(split)
        return (split,) if source is None else tuple(dict.fromkeys((split, source.split)))


def normalise(name: str) -> str:
    """Spell a name one way: case, '-' or '_', and a slash at the end make no difference."""
    return name.casefold().replace("-", "_").rstrip("/")


def split_label(stem: str) -> str | None:
    """The split that a file's name without its ending speaks of: "train", "gsm8k_test" -> "train", "test".

    The number of a part, as in the hub's "test-00000-of-00001", is left out first.
    """
    last = _PART.sub("", normalise(stem)).rsplit("_", 1)[-1]
    return last if last in SPLIT_LABELS else None


def unknown_split(split: str, place: str, available: Iterable[str]) -> str:
    """The sentence for a split that is not there."""
    listed = ", ".join(available) or "none"
    return f"--split {split!r} is not in {place}, which has: {listed}; choose one of these"


# ------------------------------------------------------------------------------------------- columns


def text_column(row: Row, name: str, *, may_be_empty: bool = False) -> str:
    """The column as text, found by its name in any letter case.

    Raises:
        BadRow: the column is missing, empty, or neither text nor a number.
    """
    value = row[_column(row, name)]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 18.0 is how some tools write the answer 18
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"has {value!r} in column {name!r} where text or a number is needed")
    if not may_be_empty and not str(value).strip():
        raise BadRow(f"has nothing in column {name!r}")
    return str(value)


def has_column(row: Row, name: str) -> bool:
    """Whether the row has something in that column."""
    return any(key.casefold() == name.casefold() and row[key] is not None for key in row)


def _column(row: Row, name: str) -> str:
    if name in row:
        return name
    for key in row:
        if key.casefold() == name.casefold():
            return key
    raise BadRow(f"has no column {name!r}; its columns are: {', '.join(map(repr, row)) or 'none'}")


def problems_of(benchmark: Benchmark, rows: Iterable[Located]) -> list[Problem]:
    """Read every row; its place in the split becomes the index.

    Rows with an empty gold answer are left out with a warning, and their index with them.

    Raises:
        UserError: a row lacks what the benchmark needs; the sentence says where the row is.
    """
    problems, without_gold = [], list[str]()
    for index, (where, row) in enumerate(rows):
        try:
            question, gold = benchmark.read_row(row)
        except NoGold:
            without_gold.append(where)
            continue
        except BadRow as error:
            raise UserError(
                f"{where} {error}: correct that row, or name the benchmark it belongs to with --benchmark"
            ) from error
        problems.append(Problem(index=index, question=question, gold=gold))
    if without_gold:
        warnings.warn(
            f"rows left out, as their answer is empty: {len(without_gold)}, the first is {without_gold[0]}",
            stacklevel=3,
        )
    return problems
