"""What an engine is: prompts in, completions out.

An engine owns batching, cache, sampling and decoding of one loaded model. Modes and phases see only this
interface; they know nothing of padding, devices or hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from als.errors import UserError
from als.records import Completion

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from als.prompts.chat import ChatTemplate
    from als.steering import Steering, Trace


class Gate(Protocol):
    """Reads an answer while it is written and decides whether the next token is steered."""

    @property
    def steering(self) -> bool:
        """Whether the state that chooses the next token may be steered."""

    def feed(self, text: str) -> None:
        """Read the characters that are new."""


@dataclass(frozen=True)
class Sampling:
    """Draw several completions of each prompt instead of taking the argmax."""

    temperature: float
    """Divides the logits; above 0."""
    seeds: Sequence[Sequence[int]]
    """For each prompt, the seed of each of its samples; equally many for every prompt. The noise of
    a sample's draws depends on its seed and on nothing else in the batch."""

    @property
    def samples(self) -> int:
        """Completions a prompt."""
        return len(self.seeds[0]) if self.seeds else 1


@dataclass(frozen=True, eq=False)
class Output:
    """What an engine returns for one completion."""

    completion: Completion
    tokens: Sequence[int]
    """Ids of what was generated, the one that ended it included."""
    trace: Trace | None = None
    """What steering saw and did at each token; None without steering."""
    pieces: Sequence[str] | None = None
    """The completion's text, cut up into what each token adds to it; None without steering."""
    mean_state: Tensor | None = None
    """[L, D] float32 on CPU: mean residual stream over emitting positions, a row a layer; None unless captured."""

    @property
    def steered_fraction(self) -> float | None:
        """Share of emitting positions that were steered; None without steering."""
        return float(self.trace.steered.double().mean()) if self.trace else None

    @property
    def mean_cosine(self) -> float | None:
        """Mean of cos(h, v) before steering over emitting positions; None without steering."""
        return float(self.trace.cosines.double().mean()) if self.trace else None


def check_context(ids: Sequence[Sequence[int]], max_new_tokens: int, limit: int | None) -> int:
    """Tokens of the longest prompt.

    Args:
        ids: the prompts' tokens.
        max_new_tokens: tokens that each answer may have.
        limit: positions that the model knows; None for any number.

    Raises:
        UserError: a prompt and its answer together may exceed the limit.
    """
    longest = max(map(len, ids), default=0)
    if limit is not None and longest + max_new_tokens > limit:
        raise UserError(
            f"--max_new_tokens {max_new_tokens} after a prompt of {longest} tokens exceeds the model's context "
            f"of {limit}; give at most {max(limit - longest, 0)}"
        )
    return longest


class Verifier(Protocol):
    """What gives verdicts: an engine, or a model behind an address."""

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt of a conversation, in a form that `generate` takes."""

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int) -> Iterator[tuple[int, Output]]:
        """See `Engine.generate`."""


class Engine(Protocol):
    """Generates for any number of prompts."""

    model: PreTrainedModel
    """What is loaded, perhaps without its weights: layers, sizes, dtype, name."""
    batch_size: int
    """Completions that are in flight together."""

    context: int | None
    """Positions that the model knows; None for any number."""
    template: ChatTemplate
    """The model's chat template with the run's arguments for it."""

    def render(self, messages: Sequence[dict[str, str]], *, prefill: str = "") -> str:
        """The exact prompt text of a conversation, by the model's chat template.

        Args:
            messages: turns with `role` and `content`.
            prefill: the beginning of the assistant's answer; the model goes on behind it.
        """

    def check_prompts(self, prompts: Sequence[str], *, max_new_tokens: int) -> int:
        """Tokens of the longest prompt.

        Raises:
            UserError: it and max_new_tokens together exceed the model's context.
        """

    def check_hooks(self) -> None:
        """Make sure that the model can be steered and its states read.

        Raises:
            UserError: how its blocks hand on the residual stream is not known here.
        """

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
        """Complete prompts, until the model ends its turn or max_new_tokens is reached.

        Args:
            prompts: exact texts, special tokens spelled out; see `render`.
            steering: what to add to the residual stream at emitting positions.
            capture_states: also return each completion's mean state.
            gates: makes a gate for each completion; a completion is steered where its gate allows it.
            sampling: draw samples; without it every token is the argmax.

        Yields:
            (position, output), as completions become final, in any order. The position is that of the prompt;
            with sampling it is prompt * samples + sample.

        Raises:
            UserError: prompt and max_new_tokens together exceed the model's context.
        """
