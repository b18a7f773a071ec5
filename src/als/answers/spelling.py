r"""Bring answers to one spelling, and decide what needs no more than that.

    tidy(r"\left( 2,\, \dfrac34 \right).") -> r"( 2, \frac34 )"
    same_quickly(r"\text{Evelyn}", "evelyn") -> True;  same_quickly("x+1", "1+x") -> None: cannot tell

Equal texts, words, choices, clock times, number bases, units and plain numbers are settled here. This module
knows neither lists nor algebra; `shapes` goes on where it cannot tell.
"""

import re
from fractions import Fraction

from als.answers.numbers import parse_plain, to_ascii

_SYMBOLS = {
    "\u2212": "-", "\u2013": "-", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "≤": r"\le ", "≥": r"\ge ",
    "±": r"\pm ", "×": r"\times ", "·": r"\cdot ", "²": "^2", "³": "^3", "√": r"\sqrt", "°": r"^\circ ", "**": "^",
    "∅": r"\emptyset ", r"\varnothing": r"\emptyset ",
    "∈": r"\in ", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]",
    r"\langle": "(", r"\rangle": ")", r"\textdollar": "",
}  # fmt: skip
_TEXT = r"\\(?:text(?:bf|it|rm|normal)?|mbox|math(?:rm|bf)|operatorname)\s*"
_ORDINAL = rf"(?:{_TEXT}\{{\s*(?:st|nd|rd|th)\s*\}}|(?:st|nd|rd|th)\b)"
_DEGREES = r"\s*(?:\^\s*\{?\s*\\circ(?![a-zA-Z])\s*\}?|\\degree(?![a-zA-Z]))"
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])(?!\s*\^\s*\{?\s*-)")
_ANGLE = re.compile(
    rf"(\d+(?:\.\d+)?|(?<![a-zA-Z\\])[a-zA-Z]|\\[a-z]+|\\frac\{{[^{{}}]*\}}\{{[^{{}}]*\}}|\([^()]*\)){_DEGREES}"
)
_TIDY: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r",\s*\\!\s*(?=\d{3})|(?<=\d)\{,\}(?=\d{3})"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|bigg?|Bigg?)(?![a-zA-Z])|(?<!\\)\\[!,;:>]"), ""),
    (re.compile(r"(?<!\\)\\ |~|\\q?quad(?![a-zA-Z])|[\u2009\u202f\u00a0]"), " "),
    (re.compile(r"\\phantom\s*(?:\{[^{}]*\}|[+-])"), ""),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\\$|\$|(?<!\\)\\[()\[\]]"), ""),
    (re.compile(rf"(?<=\d)\s*(?:\^\s*\{{\s*{_ORDINAL}\s*\}}|\^?\s*{_ORDINAL}|(?:st|nd|rd|th)\b)"), ""),
    (re.compile(r"\^\s*(-\s*\d+)"), r"^{\1}"),
    (re.compile(r"\s*\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![a-zA-Z]))|’"), "'"),
    (re.compile(r"^\s*\\\{\s*\\\}\s*$"), r"\\emptyset"),
    (re.compile(rf",?\s*{_TEXT}\{{\s*,?\s*(?:and|or)\s*,?\s*\}}"), ", "),
    (re.compile(r",?\s*(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])"), ", "),
    (re.compile(rf"{_TEXT}\{{\s*,\s*\}}|,(?:\s*,)+"), ", "),
    (re.compile(r"(?<![\\a-zA-Z])(sqrt|pi|infty)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"^\s*(?:\\approx|≈)"), ""),
    (re.compile(r"^\s*(['\"`])([^'\"`]*)\1\s*$"), r"\2"),
]
_UNIT = re.compile(
    rf"(?<=[\w}})])\s*(?:{_TEXT}\{{\s*(?P<tex>[a-zA-Z][^{{}}\d]*)\}}|(?<=[\d}})\s])(?P<word>(?<=\s)[a-zA-Z]{{3,}}"
    r"(?:\s+[a-zA-Z.]+)*|(?<=\s)(?:cm|mm|km|ft|kg|mi|in|yd))|(?<=\d)(?P<attached>cm|mm|km|kg))\s*(?:\^\s*\{?(?P<power>\d)\}?)?\s*$"
)
_UNIT_NAMES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "inche": "inch", "in": "inch", "ft": "foot", "feet": "foot",
    "mi": "mile", "yd": "yard", "sec": "second", "min": "minute", "hr": "hour", "kilogram": "kg", "gram": "g",
}  # fmt: skip
_KNOWN_UNITS = (
    set(_UNIT_NAMES.values()) | {"day", "week", "month", "year", "dollar", "cent", "pound"} | {"degree", "percent"}
)
_BASED = re.compile(r"\(?(-?[0-9A-Za-z.]+)\)?_\{?(\d{1,3})\}?")
_SQUARE_OR_CUBIC = re.compile(r"^\s*(?:(square|sq)|cubic|cu)\b[.\s]*")
_BETWEEN = r"(?:[\s~]|\\[ ,;]|\\q?quad(?![a-zA-Z]))"
_CHOICE = re.compile(
    rf"\s*(?:\(([A-J])\)|([A-J])[).:])(?:{_BETWEEN}*|{_BETWEEN}+"
    r"(?![+*/^=<>_&,;]|-\s|(?:and|or)\b|\\(?:cup|cap|cdot|times|to|in|and|or)(?![a-zA-Z]))(?P<words>\S(?!.*\([A-J]\)).*))",
    re.DOTALL,
)


