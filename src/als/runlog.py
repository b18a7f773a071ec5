"""A run's folder: its configuration, a line a problem, and what is derived from the lines.

    config.json       first; what was run. A folder belongs to one configuration
    results.jsonl     appended and flushed, a line a problem
    logistics.pt      {"results_history": [bool], "time_history": [seconds]} in the order of the data set
    summary.json      last: its presence means that the run is done

State folders of phase 1 keep their lines the same way, under the name examples.jsonl. This module knows
records and files; it knows no model and no mode.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from als.errors import UserError
from als.files import write_json, write_pt, write_text
from als.records import ResultLine

RESULTS = "results.jsonl"
CONFIG = "config.json"
SUMMARY = "summary.json"
LOGISTICS = "logistics.pt"

AVERAGED_DETAILS = ("steered_fraction", "mean_cosine", "json_valid", "steps", "updated_tokens", "without_verdict")

Json = dict[str, Any]


def config_hash(config: Mapping[str, Any]) -> str:
    """Identify a configuration: 16 hex digits, blind to the order of its fields."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


class RunFolder:
    """Append lines, resume from lines, derive the rest. Use it as a context manager; it closes the file."""

    def __init__(self, path: Path, *, lines_name: str = RESULTS) -> None:
        self.path = path
        self.lines_path = path / lines_name
        self.lines: list[ResultLine] = []
        self._file: IO[str] | None = None

    def open(self, config: Json, *, resume: bool = False, overwrite: bool = False) -> RunFolder:
        """Make the folder ready for appending.

        Args:
            config: what identifies the run, as JSON. The range of problems is not part of it, so that a
                resumed run may be wider.
            resume: go on from the lines that are there.
            overwrite: move a folder with results aside to `<folder>.<n>`; nothing is ever deleted.

        Raises:
            UserError: the folder has results and neither was asked for, belongs to another configuration, or
                cannot be written.
        """
        config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists
        self.refuse_if_started(resume=resume, overwrite=overwrite)
        try:
            if overwrite and self.started():
                self.path.rename(_free_name(self.path))
            if (self.path / CONFIG).exists():
                self._check_same(config)
            else:
                write_json(self.path / CONFIG, config)
            self.lines = read_lines(self.lines_path, repair=True) if self.lines_path.exists() else []
            self._file = self.lines_path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise UserError(
                f"output folder {str(self.path)!r} cannot be written ({error.strerror}); "
                "give another --output_dir or free that one"
            ) from error
        return self

    def started(self) -> bool:
        """Whether the folder holds results of an earlier run."""
        return self.lines_path.exists() and self.lines_path.stat().st_size > 0

    def refuse_if_started(self, *, resume: bool, overwrite: bool) -> None:
        """Stop where results lie that nobody said what to do with."""
        if self.started() and not (resume or overwrite):
            raise UserError(
                f"{str(self.path)!r} already holds results; add --resume to continue them, --overwrite to move "
                "them aside, or --run_name to write elsewhere"
            )

    def done(self) -> set[int]:
        """Indices of the problems that have a line."""
        return {line.index for line in self.lines}

    def append(self, line: ResultLine) -> None:
        """Write one line; it is handed to the operating system before this returns."""
        assert self._file is not None, "open() comes first"
        self._file.write(_as_text(line))
        self._file.flush()
        self.lines.append(line)

    def keep(self, wanted: Callable[[ResultLine], bool]) -> None:
        """Forget lines, on disk too, e.g. those whose state file is missing."""
        kept = [line for line in self.lines if wanted(line)]
        if len(kept) < len(self.lines):
            assert self._file is not None, "open() comes first"
            self._file.close()
            write_text(self.lines_path, "".join(map(_as_text, kept)))
            self._file = self.lines_path.open("a", encoding="utf-8", newline="\n")
            self.lines = kept

    def write_logistics(self) -> None:
        """Derive logistics.pt from the lines, replacing an older one."""
        ordered = sorted(self.lines, key=lambda line: line.index)
        log = {
            "results_history": [line.correct for line in ordered],
            "time_history": [line.seconds for line in ordered],
        }
        write_pt(self.path / LOGISTICS, log)

    def finish(self, indices: set[int]) -> Json:
        """Write logistics.pt and then summary.json over the problems of this run.

        Args:
            indices: the problems that were asked for; lines of others are of a wider, earlier run.
        """
        self.write_logistics()
        config = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        summary = summarise([line for line in self.lines if line.index in indices])
        summary |= {"config_hash": config_hash(config)}
        write_json(self.path / SUMMARY, summary)
        return summary

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _check_same(self, config: Json) -> None:
        then = read_json(self.path / CONFIG)
        differing = sorted(name for name in then.keys() | config.keys() if then.get(name) != config.get(name))
        if differing:
            fields = "; ".join(f"{name}: then {then.get(name)!r}, now {config.get(name)!r}" for name in differing)
            raise UserError(
                f"{str(self.path)!r} belongs to another configuration ({fields}); give the same options again, "
                "--overwrite to move it aside, or --run_name to write elsewhere"
            )


