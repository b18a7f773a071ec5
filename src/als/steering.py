"""Steering: add a vector to the residual stream where the model decides on its next token.

    h' = h + alpha * s * v * [cos(h, v) < tau]        (arXiv 2509.18116, phase 3)

Here are the arithmetic and the hook that applies it to one decoder block's output. It knows no prompt, no
data set and no decoding loop. Around a plain generate (left padding, KV cache on, which are the defaults):

    with steer(model, Steering(vector, layer_idx=-2, alpha=0.3)):
        model.generate(**inputs)

Every forward pass chooses one token a row, from the last position of its input: that is the emitting
position, the only one touched. Earlier positions of the prompt stay as they are. Ways to decode in which this does
not hold are refused inside the block where `generate` or `generate_batch` is asked for them: no cache, a prompt in
chunks, drafted tokens, continuous batching. They cannot be noticed in a decoding loop of the caller's own, in a
`custom_generate`, or in right-padded batches; there the caller has to avoid them.

A model or block that was compiled before runs without its compiled code inside the block, because compiled code does
not call a hook that was added later. This holds for everything that torch.compile made in the process. After the
block the compiled code is used again.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor

from als.errors import UserError
from als.models import decoder_blocks, hidden_size, residual_stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALPHA_SCALES = ("raw", "unit", "residual")
SEVERAL_POSITIONS = (
    "prefill_chunk_size",
    "assistant_model",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "use_mtp",
)
"""Options of generate with which one forward pass does not choose one token from its last position."""


@dataclass(frozen=True, eq=False)
class Steering:
    """What to add, how much of it, at which layer, and when.

    Raises:
        UserError: a value outside what its field allows.
    """

    vector: Tensor
    """[L, D], a row a layer, of which the row of layer_idx is used; or [D] (also [1, D]) for whichever layer."""
    layer_idx: int = -2
    """Decoder block whose output is steered; negative counts from the end. -2 is the stream that enters the
    last block."""
    alpha: float = 0.3
    """Steering strength."""
    alpha_scale: str = "raw"
    """`raw`: alpha*v; `unit`: alpha*v/|v|; `residual`: alpha*|h|*v/|v|."""
    similarity_threshold: float | None = 0.1
    """tau: steer where cos(h, v) < tau; None steers everywhere."""

    def __post_init__(self) -> None:
        if self.alpha_scale not in ALPHA_SCALES:
            raise UserError(f"alpha_scale {self.alpha_scale!r}: expected one of {', '.join(ALPHA_SCALES)}")
        if not math.isfinite(self.alpha):
            raise UserError(f"alpha {self.alpha!r}: expected a finite number")
        if self.similarity_threshold is not None and not math.isfinite(self.similarity_threshold):
            raise UserError(f"similarity_threshold {self.similarity_threshold!r}: expected a finite number or none")
        if self.vector.ndim not in (1, 2) or not self.vector.is_floating_point():
            raise UserError(
                f"steering vector of shape {list(self.vector.shape)} and {self.vector.dtype}: "
                "expected [layers, hidden] or [hidden] floating point"
            )
        if not bool(self.vector.isfinite().all()):
            raise UserError("steering vector holds NaN or infinite values; compute it again")


@dataclass
class RowTraces:
    """What steering saw and did in each answer, kept on the device without a synchronisation a token.

    A decoding loop keeps `slots` and `columns` up to date while rows come and go; the hook writes to `seen`.
    """

    slots: Tensor
    """[B] int64: the answer that each batch row belongs to, the first index into `seen`."""
    columns: Tensor
    """[B] int64: which of the answer's tokens is being chosen, the second index."""
    seen: Tensor
    """[answers, tokens, 3] float32: the columns of `Trace`."""
    gate: Tensor | None = None
    """[B] bool: rows where steering is allowed at all; None allows every row."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What steering saw and did at each emitting position of one answer."""

    cosines: Tensor
    """[T] float32: cos(h, v) before steering."""
    steered: Tensor
    """[T] bool: where it steered."""
    relative_doses: Tensor
    """[T] float32: |alpha * s * v| / |h|, 0 where it did not steer."""

    @classmethod
    def from_seen(cls, seen: Tensor) -> Trace:
        """Read one answer's [T, 3] of `RowTraces.seen`."""
        cosines, on, doses = seen.cpu().unbind(dim=1)
        return cls(cosines, on.bool(), doses)


class Applied(NamedTuple):
    """Steered states, and what was seen and done on the way."""

    stream: Tensor
    """[..., D], dtype of the states."""
    on: Tensor
    """[...] bool: where it steered."""
    cosine: Tensor
    """[...] float32: cos(h, v) before steering."""
    relative_dose: Tensor
    """[...] float32: |alpha * s * v| / |h|."""

    def seen(self) -> Tensor:
        """[..., 3] float32: the columns of `Trace`."""
        return torch.stack((self.cosine, self.on.float(), self.relative_dose), dim=-1)


class Strength(Protocol):
    """What the formula reads of a Steering; tensors of one element where a CUDA graph must not hold the numbers."""

    @property
    def alpha(self) -> float | Tensor:
        """Steering strength."""

    @property
    def alpha_scale(self) -> str:
        """One of ALPHA_SCALES."""

    @property
    def similarity_threshold(self) -> float | Tensor | None:
        """Tau; None, or infinity, steers everywhere."""


