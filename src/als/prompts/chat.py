"""The chat template of a model: a conversation becomes the exact text that the model is given.

    template = ChatTemplate(tokenizer, {"enable_thinking": False})
    template.render(messages, prefill='{"thought process": "')

It needs a tokenizer and no model.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from als.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]

PINNED_DATE = date(2024, 7, 26)
"""What templates get as today's date, so that a run gives the same prompts on every day. Llama 3.1's own default."""
DATE_FUNCTION = "strftime_now"
"""How transformers calls the function that gives a template today's date."""
_SLOT = "[[prefill]]"


class ChatTemplate:
    """A tokenizer's chat template with the arguments of --chat_template_kwargs.

    Args:
        tokenizer: one with a chat template.
        arguments: variables of the template. `strftime_now` takes an ISO date in place of PINNED_DATE.

    Raises:
        UserError: an argument that the template does not use, or that is not for the template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self._arguments = dict(arguments or {})
        self._source = str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
        reserved = set(inspect.signature(tokenizer.apply_chat_template).parameters)
        for name in self._arguments:
            # Jinja takes a misspelt name without a word.
            if name in reserved or not re.search(rf"\b{re.escape(name)}\b", self._source):
                raise UserError(
                    f"--chat_template_kwargs {name!r}: the model's chat template does not use it; "
                    "give names that occur in the template, such as enable_thinking for Qwen3"
                )
        self._pinned = self._source
        if DATE_FUNCTION in self._source:
            today = _as_date(self._arguments.pop(DATE_FUNCTION, PINNED_DATE.isoformat()))
            self._pinned = _date_macro(today) + self._source

    @property
    def hash(self) -> str:
        """Identifies the template by its source: 16 hex digits."""
        return hashlib.sha256(self._source.encode()).hexdigest()[:16]

    def render(self, messages: Messages, *, prefill: str = "") -> str:
        """The exact text of a prompt, up to and including the beginning of the assistant's answer.

        Templates that know no system turn (Gemma's) get its text at the head of the user's.

        Args:
            messages: turns with `role` and `content`, the last one the user's.
            prefill: the beginning of the answer.

        Raises:
            UserError: the template refuses the conversation.
        """
        import jinja2

        system, *turns = messages
        try:
            return self._render(messages, prefill)
        except jinja2.TemplateError as error:
            if system["role"] == "system" and turns:
                joined = {"role": "user", "content": f"{system['content']}\n\n{turns[0]['content']}"}
                return self.render([joined, *turns[1:]], prefill=prefill)
            raise UserError(f"the model's chat template refuses the conversation: {error}") from error

    def _render(self, messages: Messages, prefill: str) -> str:
        prompt = self._apply(messages, add_generation_prompt=True)
        if not prefill or prompt != self._apply(messages, add_generation_prompt=False):
            return prompt + prefill
        # The template knows no generation prompt: where an answer begins shows only with one in it.
        answered = self._apply([*messages, {"role": "assistant", "content": _SLOT}], add_generation_prompt=False)
        before, slot, _ = answered.rpartition(_SLOT)
        return (before if slot else prompt) + prefill

    def _apply(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                [dict(turn) for turn in messages],
                chat_template=self._pinned,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._arguments,
            )
        )


def _date_macro(today: date) -> str:
    """A macro that stands in for DATE_FUNCTION; transformers gives a template's variables no functions."""
    replaced = "".join(f" | replace('%{code}', '{today.strftime(f'%{code}')}')" for code in "aAbBdHIjmMpSyY")
    return f"{{% macro {DATE_FUNCTION}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n"


def _as_date(value: object) -> date:
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise UserError(
            f"--chat_template_kwargs {DATE_FUNCTION} {value!r}: expected a date such as '2024-07-26'"
        ) from None