def summarise(lines: Sequence[ResultLine]) -> Json:
    """What summary.json says of a run's lines; means are per problem."""
    n = len(lines)
    tokens = sum(line.completion_tokens for line in lines)
    seconds = sum(line.seconds for line in lines)
    summary: Json = {
        "n": n,
        "correct": sum(line.correct for line in lines),
        "accuracy": sum(line.correct for line in lines) / n if n else None,
        "answered": sum(line.answer is not None for line in lines) / n if n else None,
        "completion_tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
    }
    return summary | _mean_details(lines)


def _mean_details(lines: Sequence[ResultLine]) -> Json:
    """Means of what only some modes record; a share where it is true or false."""
    columns = {name: [line.details.get(name) for line in lines] for name in AVERAGED_DETAILS}
    rewards = [line.details["rewards"] for line in lines if line.details.get("rewards")]
    columns |= {"first_reward": [tried[0] for tried in rewards], "last_reward": [tried[-1] for tried in rewards]}
    present = {name: [value for value in column if value is not None] for name, column in columns.items()}
    return {name: sum(values) / len(values) for name, values in present.items() if values}


def read_lines(path: Path, *, repair: bool = False) -> list[ResultLine]:
    """Read results.jsonl or examples.jsonl; where an index stands twice, its last line counts.

    Args:
        path: the file.
        repair: cut off a last line that a killed process left unfinished; otherwise it is only passed over.

    Raises:
        UserError: an unreadable line that is not the last one.
    """
    content = path.read_bytes()
    whole, _, torn = content.rpartition(b"\n")
    lines: dict[int, ResultLine] = {}
    for number, text in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            line = ResultLine.from_json(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}, line {number}: not a results line ({error}); delete that line and use --resume"
            ) from error
        lines[line.index] = line
    if torn and repair:
        warnings.warn(f"{path}: dropped an unfinished last line of {len(torn)} bytes", stacklevel=3)
        with path.open("r+b") as file:
            file.truncate(len(content) - len(torn))
    return list(lines.values())


def read_json(path: Path) -> Json:
    """Read a JSON object that this toolkit wrote.

    Raises:
        UserError: missing, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read as JSON ({error}); restore it or start a new run") from error
    if not isinstance(value, dict):
        raise UserError(f"{str(path)!r} holds {type(value).__name__}, not a JSON object; restore it or start a new run")
    return value


def _as_text(line: ResultLine) -> str:
    """One line of the file, in ASCII: a model's text may hold half a surrogate pair, which UTF-8 cannot."""
    return json.dumps(line.to_json()) + "\n"


def _free_name(path: Path) -> Path:
    """The first of <path>.1, <path>.2, ... that is not taken."""
    number = 1
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return free
