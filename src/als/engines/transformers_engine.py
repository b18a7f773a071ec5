"""The default engine: a transformers model, its KV cache, and a decoding loop of our own.

Why not model.generate: it keeps every row of a batch until the longest is done, it applies a checkpoint's
sampling defaults (a repetition penalty, say) to what ought to be plain argmax, and it tells hooks nothing
about which rows are still alive. This loop takes the argmax and nothing else, lets the next answer take the
place of one that has ended, and keeps the hooks informed. Forward pass and attention are the library's.

Why not its continuous batching (generate_batch): on a CPU it is slower than this loop, and its packed batches
have no rows that a recurrent model could keep a state for. scripts/bench.py has it beside this engine.
"""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from als.engines.base import Gate, Output, Sampling, check_context
from als.engines.capture import StateSums, sum_states
from als.engines.flight import Answer, Flight, Landed
from als.engines.text import TextEngine
from als.engines.text_stream import TokenTextStream
from als.steering import Steering

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHECK_EVERY = 8
"""Steps between two looks, on an accelerator, at which rows have finished: each look waits for the device."""


class TransformersEngine(TextEngine):
    """Decoding in left-padded batches whose rows come and go. See `engines.base.Engine`.

    Attributes:
        generated_tokens: tokens of every answer so far, for whomever asks what something cost.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        super().__init__(model, tokenizer, context=limit, chat_template_kwargs=chat_template_kwargs)
        self.batch_size = batch_size
        self.generated_tokens = 0
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._takes_logits_to_keep = "logits_to_keep" in accepted
        # As an index and not as the number 1: the slice which that makes is not contiguous, and torch then copies the
        # LM head once for every row. Made once, because to make it is to wait for the device.
        self._last = torch.tensor([-1], device=model.device)

    def check_hooks(self) -> None:
        """Put a token through the model with every block hooked; see `engines.base.Engine.check_hooks`."""
        token = torch.ones(1, 1, dtype=torch.int64, device=self.model.device)
        with torch.inference_mode(), sum_states(self.model, StateSums(1, token.new_zeros(1))):
            self.model(input_ids=token, use_cache=False)

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

        The longest prompts come first: what does not fit in memory shows at once, and prompts that are run
        together are of like length.
        """
        ids = self.encode(prompts)
        check_context(ids, max_new_tokens, self.context)
        hooked = {"steering": steering, "capture_states": capture_states}
        yield from Generation(self, ids, max_new_tokens, hooked, gates, sampling).outputs()

    def flight(self, lanes: int, max_new_tokens: int, **options: Any) -> Flight:
        """Room for so many answers in flight; the options are those of `Flight`."""
        eos = torch.tensor(self.ends, dtype=torch.int64, device=self.model.device)
        return Flight(self.model, self._forward, eos=eos, lanes=lanes, max_new_tokens=max_new_tokens, **options)

    def advance(self, flight: Flight) -> list[Landed]:
        """Step until at least one answer has ended."""
        # Gates read every token on the host anyway.
        patient = self.model.device.type != "cpu" and not any(answer.reader for answer in flight.answers)
        while not (landed := flight.land()):
            for _ in range(CHECK_EVERY if patient else 1):
                flight.step()
        self.generated_tokens += sum(len(one.tokens) for one in landed)
        return landed

    def halve_batch(self, tried: int) -> None:
        """Go on with smaller batches where the GPU's memory did not do for one."""
        self.batch_size = tried // 2
        torch.cuda.empty_cache()
        warnings.warn(
            f"out of memory with {tried} answers in flight: --batch_size is {self.batch_size} from here on",
            stacklevel=4,
        )

    def _forward(self, input_ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """The next token's logits [B, V] for input_ids [B, t] and mask [B, T]; the cache grown by the input."""
        options: dict[str, Any] = {}
        if self._takes_positions:
            options["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)[:, -input_ids.shape[1] :]
        if self._takes_logits_to_keep:
            options["logits_to_keep"] = self._last  # the only logits that are read
        outputs = self.model(
            input_ids=input_ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )  # fmt: skip
        return outputs.logits[:, -1], outputs.past_key_values


@dataclass(eq=False)
class Generation:
    """One call of `generate`: who waits, who is in flight, and what becomes of them."""

    engine: TransformersEngine
    ids: Sequence[Sequence[int]]
    max_new_tokens: int
    hooked: dict[str, Any]
    """What the flight's hooks do: its `steering` and `capture_states`."""
    gates: Callable[[], Gate] | None
    sampling: Sampling | None

    def __post_init__(self) -> None:
        longest_first = sorted(range(len(self.ids)), key=lambda i: -len(self.ids[i]))
        # Positions of the answers to each prompt.
        self._waiting = deque([i * self._samples + k for k in range(self._samples)] for i in longest_first)
        self._flight = self._new_flight()

    def outputs(self) -> Iterator[tuple[int, Output]]:
        """Each answer with its position, as soon as it has ended."""
        while self._waiting or self._flight.answers:
            boarding = self._boarding()
            landed = self._fly(boarding)
            if landed is None:
                self._retreat(boarding)
            else:
                yield from map(self._output, landed)

    @property
    def _samples(self) -> int:
        return self.sampling.samples if self.sampling else 1

    def _new_flight(self) -> Flight:
        temperature = self.sampling.temperature if self.sampling else None
        lanes = max(self._samples, min(self.engine.batch_size, len(self.ids) * self._samples))
        return self.engine.flight(lanes, self.max_new_tokens, temperature=temperature, **self.hooked)

    def _boarding(self) -> list[list[int]]:
        """Whoever joins now. A few at once: each time, those in flight wait for the prompts to be run."""
        room = self._flight.room
        few = min(self._flight.lanes // 8, sum(map(len, self._waiting)))
        boarding: list[list[int]] = []
        if self._flight.answers and room < few:
            return boarding
        while self._waiting and len(self._waiting[0]) <= room:
            boarding.append(self._waiting.popleft())
            room -= len(boarding[-1])
        return boarding

    def _fly(self, boarding: list[list[int]]) -> list[Landed] | None:
        """Go on until an answer has ended; None where memory ran out."""
        groups = [[self._answer(position) for position in group] for group in boarding]
        try:
            with torch.inference_mode(), self._flight.hooks():
                if groups:
                    self._flight.admit(groups)
                return self.engine.advance(self._flight)
        except torch.OutOfMemoryError:
            if len(self._in_flight(boarding)) <= self._samples:
                raise
            return None  # which lets go of the exception, and that of the tensors in its traceback

    def _retreat(self, boarding: list[list[int]]) -> None:
        """Begin the answers in flight again, half as many at a time."""
        positions = self._in_flight(boarding)
        groups: dict[int, list[int]] = {}
        for position in positions:
            groups.setdefault(position // self._samples, []).append(position)
        self._waiting.extendleft(groups.values())
        del self._flight
        self.engine.halve_batch(len(positions))
        self._flight = self._new_flight()

    def _in_flight(self, boarding: list[list[int]]) -> list[int]:
        """Who was under way when memory ran out: those that were to join may have joined already, or not."""
        return sorted({answer.position for answer in self._flight.answers}.union(*boarding))

    def _answer(self, position: int) -> Answer:
        prompt, sample = divmod(position, self._samples)
        answer = Answer(position, self.ids[prompt])
        if self.sampling is not None:
            device = self.engine.model.device
            answer.generator = torch.Generator(device).manual_seed(self.sampling.seeds[prompt][sample])
        if self.gates is not None:
            answer.reader = self.gates(), TokenTextStream(self.engine.tokenizer)
        return answer

    def _output(self, landed: Landed) -> tuple[int, Output]:
        answer = landed.answer
        return answer.position, self.engine.output(
            prompt_tokens=len(answer.prompt),
            tokens=landed.tokens,
            seconds=answer.seconds,
            seen=landed.seen,
            mean_state=landed.mean_state,
        )
