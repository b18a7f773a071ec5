"""Where in a JSON answer steering may act: only inside the value of the free-text key.

`JsonGate` reads an answer while it is written, a character at a time, and says whether the next token belongs
to the free text (steer), whether the text so far can still become a valid object, and whether it has.
`TokenTextStream` makes the characters out of token ids. A batch holds one pair of them for each row:

    gate, stream = JsonGate(), TokenTextStream(tokenizer)
    gate.feed(stream.push(token_id))    # for every token of the row
    gate.steering                       # does the state that chooses the next token get the vector?

What counts as valid is what `json.loads` accepts from the first "{" on: NaN, Infinity and -Infinity, lone
surrogates and repeated keys pass, control characters in strings do not. Two of its limits are not the text's
fault and are not kept: nesting deeper than Python's recursion limit, integers of more than 4300 digits.

It knows nothing of models, vectors, prompts or of what the answer means; it never sees the parsed values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WHITESPACE = " \t\n\r"
_NONZERO = "123456789"
_DIGITS = "0" + _NONZERO
_HEX_DIGITS = _DIGITS + "abcdefABCDEF"
_ESCAPES = '"\\/bfnrt'  # what may follow a backslash, besides u
_WORDS = {"t": "rue", "f": "alse", "n": "ull", "N": "aN", "I": "nfinity"}  # first character: the others
_CLOSER = {"{": "}", "[": "]"}
_LONGEST_ESCAPED = 12  # characters that one character of a key can be written with: \ud83d\ude00


class State(Enum):
    """What the reader expects next."""

    PREAMBLE = auto()  # no brace yet: a code fence, words
    KEY_OR_END = auto()  # after "{"
    KEY = auto()  # after "," in an object
    COLON = auto()
    VALUE = auto()
    VALUE_OR_END = auto()  # after "["
    AFTER_VALUE = auto()  # "," or what closes
    STRING = auto()  # inside a string, key or value
    ESCAPE = auto()  # after a backslash
    HEX = auto()  # within the four digits of \uXXXX
    WORD = auto()  # within true, null, NaN ...
    MINUS = auto()  # the number states are named for what was read last
    ZERO = auto()  # a leading zero: no digit may follow
    INTEGER = auto()
    POINT = auto()
    FRACTION = auto()
    EXPONENT = auto()
    EXPONENT_SIGN = auto()
    EXPONENT_DIGIT = auto()
    COMPLETE = auto()  # the object has closed; what follows does not matter
    BROKEN = auto()  # nothing that follows can make it valid


_NUMBER_START = {"-": State.MINUS, "0": State.ZERO} | dict.fromkeys(_NONZERO, State.INTEGER)
_AFTER_INTEGER = {".": State.POINT, "e": State.EXPONENT, "E": State.EXPONENT}
_NUMBER_STEPS: dict[State, dict[str, State]] = {
    State.MINUS: {"0": State.ZERO} | dict.fromkeys(_NONZERO, State.INTEGER),
    State.ZERO: _AFTER_INTEGER,
    State.INTEGER: _AFTER_INTEGER | dict.fromkeys(_DIGITS, State.INTEGER),
    State.POINT: dict.fromkeys(_DIGITS, State.FRACTION),
    State.FRACTION: {"e": State.EXPONENT, "E": State.EXPONENT} | dict.fromkeys(_DIGITS, State.FRACTION),
    State.EXPONENT: dict.fromkeys("+-", State.EXPONENT_SIGN) | dict.fromkeys(_DIGITS, State.EXPONENT_DIGIT),
    State.EXPONENT_SIGN: dict.fromkeys(_DIGITS, State.EXPONENT_DIGIT),
    State.EXPONENT_DIGIT: dict.fromkeys(_DIGITS, State.EXPONENT_DIGIT),
}
_NUMBER_ENDS = (State.ZERO, State.INTEGER, State.FRACTION, State.EXPONENT_DIGIT)
_SPACE_ALLOWED = (
    State.KEY_OR_END,
    State.KEY,
    State.COLON,
    State.VALUE,
    State.VALUE_OR_END,
    State.AFTER_VALUE,
)


class JsonGate:
    """Reads one answer as it is written: O(1) a character, memory for the open brackets and one key.

    The free-text `key` counts only in the object itself, not in one inside it, and with its escapes resolved.
    """

    def __init__(self, key: str = "thought process") -> None:
        self.state = State.PREAMBLE
        self._key = key
        self._closers: list[str] = []  # what closes each open bracket, outermost first
        self._in_key = False  # whether the string being read is a key
        self._key_text: list[str] = []  # that key as written, cut off once it is too long to be ours
        self._key_matches = False
        self._in_free_text = False
        self._fixed: Sequence[str] = ""  # in HEX and WORD: what each character still to come must be one of

    @property
    def steering(self) -> bool:
        """Whether the next token is free text: in that value's string and not within an escape."""
        return self._in_free_text and self.state is State.STRING

    @property
    def possible(self) -> bool:
        """Whether the text so far can still become a preamble, one valid object and whatever follows it."""
        return self.state is not State.BROKEN

    @property
    def complete(self) -> bool:
        """Whether the object has closed and is valid."""
        return self.state is State.COMPLETE

    def feed(self, text: str) -> None:
        """Read the characters that are new."""
        for char in text:
            if self.state in (State.COMPLETE, State.BROKEN):
                return
            if char not in _WHITESPACE or self.state not in _SPACE_ALLOWED:
                self.state = _HANDLERS[self.state](self, char)

    def _read_preamble(self, char: str) -> State:
        return self._open(char) if char == "{" else State.PREAMBLE

    def _open(self, bracket: str) -> State:
        self._closers.append(_CLOSER[bracket])
        return State.KEY_OR_END if bracket == "{" else State.VALUE_OR_END

    def _close(self) -> State:
        self._closers.pop()
        return State.AFTER_VALUE if self._closers else State.COMPLETE

    def _read_before_key(self, char: str) -> State:
        if char == '"':
            self._in_key, self._key_text = True, []
            return State.STRING
        return self._close() if char == "}" and self.state is State.KEY_OR_END else State.BROKEN

    def _read_before_colon(self, char: str) -> State:
        return State.VALUE if char == ":" else State.BROKEN

    def _read_before_value(self, char: str) -> State:
        if char == '"':
            self._in_free_text = self._key_matches and len(self._closers) == 1
            return State.STRING
        if char in _CLOSER:
            return self._open(char)
        if char == "]" and self.state is State.VALUE_OR_END:
            return self._close()
        return self._open_word(char) if char in _WORDS else _NUMBER_START.get(char, State.BROKEN)

    def _open_word(self, char: str) -> State:
        self._fixed = _WORDS[char]
        return State.WORD

    def _read_after_value(self, char: str) -> State:
        if char == self._closers[-1]:
            return self._close()
        if char == ",":
            return State.KEY if self._closers[-1] == "}" else State.VALUE
        return State.BROKEN

    def _read_string(self, char: str) -> State:
        if char == '"':
            return self._end_string()
        if char < " ":
            return State.BROKEN
        self._note_key(char)
        return State.ESCAPE if char == "\\" else State.STRING

    def _read_escape(self, char: str) -> State:
        self._note_key(char)
        if char == "u":
            self._fixed = [_HEX_DIGITS] * 4
            return State.HEX
        return State.STRING if char in _ESCAPES else State.BROKEN

    def _read_hex(self, char: str) -> State:
        self._note_key(char)
        return self._read_fixed(char, State.STRING)

    def _read_word(self, char: str) -> State:
        return self._read_fixed(char, State.AFTER_VALUE)

    def _read_fixed(self, char: str, then: State) -> State:
        if char not in self._fixed[0]:
            return State.BROKEN
        self._fixed = self._fixed[1:]
        return self.state if self._fixed else then

    def _note_key(self, char: str) -> None:
        if self._in_key and len(self._key_text) <= _LONGEST_ESCAPED * len(self._key):
            self._key_text.append(char)

    def _end_string(self) -> State:
        if not self._in_key:
            self._in_free_text = False
            return State.AFTER_VALUE
        self._in_key = False
        # A key that was cut off is too long to be ours, and may end within an escape: it is not decoded.
        whole = len(self._key_text) <= _LONGEST_ESCAPED * len(self._key)
        self._key_matches = whole and json.loads(f'"{"".join(self._key_text)}"') == self._key
        return State.COLON

    def _read_number(self, char: str) -> State:
        if char in _NUMBER_STEPS[self.state]:
            return _NUMBER_STEPS[self.state][char]
        if self.state is State.MINUS and char == "I":
            return self._open_word(char)
        if self.state not in _NUMBER_ENDS:
            return State.BROKEN
        return State.AFTER_VALUE if char in _WHITESPACE else self._read_after_value(char)


