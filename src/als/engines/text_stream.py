"""Token ids, one at a time -> the characters that became readable. Knows a tokenizer and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNREADABLE = "\ufffd"  # what decoding shows for bytes that are not (yet) a character
_LONGEST_UTF8 = 4  # bytes of a character, and so the most tokens it can be spread over


class TokenTextStream:
    """Turns one row's token ids, given one at a time, into the characters that became readable.

    A UTF-8 sequence that a token ends within is held back until it is whole or cannot become so.
    Every token is decoded behind the few before it, because some tokenizers drop the space a text starts
    with; its cost does not depend on how many came before. Put together, the pieces are
    `tokenizer.decode(all_ids, skip_special_tokens=True)`, but for U+FFFD at the end, which is held back.

    tokenizers' own DecodeStream is not used: its window grows for as long as bytes do not make a character or
    special tokens follow each other (a padded row), and it exists for fast tokenizers only.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # the tokens shown last, which the pending ones are decoded behind
        self._pending: list[int] = []  # tokens that are not wholly shown yet
        self._shown = 0  # characters that have been given out, of context and pending decoded together

    def push(self, token_id: int) -> str:
        """Take the next token; return the characters that can be read now, often none."""
        self._pending.append(token_id)
        text = self._decode(self._context + self._pending)
        unfinished = text.endswith(_UNREADABLE)
        if unfinished and len(self._pending) < _LONGEST_UTF8:
            return self._show_up_to(text, len(text.rstrip(_UNREADABLE)))
        # All but the last character is settled even if the end is not, since no sequence spans more tokens.
        new = self._show_up_to(text, len(text) - unfinished)
        if new or unfinished or not self._context:  # else special tokens only: keep a readable context
            self._context = self._pending
            tail = self._decode(self._context)
            self._shown = len(tail) - (unfinished and tail.endswith(_UNREADABLE))
        self._pending = []
        return new

    def _show_up_to(self, text: str, end: int) -> str:
        new = text[self._shown : end]
        self._shown += len(new)
        return new

    def _decode(self, ids: list[int]) -> str:
        # Cleaning up spaces looks at the following token: it would change what has been given out.
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