def same_quickly(answer: str, gold: str) -> bool | None:
    """What can be told without algebra: equal texts, words, bases and plain numbers. None: nothing."""
    answer, gold = reduce_choices(answer, gold)
    if is_text(gold) or _is_clock(gold):
        return same_text(answer, gold)
    mine, theirs = tidy(answer), tidy(gold)
    if not mine or not theirs or _units_differ(answer, gold):
        return False
    if squeeze(mine) == squeeze(theirs):
        return True
    based = same_base(mine, theirs)
    return based if based is not None else same_number(mine, theirs)


def tidy(text: str) -> str:
    """One spelling for what is written in many ways; units are dropped, and degrees outside of sines and the like."""
    text = to_ascii(text)
    for symbol, replacement in _SYMBOLS.items():
        text = text.replace(symbol, replacement)
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    if _TRIGONOMETRIC.search(text):  # the sine of 30 degrees is not the sine of 30
        text = _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text)
    text = re.sub(_DEGREES, "", text)
    text = text.strip().rstrip(".,;").strip()
    if unit := _UNIT.search(text):
        text = text[: unit.start()].strip()
    return _without_text(text).strip()


def is_text(gold: str) -> bool:
    r"""Whether a gold answer is words or choices: \text{east}, \text{(C)}, CBAD; not x, ab or 5\text{ cm}."""
    bare = _without_text(gold)
    if not re.fullmatch(r"[\s(]*[A-Za-z][A-Za-z\s,.'()-]*(?:\d{1,2})?[\s.,)]*", bare):
        return False
    return bare != gold or re.search(r"[A-Za-z]{4}", bare) is not None


def same_text(answer: str, gold: str) -> bool:
    """Whether two texts name the same things, in any order; case, punctuation and articles do not count."""
    answer = answer if "=" in gold else answer.rpartition("=")[2]
    return bool(_words(gold)) and _words(answer) == _words(gold)


def reduce_choices(answer: str, gold: str) -> tuple[str, str]:
    r"""Reduce "(C) Plane" against "(C)", "C" or "Plane" to what both sides name: the letter, else the words."""
    mine, theirs = _choice(answer), _choice(gold)
    if mine and theirs:
        a, g = (mine[1], theirs[1]) if mine[0] == theirs[0] and mine[1] and theirs[1] else (mine[0], theirs[0])
    elif mine and mine[1]:
        a, g = mine[0] if _is_letter(gold) else mine[1], gold
    elif theirs and theirs[1]:
        a, g = answer, theirs[0] if _is_letter(answer) else theirs[1]
    else:
        return answer, gold
    return a, g


def _choice(text: str) -> tuple[str, str] | None:
    r"""The letter of a choice, as \text{C}, and the words behind it: \text{(C) Plane}, (C), C. Plane."""
    found = _CHOICE.fullmatch(_without_text(text))
    return (rf"\text{{{found[1] or found[2]}}}", found["words"] or "") if found else None


