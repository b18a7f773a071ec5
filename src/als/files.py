"""Files that are whole or not there: the one way in which anything is written.

A half-written file must never look finished, so content goes to a temporary name, to the disk, and only
then to its own name. Knows nothing of what it writes.

Reading .pt files is here too, because there is one safe way to do it.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from als.errors import UserError

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


def load_pt(path: Path, *, expected: str) -> Any:
    """Read a .pt file of plain tensors, lists and dicts; nothing in it is executed.

    Args:
        path: the file.
        expected: what it ought to hold, for the error's last words.

    Raises:
        UserError: it is not there, or holds anything else.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{str(path)!r} is not a file; expected {expected}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises another kind for each way in which a file can be broken
        raise UserError(
            f"{str(path)!r} cannot be read as plain tensors ({type(error).__name__}); expected {expected}"
        ) from error
