"""What a benchmark is, and how its rows are read: from local files, a saved folder, or the hub.

It turns a place and a split into rows, each with words for where it came from, so that a bad row can be
named. It knows no single data set's columns (those are in the file of each data set), no prompt, no model.

Plain text formats are read here rather than by the `datasets` library, because that guesses column types
(a CSV gold of "007" would become 7), keeps a cache, and cannot say on which line a bad row is.
"""

import csv
import json
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from als.errors import UserError
from als.records import Problem

Row = Mapping[str, Any]
Located = tuple[str, Row]  # where the row is, in words for a message; the row

HUB_CHECK_SECONDS = 20  # the check's own timeout counts for each address of the hub; this bounds them all
SPLIT_LABELS = ("train", "test", "validation", "valid", "val", "dev")


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

    def names_of_split(self, split: str) -> tuple[str, ...]:
        """What a copy may call this split: the name asked for, then the one that it has on the hub."""
        source = self.sources.get(split)
        return (split,) if source is None else tuple(dict.fromkeys((split, source.split)))


def normalise(name: str) -> str:
    """Spell a name one way: case, '-' or '_', and a slash at the end make no difference."""
    return name.casefold().replace("-", "_").rstrip("/")


def split_label(stem: str) -> str | None:
    """The split that a file's name without its ending speaks of: "train", "gsm8k_test" -> "train", "test"."""
    last = normalise(stem).rsplit("_", 1)[-1]
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


# ------------------------------------------------------------------------------- which place, which way


def read_rows(benchmark: Benchmark, dataset: str, split: str) -> list[Located]:
    """All rows of a split: of the local path `dataset` if there is one, else of the hub.

    Raises:
        UserError: no such path, no such split, an unreadable file, a hub out of reach.
    """
    names = benchmark.names_of_split(split)
    if Path(dataset).expanduser().exists():
        return read_local(Path(dataset).expanduser(), names)
    if is_path(dataset):
        raise UserError(
            f"--dataset {dataset!r} does not exist: give an existing file or folder, or the id of a data set "
            "such as 'openai/gsm8k'"
        )
    source = benchmark.source(dataset.rstrip("/"), split)
    if Path(source.id).is_dir():
        return read_local(Path(source.id), names)
    return read_hub(source)


def is_path(dataset: str) -> bool:
    """Whether a name that is not there was meant as a path: hub ids are at most owner/name."""
    looks = dataset.startswith(("/", "./", "../", "~")) or dataset.rstrip("/").count("/") > 1
    return looks or Path(dataset).suffix.casefold() in READERS


def read_local(path: Path, names: Sequence[str]) -> list[Located]:
    """The rows of a split from a file, a folder with a file for each split, or a save_to_disk folder.

    Args:
        path: the file or folder, which exists.
        names: what the split may be called, the one asked for first.
    """
    if path.is_file():
        _check_label(path, names)
        return _read_file(path)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _read_saved(path, names)
    return _read_folder(path, names)


def _check_label(path: Path, names: Sequence[str]) -> None:
    label = split_label(path.stem)
    if label is not None and label not in names:
        raise UserError(
            f"--dataset {str(path)!r} is by its name the {label!r} split, but --split is {names[0]!r}: "
            f"give --split {label}, or another file"
        )


def _read_file(path: Path) -> list[Located]:
    reader = READERS.get(path.suffix.casefold())
    if reader is None:
        raise UserError(
            f"--dataset {str(path)!r} is not a kind of file that can be read: give one that ends in "
            f"{', '.join(READERS)}, or a folder written by save_to_disk"
        )
    try:
        return list(reader(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): save it again as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check the file") from error


def _read_folder(path: Path, names: Sequence[str]) -> list[Located]:
    files = sorted(file for file in path.iterdir() if file.suffix.casefold() in READERS)
    for name in names:
        matching = [file for file in files if file.stem == name]
        if len(matching) > 1:
            listed = ", ".join(file.name for file in matching)
            raise UserError(
                f"--dataset {str(path)!r} has {len(matching)} files for --split {name!r} ({listed}): "
                "give the one you mean as --dataset"
            )
        if matching:
            return _read_file(matching[0])
    raise UserError(
        unknown_split(names[0], f"the folder {str(path)!r}", dict.fromkeys(file.stem for file in files))
        + f" or put a file {names[0]}.jsonl, .json, .parquet or .csv there"
    )


# ------------------------------------------------------------------------------------------- file formats


def _read_json_lines(path: Path) -> Iterator[Located]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path} line {number}", _object(line, f"{path} line {number}")