def _is_letter(text: str) -> bool:
    return re.fullmatch(r"[A-J]", _without_text(text).strip()) is not None


def _without_text(text: str) -> str:
    return re.sub(rf"{_TEXT}\{{([^{{}}]*)\}}", r"\1", text)


def _words(text: str) -> list[str]:
    text = re.sub(rf"{_TEXT}|\\[a-zA-Z]+|[$\\{{}}]", " ", text)
    parts = re.split(r",|;|\band\b|&", text)
    bare = (re.sub(r"^\s*(?:the|an?|option|choice)\s+(?=\w)", "", part, flags=re.IGNORECASE) for part in parts)
    return sorted(key for part in bare if (key := re.sub(r"[^\w:+/-]", "", part).casefold()))


def _is_clock(gold: str) -> bool:
    return re.search(r"\d.*[ap]\.?\s*m\b", gold, re.IGNORECASE) is not None and ":" in gold


def squeeze(text: str) -> str:
    """The text without spaces and without the braces of a single character: x^{2} is x^2."""
    return re.sub(r"(?<=[\^_])\{(\w)\}", r"\1", re.sub(r"\s+", "", text))


def same_base(mine: str, theirs: str) -> bool | None:
    """Compare numbers with a base as subscript; a base that one side leaves out is taken from the other.

    None where neither side has one, or the other side is an equation or a list.
    """
    mine, theirs = squeeze(mine), squeeze(theirs)
    a, g = _digits_and_base(mine), _digits_and_base(theirs)
    if a and g:
        return a == g
    based, plain = (a, theirs) if a else (g, mine)
    if based is None or re.search(r"[=,;]", plain):
        return None
    return based[0] == plain


def _digits_and_base(text: str) -> tuple[str, str] | None:
    """The digits and the base of a number such as 1A_16; None for x_1, which is a letter with an index."""
    found = _BASED.fullmatch(re.sub(r"(?<=\d)\{(\d+)\}$", r"\1", text))
    if found is None:
        return None
    try:
        int(found[1].replace(".", "", 1), int(found[2]))
    except ValueError:  # no such base, or a digit that it does not have
        return None
    return found[1], found[2]


def same_number(mine: str, theirs: str) -> bool | None:
    """Compare two plain numbers exactly; None where one is no number, or a rounded one may be meant."""
    if any(text[:1] in ("(", "[") for text in (mine, theirs)):
        return None
    a, g = parse_plain(mine), parse_plain(theirs)
    if a is None or g is None:
        return None
    if a == g or a * _unit_share(mine) == g * _unit_share(theirs):
        return True
    return False if _terminates(a) and _terminates(g) else None


def _unit_share(text: str) -> Fraction:
    """What a percent sign stands for: of 10% both 10 and 0.1 are accepted spellings."""
    return Fraction(1, 100) if "%" in text else Fraction(1)


def _terminates(value: Fraction) -> bool:
    """Whether the value has a finite decimal expansion."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom == 1


def _units_differ(answer: str, gold: str) -> bool:
    (a, a_power), (g, g_power) = _unit_of(answer), _unit_of(gold)
    return (a in _KNOWN_UNITS and g in _KNOWN_UNITS and a != g) or (a_power != g_power and bool(a_power and g_power))


def _unit_of(text: str) -> tuple[str, str]:
    r"""The name of the unit at the end of a text, and its power where one is written: \text{ in}^3, cubic inches."""
    if sign := re.search(r"(%|\\circ|\\degree|°)\W*$", text):
        return ("percent" if sign[1] == "%" else "degree"), ""
    found = _UNIT.search(text.replace("²", "^2").replace("³", "^3").strip().rstrip("."))
    if found is None:
        return "", ""
    name = (found["tex"] or found["word"] or found["attached"]).strip(" .").casefold()
    power = found["power"] or ""
    if words := _SQUARE_OR_CUBIC.match(name):
        name, power = name[words.end() :], "2" if words[1] else "3"
    name = name if len(name) < 4 else name.removesuffix("s")
    return _UNIT_NAMES.get(name, name), power
