r"""Compare two mathematical answers by their shape; ask for the value only of what has no shape left.

    "(2, \frac{6}{4})" against "(2,1.5)": two ordered pairs, so 2 against 2 and \frac{6}{4} against 1.5

A list, a tuple, a set, an interval, a union of intervals, a matrix and an equation's sides are taken apart
here, so that no library has to guess whether (1,2) is a point or an interval. Two remaining expressions go
to the `leaf` function that the caller passes in; this module knows no computer algebra.
"""

import re
from collections.abc import Callable, Sequence

from als.answers.spelling import reduce_choices, same_base, same_number, same_quickly, squeeze, tidy

Leaf = Callable[[str, str], bool]
"""Tells whether two expressions (answer, gold) have the same value."""

_EQUALS = re.compile(r"(?<![<>:=\\])(?<!\s!)=(?!=)")
_CONGRUENT = re.compile(r"\\equiv(?![a-zA-Z])|≡")
_MODULUS = re.compile(r"\(?\s*\\[pb]?mod\s*(?:\{[^{}]*\}|\d+)\s*\)?")
_APPROXIMATELY = re.compile(r"\\approx(?![a-zA-Z])|≈")
_OR = re.compile(r"\\text\s*\{\s*or\s*\}|\bor\b")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_IN = re.compile(r"^\s*\\?[a-zA-Z]\s*\\in(?![a-zA-Z])")
_MATRIX = re.compile(r"[(\[]?\s*\\begin\{([pbB]?matrix)\}(.*)\\end\{\1\}\s*[)\]]?", re.DOTALL)
_CLOSERS = {"(": ")", "[": "]", r"\{": r"\}"}


def same(answer: str, gold: str, leaf: Leaf) -> bool:
    """Whether an answer says the same as the gold answer."""
    quick = same_quickly(answer, gold)
    if quick is not None:
        return quick
    answer, gold = reduce_choices(answer, gold)
    spellings = [tidy(spelling) for spelling in _OR.split(answer)]
    return _same_list(tidy(answer), tidy(gold), leaf) or (
        len(spellings) > 1 and all(_same_list(spelling, tidy(gold), leaf) for spelling in spellings)
    )


def _same_list(answer: str, gold: str, leaf: Leaf) -> bool:
    """Compare what may be a list without brackets: its order does not count, nor do brackets around it."""
    mine, theirs = _split_list(answer), _split_list(gold)
    if len(theirs) > 1:
        if len(mine) == 1 and (inner := _brackets(_side(answer))) and inner[0] != "[":
            mine = inner[1]
        return _same_items(mine, theirs, leaf)
    inner = _brackets(_side(gold))
    if inner and len(mine) == 1 and not _brackets(_side(answer)):
        mine = _split(answer, ",")  # "100,101" may be the point (100,101)
    if len(mine) > 1:
        if inner is None or inner[0] == "[" or inner[2] == "]":
            return False
        return (_same_items if inner[0] == r"\{" else _same_in_order)(mine, inner[1], leaf)
    return _same_one(answer, gold, leaf)


def _same_one(answer: str, gold: str, leaf: Leaf) -> bool:
    """Compare two answers that are no bare lists: equations, matrices, bracketed things, expressions."""
    rounded = _APPROXIMATELY.split(answer)
    if len(rounded) > 1 and not _APPROXIMATELY.search(gold):
        return any(_same_one(side, gold, leaf) for side in rounded[-2:])
    if not _EQUALS.search(gold) and _is_implicit(_EQUALS.split(answer)):
        return False
    answer, gold = _drop_names(answer, gold)
    if (quick := _same_tidied(answer, gold)) is not None:
        return quick
    a_cells, g_cells = _matrix(answer), _matrix(gold)
    if a_cells and g_cells:
        return _same_matrix(a_cells, g_cells, leaf)
    a_parts, g_parts = _split(answer, r"\cup"), _split(gold, r"\cup")
    if len(a_parts) > 1 or len(g_parts) > 1:
        return _same_items(a_parts, g_parts, leaf) or leaf(answer, gold)
    a_inner, g_inner = _brackets(answer), _brackets(gold)
    if a_inner and g_inner:
        return _same_brackets(a_inner, g_inner, leaf)
    if (a_inner and a_inner[0] != "[") or (g_inner and g_inner[0] != "["):
        single = [side[1] if side else [text] for side, text in ((a_inner, answer), (g_inner, gold))]
        if len(single[0]) == len(single[1]) == 1:
            return _same_list(single[0][0], single[1][0], leaf)
    return not _differ_in_marks(answer, gold) and leaf(answer, gold)


def _differ_in_marks(answer: str, gold: str) -> bool:
    """Whether the letters' primes differ, or one side only is a ratio and the other no quotient: 3 is not 3:1."""
    primes = [len(re.findall(r"(?<=[a-zA-Z')}\]])'", text)) for text in (answer, gold)]
    a_terms, g_terms = _split(answer, ":"), _split(gold, ":")
    if len(a_terms) == len(g_terms):
        return primes[0] != primes[1]
    other = answer if len(a_terms) == 1 else gold
    return primes[0] != primes[1] or max(len(a_terms), len(g_terms)) > 2 or not re.search(r"/|frac|\.\d", other)


def _same_tidied(answer: str, gold: str) -> bool | None:
    if not answer or not gold:
        return False
    if squeeze(answer) == squeeze(gold):
        return True
    based = same_base(answer, gold)
    return based if based is not None else same_number(answer, gold)


