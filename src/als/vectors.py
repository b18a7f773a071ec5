"""Phase 2: labelled mean states -> one steering vector for each layer, and the file it lives in.

    v = mean(h | good) - mean(h | bad)        (arXiv 2509.18116, phase 2)

A vector file is .pt (a dict that torch.load(weights_only=True) accepts) or .safetensors, by its name's
ending; both hold `vector` [L, D] float32 and metadata. Knows no model and no data set.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from als.errors import UserError
from als.files import load_pt, write_bytes, write_pt

ENDINGS = (".pt", ".safetensors")
AVERAGING_METHODS = ("mean", "ema")


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


@dataclass
class _Average:
    """A mean or exponential moving average of [L, D] states, in float64 and in place."""

    ema_beta: float | None = None
    """Weight of the past; None for the plain mean."""
    count: int = 0
    _sum: Tensor | None = None

    def add(self, state: Tensor) -> None:
        self.count += 1
        if self._sum is None:
            self._sum = state.double()
        elif self.ema_beta is None:
            self._sum += state
        else:
            self._sum.mul_(self.ema_beta).add_(state, alpha=1 - self.ema_beta)

    @property
    def value(self) -> Tensor | None:
        """[L, D] float64; None before the first state."""
        return self._sum / self.count if self._sum is not None and self.ema_beta is None else self._sum


@dataclass(frozen=True, eq=False)
class MeanDifference:
    """What phase 2 computes from a pass over the states."""

    vector: Tensor
    """[L, D] float32."""
    n_good: int
    n_bad: int
    mean_state_norm: Tensor
    """[L] float32: mean norm of the mean states, to compare |v| with. A mean state is shorter than the states it
    is the mean of."""


def mean_difference(
    states: Iterable[tuple[str, Tensor]],
    *,
    averaging_method: Literal["mean", "ema"] = "mean",
    ema_beta: float = 0.9,
) -> MeanDifference:
    """Average the good and the bad states apart, and subtract; one pass, memory of a few states.

    Args:
        states: (label, [L, D] float32) pairs with both labels `good` and `bad` among them.
        averaging_method: `mean`, or `ema`: an exponential moving average in the order of `states`, which
            begins with the first state and gives each further one the weight 1 - ema_beta.
        ema_beta: weight of the past, between 0 and 1.

    Raises:
        UserError: a label has no state.
    """
    averages = {label: _Average(ema_beta if averaging_method == "ema" else None) for label in ("good", "bad")}
    norms = _Average()
    for label, state in states:
        averages[label].add(state)
        norms.add(state.norm(dim=-1))  # [L]
    good, bad = averages["good"], averages["bad"]
    if good.value is None or bad.value is None or norms.value is None:
        raise UserError(f"{good.count} good and {bad.count} bad states: both labels are needed; collect more examples")
    return MeanDifference((good.value - bad.value).float(), good.count, bad.count, norms.value.float())


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
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"vector file {str(path)!r} cannot be read ({error}); expected what compute_steering_vector wrote"
        ) from error
