r"""Read one exact number out of a short answer: "\$1,\!234.50", "- 5 degrees", "forty two", "1\frac{3}{4}".

Every value is a `fractions.Fraction`, so that 0.1 + 0.2 and 3/10 are the same number. Two readers share one
grammar: `parse_plain` takes a number and nothing else, `parse_number` allows words around it ("18 eggs a
day"). Neither evaluates anything: a sum, a range or a list is not a number. This module knows no benchmark
and no symbolic mathematics.
"""

import re
import unicodedata
from fractions import Fraction

MAX_CHARS = 400
"""A longer text is no number, however it begins."""

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ]\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{{1,2}}(?![\d.]))?"
_FRACTION = rf"{_DECIMAL}\s*/\s*-?\s*{_DECIMAL}"
_MIXED = r"\d+\s+(?:and\s+)?\d+\s*/\s*\d+"
VALUE = rf"(?:{_MIXED}|{_FRACTION}|{_DECIMAL})"
"""The pattern of an unsigned number in a text that went through `unlatex`."""
_CURRENCY = r"(?:US\$|[$€£¥₹]|USD|EUR|GBP|Rs\.?)"
_SIGN = r"[+-]"
_PLAIN = re.compile(
    rf"\(?\s*(?P<s1>{_SIGN})?\s*{_CURRENCY}?\s*(?P<s2>{_SIGN})?\s*(?P<value>{VALUE})\s*%?\s*\)?\.?",
    re.IGNORECASE,
)
_TOKEN = re.compile(rf"(?<![\w.^])(?<![\^_]\{{){VALUE}(?:(?:,\d+)+(?:\.\d+)?)?")
_SIGN_BEFORE = re.compile(rf"(?:^|(?<=[\s(:$])){_SIGN}\s*{_CURRENCY}?\s*$|\b(?:minus|negative)\s*$", re.IGNORECASE)

_WRAPPER = r"\\(?:text(?:bf|it|rm|normal|tt)?|mbox|math(?:rm|bf|it|sf)|emph|operatorname)\s*\{([^{}]*)\}"
_ORDINAL = r"(?:st|nd|rd|th)"
_WRAPPED_ORDINAL = rf"\\(?:text|mbox|mathrm|rm)\s*\{{\s*{_ORDINAL}\s*\}}"
_GROUP = r"(?:\{\s*([^{}]+?)\s*\}|(\d))"
_UNLATEX: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"\\[!,;:>]\s*|\\(?:left|right|displaystyle|q?quad)(?![a-zA-Z])|\{,\}(?=!)"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\ |~|[\u2009\u202f\u00a0]"), " "),
    (
        re.compile(
            rf"(?<=\d)\s*(?:\^\s*\{{\s*{_WRAPPED_ORDINAL}\s*\}}|\^?\s*{_WRAPPED_ORDINAL}|\^\s*\{{\s*{_ORDINAL}\s*\}})"
        ),
        "th",
    ),
    (re.compile(_WRAPPER), r" \1 "),
    (re.compile(rf"(?<=[-+=(:$])\s*\\[dtc]?frac\s*{_GROUP}\s*{_GROUP}"), r"\1\2/\3\4 "),
    (re.compile(rf"\\[dtc]?frac\s*{_GROUP}\s*{_GROUP}"), r" \1\2/\3\4 "),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b|°"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\\[()\[\]]|[*`\"]{2,}|[`\"“”]"), " "),
    (re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|×)\s*10\s*\^\s*\{?\s*(-?\d{1,2})\s*\}?"), r"e\1"),
    (re.compile(r"(?<![\w.,^}])10\s*\^\s*(?:\{\s*(-?\d{1,2})\s*\}|(-?\d{1,2})(?!\d))"), r"1e\1\2"),
    (re.compile(r"[\u2212\u2012\u2013\u2014]"), "-"),
    (re.compile(r"(?<=[a-zA-Z}])\s*\^\s*\{?[23]\}?|[²³]"), " "),
    (re.compile(r"\b(\d{1,2}):00\b(?!:)"), r"\1"),
]