def _drop_names(answer: str, gold: str) -> tuple[str, str]:
    r"""Reduce "x = 5" and "x \equiv 5 \pmod 7" against "5", and "x \in [0,1]", to what stands on the right."""
    answer, gold = _IN.sub("", answer).strip(), _IN.sub("", gold).strip()
    if _CONGRUENT.search(answer) and not _CONGRUENT.search(gold):
        answer = _MODULUS.sub("", _CONGRUENT.split(answer)[-1]).strip()
    mine, theirs = _EQUALS.split(answer), _EQUALS.split(gold)
    is_name = len(theirs) == 2 and re.search(r"[-+*/^<>\d]", theirs[0]) is None
    same_name = is_name and squeeze(mine[0]) == squeeze(theirs[0])
    if len(mine) > 1 and (same_name or len(theirs) == 1):
        answer = mine[-2] if re.fullmatch(r"\s*[a-zA-Z]\s*", mine[-1]) and len(gold) > 1 else mine[-1]
    if is_name and (len(mine) == 1 or same_name):
        gold = theirs[-1]
    return answer.strip(), gold.strip()


def _is_implicit(sides: Sequence[str]) -> bool:
    """Whether an equation is one of a curve, as 2x - y = 0 is: its right-hand side is no value of it."""
    letters = re.sub(r"\\[a-zA-Z]+", "", sides[0])
    return (
        len(sides) > 1
        and sides[-1].strip() == "0"
        and re.search(r"[a-zA-Z].*[-+^]|[-+^].*[a-zA-Z]", letters) is not None
    )


def _side(text: str) -> str:
    r"""The right-hand side of "(x,y) = (1,2)" and of "x \in \{1,2\}"; else the text."""
    return _EQUALS.split(_IN.sub("", text))[-1].strip()


def _same_brackets(mine: tuple[str, list[str], str], theirs: tuple[str, list[str], str], leaf: Leaf) -> bool:
    """Compare two bracketed lists; the kind of bracket counts, but for a tuple of three or more."""
    kinds_agree = (mine[0], mine[2]) == (theirs[0], theirs[2])
    is_tuple = len(theirs[1]) > 2 and r"\{" not in (mine[0], theirs[0])
    if not kinds_agree and not is_tuple:
        return False
    return (_same_items if theirs[0] == r"\{" else _same_in_order)(mine[1], theirs[1], leaf)


def _same_matrix(mine: list[list[str]], theirs: list[list[str]], leaf: Leaf) -> bool:
    if [len(row) for row in mine] != [len(row) for row in theirs]:
        return False
    return all(_same_in_order(a, g, leaf) for a, g in zip(mine, theirs, strict=True))


def _same_in_order(mine: Sequence[str], theirs: Sequence[str], leaf: Leaf) -> bool:
    return len(mine) == len(theirs) and all(_same_one(a, g, leaf) for a, g in zip(mine, theirs, strict=True))


def _same_items(mine: Sequence[str], theirs: Sequence[str], leaf: Leaf) -> bool:
    r"""Compare two lists whose order does not count; a \pm b stands for two items."""
    rest, wanted = _expand(mine), _expand(theirs)
    if len(rest) != len(wanted):
        return False
    for item in wanted:
        match = next((i for i, other in enumerate(rest) if _same_one(other, item, leaf)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _expand(items: Sequence[str]) -> list[str]:
    return [
        _PLUS_MINUS.sub(sign, item) for item in items for sign in (("+", "-") if _PLUS_MINUS.search(item) else ("",))
    ]


def _split_list(text: str) -> list[str]:
    r"""The items of a list without brackets; a number like 1,234 is one item, 1 \pm 2 are two."""
    side = _side(text)
    if same_number(text, text) or ("," not in text.removesuffix(side) and same_number(side, side)):
        return [text]
    items = [part for piece in _split(text, ",") for part in _split(piece, ";")]
    return _expand(items) if len(items) > 1 or not _brackets(_side(text)) else items


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside of brackets, braces and environments."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(rf"\\begin|\\end|\\?[{{(\[]|\\?[}})\]]|{re.escape(separator)}", text):
        token = found.group()
        if token == separator and depth == 0:
            parts.append(text[start : found.start()].strip())
            start = found.end()
        elif token != separator:
            depth += 1 if token == r"\begin" or token[-1] in "{([" else -1
    return [*parts, text[start:].strip()]


def _brackets(text: str) -> tuple[str, list[str], str] | None:
    """Take "(a, b]" apart into "(", its items and "]"; None where the outer brackets are no pair."""
    opener = next((mark for mark in _CLOSERS if text.startswith(mark)), None)
    closer = next((mark for mark in _CLOSERS.values() if text.endswith(mark)), None)
    if opener is None or closer is None or (opener == r"\{") != (closer == r"\}"):
        return None
    inner = text[len(opener) : len(text) - len(closer)]
    return (opener, _split(inner, ","), closer) if _stays_inside(inner) else None


def _stays_inside(inner: str) -> bool:
    """Whether no bracket closes that was not opened: the text of "(a)(b)" without its ends is "a)(b"."""
    depth = 0
    for found in re.finditer(r"[{(\[]|[})\]]", inner):
        depth += 1 if found.group() in "{([" else -1
        if depth < 0:
            return False
    return depth == 0


def _matrix(text: str) -> list[list[str]] | None:
    """The cells of a matrix, row by row."""
    found = _MATRIX.fullmatch(text.strip())
    if found is None:
        return None
    rows = [row for row in re.split(r"\\\\", found[2]) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]
