"""The answers in flight: which row is whose, what it has chosen, and what the hooks have summed for it.

A row of the batch belongs to an answer. An answer keeps a lane, its place in the tensors that steps write to,
until it lands: ends and is handed over. Rows join and leave at any step. What a step needs lies on the device,
so that nothing here waits for it; what is known without looking (who is in flight, how long they are) lies on the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from als.engines.base import Gate
from als.engines.capture import StateSums, sum_states
from als.engines.kv_cache import arena_cache, arena_layers
from als.engines.sampling import draw
from als.engines.text_stream import TokenTextStream
from als.steering import RowTraces, Steering, steer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Forward = Callable[[Tensor, Tensor, Any], tuple[Tensor, Any]]
"""(input_ids [B, t], mask [B, T], cache) -> (logits of the last position [B, V], cache)."""


@dataclass(eq=False)
class Answer:
    """One completion that is being written."""

    position: int
    """Its place among the engine's outputs; see `engines.base.Engine.generate`."""
    prompt: Sequence[int]
    """The prompt's token ids."""
    generator: torch.Generator | None = None
    """The source of its draws; None where tokens are the argmax."""
    reader: tuple[Gate, TokenTextStream] | None = None
    """What decides, character by character, whether it may be steered."""
    lane: int = -1
    length: int = 0
    """Columns of its row: the prompt and the tokens chosen."""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Landed:
    """An answer that has ended."""

    answer: Answer
    tokens: list[int]
    """The one that ended it included."""
    seen: Tensor | None
    """[T, 3] float32, see `als.steering.RowTraces`; None without steering."""
    mean_state: Tensor | None
    """[L, D] float32 on CPU."""


