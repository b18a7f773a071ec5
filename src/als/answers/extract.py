r"""Find the final answer in a completion and say which rule found it.

    extract(r"... so she makes \boxed{18} dollars.", benchmark="gsm8k", prompt_idx=0)
    -> Extraction(answer="18", rule="boxed")

The rules, in the order of a prompt that asks for a box; a prompt that asks for JSON tries `json` first:
    boxed        the last complete \boxed{...}, braces balanced
    json         the value of the last "final answer" key, however badly the object is written
    phrase       what follows "#### ", "the answer is", "Answer:"
    last_math    the last formula of the last line that has one (math-500 only)
    last_number  the last number
What stands before the last </think> is not read; a completion that never closes its <think> has no answer.
The answer is the text as it stands there; what it is worth is the judge's business.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from als.answers import numbers
from als.answers.thinking import answer_part
from als.benchmarks import benchmark_named
from als.prompts.solver import is_json

MAX_COMPLETION_CHARS = 100_000
"""Only the end of a longer completion is read: a final answer stands at the end."""
_MAX_TAIL_CHARS = 4_000
_MAX_LINE_CHARS = 500
_MAX_PHRASES = 20  # who repeats "the answer is" more often has not answered

_BRACES = re.compile(r"\\{1,2}(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
_JSON_KEY = re.compile(r"""["'“”]\s{0,3}final[\s_-]?answer\s{0,3}["'“”]\s{0,9}:\s{0,99}""", re.IGNORECASE)
_PHRASE = re.compile(
    r"""####[ \t]*|\banswer\b(?:[^.\n:=#"]{0,60}?(?:\bis\b|[:=])|[ \t]{0,9}\**[ \t]{0,9}\n)[\s*_:]{0,20}""",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"(?<!\\)\$\$?([^$]+)(?<!\\)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_AFTERTHOUGHT = re.compile(r",?\s+(?:because|since|as|so|which|where|after|when|if)\b.*|,\s+[a-zA-Z].*")
_RANGE = re.compile(r"\s*(?:-|\bto\b|\bor\b)\s*[$€£]?\s*")


@dataclass(frozen=True)
class Extraction:
    """An answer and where it came from; both None where a completion has none."""

    answer: str | None
    rule: str | None


def extract(completion: str, *, benchmark: str, prompt_idx: int) -> Extraction:
    """Find the final answer of a completion.

    Raises:
        UserError: the benchmark or the prompt index is unknown.
    """
    answer = answer_part(completion)
    if answer is None:
        return Extraction(None, None)
    text = answer[-MAX_COMPLETION_CHARS:]
    is_numeric = benchmark_named(benchmark).family == "number"
    for name in _rule_order(is_json(prompt_idx), is_numeric):
        if answer := _RULES[name](text, is_numeric):
            return Extraction(answer, name)
    return Extraction(None, None)


def extract_answer(completion: str, *, benchmark: str, prompt_idx: int) -> str | None:
    """The final answer of a completion, or None; see `extract`."""
    return extract(completion, benchmark=benchmark, prompt_idx=prompt_idx).answer


def _rule_order(asks_json: bool, is_numeric: bool) -> list[str]:
    asked = ["json", "boxed"] if asks_json else ["boxed", "json"]
    return [*asked, "phrase", *([] if is_numeric else ["last_math"]), "last_number"]


def _boxed(text: str, is_numeric: bool) -> str | None:
    """The content of the box that is opened last, of those that are closed and not empty."""
    best: tuple[int, str] | None = None
    for start, content in _boxes(text):
        if content and (best is None or start > best[0]):
            best = (start, content)
    return best[1] if best else None


def _boxes(text: str) -> list[tuple[int, str]]:
    r"""Every closed box: where its content starts, and the content. One pass, whatever the nesting."""
    found: list[tuple[int, str]] = []
    open_braces: list[int | None] = []  # where a box's content starts; None for a brace that is no box
    for token in _BRACES.finditer(text):
        if token.group() == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and token.start() - start <= MAX_COMPLETION_CHARS // 10:
                found.append((start, text[start : token.start()].strip()))
        elif token.group() == "{":
            open_braces.append(None)
        elif token.group().endswith("{") and "box" in token.group():
            open_braces.append(token.end())
    return found


def _json(text: str, is_numeric: bool) -> str | None:
    keys = list(_JSON_KEY.finditer(text))
    if not keys:
        return None
    value = _json_value(text[keys[-1].end() :][:_MAX_TAIL_CHARS])
    if not value or value.casefold() in ("null", "none"):
        return None
    return _boxed(value, is_numeric) or _phrase(value, is_numeric) or value.strip("$ ")


def _json_value(rest: str) -> str:
    """The value at the start of a text, as string, list or bare word; closing marks may be missing."""
    if rest[:1] in ('"', "'", "“"):
        closing = {"“": "”"}.get(rest[0], rest[0])
        end = re.search(rf"(?<!\\){closing}\s*(?:[,}}\]]|$|\n|```)", rest[1:])
        return _unescape(rest[1 : end.start() + 1] if end else _unclosed(rest[1:])).strip()
    if rest[:1] == "[":
        return _unescape(re.sub(r"(?<!\\)\"", "", rest[1:].partition("]")[0])).strip()
    bare = re.split(r"[}\n]|,\s*[\"']|,\s*$", rest, maxsplit=1)[0]
    return bare.strip().rstrip(",")


def _unclosed(rest: str) -> str:
    """The value of a string whose closing mark is missing: its line, without the braces of the object."""
    line = re.split(r"\n|```", rest, maxsplit=1)[0].rstrip()
    surplus = max(0, line.count("}") - line.count("{"))
    return line[: len(line) - surplus] if line.endswith("}" * surplus) else line


def _unescape(raw: str) -> str:
    r"""Undo JSON's escapes, unless the writer forgot to double the backslashes of LaTeX.

    `\\frac` means `\frac`. A text with a single backslash before a command ("\frac") was not escaped at
    all, so that its double ones are line breaks of a matrix; only \" is undone there.
    """
    text = raw.replace('\\"', '"')
    if re.search(r"(?<!\\)\\(?:[a-mo-tv-zA-Z]{2}|n(?:eq?|u|abla|ot|mid)\b|u[a-z]*(?![0-9a-fA-F]))", text):
        return text
    text = re.sub(r"(?<!\\)\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    return re.sub(r"(?<!\\)\\[nt](?![a-z])", " ", text).replace("\\\\", "\\")


def _phrase(text: str, is_numeric: bool) -> str | None:
    """What follows the last phrase that announces an answer and is followed by one."""
    for found in reversed(list(_PHRASE.finditer(text))[-_MAX_PHRASES:]):
        line = text[found.end() :][:_MAX_LINE_CHARS].lstrip().split("\n", 1)[0]
        sentence = re.split(r"(?<!\bRs)\.(?=\s|$)", line, maxsplit=1)[0].strip(" *_\"'")
        if answer := (_stated_number(sentence) if is_numeric else _stated_formula(sentence)):
            return answer
    return None


def _stated_number(sentence: str) -> str | None:
    """The number a sentence states; of several the first, with its range where it is part of one."""
    clean = numbers.unlatex(_AFTERTHOUGHT.sub("", sentence)).strip()
    if numbers.parse_number(clean) is not None:
        return clean.strip("$ ")
    spans = _merge_ranges(clean, numbers.number_spans(clean))
    spans = spans or [span for span in [numbers.words_span(clean)] if span]
    return _with_sign(clean, spans[0]) if spans else None


def _stated_formula(sentence: str) -> str | None:
    r"""The formula a sentence states: its first, or the whole list in "$1$ and $2$", or its words."""
    formulas = _formulas(sentence)
    between = _FORMULA.sub(" ", sentence)
    if formulas and re.search(r"\w", re.sub(r"\b(?:and|or)\b", " ", between)):
        return formulas[0]
    return ", ".join(formulas) if formulas else sentence.strip("$ ") or None


def _last_math(text: str, is_numeric: bool) -> str | None:
    formulas = _formulas(text[-_MAX_TAIL_CHARS:])
    return formulas[-1].strip(" .,") if formulas else None


def _formulas(text: str) -> list[str]:
    return [
        (found[1] or found[2] or found[3]).strip() for found in _FORMULA.finditer(text) if r"\boxed{}" not in found[0]
    ]


def _last_number(text: str, is_numeric: bool) -> str | None:
    """The last number of the text, in digits or else in words; a range stays a range."""
    clean = numbers.unlatex(text[-_MAX_TAIL_CHARS:])
    if spans := _merge_ranges(clean, numbers.number_spans(clean)):
        return _with_sign(clean, spans[-1])
    span = numbers.words_span(clean)
    return clean[slice(*span)] if span else None


def _merge_ranges(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join numbers with nothing but "-", "to" or "or" between them: "18-20" must not pass for 20."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and _RANGE.fullmatch(text, merged[-1][1], start):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _with_sign(text: str, span: tuple[int, int]) -> str:
    """The number with the minus sign that belongs to it: one that follows no operand and opens no list."""
    before = text[: span[0]]
    signed = re.search(r"(?:^|(?<=[\s(=:$]))-[$€£]?$|(?<=[=:(])\s*-\s*[$€£]?\s*$", before)
    return ("-" if signed else "") + text[slice(*span)].rstrip(".")


_RULES: dict[str, Callable[[str, bool], str | None]] = {
    "boxed": _boxed,
    "json": _json,
    "phrase": _phrase,
    "last_math": _last_math,
    "last_number": _last_number,
}
