"""Files that are whole or not there: the one way in which anything is written.

A half-written file must never look finished, so content goes to a temporary name, to the disk, and only
then to its own name. Knows nothing of what it writes.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PART_SUFFIX = ".part"
"""Ends the name of a file that is still being written."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path, then give what it wrote its name, replacing an older file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: Path, value: Any) -> None:
    """Write one readable JSON document, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
