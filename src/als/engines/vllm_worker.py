"""Inside vLLM's workers: hooks on the decoder blocks that steer, and that add states up.

vLLM knows no hooks of others, but it takes a class given as `worker_extension_cls` into its worker, whose
methods are then called by name (`collective_rpc`). Everything here runs in the worker's process; the other side is
`engines.vllm_engine`. What crosses between the two is plain: dictionaries of numbers and bytes.

A step of vLLM is one packed row of tokens, [T] of all requests one after the other: of some the next token, of
others a prompt or a piece of one. Before each step the host writes for every token whether its position emits and
to which answer's sums it belongs; it knows both from the scheduler, without asking the device. Buffers are
allocated once and the hooks never branch on a value, so they could be captured in a CUDA graph with everything
else. The engine runs eagerly all the same (see there).
"""

from __future__ import annotations

import inspect
import os
import select
import socket
import threading
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from als.engines.capture import add_rows
from als.errors import UserError
from als.models import decoder_blocks
from als.steering import steered

Integers = NDArray[np.int64]

PAIRS = frozenset(
    {
        "apertus.ApertusDecoderLayer",
        "exaone.ExaoneDecoderLayer",
        "gemma.GemmaDecoderLayer",
        "gemma2.Gemma2DecoderLayer",
        "gemma3.Gemma3DecoderLayer",
        "gemma4.Gemma4DecoderLayer",
        "glm4.Glm4DecoderLayer",
        "gpt_oss.TransformerBlock",
        "internlm2.InternLMDecoderLayer",
        "llama.LlamaDecoderLayer",
        "minicpm.MiniCPMDecoderLayer",
        "mistral.MistralDecoderLayer",
        "mixtral.MixtralDecoderLayer",
        "nemotron.NemotronDecoderLayer",
        "olmoe.OlmoeDecoderLayer",
        "qwen2.Qwen2DecoderLayer",
        "qwen2_moe.Qwen2MoeDecoderLayer",
        "qwen3.Qwen3DecoderLayer",
        "qwen3_moe.Qwen3MoeDecoderLayer",
        "solar.SolarDecoderLayer",
    }
)
"""Blocks of vLLM that return two addends of the residual stream, because the next block's norm adds and normalises in
one kernel, or the stream and None. Blocks that return one tensor return the stream. A pair can be something else,
though (Cohere's is the stream and an older one), so those of blocks that are not here are not touched."""


class Order(TypedDict):
    """What the engine asks the workers to do; plain values, because it travels between processes."""

    slots: int
    """Answers in flight at most; each has sums of its own."""
    max_new_tokens: int
    """Tokens an answer may have."""
    capture_states: bool
    steering: SteeringOrder | None


class SteeringOrder(TypedDict):
    """A Steering, resolved against the model."""

    layer: int
    """Index of the decoder block, not negative."""
    vector: bytes
    """[D] float32."""
    alpha: float
    alpha_scale: str
    threshold: float | None


class Report(TypedDict):
    """What a worker has summed up for some answers."""

    traces: list[bytes] | None
    """For each [T, 3] float32, see `als.steering.RowTraces`; None from a worker without the steered block."""
    states: dict[int, bytes]
    """Layer -> [answers, D] float32: the sums of the states of this worker's layers."""


class SteeringExtension:
    """The methods that vLLM's worker gets; their names must not be those of its own."""

    model_runner: Any  # the worker's

    def als_watch(self, host: str, pid: int) -> None:
        """End this process when that one has gone: vLLM's own processes outlive a command that was killed."""
        if host == socket.gethostname() and pid != os.getpid():
            threading.Thread(target=_exit_after, args=(os.pidfd_open(pid),), daemon=True).start()

    def als_obstacle(self) -> str | None:
        """Why the hooks would not do what they ought to in this worker; None where they will."""
        return find_obstacle(self.model_runner)

    def als_start(self, order: Order) -> None:
        """Hook in what the order asks for; an earlier order is over."""
        self.als_stop()
        self._als_hooks = Hooks(self.model_runner, order)

    def als_read(self, lengths: dict[int, int]) -> Report:
        """What was kept of answers that are complete, by slot and tokens; their slots start anew."""
        return self._als_hooks.read(lengths)

    def als_stop(self) -> None:
        """Leave the model as it was."""
        hooks = self.__dict__.pop("_als_hooks", None)
        if hooks is not None:
            hooks.remove()


