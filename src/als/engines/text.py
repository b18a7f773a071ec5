"""What engines do with text before and after decoding: chat template, tokens, and the record of what came out.

The base class of the engines. It knows the tokenizer and where answers end; it runs no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from als.engines.base import Output, check_context
from als.engines.text_stream import TokenTextStream
from als.models import encode_prompts, end_tokens
from als.prompts.chat import ChatTemplate
from als.records import Completion
from als.steering import Trace

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TextEngine:
    """The part of `engines.base.Engine` that is the same for every way of decoding.

    Attributes:
        model: the transformers model, perhaps without its weights: it knows layers, widths, dtype and end tokens.
        tokenizer: its tokenizer, with a chat template.
        template: the chat template with the run's arguments for it.
        ends: ids of the tokens that end an answer.
        context: positions that the model knows; None for any number.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int | None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, chat_template_kwargs)
        self.ends = sorted(end_tokens(model, tokenizer))
        self.context = context
        self._texts: dict[int, str] = {}

    def render(self, messages: Sequence[dict[str, str]], *, prefill: str = "") -> str:
        """The exact prompt text of a conversation; see `als.prompts.chat.ChatTemplate.render`."""
        return self.template.render(messages, prefill=prefill)

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, which spell out their special tokens: the tokenizer adds none."""
        return encode_prompts(self.tokenizer, prompts)

    def check_prompts(self, prompts: Sequence[str], *, max_new_tokens: int) -> int:
        """Tokens of the longest prompt; a UserError if it exceeds the context together with max_new_tokens."""
        return check_context(self.encode(prompts), max_new_tokens, self.context)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens, without special ones."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def has_stopped(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens end with one that ends an answer; otherwise it ran out of room."""
        return bool(tokens) and tokens[-1] in self.ends

    def output(
        self, *, prompt_tokens: int, tokens: list[int], seconds: float, seen: Tensor | None, mean_state: Tensor | None
    ) -> Output:
        """The record of one completion.

        Args:
            prompt_tokens: how many the prompt has.
            tokens: what was generated, the token that ended it included.
            seconds: its share of the time.
            seen: [T, 3] what steering saw and did, see `als.steering.RowTraces`; None without steering.
            mean_state: see `Output`.
        """
        text = self.decode(tokens)
        reason = "stop" if self.has_stopped(tokens) else "length"
        return Output(
            Completion(text, prompt_tokens, len(tokens), reason, seconds),  # type: ignore[arg-type]
            tokens=tokens,
            trace=Trace.from_seen(seen) if seen is not None else None,
            pieces=self._pieces(tokens, text) if seen is not None else None,
            mean_state=mean_state,
        )

    def _pieces(self, tokens: Sequence[int], text: str) -> list[str]:
        """The text, cut up into what each token adds to it.

        Most tokenizers decode token by token to the same text, and what each token means is remembered. Where one does
        not (a character of several tokens, a space dropped at the start), the tokens are read one behind the other.
        """
        for token in set(tokens).difference(self._texts):
            self._texts[token] = self.decode([token])
        pieces = [self._texts[token] for token in tokens]
        if "".join(pieces) == text:
            return pieces
        stream = TokenTextStream(self.tokenizer)
        return [stream.push(token) for token in tokens]
