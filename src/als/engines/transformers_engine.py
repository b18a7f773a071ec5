"""The default engine: a transformers model, its KV cache, and a decoding loop of our own.

Why not model.generate: it keeps every row of a batch until the longest is done, it applies a checkpoint's
sampling defaults (a repetition penalty, say) to what ought to be plain argmax, and it tells hooks nothing
about which rows are still alive. This loop drops rows as they finish, takes the argmax and nothing else,
and keeps the hooks informed. Forward pass, cache and attention are the library's.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from als.engines.base import Gate, Output, Sampling
from als.engines.capture import StateSums, sum_states
from als.engines.sampling import RowSamplers
from als.engines.text_stream import TokenTextStream
from als.errors import UserError
from als.models import render_chat
from als.records import Completion
from als.steering import RowTally, Steering, steer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHECK_EVERY = 8
"""Steps between two looks, on an accelerator, at which rows have finished: each look waits for the device."""


class TransformersEngine:
    """Decoding in left-padded batches that shrink as rows finish. See `engines.base.Engine`.

    Attributes:
        generated_tokens: tokens of every answer so far, for whomever asks what something cost.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 32) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.generated_tokens = 0
        self.eos = torch.tensor(sorted(_end_tokens(model, tokenizer)), device=model.device)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        # Logits of the last position are all that is read; a [B, T, V] tensor would be the largest of all.
        self._last_logits: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The exact prompt text of a conversation, by the model's chat template."""
        return render_chat(self.tokenizer, messages)

    def check_prompts(self, prompts: Sequence[str], *, max_new_tokens: int) -> None:
        """Raise a UserError if a prompt and max_new_tokens together exceed the model's context."""
        self._check_context(self.encode(prompts), max_new_tokens)

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
        """Complete prompts; see `engines.base.Engine.generate`."""
        ids = self.encode(prompts)
        self._check_context(ids, max_new_tokens)
        samples = sampling.samples if sampling else 1
        start = 0
        while start < len(prompts):
            here = slice(start, start + max(1, self.batch_size // samples))
            batch = Batch.start(*self.pad(ids[here]), max_new_tokens, samples=samples)
            if gates is not None:
                batch.readers = [(gates(), TokenTextStream(self.tokenizer)) for _ in range(batch.answers)]
            if sampling is not None:
                seeds = [seed for row in sampling.seeds[here] for seed in row]
                batch.samplers = RowSamplers(seeds, sampling.temperature, self.model.device)
            lengths = [len(row) for row in ids[here] for _ in range(samples)]
            try:
                outputs = self._run(batch, lengths, steering, capture_states)
            except torch.OutOfMemoryError:
                if len(ids[here]) == 1:
                    raise
                outputs = None
            if outputs is None:  # outside the except block, whose exception keeps the tensors alive
                del batch
                self._halve_batch(len(ids[here]) * samples)
                continue
            yield from enumerate(outputs, start * samples)
            start += len(ids[here])

    def _halve_batch(self, tried: int) -> None:
        """Go on with smaller batches where the GPU's memory did not do for one."""
        self.batch_size = tried // 2
        torch.cuda.empty_cache()
        warnings.warn(
            f"out of memory with {tried} answers in flight: --batch_size is {self.batch_size} from here on",
            stacklevel=3,
        )

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, which spell out their special tokens: the tokenizer adds none."""
        return [self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]

    def pad(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Left-pad prompts: input_ids and attention_mask, both [B, T] int64."""
        padded = self.tokenizer.pad({"input_ids": [list(row) for row in ids]}, padding=True, return_tensors="pt")
        return padded["input_ids"].to(self.model.device), padded["attention_mask"].to(self.model.device)

    def _check_context(self, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        longest = max(map(len, ids), default=0)
        if limit is not None and longest + max_new_tokens > limit:
            raise UserError(
                f"--max_new_tokens {max_new_tokens} after a prompt of {longest} tokens exceeds the model's context "
                f"of {limit}; give at most {max(limit - longest, 0)}"
            )

    @torch.inference_mode()
    def _run(
        self, batch: Batch, prompt_lengths: Sequence[int], steering: Steering | None, capture_states: bool
    ) -> list[Output]:
        """Decode one batch with the hooks it needs, and take the tallies apart by answer."""
        started = time.perf_counter()
        with ExitStack() as hooks:
            if steering is not None:
                batch.tally = RowTally(batch.slots, torch.zeros(batch.answers + 1, 3, device=self.model.device))
                hooks.enter_context(steer(self.model, steering, tally=batch.tally))
            if capture_states:
                batch.states = StateSums(batch.answers + 1, batch.slots)
                hooks.enter_context(sum_states(self.model, batch.states))
            self.decode(batch)
        texts, counts, stopped = self.read(batch)
        seconds = (time.perf_counter() - started) / sum(counts)
        fractions, cosines = _steering_tallies(batch)
        means = batch.states.mean(counts) if batch.states else [None] * batch.answers
        return [
            Output(
                Completion(text, prompt_lengths[i], counts[i], "stop" if stopped[i] else "length", seconds * counts[i]),
                steered_fraction=fractions[i],
                mean_cosine=cosines[i],
                mean_state=means[i],
            )
            for i, text in enumerate(texts)
        ]

    def decode(self, batch: Batch) -> None:
        """Run the model until every row has finished; `batch.tokens` receives what it chose."""
        # Gates read every token on the host anyway.
        every = CHECK_EVERY if self.model.device.type != "cpu" and not batch.readers else 1
        for step in range(batch.max_new_tokens):
            batch.inform_hooks()
            logits = self._forward(batch)  # [B, V]
            if step == 0 and batch.samples > 1:
                logits = batch.spread(logits)
            chosen = batch.samplers.choose(logits) if batch.samplers else logits.argmax(dim=-1)  # [B]
            batch.append(chosen, step, torch.isin(chosen, self.eos))
            if (step + 1) % every == 0 and not batch.drop_finished():
                return

    def _forward(self, batch: Batch) -> Tensor:
        """One step: the next token's logits [B, V]; the cache in `batch` grows by the step's input."""
        positions = (batch.mask.cumsum(-1) - 1).clamp_min(0)[:, -batch.input_ids.shape[1] :]
        outputs = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.mask,
            past_key_values=batch.cache,
            use_cache=True,
            **({"position_ids": positions} if self._takes_positions else {}),
            **self._last_logits,
        )
        batch.cache = outputs.past_key_values
        return outputs.logits[:, -1]  # type: ignore[no-any-return]

    def read(self, batch: Batch) -> tuple[list[str], list[int], list[bool]]:
        """Texts, numbers of generated tokens, and whether each answer ended by itself."""
        tokens = batch.tokens[:-1].cpu()  # [answers, max_new_tokens]
        ends = torch.isin(tokens, self.eos.cpu())
        stopped = ends.any(dim=1)
        counts = torch.where(stopped, ends.int().argmax(dim=1) + 1, tokens.shape[1]).tolist()
        self.generated_tokens += sum(counts)
        rows = [tokens[i, :count].tolist() for i, count in enumerate(counts)]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True), counts, stopped.tolist()


@dataclass(eq=False)
class Batch:
    """The rows in flight. Finished ones are sent to a waste slot, then dropped together with their cache."""

    input_ids: Tensor  # [B, T] the next forward pass's input
    mask: Tensor  # [B, columns so far]
    slots: Tensor  # [B] the answer of each row; `answers` is the waste slot
    tokens: Tensor  # [answers + 1, max_new_tokens] chosen tokens, -1 where there is none
    answers: int
    max_new_tokens: int
    samples: int = 1
    cache: Any = None
    tally: RowTally | None = None
    states: StateSums | None = None
    samplers: RowSamplers | None = None
    readers: list[tuple[Gate, TokenTextStream]] = field(default_factory=list)  # a gate for each answer

    @classmethod
    def start(
        cls, input_ids: Tensor, mask: Tensor, max_new_tokens: int, *, samples: int = 1, cache: Any = None
    ) -> Batch:
        """Rows for prompts that have `samples` answers each; rows of one prompt are one until its cache is there."""
        answers = len(input_ids) * samples
        slots = torch.arange(0, answers, samples, device=input_ids.device)
        tokens = torch.full((answers + 1, max_new_tokens), -1, device=input_ids.device)
        return cls(input_ids, mask, slots, tokens, answers, max_new_tokens, samples, cache)

    def inform_hooks(self) -> None:
        """Tell the hooks whose rows these are, and which of them may be steered."""
        if self.states is not None:
            self.states.slots = self.slots
        if self.tally is not None:
            self.tally.slots = self.slots
            if self.readers:
                # Answers that have ended point at the waste slot, which has no reader.
                open_ = [slot < self.answers and self.readers[slot][0].steering for slot in self.slots.tolist()]
                self.tally.gate = torch.tensor(open_, device=self.slots.device)

    def spread(self, logits: Tensor) -> Tensor:
        """After the prompts' forward pass: one row a sample, each with the cache and the tallies of its prompt."""
        rows = torch.arange(len(self.mask), device=self.mask.device).repeat_interleave(self.samples)  # [B]
        self.cache.reorder_cache(rows)
        self.mask = self.mask[rows]
        self.slots = torch.arange(self.answers, device=self.slots.device)
        sums = [*([self.tally.sums] if self.tally else []), *(self.states.sums if self.states else [])]
        for total in sums:
            by_prompt = total[:-1].view(-1, self.samples, *total.shape[1:])  # [prompts, samples, ...]
            by_prompt[:, 1:] = by_prompt[:, :1]
        return logits[rows]

    def append(self, chosen: Tensor, step: int, ended: Tensor) -> None:
        """Record a step's tokens [B]; rows that ended with theirs point at the waste slot from now on."""
        self.tokens[self.slots, step] = chosen
        if self.readers:
            self._show_readers(chosen)
        self.slots = torch.where(ended, self.answers, self.slots)
        self.input_ids = chosen[:, None]
        self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), dim=1)

    def _show_readers(self, chosen: Tensor) -> None:
        for slot, token in zip(self.slots.tolist(), chosen.tolist(), strict=True):
            if slot < self.answers:
                gate, stream = self.readers[slot]
                gate.feed(stream.push(token))

    def drop_finished(self) -> bool:
        """Take finished rows out of the batch and its cache; False when none is left. Waits for the device."""
        alive = (self.slots != self.answers).nonzero()[:, 0]
        if 0 < len(alive) < len(self.slots):
            self.input_ids, self.mask, self.slots = self.input_ids[alive], self.mask[alive], self.slots[alive]
            self.cache.reorder_cache(alive)  # the one way to pick rows that every kind of cache knows
            if self.samplers is not None:
                self.samplers.keep(alive.tolist())
        return len(alive) > 0


def _steering_tallies(batch: Batch) -> tuple[list[float | None], list[float | None]]:
    """For each answer, the share of emitting positions that were steered and the mean cosine before steering."""
    if batch.tally is None:
        return [None] * batch.answers, [None] * batch.answers
    emitted, on, cosine = batch.tally.sums[:-1].cpu().double().T  # [answers] each
    return (on / emitted).tolist(), (cosine / emitted).tolist()


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer: those of the generation config, and the tokenizer's."""
    declared = model.generation_config.eos_token_id if model.generation_config else None
    several = declared if isinstance(declared, list) else [declared]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}
