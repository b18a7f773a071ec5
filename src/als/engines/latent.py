"""One prompt decoded again and again from a forced beginning, with the latent states that chose its tokens.

For the LatentSeek mode. The prompt's cache is computed once; every continuation starts from a copy of it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from als.engines.flight import Answer
from als.engines.kv_cache import arena_cache
from als.engines.transformers_engine import TransformersEngine


@dataclass(frozen=True)
class Continuation:
    """A completion that may begin with forced tokens."""

    text: str
    tokens: tuple[int, ...]
    """All of them, the forced ones and the one that ended the answer included."""
    stopped: bool
    """Whether the model ended its turn; otherwise it ran into max_new_tokens."""


class LatentDecoder:
    """Greedy continuations of one prompt.

    Attributes:
        prompt_tokens: length of the prompt.
        greedy: the continuation without forced tokens.
        latents: [T, D] float32: what fed the LM head (the final norm's output) for each token of `greedy`.
    """

    def __init__(self, engine: TransformersEngine, prompt: str, *, max_new_tokens: int) -> None:
        self._engine = engine
        self._model: Any = engine.model
        self._max_new_tokens = max_new_tokens
        (self._prompt,) = engine.encode([prompt])
        self.prompt_tokens = len(self._prompt)
        fed: list[Tensor] = []
        with torch.no_grad():
            # All but the last prompt token: that one begins every continuation, so each step chooses a token.
            before = torch.tensor([self._prompt[:-1]], device=engine.model.device)  # [1, P - 1]
            empty = arena_cache(engine.model, rows=1)
            filled = self._model(before, past_key_values=empty, use_cache=True) if self._prompt[:-1] else None
            self._cache = filled.past_key_values if filled else None
            # no_grad and not inference_mode: the latents become parameters later.
            with self._head.register_forward_pre_hook(lambda _module, args: fed.append(args[0][0, -1])):
                self.greedy = self._decode(())
        self.latents = torch.stack(fed[: len(self.greedy.tokens)]).float()  # [T, D]

    @property
    def _head(self) -> torch.nn.Module:
        head: torch.nn.Module = self._model.get_output_embeddings()
        return head

    def continue_from(self, forced: Sequence[int]) -> Continuation:
        """Decode on greedily behind forced tokens; where they hold the end of the answer, it ends there."""
        ends = set(self._engine.ends)
        length = next((i + 1 for i, token in enumerate(forced) if token in ends), 0)
        if length:
            return self._continuation(tuple(forced[:length]))
        if len(forced) >= self._max_new_tokens:
            return self._continuation(tuple(forced[: self._max_new_tokens]))
        with torch.no_grad():
            return self._decode(tuple(forced))

    def logits(self, latents: Tensor) -> Tensor:
        """The LM head on float32 latents, differentiable: [n, D] -> [n, V] float32.

        The weights keep their own dtype, tied to the embeddings or not; what some models do to logits
        afterwards (Gemma 2 caps them, Cohere and Granite scale them) is done here too.
        """
        config = self._model.config.get_text_config(decoder=True)
        logits: Tensor = self._head(latents.to(self._model.dtype)).float()
        logits = logits * (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
        cap = getattr(config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    def _decode(self, forced: tuple[int, ...]) -> Continuation:
        flight = self._engine.flight(1, self._max_new_tokens - len(forced))
        flight.admit([[Answer(0, [*self._prompt, *forced])]], cache=copy.deepcopy(self._cache))
        (landed,) = self._engine.advance(flight)
        return self._continuation((*forced, *landed.tokens))

    def _continuation(self, tokens: tuple[int, ...]) -> Continuation:
        return Continuation(self._engine.decode(tokens), tokens, self._engine.has_stopped(tokens))