_HANDLERS: dict[State, Callable[[JsonGate, str], State]] = {
    State.PREAMBLE: JsonGate._read_preamble,
    State.KEY_OR_END: JsonGate._read_before_key,
    State.KEY: JsonGate._read_before_key,
    State.COLON: JsonGate._read_before_colon,
    State.VALUE: JsonGate._read_before_value,
    State.VALUE_OR_END: JsonGate._read_before_value,
    State.AFTER_VALUE: JsonGate._read_after_value,
    State.STRING: JsonGate._read_string,
    State.ESCAPE: JsonGate._read_escape,
    State.HEX: JsonGate._read_hex,
    State.WORD: JsonGate._read_word,
    **dict.fromkeys(_NUMBER_STEPS, JsonGate._read_number),
}

_UNREADABLE = "\ufffd"  # what decoding shows for bytes that are not (yet) a character
_LONGEST_UTF8 = 4  # bytes of a character, and so the most tokens it can be spread over


class TokenTextStream:
    """Turns one row's token ids, given one at a time, into the characters that became readable.

    A token that ends within a UTF-8 sequence is held back until the sequence is whole or cannot become so.
    Every token is decoded behind the few before it, because some tokenizers drop the space a text starts
    with; its cost does not depend on how many came before. Put together, the pieces are
    `tokenizer.decode(all_ids, skip_special_tokens=True)`, but for U+FFFD at the end, which is held back.

    tokenizers' own DecodeStream is not used: its window grows for as long as bytes do not make a character or
    special tokens follow each other (a padded row), and it exists for fast tokenizers only.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # the tokens shown last, which the pending ones are decoded behind
        self._shown = 0  # characters of the decoded context that have been given out
        self._pending: list[int] = []  # tokens that are not shown yet

    def push(self, token_id: int) -> str:
        """Take the next token; return the characters that can be read now, often none."""
        self._pending.append(token_id)
        text = self._decode(self._context + self._pending)
        unfinished = text.endswith(_UNREADABLE)
        if unfinished and len(self._pending) < _LONGEST_UTF8:
            return ""
        # All but the last character is settled even if the end is not, since no sequence spans more tokens.
        new = text[self._shown : len(text) - unfinished]
        if (
            new or unfinished or not self._context
        ):  # otherwise the tokens were special: keep a readable context
            self._context = self._pending
            tail = self._decode(self._context)
            self._shown = len(tail) - (unfinished and tail.endswith(_UNREADABLE))
        self._pending = []
        return new

    def _decode(self, ids: list[int]) -> str:
        # Cleaning up spaces looks at the following token: it would change what has been given out.
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
