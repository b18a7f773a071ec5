"""The default engine: a transformers model, its KV cache, and a decoding loop of our own.

Why not model.generate: it keeps every row of a batch until the longest is done, it applies a checkpoint's
sampling defaults (a repetition penalty, say) to what ought to be plain argmax, and it tells hooks nothing
about which rows are still alive. This loop drops rows as they finish, takes the argmax and nothing else,
and keeps the hooks informed. Forward pass, cache and attention are the library's.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from als.engines.base import Output
from als.engines.capture import StateSums, sum_states
from als.errors import UserError
from als.models import render_chat
from als.records import Completion
from als.steering import RowTally, Steering, steer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHECK_EVERY = 8
"""Steps between two looks, on an accelerator, at which rows have finished: each look waits for the device."""


class TransformersEngine:
    """Greedy decoding in left-padded batches that shrink as rows finish. See `engines.base.Engine`."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 32) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._eos = torch.tensor(sorted(_end_tokens(model, tokenizer)), device=model.device)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        # Logits of the last position are all that is read; a [B, T, V] tensor would be the largest of all.
        self._last_logits: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The exact prompt text of a conversation, by the model's chat template."""
        return render_chat(self.tokenizer, messages)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        steering: Steering | None = None,
        capture_states: bool = False,
    ) -> Iterator[tuple[int, Output]]:
        """Complete prompts greedily; see `engines.base.Engine.generate`."""
        ids = self._encode(prompts)
        self._check_context(ids, max_new_tokens)
        for start in range(0, len(prompts), self.batch_size):
            batch = ids[start : start + self.batch_size]
            outputs = self._generate_batch(batch, max_new_tokens, steering, capture_states)
            yield from enumerate(outputs, start)

    def check_prompts(self, prompts: Sequence[str], *, max_new_tokens: int) -> None:
        """Raise a UserError if a prompt and max_new_tokens together exceed the model's context."""
        self._check_context(self._encode(prompts), max_new_tokens)

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        # The prompts spell out their special tokens, so the tokenizer adds none.
        return [self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]

    def _check_context(self, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        longest = max(map(len, ids), default=0)
        if limit is not None and longest + max_new_tokens > limit:
            raise UserError(
                f"--max_new_tokens {max_new_tokens} after a prompt of {longest} tokens exceeds the model's context "
                f"of {limit}; give at most {max(limit - longest, 0)}"
            )

    @torch.inference_mode()
    def _generate_batch(
        self,
        ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        steering: Steering | None,
        capture_states: bool,
    ) -> list[Output]:
        """Decode one batch with the hooks it needs, and take the tallies apart by answer."""
        started = time.perf_counter()
        batch = _Batch.start(self._pad(ids), max_new_tokens, self.tokenizer.pad_token_id)
        tally = RowTally(batch.slots, torch.zeros(batch.answers + 1, 3, device=self.model.device))
        states = StateSums(batch.answers + 1, batch.slots)
        with ExitStack() as hooks:
            if steering is not None:
                hooks.enter_context(steer(self.model, steering, tally=tally))
            if capture_states:
                hooks.enter_context(sum_states(self.model, states))
            self._decode(batch, tally, states)
        texts, counts, stopped = self._read(batch)
        seconds = (time.perf_counter() - started) / int(counts.sum())
        outputs = [
            Completion(
                text,
                len(ids[i]),
                int(counts[i]),
                "stop" if stopped[i] else "length",
                seconds * int(counts[i]),
            )
            for i, text in enumerate(texts)
        ]
        sums = tally.sums.cpu()  # [answers + 1, 3]
        means = states.mean(torch.cat((counts, counts.new_ones(1)))) if capture_states else None
        return [
            Output(
                completion,
                steered_fraction=float(sums[i, 1] / sums[i, 0]) if steering is not None else None,
                mean_cosine=float(sums[i, 2] / sums[i, 0]) if steering is not None else None,
                mean_state=means[i].clone() if means is not None else None,
            )
            for i, completion in enumerate(outputs)
        ]

    def _decode(self, batch: _Batch, tally: RowTally, states: StateSums) -> None:
        """Run the model until every row has finished; `batch.tokens` receives what it chose."""
        every = CHECK_EVERY if self.model.device.type != "cpu" else 1
        for step in range(batch.max_new_tokens):
            tally.slots = states.slots = batch.slots
            chosen = self._forward(batch).argmax(dim=-1)  # [B]
            batch.append(chosen, step, torch.isin(chosen, self._eos))
            if (step + 1) % every == 0 and not batch.drop_finished():
                return

    def _forward(self, batch: _Batch) -> Tensor:
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

    def _pad(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Left-pad prompts: input_ids and attention_mask, both [B, T] int64."""
        padded = self.tokenizer.pad({"input_ids": [list(row) for row in ids]}, padding=True, return_tensors="pt")
        return padded["input_ids"].to(self.model.device), padded["attention_mask"].to(self.model.device)

    def _read(self, batch: _Batch) -> tuple[list[str], Tensor, list[bool]]:
        """Texts, numbers of generated tokens ([answers] int64, CPU), and whether each ended by itself."""
        tokens = batch.tokens[:-1].cpu()  # [answers, max_new_tokens]
        ends = torch.isin(tokens, self._eos.cpu())
        stopped = ends.any(dim=1)
        counts = torch.where(stopped, ends.int().argmax(dim=1) + 1, tokens.shape[1])
        rows = [tokens[i, : counts[i]].tolist() for i in range(len(tokens))]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True), counts, stopped.tolist()


@dataclass
class _Batch:
    """The rows in flight. Finished ones are sent to a waste slot, then dropped together with their cache."""

    input_ids: Tensor  # [B, T] the next forward pass's input
    mask: Tensor  # [B, columns so far]
    slots: Tensor  # [B] the answer of each row; `answers` is the waste slot
    tokens: Tensor  # [answers + 1, max_new_tokens] chosen tokens
    answers: int
    max_new_tokens: int
    cache: Any = None

    @classmethod
    def start(cls, padded: tuple[Tensor, Tensor], max_new_tokens: int, pad: int) -> _Batch:
        input_ids, mask = padded
        answers = len(input_ids)
        slots = torch.arange(answers, device=input_ids.device)
        tokens = torch.full((answers + 1, max_new_tokens), pad, device=input_ids.device)
        return cls(input_ids, mask, slots, tokens, answers, max_new_tokens)

    def append(self, chosen: Tensor, step: int, ended: Tensor) -> None:
        """Record a step's tokens [B]; rows that ended with theirs point at the waste slot from now on."""
        self.tokens[self.slots, step] = chosen
        self.slots = torch.where(ended, self.answers, self.slots)
        self.input_ids = chosen[:, None]
        self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), dim=1)

    def drop_finished(self) -> bool:
        """Take finished rows out of the batch and its cache; False when none is left. Waits for the device."""
        alive = (self.slots != self.answers).nonzero()[:, 0]
        if 0 < len(alive) < len(self.slots):
            self.input_ids, self.mask, self.slots = self.input_ids[alive], self.mask[alive], self.slots[alive]
            self.cache.batch_select_indices(alive)
        return len(alive) > 0


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer: those of the generation config, and the tokenizer's."""
    declared = model.generation_config.eos_token_id if model.generation_config else None
    several = declared if isinstance(declared, list) else [declared]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}