def _object(text: str, where: str) -> Row:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}): each line has to be one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is {type(row).__name__}, not a JSON object with a key for each column")
    return row


def _read_json(path: Path) -> Iterator[Located]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _read_json_lines(path)  # many tools write JSON lines under this ending
        return
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): it has to be a list of objects") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path} row {number} is {type(row).__name__}, not a JSON object")
        yield f"{path} row {number}", row


def _read_csv(path: Path) -> Iterator[Located]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                where = f"{path} line {reader.line_num}"
                if None in row:
                    raise UserError(
                        f"{where} has more fields than the header names: put a field that holds commas in double quotes"
                    )
                yield where, row
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num} is not CSV ({error}): correct it") from error


def _read_parquet(path: Path) -> Iterator[Located]:
    import tempfile

    from datasets import Dataset

    with tempfile.TemporaryDirectory() as cache, _no_progress_bars():  # its own cache could serve an old file
        try:
            rows = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True).to_list()
        except Exception as error:  # its kind depends on the version of the library
            raise UserError(f"{path} cannot be read as parquet ({_first_line(error)}): check it") from error
    yield from _numbered(rows, str(path))


READERS: Mapping[str, Callable[[Path], Iterator[Located]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def _read_saved(path: Path, names: Sequence[str]) -> list[Located]:
    """The rows of a folder that `save_to_disk` wrote: several splits, or one with or without a name."""
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except Exception as error:  # its kind depends on what is broken
        raise UserError(
            f"the saved data set {str(path)!r} cannot be read ({_first_line(error)}): save it again"
        ) from error
    if not isinstance(saved, DatasetDict):
        saved = {str(saved.split or names[0]): saved}
    for name in names:
        if name in saved:
            return list(_numbered(saved[name].to_list(), f"{path} split {name}"))
    raise UserError(unknown_split(names[0], f"the saved data set {str(path)!r}", saved))


def _numbered(rows: Iterable[Row], place: str) -> Iterator[Located]:
    for number, row in enumerate(rows):
        yield f"{place} row {number}", row


# ---------------------------------------------------------------------------------------------- the hub


def read_hub(source: HubSource) -> list[Located]:
    """The rows of a split on the hub, or of the library's cache where the hub cannot be reached.

    Raises:
        UserError: neither has it; known after HUB_CHECK_SECONDS at the latest.
    """
    from datasets import load_dataset

    trouble = _hub_trouble(source.id)
    try:
        if trouble is None:
            rows = load_dataset(source.id, source.config, split=source.split)
        else:
            with _cache_only():
                rows = load_dataset(source.id, source.config, split=source.split)
    except Exception as error:  # its kind depends on the library's version and on what went wrong
        raise UserError(_unavailable(source, trouble or _first_line(error))) from error
    return list(_numbered(rows.to_list(), f"{source.id} split {source.split}"))


def _unavailable(source: HubSource, reason: str) -> str:
    return (
        f"data set {source.id!r} cannot be had from the hub ({reason}) and is not in the local cache: give "
        "--dataset a local copy (a folder written by save_to_disk, or one with "
        f"{source.split}.jsonl, .json, .parquet or .csv), put such a folder at ./{source.id}, "
        "or use --dataset arithmetic, which needs no network"
    )


def _hub_trouble(dataset_id: str) -> str | None:
    """Why the hub cannot give this data set; None if it can.

    The library itself would try five times and take 23 seconds where names do not resolve, and minutes
    where packets vanish. One question first, in a thread that is left behind when it takes too long.
    """
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(_ask_hub(dataset_id)), daemon=True)
    thread.start()
    thread.join(HUB_CHECK_SECONDS)
    return answers[0] if answers else f"it did not answer within {HUB_CHECK_SECONDS} seconds"


def _ask_hub(dataset_id: str) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().dataset_info(dataset_id, timeout=10)
    except OfflineModeIsEnabled:
        return "offline mode is on"
    except RepositoryNotFoundError:
        return "there is no data set of that id, or it is not open to you"
    except Exception as error:  # every way in which a network fails
        return f"it cannot be reached: {_first_line(error)}"
    return None


@contextmanager
def _cache_only() -> Iterator[None]:
    """Let the library look into its cache alone; it offers this as a setting of the process only."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