_REPEATING = re.compile(
    r"(?<![\d.])(?P<whole>\d{0,30})\.(?P<fixed>\d{0,30})\\(?:overline|bar)\s?\{\s?(?P<period>\d{1,30})\s?\}"
)
_SUPERSCRIPTS = re.compile("[\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_SUBSCRIPTS = re.compile("[\u2080-\u2089]+")
_OTHER_SIGNS = {"\u066b": ".", "\u066c": ",", "\u066a": "%"}  # the signs between and behind Arabic digits

_TAIL_FACTORS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_TAIL = re.compile(rf"\s*({'|'.join(_TAIL_FACTORS)})\b", re.IGNORECASE)
_AND_A_HALF = re.compile(r"\s*and (?:a|one)[ -]half\b", re.IGNORECASE)
_NOT_ONE_VALUE = re.compile(
    r"[\\^+*<>|_=\[\]@#≤≥~!?]|/\s*\W|-\s*[^a-zA-Z\s]|\b(?:or|to|between|than|least|most|not|plus|times|over|under)\b",
    re.IGNORECASE,
)
_TIMES_AS_UNIT = re.compile(r"^\s*times\b(?!\s+(?:the|that|this|what|its|his|her|their)\b)", re.IGNORECASE)
_VARIABLE = re.compile(r"(?<![a-zA-Z'’])[bdeijknqruvwxyzB-EGHJKN-Z](?![a-zA-Z.])")

_ONES = "one|two|three|four|five|six|seven|eight|nine"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_BELOW_100 = rf"(?:(?:{_TENS})(?:[ -](?:{_ONES}))?|{_TEENS}|{_ONES})"
_BELOW_1000 = rf"(?:(?:an?|{_ONES}|{_TEENS})[ ]hundred(?:[ ](?:and[ ])?{_BELOW_100})?|{_BELOW_100})"
_LARGE = rf"(?:an?|{_BELOW_1000})[ ](?:thousand|million|billion)(?:[ ]{_BELOW_1000}[ ](?:thousand|million))*"
_POINT = rf"(?:[ ]point(?:[ ](?:zero|{_ONES}))+)?"
_WORDS = re.compile(
    rf"\b(?:zero|(?:{_LARGE}(?:[ ,]+(?:and[ ])?{_BELOW_1000})?|{_BELOW_1000}){_POINT})\b", re.IGNORECASE
)


def unlatex(text: str) -> str:
    r"""Rewrite the LaTeX that numbers are dressed in: `\frac{1}{2}` becomes 1/2, spacing and wrappers go."""
    text = to_ascii(text)
    for pattern, replacement in _UNLATEX:
        text = pattern.sub(replacement, text)
    return text


def to_ascii(text: str) -> str:
    r"""Write other scripts' digits, full-width signs and fractions such as "½", and repeating decimals, in LaTeX's way.

    "１２" and "١٢" become 12, "x²" becomes x^{2}, "1½" becomes 1\frac{1}{2}, "0.\overline{3}" becomes \frac{3}{9}.
    """
    if not text.isascii():
        text = _SUPERSCRIPTS.sub(lambda found: f"^{{{_digits(found[0])}}}", text)
        text = _SUBSCRIPTS.sub(lambda found: f"_{{{_digits(found[0])}}}", text)
        text = "".join(map(_ascii_character, text))
    return _REPEATING.sub(_repeating_decimal, text)


def _digits(small: str) -> str:
    return unicodedata.normalize("NFKC", small).replace("\u2212", "-")


def _ascii_character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if "\uff01" <= character <= "\uff5e":
        return chr(ord(character) - 0xFEE0)
    top, slash, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}" if slash and top and bottom else _OTHER_SIGNS.get(character, character)


def _repeating_decimal(found: re.Match[str]) -> str:
    """The fraction of a repeating decimal: 0.1\\overline{6} is (16 - 1) / 90."""
    whole, fixed, period = found["whole"] or "0", found["fixed"], found["period"]
    top = int(whole + fixed + period) - int(whole + fixed)
    return rf"\frac{{{top}}}{{{'9' * len(period) + '0' * len(fixed)}}}"


def parse_plain(text: str) -> Fraction | None:
    """The value of a text that is a number, with at most a sign, a currency, a percent sign and degrees."""
    if len(text) > MAX_CHARS:
        return None
    found = _PLAIN.fullmatch(unlatex(text).strip().strip("$").strip())
    if found is None or (found["s1"] and found["s2"]):
        return None
    return _signed(_value(found["value"]), "-" in (found["s1"], found["s2"]))


def parse_number(text: str) -> Fraction | None:
    """The value of a text that states exactly one number, be it in words, with units and words around it.

    Of an equation the right-hand side counts. A percent sign is dropped: "5%" is 5.
    """
    if len(text) > MAX_CHARS:
        return None
    clean = re.split(r"=|≈|\\approx", unlatex(text))[-1].strip()
    tokens = list(_TOKEN.finditer(clean))
    if not tokens:
        return _number_in_words(clean)
    return _number_among_words(clean, tokens[0]) if len(tokens) == 1 else None


