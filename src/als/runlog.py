"""A run's folder: its configuration, a line a problem, and what is derived from the lines.

    config.json       first; what was run. A folder belongs to one configuration
    environment.json  on what it was run, an entry for each process; see `environment`
    results.jsonl     appended and flushed, a line a problem; results.<k>of<n>.jsonl where n processes share a run
    logistics.pt      {"results_history": [bool], "time_history": [seconds]} in the order of the data set
    summary.json      last: its presence means that the run is done; it covers every line in the folder

State folders of phase 1 keep their lines the same way, under the name examples.jsonl. This module knows
records and files; it knows no model and no mode.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from als.environment import Entry, add_entry, end_entry, environments_of, read_entries
from als.errors import UserError
from als.files import write_json, write_pt
from als.prompts.solver import BOXED_IDX, JSON_IDX
from als.records import Problem, ResultLine

RESULTS = "results"
CONFIG = "config.json"
SUMMARY = "summary.json"
LOGISTICS = "logistics.pt"
LOCK = ".lock"
AVERAGED_DETAILS = (
    "steered_fraction",
    "mean_cosine",
    "mean_relative_dose",
    "repetition",
    "json_valid",
    "steps",
    "updated_tokens",
    "without_verdict",
)

TEMPLATE_HASH = "chat_template_hash"
"""Field of config.json that says which chat template made the prompts; older folders lack it."""

ASKED_RULES = {BOXED_IDX: "boxed", JSON_IDX: "json"}
"""The extraction rule of the form that each prompt asks for."""

LATER_FIELDS = {"engine": "transformers", "judge": "als"}
"""Fields of config.json that the oldest folders lack, and what held for those."""
VECTOR_MADE_WITH = "vector_made_with"
"""Field of config.json: in what the vector's prompt and data set differ from the run's; absent where in nothing.

It follows from the other fields, so a folder of an earlier version, which lacks it, is the same run.
"""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What flock says where the file system has no locks."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One process's share of a run: every `count`-th problem from `index` on."""

    index: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Whether this share is the whole."""
        return self.count == 1

    def lines_name(self, stem: str) -> str:
        """The lines file that this process writes."""
        return f"{stem}.jsonl" if self.alone else f"{stem}.{self.index + 1}of{self.count}.jsonl"

    def share(self, problems: Sequence[Problem]) -> list[Problem]:
        """This process's problems."""
        return list(problems[self.index :: self.count])