@dataclass(frozen=True)
class Dose:
    """The strength of steering as tensors of one element on the model's device; see `als.steering.Strength`."""

    alpha: Tensor
    alpha_scale: str
    similarity_threshold: Tensor


class Hooks:
    """The hooks of one order on one worker's share of the model, and their sums.

    Attributes:
        emits: [tokens] bool, whether each position of this step has chosen or will choose a token.
        rows: [tokens] int64, the answer whose sums each position adds to; `slots` is a waste row.
        columns: [tokens] int64, which of the answer's tokens each position chooses.
    """

    def __init__(self, runner: Any, order: Order) -> None:
        self.runner = runner
        self.slots = order["slots"]
        self.rows = torch.full((runner.max_num_tokens,), self.slots, device=runner.device)
        self.columns = torch.zeros_like(self.rows)
        self.emits = torch.zeros(runner.max_num_tokens, dtype=torch.bool, device=runner.device)
        self.next_positions = np.zeros(self.slots, dtype=np.int64)  # by slot: the first that is not summed up yet
        self.traces: Tensor | None = None  # [slots + 1, max_new_tokens, 3] float32
        self.states: dict[int, Tensor] = {}  # layer -> [slots + 1, D] float32
        blocks = _own_blocks(runner.model)
        self._handles: list[Any] = []
        if order["steering"] is not None and order["steering"]["layer"] in blocks:
            self.traces = torch.zeros(self.slots + 1, order["max_new_tokens"], 3, device=runner.device)
            self._steer(blocks[order["steering"]["layer"]], order["steering"], self.traces)
        if order["capture_states"]:
            width = runner.model_config.get_hidden_size()
            for layer, block in blocks.items():
                self._sum_states(layer, block, width)
        # The one place that every step passes, also where the model itself is replayed from a CUDA graph.
        self._forward = runner._model_forward
        runner._model_forward = self._prepared_forward

    def remove(self) -> None:
        """Take every hook away."""
        del self.runner._model_forward  # the method of the class shows again
        for handle in self._handles:
            handle.remove()

    def read(self, lengths: dict[int, int]) -> Report:
        """Traces and sums of these slots, which begin anew; a trace is as long as its answer."""
        slots = list(lengths)
        report = Report(traces=None, states={})
        if self.traces is not None:
            rows = self.traces[slots, : max(lengths.values())].cpu().numpy()
            report["traces"] = [row[:tokens].tobytes() for row, tokens in zip(rows, lengths.values(), strict=True)]
        for layer, sums in self.states.items():
            report["states"][layer] = sums[slots].cpu().numpy().tobytes()
            sums[slots] = 0
        self.next_positions[slots] = 0
        return report

    def _prepared_forward(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.runner.input_batch
        requests = batch.num_reqs
        emits, rows, columns = plan(
            slots=np.array([slot_of(name) for name in batch.req_ids[:requests]], dtype=np.int64),
            lengths=np.diff(self.runner.query_start_loc.np[: requests + 1]).astype(np.int64),
            starts=batch.num_computed_tokens_cpu[:requests].astype(np.int64),
            prompts=batch.num_prompt_tokens[:requests].astype(np.int64),
            next_positions=self.next_positions,
        )
        # A shorter step, or one that is padded to a captured size, must not see what an earlier one left.
        self.emits.zero_()
        self.rows.fill_(self.slots)
        self.emits[: len(emits)].copy_(torch.from_numpy(emits), non_blocking=True)
        self.rows[: len(rows)].copy_(torch.from_numpy(rows), non_blocking=True)
        self.columns[: len(columns)].copy_(torch.from_numpy(columns), non_blocking=True)
        return self._forward(*args, **kwargs)

    def _steer(self, block: torch.nn.Module, order: SteeringOrder, traces: Tensor) -> None:
        device = self.runner.device
        vector = torch.frombuffer(bytearray(order["vector"]), dtype=torch.float32).to(device)  # [D]
        # No threshold is one above every cosine.
        threshold = float("inf") if order["threshold"] is None else order["threshold"]
        alpha, tau = torch.tensor([order["alpha"], threshold], dtype=torch.float32, device=device)
        dose = Dose(alpha, order["alpha_scale"], tau)

        def hook(_block: torch.nn.Module, _args: Any, output: Any) -> Any:
            stream = _stream(output)  # [T, D]
            tokens = len(stream)
            applied = steered(stream, vector, dose, self.emits[:tokens])
            traces[self.rows[:tokens], self.columns[:tokens]] = applied.seen()
            return _replaced(output, applied.stream, applied.on[:, None])

        self._handles.append(block.register_forward_hook(hook))

    def _sum_states(self, layer: int, block: torch.nn.Module, width: int) -> None:
        sums = self.states[layer] = torch.zeros(self.slots + 1, width, device=self.runner.device)

        def hook(_block: torch.nn.Module, _args: Any, output: Any) -> None:
            stream = _stream(output)  # [T, D]
            add_rows(sums, self.rows[: len(stream)], stream)  # a slot has one position that counts in a step

        self._handles.append(block.register_forward_hook(hook))


def _exit_after(process: int) -> None:
    """Wait for the end of a process, by its file descriptor, and end this one without another word."""
    select.select([process], [], [])
    os._exit(1)


def plan(
    *, slots: Integers, lengths: Integers, starts: Integers, prompts: Integers, next_positions: Integers
) -> tuple[NDArray[np.bool_], Integers, Integers]:
    """Which tokens of a step emit, and whose sums they add to.

    A request that vLLM has preempted comes back with all it had generated as one long prompt: those positions
    are steered again, for the cache, but have been counted before.

    Args:
        slots: [R] of each request in the step, in the order of their tokens.
        lengths: [R] tokens that each has in the step.
        starts: [R] position of the first of them in its own sequence.
        prompts: [R] tokens of each prompt.
        next_positions: [all slots] first position that is not counted yet; moved on to the step's end.

    Returns:
        emits ([T] bool), rows ([T]: the slot, or len(next_positions) where nothing is to be counted), columns ([T]:
        which of the answer's tokens the position chooses; 0 where nothing is to be counted).
    """
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = np.repeat(starts, lengths) + within  # [T]
    emits = positions >= np.repeat(prompts - 1, lengths)
    counts = emits & (positions >= np.repeat(next_positions[slots], lengths))
    rows = np.where(counts, np.repeat(slots, lengths), len(next_positions))
    columns = np.where(counts, positions - np.repeat(prompts - 1, lengths), 0)
    next_positions[slots] = np.maximum(next_positions[slots], starts + lengths)
    return emits, rows, columns


def request_name(slot: int) -> str:
    """What a request is called; vLLM may append random characters."""
    return f"{slot}-"


def slot_of(name: str) -> int:
    """The slot in a request's name."""
    return int(name.partition("-")[0])


def find_obstacle(runner: Any) -> str | None:
    """See `SteeringExtension.als_obstacle`."""
    if not hasattr(runner, "_model_forward") or not hasattr(runner, "input_batch"):
        return f"its {type(runner).__name__} is not the model runner that the hooks know"
    try:
        blocks = _own_blocks(runner.model)
    except UserError as error:  # which would lose its kind on the way to another process
        return str(error)
    for block in blocks.values():
        of = next(base for base in type(block).__mro__ if "forward" in vars(base))
        name = f"{of.__module__.rpartition('.')[2]}.{of.__name__}"
        if "residual" in inspect.signature(vars(of)["forward"]).parameters and name not in PAIRS:
            return f"what its {name} returns as the residual stream is not known"
    return None


def _own_blocks(model: torch.nn.Module) -> dict[int, torch.nn.Module]:
    """Layer -> decoder block, without those that lie on other pipeline stages."""
    from vllm.model_executor.models.utils import PPMissingLayer

    blocks = decoder_blocks(model)
    return {layer: block for layer, block in enumerate(blocks) if not isinstance(block, PPMissingLayer)}


def _stream(output: Any) -> Tensor:
    """The residual stream [T, D] in what a block returned; see PAIRS."""
    if not isinstance(output, tuple):
        return output  # type: ignore[no-any-return]
    hidden, residual = output
    return hidden if residual is None else hidden + residual  # type: ignore[no-any-return]


def _replaced(output: Any, stream: Tensor, where: Tensor) -> Any:
    """A block's output with another stream at the tokens where `where` ([T, 1]) holds, and untouched elsewhere.

    The sum of the two addends has to be the steered state to the last bit, hence state + 0.
    """
    if not isinstance(output, tuple):
        return torch.where(where, stream, output)
    hidden, residual = output
    if residual is None:
        return torch.where(where, stream, hidden), None
    return hidden.masked_fill(where, 0), torch.where(where, stream, residual)