def number_spans(text: str) -> list[tuple[int, int]]:
    """Where the unsigned numbers stand in a text that went through `unlatex`."""
    return [found.span() for found in _TOKEN.finditer(text)]


def words_span(text: str) -> tuple[int, int] | None:
    """Where the last number in words stands ("forty two"), if there is one."""
    found = list(_WORDS.finditer(text))
    return found[-1].span() if found else None


def _number_among_words(text: str, token: re.Match[str]) -> Fraction | None:
    before, after = text[: token.start()], text[token.end() :]
    value = _value(token.group())
    if value is None:
        return None
    value, after = _apply_tail(value, after)
    sign = _SIGN_BEFORE.search(before)
    if sign is None:
        return value if _harmless(before, after) else None
    if re.search(r"-\s+$", before) and re.search(r"(?<!\bis)(?<=\w)\s+$", before[: sign.start()]):
        return None  # "Total - 18": a dash or a minus sign, nobody can tell
    if not _harmless(before[: sign.start()], after):
        return None
    return _signed(value, "+" not in sign.group())


def _apply_tail(value: Fraction, after: str) -> tuple[Fraction, str]:
    """Take "million" or "and a half" from the text behind a number into its value."""
    if found := _TAIL.match(after):
        return value * _TAIL_FACTORS[found[1].lower()], after[found.end() :]
    if found := _AND_A_HALF.match(after):
        return value + Fraction(1, 2), after[found.end() :]
    return value, after


def _harmless(before: str, after: str) -> bool:
    """Whether the words around a number leave its value alone: no operator, variable or second number."""
    without_currency = re.sub(_CURRENCY, " ", before)
    after = _TIMES_AS_UNIT.sub(" ", after)
    if re.search(r"\w-?$", before) and not re.search(rf"{_CURRENCY}$", before, re.IGNORECASE):
        return False  # stuck to a word, as in "x-5"
    if _NOT_ONE_VALUE.search(without_currency) or re.match(r"\s*:", after) or _NOT_ONE_VALUE.search(after):
        return False
    if _VARIABLE.search(without_currency) or _VARIABLE.search(after):
        return False
    return words_span(re.sub(r"\([^()]*\)|\b(?:one|ten)-\w+", " ", f"{before} | {after}")) is None


def _number_in_words(text: str) -> Fraction | None:
    """The value of the only number in words, or of "half"."""
    if re.fullmatch(r"(?:an? |one[ -])?half\.?", text.strip(), re.IGNORECASE):
        return Fraction(1, 2)
    found = list(_WORDS.finditer(text))
    if len(found) != 1:
        return None
    value = _words_to_fraction(found[0].group())
    before, after = text[: found[0].start()], text[found[0].end() :]
    value, after = _apply_tail(value, after)
    negative = re.search(r"\b(?:minus|negative)\s*$", before, re.IGNORECASE)
    before = before[: negative.start()] if negative else before
    return _signed(value, negative is not None) if _harmless(before, after) else None


def _words_to_fraction(words: str) -> Fraction:
    from word2number import w2n

    plain = re.sub(r"\ban?\b", "one", words.lower().replace(",", " "))
    whole, _, decimals = plain.partition(" point ")
    digits = "".join(str(w2n.word_to_num(digit)) for digit in decimals.split())
    return Fraction(f"{w2n.word_to_num(whole)}.{digits or 0}")


def _value(token: str) -> Fraction | None:
    """The value of what `_TOKEN` matched; None where a denominator is zero or a comma separates no thousands."""
    if re.fullmatch(VALUE, token) is None:
        return None
    mixed = re.fullmatch(r"(\d+)\s+(?:and\s+)?(\d+)\s*/\s*(\d+)", token)
    if mixed:
        part = _divide(Fraction(mixed[2]), Fraction(mixed[3]))
        return None if part is None else Fraction(mixed[1]) + part
    top, slash, bottom = token.partition("/")
    return _divide(_decimal(top), _decimal(bottom)) if slash else _decimal(top)


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", text))


def _divide(top: Fraction, bottom: Fraction) -> Fraction | None:
    return top / bottom if bottom else None


def _signed(value: Fraction | None, negative: bool) -> Fraction | None:
    return -value if value is not None and negative else value
