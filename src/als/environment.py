"""What a run was computed with, and where: environment.json, an entry for each process that wrote lines.

    [{"id": "3f9c01ab", "host": "node1", "devices": ["NVIDIA H100"], "batch_size": 32, "als": "0.1.0", "torch": ...,
      "start": "2026-01-31T12:00:00+00:00", "end": null, "problem_range": [0, null], "shard": "1/1"}, ...]

None of it identifies the run, so a run may go on elsewhere; a results line names its entry in `environment`. Seconds
compare only where COMPARED is the same. A process that was killed leaves an entry without an end.
"""

from __future__ import annotations

import fcntl
import json
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als.errors import UserError
from als.files import write_json

if TYPE_CHECKING:
    from als.engines.base import Engine

ENVIRONMENT = "environment.json"
LOCK = ".environment.lock"
COMPARED = ("host", "devices", "batch_size", "als", "torch", "transformers", "vllm")
"""Fields of an entry that decide how long an answer takes."""
UNKNOWN = "environment unknown"
_SHOWN_NAMES = 4

Entry = dict[str, Any]


def describe(engine: Engine, *, problem_range: tuple[int, int | None], shard: str) -> Entry:
    """The entry of this process, without id and times.

    Args:
        engine: the loaded one.
        problem_range: first index and exclusive end, as the command has them; None for the end of the split.
        shard: which share of the problems, `k/n`.
    """
    import torch
    import transformers

    from als import __version__

    vllm = _vllm_version(engine)
    return {
        "host": socket.gethostname(),
        "devices": _vllm_devices(engine) if vllm else _devices(engine),
        "batch_size": engine.batch_size,
        "als": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "vllm": vllm,
        "problem_range": list(problem_range),
        "shard": shard,
    }


def _vllm_version(engine: Engine) -> str | None:
    """None where another engine decodes."""
    if not hasattr(engine, "llm"):
        return None
    import vllm

    return str(vllm.__version__)


def _vllm_devices(engine: Any) -> list[str]:
    """The devices of all workers; this process has the model's weights on none."""
    from vllm.platforms import current_platform

    name = _cpu() if current_platform.is_cpu() else str(current_platform.get_device_name())
    return [name] * int(engine.llm.vllm_config.parallel_config.world_size)


def _devices(engine: Engine) -> list[str]:
    """Those that hold the model's weights."""
    import torch

    devices = sorted({parameter.device for parameter in engine.model.parameters()}, key=str)
    names = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: _cpu()}
    return [names.get(device.type, str)(device) for device in devices]


def _cpu() -> str:
    """The processor's name and the threads that torch uses of it."""
    import platform

    import torch

    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------------------------------------- the file


def add_entry(folder: Path, entry: Mapping[str, Any]) -> str:
    """Append an entry that starts now; returns its id.

    Processes that share the folder may do so at once. Where the file system has no locks, one entry may be lost then.
    """
    name = uuid.uuid4().hex[:8]
    with _locked(folder):
        _write(folder, [*_read(folder), {"id": name, **entry, "start": _now(), "end": None}])
    return name


def end_entry(folder: Path, name: str) -> None:
    """Note that the entry's process ends now."""
    with _locked(folder):
        _write(folder, [entry | {"end": _now()} if entry.get("id") == name else entry for entry in _read(folder)])


def read_entries(folder: Path) -> dict[str, Entry]:
    """The entries by id; none where an earlier version wrote the folder.

    Raises:
        UserError: the file is not what `add_entry` writes.
    """
    return {str(entry.get("id")): entry for entry in _read(folder)}


def _read(folder: Path) -> list[Entry]:
    path = folder / ENVIRONMENT
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} cannot be read as JSON ({error}); restore it or move it away") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{str(path)!r} is not a list of JSON objects; restore it or move it away")
    return entries


def _write(folder: Path, entries: Sequence[Entry]) -> None:
    write_json(folder / ENVIRONMENT, entries)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time replace the file; not the folder's own lock, which shares hold together."""
    with (folder / LOCK).open("a+b") as file:
        with suppress(OSError):  # no locks here, which the folder's own lock has warned of
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ----------------------------------------------------------------------------------- whether seconds compare


def environments_of(names: Iterable[object], entries: Mapping[str, Entry]) -> list[Entry | None]:
    """The distinct environments, of COMPARED fields, in which lines were written.

    Args:
        names: what each line has as `environment`; None where it has nothing.
        entries: those of the folder.

    Returns:
        In the order of the lines, with None where some are of an unknown one; empty where nothing is known.
    """
    found: list[Entry | None] = []
    for name in dict.fromkeys(names):
        entry = entries.get(str(name))
        environment = None if entry is None else {field: entry.get(field) for field in COMPARED}
        if environment not in found:
            found.append(environment)
    return [] if found == [None] else found


def seconds_notes(runs: Sequence[tuple[str, Sequence[Entry | None]]]) -> list[str]:
    """Sentences on why seconds of these runs do not compare; none where they do, or where nothing is known.

    Args:
        runs: what each is called, and its `environments_of`.
    """
    known = [environment for _, found in runs for environment in found if environment]
    fields = [field for field in COMPARED if any(one.get(field) != known[0].get(field) for one in known)]
    notes = [f"the lines of {name} were written in {_several(found, fields)}" for name, found in runs if len(found) > 1]
    groups: dict[str, list[str]] = {}
    for name, found in runs:
        if len(found) < 2:
            words = _words(found[0], fields) if found else UNKNOWN
            groups.setdefault(words, []).append(name)
    if len(groups) > 1 and known:
        listed = "; ".join(f"{_names(names)} ({words})" for words, names in groups.items())
        notes.append(f"seconds compare only within each of these groups: {listed}")
    return notes


def _several(found: Sequence[Entry | None], fields: Sequence[str]) -> str:
    listed = "; ".join(_words(environment, fields) for environment in found)
    return f"{len(found)} environments, so its seconds do not compare with each other ({listed})"


def _words(environment: Entry | None, fields: Sequence[str]) -> str:
    if environment is None:
        return UNKNOWN
    return ", ".join(f"{field} {_value(environment.get(field))}" for field in fields) or "environment known"


def _value(value: object) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)


def _names(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