def steered(h: Tensor, v: Tensor, steering: Strength, gate: Tensor | None = None) -> Applied:
    """Apply the formula to states of emitting positions.

    Args:
        h: [..., D] states, any floating dtype.
        v: [D] float32 on the same device.
        gate: [...] bool on any device; False keeps a state as it is.
    """
    stream = h.float()
    v_norm = v.norm()
    h_norm = stream.norm(dim=-1)  # [...]
    # A zero state or vector has no direction: the floor makes its cosine 0 instead of NaN.
    cosine = (stream @ v) / (h_norm * v_norm).clamp_min(1e-12)
    on = torch.ones_like(cosine, dtype=torch.bool)
    if steering.similarity_threshold is not None:
        on = cosine < steering.similarity_threshold
    if gate is not None:
        on = on & gate.to(on.device)
    dose = on * steering.alpha  # [...], float32
    if steering.alpha_scale == "unit":
        dose = dose / v_norm.clamp_min(1e-12)
    elif steering.alpha_scale == "residual":
        dose = dose * h_norm / v_norm.clamp_min(1e-12)
    relative = dose.abs() * v_norm / h_norm.clamp_min(1e-12)
    return Applied((stream + dose[..., None] * v).to(h.dtype), on, cosine, relative)


@contextmanager
def steer(model: PreTrainedModel, steering: Steering, *, traces: RowTraces | None = None) -> Iterator[None]:
    """Steer everything the model generates inside the block; the hook is gone after it, come what may.

    Args:
        model: any decoder-only transformers model, compiled or not; its weights may be spread over devices.
        steering: checked against the model before anything is hooked.
        traces: collects what was done to each row; see `RowTraces`.

    Raises:
        UserError: layer or vector do not fit the model; inside the block, `generate` was asked to decode in a way
            in which a pass does not end at the emitting position.
    """
    blocks = decoder_blocks(model)
    vector = layer_vector(model, steering)
    block = blocks[steering.layer_idx]

    def hook(_block: torch.nn.Module, _args: Any, output: Any) -> Any:
        nonlocal vector
        stream = residual_stream(output)  # [B, T, D]
        vector = vector.to(stream.device)  # moves once; afterwards it is there
        applied = steered(stream[:, -1], vector, steering, traces.gate if traces else None)
        if traces is not None:
            traces.seen[traces.slots, traces.columns] = applied.seen().to(traces.seen.device)
        last = applied.stream[:, None]  # [B, 1, D]
        # A new tensor and not a write in place: the block's output may be needed by autograd or another hook.
        stream = last if stream.shape[1] == 1 else torch.cat((stream[:, :-1], last), dim=1)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = block.register_forward_hook(hook)
    try:
        with without_compiled_code(), _refusing_other_decoding(model):
            yield
    finally:
        handle.remove()


def without_compiled_code() -> AbstractContextManager[None]:
    """Run every module eagerly inside the block, so that hooks are called: compiled code skips those added later."""
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


@contextmanager
def _refusing_other_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Let the model's own decoding methods refuse, inside the block, what `steer` is not defined for.

    A forward pass does not tell how its tokens are used, so the methods are replaced and not the pass inspected.
    """
    inner = getattr(model, "_orig_mod", model)  # torch.compile's wrapper passes methods on to this module
    before = {name: vars(inner).get(name) for name in ("generate", "init_continuous_batching") if hasattr(inner, name)}
    if "generate" in before:
        inner.generate = _checked(inner.generate, inner)
    if "init_continuous_batching" in before:
        inner.init_continuous_batching = _refuse_continuous_batching
    try:
        yield
    finally:
        for name, method in before.items():
            delattr(inner, name)
            if method is not None:  # another block's, around this one
                setattr(inner, name, method)


def _checked(generate: Callable[..., Any], model: PreTrainedModel) -> Callable[..., Any]:
    """The same generate; a UserError for options with which a pass does not end at the emitting position."""
    names = list(inspect.signature(generate).parameters)

    @functools.wraps(generate)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        configs = [given.get("generation_config"), getattr(model, "generation_config", None)]
        sources = [given, *(vars(config) for config in configs if config is not None)]  # transformers' own priority

        def value(name: str) -> Any:
            return next((source[name] for source in sources if source.get(name) is not None), None)

        refused = {name: value(name) for name in SEVERAL_POSITIONS if value(name)}
        if value("use_cache") is False:
            refused["use_cache"] = False
        for name, asked in refused.items():
            shown = type(asked).__name__ if name == "assistant_model" else repr(asked)
            raise UserError(
                f"generate with {name}={shown} cannot be steered: a forward pass has to end at the one position that "
                f"chooses a token; leave out {name}, with the KV cache on"
            )
        return generate(*args, **kwargs)

    return checked


def _refuse_continuous_batching(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise UserError(
        "generate_batch cannot be steered: continuous batching packs several sequences into one row; use generate"
    )


def layer_vector(model: PreTrainedModel, steering: Steering) -> Tensor:
    """The [D] float32 vector that this steering adds to this model.

    Raises:
        UserError: the layer is out of range, or the vector has other sizes than the model.
    """
    layers, width = len(decoder_blocks(model)), hidden_size(model)
    if not -layers <= steering.layer_idx < layers:
        raise UserError(
            f"layer_idx {steering.layer_idx}: the model has {layers} layers, so expected {-layers} to {layers - 1}"
        )
    rows = steering.vector.detach().reshape(-1, steering.vector.shape[-1])  # [L or 1, D]
    if rows.shape[1] != width or rows.shape[0] not in (1, layers):
        raise UserError(
            f"steering vector of shape {list(steering.vector.shape)} does not fit the model "
            f"of {layers} layers and hidden size {width}; compute the vector with this model"
        )
    vector = rows[steering.layer_idx if len(rows) > 1 else 0].float()
    if steering.alpha_scale != "raw" and not bool(vector.any()):
        raise UserError(
            f"steering vector is zero at layer {steering.layer_idx}: "
            f"alpha_scale {steering.alpha_scale!r} needs a direction"
        )
    return vector
