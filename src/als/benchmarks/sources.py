"""Where rows come from: a local file, a folder, a save_to_disk folder, a local copy of a hub repository, or the hub.

It turns a place and a split into rows, each with words for where it came from, so that a bad row can be named.
It knows no data set's columns.

Plain text formats are read here rather than by the `datasets` library, because that guesses column types
(a CSV gold of "007" would become 7), keeps a cache, and cannot say on which line a bad row is.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from als.benchmarks.base import Benchmark, HubSource, Located, Row, split_label, unknown_split
from als.errors import UserError
from als.hub import first_line, hub_trouble


def read_rows(benchmark: Benchmark, dataset: str, split: str) -> list[Located]:
    """All rows of a split: of the local path `dataset` if there is one, else of the hub.

    Raises:
        UserError: no such path, no such split, an unreadable file, a hub out of reach.
    """
    names, config = benchmark.names_of_split(split), benchmark.config_of_split(split)
    if Path(dataset).expanduser().exists():
        return read_local(Path(dataset).expanduser(), names, config)
    if is_path(dataset):
        raise UserError(
            f"--dataset {dataset!r} does not exist: give an existing file or folder, or the id of a data set "
            "such as 'openai/gsm8k'"
        )
    source = benchmark.source(dataset.rstrip("/"), split)
    if Path(source.id).is_dir():
        return read_local(Path(source.id), names, config)
    return read_hub(source)


def is_path(dataset: str) -> bool:
    """Whether a name that is not there was meant as a path: hub ids are at most owner/name."""
    looks = dataset.startswith(("/", "./", "../", "~")) or dataset.rstrip("/").count("/") > 1
    return looks or Path(dataset).suffix.casefold() in READERS


def read_local(path: Path, names: Sequence[str], config: str | None) -> list[Located]:
    """The rows of a split from a file, a folder with a file for each split, a save_to_disk folder, or a hub copy.

    Args:
        path: the file or folder, which exists.
        names: what the split may be called, the one asked for first.
        config: which configuration of a hub copy that has several.
    """
    if path.is_file():
        _check_label(path, names)
        return _read_file(path)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _read_saved(path, names)
    return _read_folder(path, names, config)


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


def _read_folder(path: Path, names: Sequence[str], config: str | None) -> list[Located]:
    files = sorted(file for file in path.iterdir() if file.suffix.casefold() in READERS)
    for name in names:
        matching = [file for file in files if file.stem == name]
        if len(matching) > 1:
            raise UserError(_several_files(path, name, matching))
        if matching:
            return _read_file(matching[0])
    if config is not None and (path / config).is_dir():
        return _read_folder(path / config, names, None)
    return _read_hub_copy(path, names, config, stems=[file.stem for file in files])


def _read_hub_copy(path: Path, names: Sequence[str], config: str | None, *, stems: Sequence[str]) -> list[Located]:
    """The rows of a split from a folder laid out as a hub repository, with one or several files a split."""
    splits = _split_files(path, config)
    for name in names:
        if name in splits:
            _check_parts(path, name, splits[name])
            return [row for file in splits[name] for row in _read_file(file)]
    raise UserError(
        unknown_split(names[0], f"the folder {str(path)!r}", sorted(splits) or stems)
        + f" or put a file {names[0]}.jsonl, .json, .parquet or .csv there"
    )


def _split_files(path: Path, config: str | None) -> dict[str, list[Path]]:
    """split -> its files, by the rules of the `datasets` library: names of files and folders, or the README's list."""
    import tempfile

    from datasets import get_dataset_config_names, load_dataset_builder

    with tempfile.TemporaryDirectory() as cache:
        try:
            known = get_dataset_config_names(str(path), cache_dir=cache)
            builder = load_dataset_builder(str(path), config if config in known else None, cache_dir=cache)
        except FileNotFoundError:  # no file of a kind that it reads
            return {}
        except Exception as error:  # its kind depends on what is wrong, and on the library's version
            raise UserError(
                f"the files of the folder {str(path)!r} cannot be told apart ({first_line(error)}): "
                "give the file or the sub-folder that you mean as --dataset"
            ) from error
    return {str(split): [Path(file) for file in files] for split, files in (builder.config.data_files or {}).items()}


def _check_parts(path: Path, split: str, files: Sequence[Path]) -> None:
    """Refuse files that are not the parts of one whole, as in test-00000-of-00002 and test-00001-of-00002."""
    wholes = {(file.parent, re.sub(r"\d+(-of-\d+)?(-[0-9a-f]+)?$", r"\1", file.stem)) for file in files}
    if len(wholes) > 1:
        raise UserError(_several_files(path, split, files))
    of = re.search(r"-of-(\d+)$", wholes.pop()[1])
    if of and len(files) != int(of[1]):
        raise UserError(
            f"--dataset {str(path)!r} has {len(files)} of {int(of[1])} parts of --split {split!r}: get the others too"
        )


def _several_files(path: Path, split: str, files: Sequence[Path]) -> str:
    shown = [file.name if file.parent == path else f"{file.parent.name}/{file.name}" for file in files[:5]]
    listed = ", ".join(shown + ["..."] * (len(files) > 5))
    return (
        f"--dataset {str(path)!r} has {len(files)} files for --split {split!r} ({listed}): "
        "give the one you mean as --dataset"
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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({_reason(error)}): each line has to be one JSON object") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is {type(row).__name__}, not a JSON object with a key for each column")
    return row


def _reason(error: Exception) -> str:
    return "its brackets are nested too deeply" if isinstance(error, RecursionError) else str(error)


def _read_json(path: Path) -> Iterator[Located]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _read_json_lines(path)  # many tools write JSON lines under this ending
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({_reason(error)}): it has to be a list of objects") from error
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
            raise UserError(f"{path} cannot be read as parquet ({first_line(error)}): check it") from error
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
            f"the saved data set {str(path)!r} cannot be read ({first_line(error)}): save it again"
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
        UserError: neither has it; known after hub.SECONDS at the latest.
    """
    from datasets import load_dataset

    trouble = hub_trouble(source.id, kind="dataset")
    try:
        if trouble is None:
            rows = load_dataset(source.id, source.config, split=source.split)
        else:
            with _cache_only():
                rows = load_dataset(source.id, source.config, split=source.split)
    except Exception as error:  # its kind depends on the library's version and on what went wrong
        raise UserError(_unavailable(source, trouble or first_line(error))) from error
    return list(_numbered(rows.to_list(), f"{source.id} split {source.split}"))


def _unavailable(source: HubSource, reason: str) -> str:
    return (
        f"data set {source.id!r} cannot be had from the hub ({reason}) and is not in the local cache: give "
        "--dataset a local copy (a folder written by save_to_disk, or one with "
        f"{source.split}.jsonl, .json, .parquet or .csv), put such a folder at ./{source.id}, "
        "or use --dataset arithmetic, which needs no network"
    )


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
