"""The fast engine: vLLM schedules, caches and samples; hooks in its workers steer and collect states.

Answers are handed out as they end, so a run that is killed loses what was in flight and no more. The arithmetic of
steering is that of the other engine (`als.steering.steered`), and so is what the results say; see `vllm_worker`
for how it gets into vLLM. Draws of samples are vLLM's own: reproducible by seed, whatever else is in flight, but
others than those of the transformers engine.

vLLM runs eagerly here. The hooks are written so that CUDA graphs could hold them (fixed buffers, no look at a
value), but a graph is captured when vLLM starts, before there is anything to hook in.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from als.engines.base import Gate, Output, Sampling, check_context
from als.engines.text import TextEngine
from als.engines.vllm_worker import Order, Report, SteeringOrder, request_name, slot_of
from als.errors import UserError
from als.hub import first_line
from als.models import load_skeleton, resolve_dtype
from als.prompts.chat import ChatTemplate
from als.steering import Steering, layer_vector

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INSTALL = "pip install -e '.[vllm]', in the folder of this toolkit,"
CPU_CACHE_BYTES = 4 * 2**30
"""What keys and values may take on a CPU, where vLLM's own default would be nearly all of the machine's memory."""

CPU_BLOCK = 32
"""Tokens a block of the cache, and so the least that prompts can share; vLLM's own 128 is longer than many prompts."""


