"""Where in a JSON answer steering may act: only inside the value of the free-text key.

`JsonGate` reads an answer while it is written, a character at a time, and says whether the next token belongs
to the free text (steer), whether the text so far can still become a valid object, and whether it has:

    gate = JsonGate()
    gate.feed('{"thought process": "First')
    gate.steering    # True: the state that chooses the next token gets the vector

What counts as valid is what `json.loads` accepts from the first "{" on: NaN, Infinity and -Infinity, lone
surrogates and repeated keys pass, control characters in strings do not. Two of its limits are not the text's
fault and are not kept: nesting deeper than Python's recursion limit, integers of more than 4300 digits.

It knows nothing of models, vectors, prompts or of what the answer means; it never sees the parsed values.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum, auto


class State(Enum):
    """What the reader expects next; in a number, what it read last."""

    PREAMBLE = auto()  # no brace yet: a code fence, words
    KEY_OR_END = auto()  # after "{"
    KEY = auto()  # after "," in an object
    COLON = auto()
    VALUE = auto()
    VALUE_OR_END = auto()  # after "["
    AFTER_VALUE = auto()  # "," or what closes
    STRING = auto()  # inside a string, key or value
    ESCAPE = auto()  # after a backslash
    HEX_1, HEX_2, HEX_3, HEX_4 = auto(), auto(), auto(), auto()  # the digits of \uXXXX
    WORD = auto()  # within true, null, NaN ...
    MINUS = auto()
    ZERO = auto()  # a leading zero: no digit may follow
    INTEGER = auto()
    POINT = auto()
    FRACTION = auto()
    EXPONENT = auto()  # the letter e
    EXPONENT_SIGN = auto()
    EXPONENT_DIGIT = auto()
    COMPLETE = auto()  # the object has closed; what follows does not matter
    BROKEN = auto()  # nothing that follows can make it valid


_CLOSERS = {"{": "}", "[": "]"}
_WORDS = {"t": "rue", "f": "alse", "n": "ull", "N": "aN", "I": "nfinity"}  # first letter: the others
_each: Callable[[str, State], dict[str, State]] = dict.fromkeys
_SPACE, _NONZERO, _DIGITS, _HEX = " \t\n\r", "123456789", "0123456789", "0123456789abcdefABCDEF"
_UNSIGNED = {"0": State.ZERO} | _each(_NONZERO, State.INTEGER)
_VALUE = {'"': State.STRING, "-": State.MINUS} | _UNSIGNED
_EXPONENT_OR_END = _each("eE", State.EXPONENT) | _each(_SPACE, State.AFTER_VALUE)

# The transitions that depend on the character alone. The others are methods of the gate, in _OTHERWISE below.
_STEPS: dict[State, dict[str, State]] = {
    State.KEY_OR_END: _each(_SPACE, State.KEY_OR_END),
    State.KEY: _each(_SPACE, State.KEY),
    State.COLON: _each(_SPACE, State.COLON) | {":": State.VALUE},
    State.VALUE: _each(_SPACE, State.VALUE) | _VALUE,
    State.VALUE_OR_END: _each(_SPACE, State.VALUE_OR_END) | _VALUE,
    State.AFTER_VALUE: _each(_SPACE, State.AFTER_VALUE),
    State.ESCAPE: _each('"\\/bfnrt', State.STRING) | {"u": State.HEX_1},
    State.HEX_1: _each(_HEX, State.HEX_2),
    State.HEX_2: _each(_HEX, State.HEX_3),
    State.HEX_3: _each(_HEX, State.HEX_4),
    State.HEX_4: _each(_HEX, State.STRING),
    State.MINUS: _UNSIGNED,
    State.ZERO: _EXPONENT_OR_END | {".": State.POINT},
    State.INTEGER: _EXPONENT_OR_END | {".": State.POINT} | _each(_DIGITS, State.INTEGER),
    State.POINT: _each(_DIGITS, State.FRACTION),
    State.FRACTION: _EXPONENT_OR_END | _each(_DIGITS, State.FRACTION),
    State.EXPONENT: _each("+-", State.EXPONENT_SIGN) | _each(_DIGITS, State.EXPONENT_DIGIT),
    State.EXPONENT_SIGN: _each(_DIGITS, State.EXPONENT_DIGIT),
    State.EXPONENT_DIGIT: _each(_SPACE, State.AFTER_VALUE) | _each(_DIGITS, State.EXPONENT_DIGIT),
}


class JsonGate:
    """Reads one answer as it is written: O(1) a character, memory for the open brackets and one key.

    The free-text `key` counts only in the object itself, not in one inside it, and with its escapes resolved.
    """

    def __init__(self, key: str = "thought process") -> None:
        self.state = State.PREAMBLE
        self._key = key
        self._closers: list[str] = []  # what closes each open bracket, outermost first
        self._in_key = False
        self._key_text = ""  # the key being read, as written, up to its closing quote
        self._longest_key = 12 * len(key) + 1  # every character written like \ud83d\ude00, and the quote
        self._key_matches = False  # of the key that was read last
        self._word_left = ""

    @property
    def steering(self) -> bool:
        """Whether the next token is free text: in that value's string and not within an escape."""
        in_own_value = len(self._closers) == 1 and not self._in_key
        return self.state is State.STRING and in_own_value and self._key_matches

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
            if self._in_key and len(self._key_text) <= self._longest_key:
                self._key_text += char
            self.state = _STEPS.get(self.state, {}).get(char) or self._other_step(char)

    def _other_step(self, char: str) -> State:
        step = _OTHERWISE.get(self.state)
        return step(self, char) if step else State.BROKEN

    def _read_preamble(self, char: str) -> State:
        return self._open(char) if char == "{" else State.PREAMBLE

    def _open(self, bracket: str) -> State:
        self._closers.append(_CLOSERS[bracket])
        return State.KEY_OR_END if bracket == "{" else State.VALUE_OR_END

    def _close(self) -> State:
        self._closers.pop()
        return State.AFTER_VALUE if self._closers else State.COMPLETE

    def _start_key(self, char: str) -> State:
        if char == '"':
            self._in_key, self._key_text = True, ""
            return State.STRING
        return self._close() if char == "}" and self.state is State.KEY_OR_END else State.BROKEN

    def _start_value(self, char: str) -> State:
        if char in _CLOSERS:
            return self._open(char)
        if char == "]" and self.state is State.VALUE_OR_END:
            return self._close()
        return self._start_word(char)

    def _start_word(self, char: str) -> State:
        self._word_left = _WORDS.get(char, "")
        return State.WORD if self._word_left else State.BROKEN

    def _after_minus(self, char: str) -> State:
        return self._start_word(char) if char == "I" else State.BROKEN

    def _read_word(self, char: str) -> State:
        expected, self._word_left = self._word_left[0], self._word_left[1:]
        if char != expected:
            return State.BROKEN
        return State.WORD if self._word_left else State.AFTER_VALUE

    def _read_string(self, char: str) -> State:
        if char == '"':
            return self._end_key() if self._in_key else State.AFTER_VALUE
        if char < " ":
            return State.BROKEN
        return State.ESCAPE if char == "\\" else State.STRING

    def _end_key(self) -> State:
        # A longer key cannot be ours. Its text was cut off, perhaps within an escape: it is not decoded.
        fits = len(self._key_text) <= self._longest_key
        self._key_matches = fits and json.loads('"' + self._key_text) == self._key
        self._in_key = False
        return State.COLON

    def _after_value(self, char: str) -> State:
        if char == self._closers[-1]:
            return self._close()
        if char == ",":
            return State.KEY if self._closers[-1] == "}" else State.VALUE
        return State.BROKEN


def holds_valid_object(text: str) -> bool:
    """Whether a finished text holds one whole JSON object; text ahead of it, fences and text behind it are allowed."""
    gate = JsonGate()
    gate.feed(text)
    return gate.complete


_NUMBER_ENDS = (State.ZERO, State.INTEGER, State.FRACTION, State.EXPONENT_DIGIT)
_OTHERWISE: dict[State, Callable[[JsonGate, str], State]] = {
    State.PREAMBLE: JsonGate._read_preamble,
    State.KEY_OR_END: JsonGate._start_key,
    State.KEY: JsonGate._start_key,
    State.VALUE: JsonGate._start_value,
    State.VALUE_OR_END: JsonGate._start_value,
    State.STRING: JsonGate._read_string,
    State.WORD: JsonGate._read_word,
    State.MINUS: JsonGate._after_minus,
    **dict.fromkeys((State.AFTER_VALUE, *_NUMBER_ENDS), JsonGate._after_value),
}
