"""Where in a JSON answer steering may act: only inside the value of the free-text key.

`JsonGate` reads an answer while it is written, a character at a time, and says whether the next token belongs
to the free text (steer):

    gate = JsonGate()
    gate.feed('{"thought process": "First')
    gate.steering    # True: the state that chooses the next token gets the vector

The reader is lenient, because models write LaTeX and line breaks into JSON strings without escaping them:

- A backslash before any character, and any control character, stay inside the string.
- A quote ends a string only where JSON goes on behind it: with "}", or with a comma and a key. Otherwise the string
  goes on. So `"the word "even" is"` is one string.
- A "{" that no key and colon follow opens no object, and the search goes on. So does an object that closes without
  the free-text key. `$x^{2}$` before the answer does no harm.
- From `<think>` to `</think>` no object is looked for.

Whether an answer is valid JSON is another question: see `holds_valid_object`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum, auto

from als.answers.thinking import CLOSE, OPEN, answer_part
from als.prompts.solver import FREE_TEXT_KEY, JSON_KEYS


class State(Enum):
    """What the reader expects next."""

    SEARCH = auto()  # "{"
    THINKING = auto()  # "</think>"
    KEY_START = auto()  # a quote, or "}"
    KEY = auto()  # the rest of a key
    KEY_ESCAPE = auto()
    COLON = auto()
    VALUE = auto()
    STRING = auto()  # inside a string that is a value of the object
    ESCAPE = auto()  # after a backslash in it
    HEX = auto()  # the digits of \uXXXX in it
    STRING_END = auto()  # after a quote in it: "," or "}" if the string has ended
    BARE = auto()  # a value that is no string, up to "," or "}"
    NESTED = auto()  # inside an object or list that is a value
    NESTED_STRING = auto()
    NESTED_ESCAPE = auto()
    COMPLETE = auto()  # the object with the free text has closed; what follows does not matter


_SPACE = " \t\n\r"
_LONGEST_KEY = 1000
"""Characters. A longer one is no key: the quote that opened it was something else."""
_HEX_DIGITS = "0123456789abcdefABCDEF"


class JsonGate:
    """Reads one answer as it is written: O(1) a character, memory for one key.

    The free-text `key` counts only in the object itself, not in one inside it, and with its escapes resolved.
    """

    def __init__(self, key: str = FREE_TEXT_KEY) -> None:
        self.state = State.SEARCH
        self._key = key
        self._key_text = ""  # the key being read, as written
        self._key_matches = False  # whether the current value is that of the free-text key
        self._after_string = False  # whether a string goes on if what follows its quote turns out to be no key
        self._found = False  # whether the object has the free text
        self._hex_left = 0
        self._depth = 0  # of brackets inside a nested value
        self._tail = ""  # the last characters outside of an object, for the marks of thinking

    @property
    def steering(self) -> bool:
        """Whether the next token is free text: in that value's string and not within an escape."""
        return self.state is State.STRING and self._key_matches

    @property
    def complete(self) -> bool:
        """Whether the object with the free text has closed."""
        return self.state is State.COMPLETE

    def feed(self, text: str) -> None:
        """Read the characters that are new."""
        for char in text:
            if self.state is State.COMPLETE:
                return
            self.state = _STEPS[self.state](self, char)

    def _search(self, char: str) -> State:
        self._tail = (self._tail + char)[-len(CLOSE) :]
        if self.state is State.THINKING:
            return State.SEARCH if self._tail == CLOSE else State.THINKING
        if self._tail.endswith(OPEN):
            return State.THINKING
        if char != "{":
            return State.SEARCH
        self._found = self._after_string = False
        return State.KEY_START

    def _start_key(self, char: str) -> State:
        if char in _SPACE:
            return State.KEY_START
        if char == '"':
            self._key_text = ""
            return State.KEY
        return self._close() if char == "}" else self._no_key(char)

    def _read_key(self, char: str) -> State:
        if char == '"':
            return State.COLON
        self._key_text += char
        if char < " " or len(self._key_text) > _LONGEST_KEY:
            return self._no_key(char)
        return State.KEY_ESCAPE if char == "\\" else State.KEY

    def _escape_in_key(self, char: str) -> State:
        self._key_text += char
        return State.KEY

    def _read_colon(self, char: str) -> State:
        if char in _SPACE:
            return State.COLON
        if char != ":":
            return self._no_key(char)
        try:
            self._key_matches = json.loads(f'"{self._key_text}"') == self._key
        except ValueError:  # a bad escape
            self._key_matches = False
        return State.VALUE

    def _no_key(self, char: str) -> State:
        """What was read as a key is text of the string before it, or there is no object and the search goes on."""
        if self._after_string:
            return self._read_string(char)
        self.state, self._tail = State.SEARCH, ""
        return self._search(char)

    def _start_value(self, char: str) -> State:
        if char in _SPACE:
            return State.VALUE
        self._after_string = char == '"'
        if char == '"':
            self._found = self._found or self._key_matches
            return State.STRING
        if char in "{[":
            self._depth = 1
            return State.NESTED
        return self._read_bare(char)

    def _read_string(self, char: str) -> State:
        if char == '"':
            return State.STRING_END
        return State.ESCAPE if char == "\\" else State.STRING

    def _read_escape(self, char: str) -> State:
        self._hex_left = 4
        return State.HEX if char == "u" else State.STRING

    def _read_hex(self, char: str) -> State:
        if char not in _HEX_DIGITS:  # LaTeX, such as \underline
            return self._read_string(char)
        self._hex_left -= 1
        return State.HEX if self._hex_left else State.STRING

    def _end_string(self, char: str) -> State:
        if char in _SPACE:
            return State.STRING_END
        if char == ",":
            return State.KEY_START
        return self._close() if char == "}" else self._read_string(char)

    def _read_bare(self, char: str) -> State:
        if char == ",":
            return State.KEY_START
        return self._close() if char == "}" else State.BARE

    def _read_nested(self, char: str) -> State:
        if char == '"':
            return State.NESTED_STRING
        self._depth += (char in "{[") - (char in "}]")
        return State.NESTED if self._depth else State.BARE

    def _read_nested_string(self, char: str) -> State:
        if char == "\\":
            return State.NESTED_ESCAPE
        return State.NESTED if char == '"' else State.NESTED_STRING

    def _escape_in_nested_string(self, char: str) -> State:
        return State.NESTED_STRING

    def _close(self) -> State:
        if self._found:
            return State.COMPLETE
        self._tail = ""
        return State.SEARCH