@dataclass(eq=False)
class Rows:
    """The batch of a forward pass."""

    answers: list[Answer]
    input_ids: Tensor  # [B, t] the next forward pass's input
    mask: Tensor  # [B, T] int64: which columns, the input's included, are the row's own
    slots: Tensor  # [B] int64: the lane of each row, or the waste lane once its answer has ended
    cache: Any = None

    def reorder(self, order: Sequence[int]) -> None:
        """Make row i what row order[i] was; rows may be left out, or stand there several times."""
        rows = torch.tensor(order, device=self.mask.device)
        self.input_ids, self.mask, self.slots = self.input_ids[rows], self.mask[rows], self.slots[rows]
        self.answers = [self.answers[i] for i in order]
        self.cache.reorder_cache(torch.tensor(order))  # the one way to pick rows that every kind of cache knows

    def trim(self) -> None:
        """Forget the columns that no row needs any more, where the cache can."""
        width = max(answer.length for answer in self.answers)
        layers = arena_layers(self.cache)
        if layers:
            self.mask = self.mask[:, -width:]
        for layer in layers:
            layer.trim(width - 1)  # the input's own column is not in the cache yet

    def join(self, other: Rows) -> None:
        """Put other rows below these, last column beside last column."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        masks = [pad(rows.mask, (width - rows.mask.shape[1], 0)) for rows in (self, other)]
        self.mask = torch.cat(masks)
        self.input_ids = torch.cat((self.input_ids, other.input_ids))
        self.slots = torch.cat((self.slots, other.slots))
        self.answers = self.answers + other.answers
        for mine, theirs in zip(arena_layers(self.cache), arena_layers(other.cache), strict=True):
            mine.join(theirs)


class Flight:
    """Rows, lanes and sums of the answers in flight on one model."""

    def __init__(
        self,
        model: PreTrainedModel,
        forward: Forward,
        *,
        eos: Tensor,
        lanes: int,
        max_new_tokens: int,
        steering: Steering | None = None,
        capture_states: bool = False,
        temperature: float | None = None,
    ) -> None:
        self.lanes = lanes
        self._model = model
        self._forward = forward
        self._eos = eos
        self._max_new_tokens = max_new_tokens
        self._steering = steering
        self._temperature = temperature
        self._rows: Rows | None = None
        self._free = list(range(lanes))
        self._since = time.perf_counter()
        # One lane more than answers: ended ones write to it until somebody looks.
        device = model.device
        self._tokens = torch.zeros(lanes + 1, max_new_tokens, dtype=torch.int64, device=device)
        self._counts = torch.zeros(lanes + 1, dtype=torch.int64, device=device)
        nobody = torch.zeros(0, dtype=torch.int64, device=device)
        seen = torch.zeros(lanes + 1, max_new_tokens, 3, device=device) if steering else None
        self._traces = RowTraces(nobody, nobody, seen) if seen is not None else None
        self._states = StateSums(lanes + 1, nobody) if capture_states else None

    @property
    def answers(self) -> list[Answer]:
        """Those in flight, a row each."""
        return self._rows.answers if self._rows else []

    @property
    def room(self) -> int:
        """How many answers can join now."""
        joins = self._rows is None or bool(arena_layers(self._rows.cache))
        return len(self._free) if joins else 0

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Steer and capture inside the block; time that passes outside of it is not counted."""
        self._since = time.perf_counter()
        with ExitStack() as hooked:
            if self._steering is not None:
                hooked.enter_context(steer(self._model, self._steering, traces=self._traces))
            if self._states is not None:
                hooked.enter_context(sum_states(self._model, self._states))
            yield

    def admit(self, groups: Sequence[Sequence[Answer]], *, cache: Any = None) -> None:
        """Run the prompts of new answers and choose their first tokens.

        Args:
            groups: the answers of each prompt, which is run once for all of them.
            cache: where it holds the beginning of the (one) prompt already.
        """
        answers = [answer for group in groups for answer in group]
        for answer in answers:
            answer.lane, answer.length = self._free.pop(), len(answer.prompt)
        rows = self._start([group[0] for group in groups], cache, most=self.lanes if not self._rows else len(answers))
        logits = self._run(rows)
        if len(answers) > len(groups):
            order = [i for i, group in enumerate(groups) for _ in group]
            rows.reorder(order)
            rows.answers, logits = answers, logits[rows.slots.new_tensor(order)]
            rows.slots = rows.slots.new_tensor([answer.lane for answer in answers])
            self._copy_sums([group[0].lane for group in groups for _ in group], rows.slots)
        self._choose(rows, logits)
        if self._rows is None:
            self._rows = rows
        else:
            self._rows.join(rows)

    def step(self) -> None:
        """Choose every row's next token."""
        assert self._rows is not None, "nobody is in flight"
        self._choose(self._rows, self._run(self._rows))

    def land(self) -> list[Landed]:
        """Hand over the answers that have ended and forget their rows. Waits for the device."""
        assert self._rows is not None, "nobody is in flight"
        ended = (self._rows.slots == self.lanes).nonzero()[:, 0].tolist()
        together = self.answers
        landed = self._read([together[row] for row in ended]) if ended else []
        if len(ended) == len(together):
            self._rows = None
        elif ended:
            self._rows.reorder(_without(len(together), ended))
            self._rows.trim()
        now = time.perf_counter()  # what it takes to hand answers over is part of what they cost
        for answer in together:
            answer.seconds += (now - self._since) / len(together)
        self._since = now
        return landed

    def _start(self, answers: list[Answer], cache: Any, *, most: int) -> Rows:
        """Left-padded rows of the prompts, less what the cache holds of them."""
        longest = max(answer.length for answer in answers)
        ids = [[0] * (longest - answer.length) + list(answer.prompt) for answer in answers]
        mask = [[0] * (longest - answer.length) + [1] * answer.length for answer in answers]
        device = self._counts.device
        past = cache.get_seq_length() if cache is not None else 0
        return Rows(
            list(answers),
            torch.tensor(ids, device=device)[:, past:],
            torch.tensor(mask, device=device),
            torch.tensor([answer.lane for answer in answers], device=device),
            cache if cache is not None else arena_cache(self._model, rows=most),
        )

    def _run(self, rows: Rows) -> Tensor:
        """One forward pass, with the hooks told whose rows these are: [B, V]."""
        if self._states is not None:
            self._states.slots = rows.slots
        if self._traces is not None:
            self._traces.slots, self._traces.columns = rows.slots, self._counts[rows.slots]
            readers = [answer.reader for answer in rows.answers]
            if any(readers):
                open_ = [reader is not None and reader[0].steering for reader in readers]
                self._traces.gate = torch.tensor(open_, device=rows.slots.device)
        logits, rows.cache = self._forward(rows.input_ids, rows.mask, rows.cache)
        return logits

    def _choose(self, rows: Rows, logits: Tensor) -> None:
        """Record each row's token; rows that end with theirs point at the waste lane from now on."""
        if self._temperature is None:
            chosen = logits.max(dim=-1).indices  # [B]; on CPUs four times as fast as argmax, in bfloat16
        else:
            chosen = draw(logits, [answer.generator for answer in rows.answers], self._temperature)
        _show_readers(rows, chosen, waste=self.lanes)
        self._tokens[rows.slots, self._counts[rows.slots]] = chosen
        self._counts[rows.slots] += 1
        self._counts[self.lanes] = 0
        ended = torch.isin(chosen, self._eos) | (self._counts[rows.slots] >= self._max_new_tokens)
        rows.slots = torch.where(ended, self.lanes, rows.slots)
        rows.input_ids = chosen[:, None]
        # An ended row's column is not its own, so that its positions never leave the model's context.
        rows.mask = torch.cat((rows.mask, (rows.slots != self.lanes)[:, None].long()), dim=1)
        for answer in rows.answers:
            answer.length += 1

    def _copy_sums(self, sources: Sequence[int], lanes: Tensor) -> None:
        """Give each lane what its prompt's forward pass has summed."""
        for sums in [*([self._traces.seen] if self._traces else []), *(self._states.sums if self._states else [])]:
            sums[lanes.to(sums.device)] = sums[torch.tensor(sources, device=sums.device)]

    def _read(self, answers: Sequence[Answer]) -> list[Landed]:
        """Take answers' tokens and sums off the device and free their lanes."""
        lanes = torch.tensor([answer.lane for answer in answers], device=self._counts.device)
        counts = self._counts[lanes].tolist()
        tokens = [row[:count] for row, count in zip(self._tokens[lanes].tolist(), counts, strict=True)]
        seen = self._traces.seen[lanes].cpu() if self._traces else [None] * len(answers)
        traces = [rows[:count] if rows is not None else None for rows, count in zip(seen, counts, strict=True)]
        means: Sequence[Tensor | None] = self._states.take(lanes, counts) if self._states else [None] * len(answers)
        self._counts[lanes] = 0
        self._free += [answer.lane for answer in answers]
        columns = (answers, tokens, traces, means)
        return [Landed(*fields) for fields in zip(*columns, strict=True)]


def _show_readers(rows: Rows, chosen: Tensor, *, waste: int) -> None:
    """Feed the gates the text that is new. Looks at every token, so gated answers wait for the device."""
    if not any(answer.reader for answer in rows.answers):
        return
    for answer, slot, token in zip(rows.answers, rows.slots.tolist(), chosen.tolist(), strict=True):
        if answer.reader is not None and slot != waste:
            gate, stream = answer.reader
            gate.feed(stream.push(token))


def _without(rows: int, gone: Sequence[int]) -> list[int]:
    """The rows that stay, the last ones in the places of those that go, so that few have to move."""
    order = list(range(rows))
    for row in sorted(gone, reverse=True):
        last = order.pop()
        if row < len(order):
            order[row] = last
    return order
