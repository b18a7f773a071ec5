"""What an engine is: prompts in, completions out.

An engine owns batching, cache and decoding of one loaded model. Modes and phases see only this interface;
they know nothing of padding, devices or hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from als.records import Completion

if TYPE_CHECKING:
    from torch import Tensor

    from als.steering import Steering


@dataclass(frozen=True, eq=False)
class Output:
    """What an engine returns for one prompt."""

    completion: Completion
    steered_fraction: float | None = None
    """Share of emitting positions that were steered; None without steering."""
    mean_cosine: float | None = None
    """Mean of cos(h, v) before steering over emitting positions; None without steering."""
    mean_state: Tensor | None = None
    """[L, D] float32 on CPU: mean residual stream over emitting positions, a row a layer; None unless captured."""


class Engine(Protocol):
    """Generates greedily for any number of prompts."""

    batch_size: int
    """Prompts that are in flight together."""

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The exact prompt text of a conversation, by the model's chat template."""

    def check_prompts(self, prompts: Sequence[str], *, max_new_tokens: int) -> None:
        """Raise a UserError if a prompt and max_new_tokens together exceed the model's context."""

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        steering: Steering | None = None,
        capture_states: bool = False,
    ) -> Iterator[tuple[int, Output]]:
        """Complete prompts greedily, until the model ends its turn or max_new_tokens is reached.

        Args:
            prompts: exact texts, special tokens spelled out; see `render`.
            steering: what to add to the residual stream at emitting positions.
            capture_states: also return each answer's mean state.

        Yields:
            (position in `prompts`, output), as answers become final, in any order.

        Raises:
            UserError: prompt and max_new_tokens together exceed the model's context.
        """