def config_hash(config: Mapping[str, Any]) -> str:
    """Identify a configuration: 16 hex digits, blind to the order of its fields."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


class RunFolder:
    """Append lines, resume from lines, derive the rest. `open` it as a context manager.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, *, stem: str = RESULTS, shard: Shard | None = None) -> None:
        self.path = path
        self._lines: dict[int, ResultLine] = {}
        self._stem = stem
        self._shard = shard or Shard()
        self._own = path / self._shard.lines_name(stem)
        self._file: IO[bytes] | None = None
        self._held = ExitStack()
        self._entry: str | None = None

    def open(self, config: Json, *, resume: bool = False, overwrite: bool = False, goes_on: bool = True) -> RunFolder:
        """Make the folder ready for appending.

        Args:
            config: what identifies the run, as JSON. The range of problems is not part of it, so that a
                resumed run may be wider.
            resume: go on from the lines that are there.
            overwrite: move a folder with results aside to `<folder>.<n>`; nothing is ever deleted.
            goes_on: whether lines are to follow now; otherwise a summary stays, which says that the run is done.

        Raises:
            UserError: the folder has results and neither was asked for, belongs to another configuration, is
                in use by another process, or cannot be written.
        """
        config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists
        self.refuse_if_started(resume=resume, overwrite=overwrite)
        try:
            if overwrite and self._holds_anything():
                with self._lock(self.path / LOCK, fcntl.LOCK_EX):
                    self.path.rename(_free_name(self.path))
            self.path.mkdir(parents=True, exist_ok=True)
            # Processes with shares of one run get along; one that does all of it tolerates nobody.
            kind = fcntl.LOCK_EX if self._shard.alone else fcntl.LOCK_SH
            self._held.enter_context(self._lock(self.path / LOCK, kind))
            write_json(self.path / CONFIG, config, replace=False)  # processes may start together
            self._check_same(config)
            if goes_on:
                self.begin()
            self._file = self._held.enter_context(self._own.open("ab", buffering=0))
            _flock(self._file, fcntl.LOCK_EX, self._own)
            _drop_torn_line(self._own)
            self._lines = _by_index(self._read_lines())
        except OSError as error:
            self.close()
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(
                f"output folder {str(self.path)!r} cannot be written ({error.strerror}); "
                "give another --output_dir or free that one"
            ) from error
        except UserError:
            self.close()
            raise
        return self

    def started(self) -> bool:
        """Whether the folder holds results of an earlier run; processes that share this run do not count."""
        theirs = set() if self._shard.alone else set(self.path.glob(f"{self._stem}.*of{self._shard.count}.jsonl"))
        files = [path for path in lines_files(self.path, self._stem) if path == self._own or path not in theirs]
        return any(path.stat().st_size > 0 for path in files)

    def begin(self, environment: Entry | None = None) -> None:
        """Mark the run as not done, since lines are to follow; note in what environment, where that is given."""
        if environment is not None:
            self._entry = add_entry(self.path, environment)
        (self.path / SUMMARY).unlink(missing_ok=True)

    def _holds_anything(self) -> bool:
        """Whether there is a folder with any file but a lock."""
        return self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir())

    def refuse_if_started(self, *, resume: bool, overwrite: bool) -> None:
        """Stop where results lie that nobody said what to do with, or of an unknown configuration."""
        lines = [path for path in lines_files(self.path, self._stem) if path.stat().st_size > 0]
        if lines and not overwrite and not (self.path / CONFIG).exists():
            raise UserError(
                f"{str(self.path)!r} holds results without {CONFIG}, so their configuration is unknown; restore that "
                "file, add --overwrite to move the results aside, or --run_name to write elsewhere"
            )
        if self.started() and not (resume or overwrite):
            raise UserError(
                f"{str(self.path)!r} already holds results; add --resume to continue them, --overwrite to move "
                "them aside, or --run_name to write elsewhere"
            )

    @property
    def lines(self) -> list[ResultLine]:
        """What was on disk when the folder was opened, of all processes, and what was appended; an index once.

        Without traces: a run is not to take more memory the longer it lasts.
        """
        return list(self._lines.values())

    def done(self) -> set[int]:
        """Indices of the problems that have a line; one that failed is tried again."""
        return {line.index for line in self.lines if not line.failed}

    def check_problems(self, problems: Sequence[Problem]) -> None:
        """Make sure that the lines on disk are about these problems.

        Raises:
            UserError: the data set has changed since they were written.
        """
        hashes = {problem.index: problem.problem_hash for problem in problems}
        for line in self.lines:
            if hashes.get(line.index, line.problem_hash) != line.problem_hash:
                raise UserError(
                    f"{str(self.path)!r} holds an answer to another problem {line.index} than the data set's: "
                    "the data has changed; --overwrite moves the answers aside, --run_name writes elsewhere"
                )

    def check_prompts(self, prompts: Mapping[int, str]) -> None:
        """Make sure that the lines on disk answer the prompts of now.

        Folders of versions that did not record the chat template go on with a note: their templates may have shown the
        date of the day.

        Args:
            prompts: the prompt of each problem, by index.

        Raises:
            UserError: a line answers another prompt, though all that is recorded agrees.
        """
        answered = [line for line in self.lines if not line.failed and line.index in prompts]
        others = sum(line.prompt != prompts[line.index] for line in answered)
        said = f"{others} of {len(answered)} answers in {str(self.path)!r} are to other prompts than those of now"
        if TEMPLATE_HASH not in read_json(self.path / CONFIG):
            if answered:
                warnings.warn(f"{said}; this folder does not say which chat template it was made with", stacklevel=2)
        elif others:
            raise UserError(
                f"{said}: the solver prompt has changed since; --overwrite moves the answers aside, --run_name writes "
                "elsewhere"
            )

    def append(self, line: ResultLine) -> None:
        """Write one line; it is on the disk when this returns."""
        assert self._file is not None, "open() comes first"
        if self._entry is not None:
            line = line.with_details(environment=self._entry)
        content = _as_bytes(line)
        if self._file.write(content) != len(content):
            raise OSError(errno.ENOSPC, "No space left on device", str(self._own))
        os.fsync(self._file.fileno())
        self._lines[line.index] = line.without_trace()

    def forget(self, unwanted: Callable[[ResultLine], bool]) -> None:
        """Take lines as not done, so that their problems come again; on disk the later line of an index counts."""
        self._lines = _by_index([line for line in self.lines if not unwanted(line)])

    def write_logistics(self) -> None:
        """Derive logistics.pt from the lines so far, replacing an older one."""
        self._log(self.lines if self._shard.alone else self._read_lines())

    def _log(self, lines: Sequence[ResultLine]) -> None:
        ordered = sorted(lines, key=lambda line: line.index)
        log = {
            "results_history": [line.correct for line in ordered],
            "time_history": [line.seconds for line in ordered],
        }
        write_pt(self.path / LOGISTICS, log)

    def finish(self, indices: set[int]) -> Json | None:
        """Write logistics.pt and then summary.json, if every process has done its share. Both cover every line.

        Args:
            indices: the problems of this command. The folder may hold lines of more, of a wider command.

        Returns:
            The summary of these problems alone; None where some of them have no line yet.
        """
        self._lines = _by_index(self._read_lines())
        self._log(self.lines)
        own = [line for line in self.lines if line.index in indices]
        if len(own) < len(indices):
            return None
        whole = self._summary(self.lines)
        write_json(self.path / SUMMARY, whole)
        return whole if len(own) == len(self.lines) else self._summary(own)

    def _summary(self, lines: Sequence[ResultLine]) -> Json:
        config = read_json(self.path / CONFIG)
        environments = environments_of((line.details.get("environment") for line in lines), read_entries(self.path))
        known = {"environments": environments} if environments else {}
        summary = summarise(lines, prompt_idx=config.get("prompt_idx"), judge=config.get("judge", "als"))
        return summary | known | {"config_hash": config_hash(config)}

    def close(self) -> None:
        """Give back the locks, the file and the memory of the lines."""
        if self._entry is not None:
            with suppress(OSError, UserError):  # why the run ends, for instance a full disk, is said elsewhere
                end_entry(self.path, self._entry)
            self._entry = None
        self._held.close()
        self._lines = {}

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_lines(self) -> list[ResultLine]:
        return read_folder_lines(self.path, self._stem, traces=False)

    def _lock(self, path: Path, kind: int) -> IO[bytes]:
        """An open file with a lock on it, which the operating system takes back from a process that dies."""
        file = path.open("a+b")  # NFSv4 wants a file open for reading where a lock is shared, for writing where not
        try:
            _flock(file, kind, self.path)
        except UserError:
            file.close()
            raise
        return file

    def _check_same(self, config: Json) -> None:
        then, now = LATER_FIELDS | read_json(self.path / CONFIG), LATER_FIELDS | config
        if TEMPLATE_HASH not in then:
            now = {name: value for name, value in now.items() if name != TEMPLATE_HASH}  # see check_prompts
        names = (then.keys() | now.keys()) - {VECTOR_MADE_WITH}
        differing = sorted(name for name in names if then.get(name) != now.get(name))
        if differing:
            fields = "; ".join(f"{name}: then {then.get(name)!r}, now {now.get(name)!r}" for name in differing)
            if "prefill" in differing and "prefill" not in then:
                fields += "; this version begins answers to prompt 1 itself unless --prefill '' is given"
            raise UserError(
                f"{str(self.path)!r} belongs to another configuration ({fields}); give the same options again, "
                "--overwrite to move it aside, or --run_name to write elsewhere"
            )


