"""The steering vector that phase 2 makes, and the file it lives in.

A vector file is .pt (a dict that torch.load(weights_only=True) accepts) or .safetensors, by its name's
ending; both hold `vector` [L, D] float32 and metadata. Knows no model and no data set; how a vector comes about
is for `estimation`.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from als.errors import UserError
from als.files import load_pt, write_bytes, write_pt

ENDINGS = (".pt", ".safetensors")


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A vector for each layer, and what it was made from."""

    vector: Tensor
    """[L, D] float32; [1, D] where it was loaded from a bare tensor of no known layer."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Model, data, prompt, label rule, counts, problem hashes, ...: plain JSON."""

    @property
    def sha256(self) -> str:
        """Identifies the vector by its numbers: 16 hex digits."""
        return hashlib.sha256(self.vector.contiguous().numpy().tobytes()).hexdigest()[:16]


def check_vector_name(path: Path) -> None:
    """A vector file's ending says its format.

    Raises:
        UserError: neither .pt nor .safetensors.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"vector file {str(path)!r}: expected a name that ends in {' or '.join(ENDINGS)}")


def save_vector(path: Path, vector: SteeringVector) -> None:
    """Write a vector file, whole or not at all, in the format of its name's ending."""
    from safetensors.torch import save

    check_vector_name(path)
    tensor = vector.vector.float().contiguous()
    metadata = json.loads(json.dumps(dict(vector.metadata)))
    if path.suffix == ".pt":
        write_pt(path, {"vector": tensor, "metadata": metadata})
    else:
        write_bytes(path, save({"vector": tensor}, metadata={"metadata": json.dumps(metadata)}))


def load_vector(path: str | Path) -> SteeringVector:
    """Read a vector file; nothing in it is executed.

    A bare tensor [D] or [L, D] in a .pt file, as other tools write, loads with a warning and without metadata.

    Raises:
        UserError: missing, unreadable, not a vector, or with NaN or infinite values.
    """
    path = Path(path).expanduser()
    check_vector_name(path)
    if not path.is_file():
        raise UserError(f"vector file {str(path)!r} does not exist; compute_steering_vector makes it")
    content, metadata = (_read_pt if path.suffix == ".pt" else _read_safetensors)(path)
    if (
        not isinstance(content, Tensor)
        or content.ndim not in (1, 2)
        or not content.is_floating_point()
        or not content.numel()
    ):
        held = f"a tensor of shape {list(content.shape)}" if isinstance(content, Tensor) else type(content).__name__
        raise UserError(f"vector file {str(path)!r} holds {held}, expected floating point [layers, hidden] or [hidden]")
    if not bool(content.isfinite().all()):
        raise UserError(f"vector file {str(path)!r} holds NaN or infinite values; compute it again")
    if metadata is None:
        warnings.warn(
            f"{str(path)!r} is a bare tensor of shape {list(content.shape)}: nothing says which model, layer or data "
            "it was made from",
            stacklevel=2,
        )
    return SteeringVector(
        content.detach().float().reshape(-1, content.shape[-1]), metadata if isinstance(metadata, dict) else {}
    )


def _read_pt(path: Path) -> tuple[Any, dict[str, Any] | None]:
    """The `vector` and the metadata of a .pt file; metadata None for a bare tensor."""
    content = load_pt(path, expected="what compute_steering_vector wrote")
    if not isinstance(content, dict):
        return content, None
    metadata = content.get("metadata")
    return content.get("vector"), metadata if isinstance(metadata, dict) else {}


def _read_safetensors(path: Path) -> tuple[Any, dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            content = file.get_tensor("vector")
        return content, json.loads(header["metadata"]) if "metadata" in header else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"vector file {str(path)!r} cannot be read ({error}); expected what compute_steering_vector wrote"
        ) from error