_STEPS: dict[State, Callable[[JsonGate, str], State]] = {
    State.SEARCH: JsonGate._search,
    State.THINKING: JsonGate._search,
    State.KEY_START: JsonGate._start_key,
    State.KEY: JsonGate._read_key,
    State.KEY_ESCAPE: JsonGate._escape_in_key,
    State.COLON: JsonGate._read_colon,
    State.VALUE: JsonGate._start_value,
    State.STRING: JsonGate._read_string,
    State.ESCAPE: JsonGate._read_escape,
    State.HEX: JsonGate._read_hex,
    State.STRING_END: JsonGate._end_string,
    State.BARE: JsonGate._read_bare,
    State.NESTED: JsonGate._read_nested,
    State.NESTED_STRING: JsonGate._read_nested_string,
    State.NESTED_ESCAPE: JsonGate._escape_in_nested_string,
}


def holds_valid_object(text: str) -> bool:
    """Whether a finished text holds a JSON object, as `json.loads` accepts it, with one of the keys of the answer.

    Text ahead of the object, fences and text behind it are allowed.
    """
    answer = answer_part(text) or ""
    decoder = json.JSONDecoder()
    for start in (at for at, char in enumerate(answer) if char == "{"):
        try:
            value, _ = decoder.raw_decode(answer, start)
        except ValueError:
            continue
        except RecursionError:  # what is nested deeper yet is no better: trying all of it would be quadratic
            return False
        if any(key in value for key in JSON_KEYS):
            return True
    return False