def in_words(fields: Mapping[str, Any]) -> str:
    """Fields with their values: `prompt_idx 1, dataset 'MATH-500'`."""
    return ", ".join(f"{name} {value!r}" for name, value in fields.items())


def summarise(lines: Sequence[ResultLine], *, prompt_idx: int | None = None, judge: str = "als") -> Json:
    """What summary.json says of a run's lines; means are per problem, and a failure is a wrong answer.

    Args:
        lines: the run's, an index once.
        prompt_idx: the solver prompt, for the accuracy of answers in the form that it asks for; None where unknown.
        judge: the run's.
    """
    n = len(lines)
    generated = sum(line.generated_tokens for line in lines)
    seconds = sum(line.seconds for line in lines)
    summary: Json = {
        "n": n,
        "correct": sum(line.correct for line in lines),
        "accuracy": sum(line.correct for line in lines) / n if n else None,
        **accuracy_by_form(lines, prompt_idx=prompt_idx, judge=judge),
        "answered": sum(line.answer is not None for line in lines) / n if n else None,
        "truncated": truncated_share(lines) if n else None,
        "failures": sum(line.failed for line in lines),
        "judge_errors": sum("judge_error" in line.details for line in lines),
        "completion_tokens": sum(line.completion_tokens for line in lines),
        "generated_tokens": generated,
        "seconds": seconds,
        "tokens_per_second": generated / seconds if seconds else None,
        "rules": counts_by_rule(lines),
    }
    return summary | _mean_details(lines) | _labels(lines)


def _labels(lines: Sequence[ResultLine]) -> Json:
    """How many examples are good and bad, and how that agrees with correctness; nothing for lines without labels."""
    if not any("label" in line.details for line in lines):
        return {}
    from als.agreement import describe_labels

    labels = describe_labels(lines)
    return {"labels": labels.to_json()} if labels else {}


def truncated_share(lines: Sequence[ResultLine]) -> float:
    """The share of at least one answer that was cut off at max_new_tokens."""
    return sum(line.finish_reason == "length" for line in lines) / len(lines)


