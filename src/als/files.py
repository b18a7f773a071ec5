"""Files that are whole or not there: the one way in which anything is written.

A half-written file must never look finished, so content goes to a temporary name, to the disk, and only
then to its own name. Knows nothing of what it writes.

Reading .pt files is here too, because there is one safe way to do it.
"""

import io
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from als.errors import UserError

PART_SUFFIX = ".part"
"""Ends the name of a file that is still being written."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, replacing an older one; makes its folder.

    Writers hand over bytes and not a path, so that a full disk is an OSError whatever library made them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path, content) as part:
        part.replace(path)


@contextmanager
def _part(path: Path, content: bytes) -> Iterator[Path]:
    """A temporary file beside `path` with its content on the disk; gone after the block."""
    # Not the process number: machines that share a file system give out the same ones.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def create_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, unless it is there: of several writers at once, one succeeds."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path, content) as part:
        try:
            os.link(part, path)
        except OSError:  # another was first, or the file system has no hard links
            if not path.exists():
                part.replace(path)


def replace_bytes(path: Path, content: bytes, *, what: str) -> None:
    """`write_bytes`, with a warning where another content stands; `what` says of what kind it is."""
    if path.exists() and path.read_bytes() != content:
        warnings.warn(f"{path} held another {what}, which is replaced", stacklevel=3)
    write_bytes(path, content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, *, replace: bool = True) -> None:
    """Write one readable JSON document, whole or not at all; with replace=False only where there is none."""
    write = write_bytes if replace else create_bytes
    write(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_pt(path: Path, value: Any) -> None:
    """Write tensors, lists and dicts as a .pt file, whole or not at all."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_bytes(path, buffer.getvalue())


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