class VllmEngine(TextEngine):
    """See `engines.base.Engine`; gates, which read every token on the host, are the other engine's.

    Attributes:
        batch_size: answers in flight together.
    """

    def __init__(
        self,
        llm: Any,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            model, tokenizer, context=llm.model_config.max_model_len, chat_template_kwargs=chat_template_kwargs
        )
        self.llm = llm
        self.batch_size: int = llm.vllm_config.scheduler_config.max_num_seqs
        self._runs = 0
        self._busy = False

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        dtype: str = "auto",
        device: str = "auto",
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        batch_size: int = 32,
        seed: int = 42,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> VllmEngine:
        """Start vLLM with a model. A .gguf file is converted once, into the user's cache folder.

        Args:
            name_or_path: as dtype, device and the two permissions, see `als.models.load_model`.
            batch_size: answers in flight together.
            chat_template_kwargs: see `als.prompts.chat.ChatTemplate`.
            options: more arguments of vLLM's EngineArgs, for example tensor_parallel_size.

        Raises:
            UserError: vLLM is not installed, or cannot run this model here.
        """
        platform = _platform(device)
        model, tokenizer = load_skeleton(
            name_or_path,
            dtype=resolve_dtype(dtype, torch.device("cpu" if platform == "cpu" else "cuda")),
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        ChatTemplate(tokenizer, chat_template_kwargs)  # which should not wait for vLLM to start
        arguments: dict[str, Any] = {
            "model": model.name_or_path,
            "dtype": str(model.dtype).removeprefix("torch."),
            "load_format": "auto" if allow_pickle else "safetensors",
            "trust_remote_code": trust_remote_code,
            "seed": seed,
            "max_num_seqs": batch_size,
            **(options or {}),
        }
        try:
            llm = _start(arguments, platform)
        except Exception as error:  # of many kinds, and often with its cause in another process
            raise UserError(f"vLLM cannot run the model {str(name_or_path)!r} here: {first_line(error)}") from error
        return cls(llm, model, tokenizer, chat_template_kwargs=chat_template_kwargs)

    def check_hooks(self) -> None:
        """Make sure that every worker can be hooked; see `engines.base.Engine.check_hooks`."""
        obstacles = [obstacle for obstacle in self.llm.collective_rpc("als_obstacle") if obstacle]
        if obstacles:
            raise UserError(f"vLLM cannot steer or collect states here: {obstacles[0]}; use --engine transformers")

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        steering: Steering | None = None,
        capture_states: bool = False,
        gates: Callable[[], Gate] | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[tuple[int, Output]]:
        """Complete prompts; see `engines.base.Engine.generate`.

        Raises:
            UserError: also for gates, which vLLM has no place for, and for models that it steers otherwise than known.
            RuntimeError: an earlier call's answers have not all been taken: vLLM has one set of hooks.
        """
        if gates is not None:
            raise UserError("gated steering reads answers token by token, which needs --engine transformers")
        ids = self.encode(prompts)
        check_context(ids, max_new_tokens, self.context)
        if self._busy:
            raise RuntimeError("one generate at a time: take all answers of the other one, or close it")
        self._busy = True
        try:
            yield from self._run(ids, max_new_tokens, steering, capture_states, sampling)
        finally:
            self._busy = False

    def _run(
        self,
        ids: list[list[int]],
        max_new_tokens: int,
        steering: Steering | None,
        capture_states: bool,
        sampling: Sampling | None,
    ) -> Iterator[tuple[int, Output]]:
        self._runs += 1
        samples = sampling.samples if sampling else 1
        # As many again wait inside vLLM, so that it never lacks one to go on with.
        requests = Requests(self.llm, slots=2 * self.batch_size)
        order = self._order(steering, capture_states, requests.slots, max_new_tokens)
        hooked = order["steering"] is not None or capture_states
        if hooked:
            self.check_hooks()
            self.llm.collective_rpc("als_start", args=(order,))
        salts = self._salts(ids, steering)
        todo = deque((i, divmod(i, samples)) for i in range(len(ids) * samples))
        try:
            requests.start_clock()
            while todo or requests.answers:
                while todo and requests.free:
                    i, (prompt, sample) = todo.popleft()
                    parameters = self._parameters(max_new_tokens, sampling, prompt, sample)
                    requests.add(Request(i, ids[prompt]), parameters, salts[prompt])
                if ended := requests.step():
                    lengths = {slot: len(answer.tokens) for slot, answer in ended}
                    reports = self.llm.collective_rpc("als_read", args=(lengths,)) if hooked else []
                    requests.share_seconds()
                    yield from self._outputs([answer for _, answer in ended], reports)
                    requests.start_clock()
        except BaseException:
            # Ctrl-C reaches vLLM's processes as well; that they cannot answer any more is not the news.
            with suppress(Exception):
                requests.abort()
                self._unhook(hooked)
            raise
        self._unhook(hooked)

    def _unhook(self, hooked: bool) -> None:
        if hooked:
            self.llm.collective_rpc("als_stop")

    def _salts(self, ids: list[list[int]], steering: Steering | None) -> list[str | None]:
        """For each prompt, what sets its entries in vLLM's prefix cache apart; equal salts share, None is a salt.

        What was computed under one vector must serve under no other, hence a salt a run. And the state after a
        prompt is steered from its last token on: a prompt that begins with the whole of another would find steered
        states where its own are plain, hence one of its own.
        """
        if steering is None:
            return [None] * len(ids)
        own = longer_than_another(ids)
        return [f"{self._runs}/{i if i in own else ''}" for i in range(len(ids))]

    def _order(self, steering: Steering | None, capture_states: bool, slots: int, max_new_tokens: int) -> Order:
        order = Order(slots=slots, max_new_tokens=max_new_tokens, capture_states=capture_states, steering=None)
        if steering is not None:
            vector = layer_vector(self.model, steering)
            order["steering"] = SteeringOrder(
                layer=steering.layer_idx % self._layers,
                vector=vector.cpu().contiguous().numpy().tobytes(),
                alpha=steering.alpha,
                alpha_scale=steering.alpha_scale,
                threshold=steering.similarity_threshold,
            )
        return order

    @property
    def _layers(self) -> int:
        return int(self.model.config.get_text_config(decoder=True).num_hidden_layers)

    def _parameters(self, max_new_tokens: int, sampling: Sampling | None, prompt: int, sample: int) -> Any:
        """One request's SamplingParams: nothing of the checkpoint's defaults, our end tokens, text made by us."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature if sampling else 0.0,
            seed=sampling.seeds[prompt][sample] if sampling else None,
            max_tokens=max_new_tokens,
            stop_token_ids=self.ends,
            ignore_eos=True,  # those that count are in stop_token_ids
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def _outputs(self, answers: list[Request], reports: list[Report]) -> Iterator[tuple[int, Output]]:
        states = _mean_states(reports, [len(answer.tokens) for answer in answers])
        for answer, seen, state in zip(answers, _seen(reports, len(answers)), states, strict=True):
            output = self.output(
                prompt_tokens=len(answer.prompt),
                tokens=answer.tokens,
                seconds=answer.seconds,
                seen=seen,
                mean_state=state,
            )
            yield answer.position, output


@dataclass(eq=False)
class Request:
    """One completion that is being generated."""

    position: int
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    seconds: float = 0.0


class Requests:
    """The requests that vLLM is working on, each in a slot of the workers' sums.

    Attributes:
        answers: slot -> the answer that it holds.
        free: slots that hold none.
    """

    def __init__(self, llm: Any, *, slots: int) -> None:
        self.llm = llm
        self.slots = slots
        self.free = deque(range(slots))
        self.answers: dict[int, Request] = {}
        self._names: dict[int, str] = {}
        self._since = time.perf_counter()
        self._grown: Counter[Request] = Counter()  # tokens since then

    def add(self, answer: Request, parameters: Any, salt: str | None) -> None:
        """Hand a request to vLLM."""
        slot = self.free.popleft()
        prompt: dict[str, Any] = {"prompt_token_ids": answer.prompt}
        if salt is not None:
            prompt["cache_salt"] = salt
        self._names[slot] = request_name(slot)
        self.llm.add_request(self._names[slot], prompt, parameters)
        self.answers[slot] = answer

    def step(self) -> list[tuple[int, Request]]:
        """Let vLLM do one step; returns the answers that have ended, with their slots, which are free again."""
        news = [(slot_of(output.request_id), output) for output in self.llm.step()]
        for slot, output in news:
            tokens = output.outputs[0].token_ids
            self.answers[slot].tokens += tokens
            self._grown[self.answers[slot]] += len(tokens)
        return [(slot, self._land(slot)) for slot, output in news if output.finished]

    def start_clock(self) -> None:
        """Count seconds from now on; what is done with answers that were handed over is not generation."""
        self._since = time.perf_counter()

    def share_seconds(self) -> None:
        """Share out the seconds that were counted, by tokens.

        All of them and not those inside of `step`: vLLM's processes work on while this one asks for what the hooks
        have seen, and that wait would otherwise make a steered answer look twice as fast as it is.
        """
        seconds, tokens = time.perf_counter() - self._since, max(self._grown.total(), 1)
        for answer, grown in self._grown.items():
            answer.seconds += seconds * grown / tokens
        self._grown.clear()

    def _land(self, slot: int) -> Request:
        self.free.append(slot)
        del self._names[slot]
        return self.answers.pop(slot)

    def abort(self) -> None:
        """Take back what is still under way."""
        if self._names:
            self.llm.abort_request(list(self._names.values()))


def longer_than_another(prompts: Sequence[list[int]]) -> set[int]:
    """Indices of the prompts that begin with the whole of another one and go on."""
    found: set[int] = set()
    shortest: list[int] | None = None
    for i in sorted(range(len(prompts)), key=prompts.__getitem__):  # those that begin alike become neighbours
        if shortest is None or prompts[i][: len(shortest)] != shortest:
            shortest = prompts[i]
        elif len(prompts[i]) > len(shortest):
            found.add(i)
    return found


def _seen(reports: Sequence[Report], answers: int) -> list[Tensor | None]:
    """For each answer [T, 3] float32, see `als.steering.RowTraces`; from the worker that has the steered block."""
    for report in reports:
        if report["traces"] is not None:
            return [torch.frombuffer(bytearray(rows), dtype=torch.float32).view(-1, 3) for rows in report["traces"]]
    return [None] * answers


def _mean_states(reports: Sequence[Report], counts: Sequence[int]) -> list[Tensor | None]:
    """For each answer [L, D] float32: its sums, whose layers may come from several workers, over its positions."""
    layers = {layer: sums for report in reports for layer, sums in report["states"].items()}
    if not layers:
        return [None] * len(counts)
    rows = [torch.frombuffer(bytearray(layers[layer]), dtype=torch.float32) for layer in sorted(layers)]
    sums = torch.stack([row.view(len(counts), -1) for row in rows], dim=1)  # [answers, L, D]
    return list(sums / torch.tensor(counts)[:, None, None])


def _platform(device: str) -> str:
    """What vLLM runs on here, cpu or cuda, which a --device value must not contradict.

    Raises:
        UserError: vLLM is not installed, or was built for something else than the device.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its progress is not ours
    # The only model runner whose inputs the hooks know.
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise UserError(f"--engine vllm needs vLLM, which is not installed; {INSTALL} installs it") from error
    kind = "cpu" if current_platform.is_cpu() else "cuda"
    if device not in ("auto", kind):
        raise UserError(
            f"--device {device!r}: vLLM is installed for {kind} here; give --device auto"
            + (", and choose GPUs with CUDA_VISIBLE_DEVICES" if kind == "cuda" else "")
        )
    return kind


def _start(arguments: dict[str, Any], platform: str) -> Any:
    """A vLLM engine, with our methods in its workers."""
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    defaults = {
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # not the checkpoint's: a repetition penalty is no plain argmax
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "async_scheduling": False,  # it computes a position beyond the end token, which would be counted
        "max_model_len": -1,  # the model's own, or what there is memory for
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "worker_extension_cls": "als.engines.vllm_worker.SteeringExtension",
    }
    if platform == "cpu" and "gpu_memory_utilization" not in arguments and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        defaults["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    if platform == "cpu":
        defaults["block_size"] = CPU_BLOCK
    llm = LLMEngine.from_engine_args(EngineArgs(**(defaults | arguments)))
    if hasattr(os, "pidfd_open"):  # Linux
        llm.collective_rpc("als_watch", args=(socket.gethostname(), os.getpid()))
    return llm