def accuracy_by_form(lines: Sequence[ResultLine], *, prompt_idx: int | None, judge: str = "als") -> Json:
    """Accuracy where only answers in the form that the prompt asks for count (strict), and where any does (flexible).

    They are what lm-eval calls strict-match and flexible-extract. Other judges than `als` have other rules: nothing.
    """
    if prompt_idx not in ASKED_RULES or judge != "als":
        return {}
    n, asked = len(lines), ASKED_RULES[prompt_idx]
    strict = sum(line.correct and line.details.get("rule") == asked for line in lines)
    return {
        "strict_accuracy": strict / n if n else None,
        "flexible_accuracy": sum(line.correct for line in lines) / n if n else None,
    }


def counts_by_rule(lines: Sequence[ResultLine]) -> dict[str, dict[str, int]]:
    """Extraction rule -> answers that it found, and how many of them are right; `none` found nothing."""
    counts: dict[str, dict[str, int]] = {}
    for line in lines:
        count = counts.setdefault(line.details.get("rule") or "none", {"n": 0, "correct": 0})
        count["n"] += 1
        count["correct"] += line.correct
    return counts


def _mean_details(lines: Sequence[ResultLine]) -> Json:
    """Means of what only some modes record; a share where it is true or false."""
    columns = {name: [line.details.get(name) for line in lines] for name in AVERAGED_DETAILS}
    rewards = [line.details["rewards"] for line in lines if line.details.get("rewards")]
    columns |= {"first_reward": [tried[0] for tried in rewards], "last_reward": [tried[-1] for tried in rewards]}
    present = {name: [value for value in column if value is not None] for name, column in columns.items()}
    return {name: sum(values) / len(values) for name, values in present.items() if values}


def _by_index(lines: Sequence[ResultLine]) -> dict[int, ResultLine]:
    return {line.index: line for line in lines}


def lines_files(folder: Path, stem: str = RESULTS) -> list[Path]:
    """The lines files of a folder, those of several processes included."""
    return sorted([*folder.glob(f"{stem}.jsonl"), *folder.glob(f"{stem}.*of*.jsonl")])


def read_folder_lines(
    folder: Path,
    stem: str = RESULTS,
    *,
    traces: bool = True,
    counts: Callable[[ResultLine], bool] = lambda line: not line.failed,
) -> list[ResultLine]:
    """The lines of all processes, an index once; by default one that succeeded counts before one that failed."""
    merged: dict[int, ResultLine] = {}
    for path in lines_files(folder, stem):
        for line in read_lines(path, traces=traces):
            if line.index not in merged or counts(line):
                merged[line.index] = line
    return list(merged.values())


def read_lines(path: Path, *, traces: bool = True) -> list[ResultLine]:
    """Read one lines file, with traces or without; where an index stands twice, its last line counts.

    What follows the last line break was left by a killed process, or is being written: it is passed over.

    Raises:
        UserError: an unreadable line.
    """
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    lines: dict[int, ResultLine] = {}
    for number, text in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            line = ResultLine.from_json(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: not a results line ({error!r}); delete that line and use --resume"
            ) from error
        lines[line.index] = line if traces else line.without_trace()
    return list(lines.values())


def read_json(path: Path) -> Json:
    """Read a JSON object that this toolkit wrote.

    Raises:
        UserError: missing, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} cannot be read as JSON ({error}); restore it or start a new run") from error
    if not isinstance(value, dict):
        raise UserError(f"{str(path)!r} holds {type(value).__name__}, not a JSON object; restore it or start a new run")
    return value


def _as_bytes(line: ResultLine) -> bytes:
    """One line of the file, in ASCII: a model's text may hold half a surrogate pair, which UTF-8 cannot."""
    return json.dumps(line.to_json()).encode("ascii") + b"\n"


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process left unfinished."""
    content = path.read_bytes()
    torn = len(content) - (content.rfind(b"\n") + 1)
    if torn:
        warnings.warn(f"{path}: dropped an unfinished last line of {torn} bytes", stacklevel=4)
        with path.open("r+b") as file:
            file.truncate(len(content) - torn)


def _flock(file: IO[bytes], kind: int, what: Path) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{str(what)!r} is being written by another process; wait for it, or give another --run_name"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn_of_no_locks(error.strerror)


@cache
def warn_of_no_locks(reason: str) -> None:
    """Warn once in a process that writers are not kept apart."""
    warnings.warn(
        f"the file system of the output folder has no file locks ({reason}): two processes that write to one folder "
        "will not notice each other; start only one without --shard",
        stacklevel=2,
    )


def _free_name(path: Path) -> Path:
    """The first of <path>.1, <path>.2, ... that is not taken."""
    number = 1
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return free
