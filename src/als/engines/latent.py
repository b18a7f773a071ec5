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

from als.engines.transformers_engine import Batch, TransformersEngine


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
        self._prompt = torch.tensor(engine.encode([prompt]), device=engine.model.device)  # [1, P]
        self.prompt_tokens = self._prompt.shape[1]
        fed: list[Tensor] = []
        with torch.no_grad():
            # All but the last prompt token: that one begins every continuation, so each step chooses a token.
            before = self._prompt[:, :-1]
            self._cache = self._model(before, use_cache=True).past_key_values if before.shape[1] else None
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
        ends = set(self._engine.eos.tolist())
        length = next((i + 1 for i, token in enumerate(forced) if token in ends), 0)
        if length:
            return self._continuation(tuple(forced[:length]), stopped=True)
        if len(forced) >= self._max_new_tokens:
            return self._continuation(tuple(forced[: self._max_new_tokens]), stopped=False)
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
        ahead = torch.tensor([forced], dtype=torch.int64, device=self._prompt.device)  # [1, F]
        batch = Batch.start(
            torch.cat((self._prompt[:, -1:], ahead), dim=1),
            torch.ones_like(torch.cat((self._prompt, ahead), dim=1)),
            self._max_new_tokens - len(forced),
            cache=copy.deepcopy(self._cache),
        )
        self._engine.decode(batch)
        _, (count,), (stopped,) = self._engine.read(batch)
        return self._continuation(forced + tuple(batch.tokens[0, :count].tolist()), stopped=stopped)

    def _continuation(self, tokens: tuple[int, ...], *, stopped: bool) -> Continuation:
        text = str(self._engine.tokenizer.decode(list(tokens), skip_special_tokens=True))
        return Continuation(text, tokens, stopped)
