r"""Find the final answer in a completion and say which rule found it.

    extract(r"... so she makes \boxed{18} dollars.", benchmark="gsm8k", prompt_idx=0)
    -> Extraction(answer="18", rule="boxed")

The rules, in the order of a prompt that asks for a box; a prompt that asks for JSON tries `json` first:
    boxed        the last complete \boxed{...}, braces balanced, with those that it is listed with
    json         the value of the last "final answer" key, however badly the object is written
    phrase       what "#### ", "the answer is" or "Answer:" announces; a heading or a label before a reasoning does not
    last_math    the last formula, or the value that the last sentence states (math-500 only)
    last_number  the last number, or the right-hand side of a closing equation
What stands before the last </think> is not read; a completion that never closes its <think> has no answer.
The answer is the text as it stands there; what it is worth is the judge's business.
"""

import itertools
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
_MAX_LABEL_CHARS = 40  # of the text before an opening label
_MAX_PLAIN_WORDS = 4  # behind a value without delimiters: "34 square units"
_MAX_STATED = 3  # a sentence with more numbers is a computation, not a statement
_MAX_PHRASES = 20  # who repeats "the answer is" more often has not answered

_BRACES = re.compile(r"\\{1,2}(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
_SEPARATOR = re.compile(r"[,;]|\\q?quad(?![a-zA-Z])|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])")
_BETWEEN_BOXES = re.compile(
    r"[\s$&{}]|\\[,;:! ()\[\]]|\\text(?:rm|bf)?(?![a-zA-Z])|(?<![a-zA-Z])[a-zA-Z](?:_\w)?\s{0,9}=|" + _SEPARATOR.pattern
)
_MAX_BETWEEN_BOXES = 80
_MAX_LISTED_BOXES = 30
_JSON_KEY = re.compile(r"""["'“”]\s{0,3}final[\s_-]?answer\s{0,3}["'“”]\s{0,9}:\s{0,99}""", re.IGNORECASE)
_CALCULATION = re.compile(r"<<[^<>\n]{0,200}>>(?=[-$€£\s]{0,5}[\d.])")

_GAP = r"""(?:\$(?:\\.|[^$\\\n]){1,40}\$|\\\((?:\\[^)\n]|[^\\\n]){1,40}\\\)|\\[^(\n]|\.(?=\d)|[^.\n:：=#"$\\])"""
_PHRASE = re.compile(
    rf"""(?P<marker>\#{{4}})[\#\ \t]*
    |\b(?:
        answer\b(?!\s+(?:hints?|choices?|options?|because|since|if)\b)(?:
            [ \t]+(?=\$|\\\()
            |{_GAP}{{0,60}}?\b(?:is|equals)\b(?!\s+(?:near|close|correct|right|incorrect|wrong)\b)
            |(?P<label>{_GAP}{{0,60}}?[:：]|[ \t*]{{0,9}}=|[ \t*]{{0,9}}\n))
        |answers\b{_GAP}{{0,60}}?\bare\b
    )[\s*_:：]{{0,20}}""",
    re.IGNORECASE | re.VERBOSE,
)
_FORMULA = re.compile(
    r"\$\$((?:\\.|[^$\\])+)\$\$|(?<![\\$])\$(?!\d[^$\\]{0,60}\b[a-z]{2,}[^$\\]{0,60}\s\$)((?:\\.|[^$\\])+)\$"
    r"|\\\((.+?)\\\)|\\\[(.+?)\\\]|\\begin\{(?:align|gather|equation|eqnarray)\*?\}(.+?)\\end\{(?:align|gather|equation|eqn)",
    re.DOTALL,
)
_ROWS = re.compile(r"\\begin\{(?:align|gather)(?:ed)?\*?\}(.*?)(?:\\end\{(?:align|gather)|$)", re.DOTALL)
_INNER_ROWS = re.compile(r"\\begin\{(\w*matrix|cases|array)\}.*?\\end\{\1\}", re.DOTALL)
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)
_NOTE = re.compile(
    r"(?:^|(?<=[.!)\]$]\s)|(?<=\n))[ \t]*\(?(?:Note|Remark|Indeed|For example|Check|Verification"
    r"|(?:To|We can(?: also)?|Let's|Let us) (?:check|verify))\b"
    r"(?!.*(?:\n\s*\n|\b(?i:so|thus|therefore|hence|answer|conclude)\b)).{0,300}$",
    re.DOTALL,
)
_NO_ANNOUNCEMENT = re.compile(
    r"\b(?:(?:to|will|can)|(?:express|write|round|convert|simplify|check|verify|present)\s+"
    r"(?:the|our|your|this)(?:\s+final)?)[ \t]*$",
    re.IGNORECASE,
)
"""What stands before "answer" where it is a verb, or the object of one."""
_DISPLAY = re.compile(r"\$\$(?:\\.|[^$\\])+\$\$|\\\[.+?\\\]", re.DOTALL)
_MASK = "\x01"
"""Stands for every character of a formula where only the words of a text are looked at."""
_SENTENCE_END = re.compile(r"""(?<!\bRs)\.(?=[*_"')]*(?:\s|$))""")
_REMARK = r",?\s+(?:because|since|as|so|which|where|after|when|if)\b.*"
_AFTERTHOUGHT = re.compile(rf"{_REMARK}|,\s+[a-zA-Z].*", re.DOTALL)
_COPULA = re.compile(
    r"\b(?:is|are|was|equals?|gives?|giving|yields?|makes|becomes|so|thus|hence|therefore|get|obtain)\b[\s:,]*",
    re.IGNORECASE,
)
_NUMBER_COPULA = re.compile(rf"{_COPULA.pattern}|[=:≈]\s*", re.IGNORECASE)
_OPERATION = re.compile(
    r"\b(?:(?:product|sum|difference|quotient|ratio|average)\s+of|twice|half|double|triple|plus|minus|times|divided"
    r"|multiplied)\b|[\d)]\s*(?:[+*×÷]|\\times|\\cdot|\\div)\s*[\d$(]|\d\s+[-/]\s+[\d$]",
    re.IGNORECASE,
)
_BEFORE_VALUE = re.compile(
    r"[\W_]*(?:\b(?:about|around|approximately|roughly|exactly|only|just|USD|EUR|GBP|Rs)\b[\W_]*)?", re.IGNORECASE
)
_OPERATOR_OR_LIST = re.compile(r"\s*(?:[+*×÷^,]|[-/]\s|and\b|plus\b|minus\b|times\b)\s*[$€£]?\s*[\d(]", re.IGNORECASE)
_ENUMERATED = re.compile(r"[(]?\d{1,2}[.):]\s+[a-zA-Z*]")
_LEADING_WORDS = re.compile(
    r"(?:(?!(?:arc|sin|cos|tan|cot|log|sqrt|minus|negative|not?|than|all|most|least)\b)(?:a|[a-z]{2,})\s+)+"
    r"(?=[-+]?[\d(\[\\{]|[a-zA-Z]\s?=)"
)
_ONE_NUMBER_AMONG_WORDS = re.compile(
    r"(?!.*\b(?:than|least|most|not|or|to|minus|negative)\b)(?:[A-Za-z'’-]+,?\s+){2,30}(-?\\?\$?\d[\d,.]*(?:\s+[A-Za-z'’-]+){0,30})"
)
_WORD = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{2,}")
_CONDITION = re.compile(r"\s*,?\s*(?:as|at|because|for|if|since|when|where|with)\s+(?:(?:all|every|any)\s+)?")
_PLAIN_FORMULA = re.compile(
    r"(?!\\begin\{(?!.?matrix))(?:[-+(\[{\\$]*\d|[-+(\[{]*\\[a-zA-Z{]|[-+(\[{]*[a-zA-Z]\s*(?:[-+^/*=<>_,(]|\\))"
)
_NEW_STATEMENT = re.compile(
    r"[\n,;:.!?=<>+*/×\\→⇒]|\b(?:is|are|was|so|then|thus|hence|therefore|because|which|or|but)\b"
)
_COUNTED = r"(?:values?|solutions?|ways|possibilities|integers|numbers|choices|pairs|options|measures|multiples)"
_EXPLANATION = re.compile(r"\W*(?:explanation|rationale|reason(?:ing)?|justification|because)\b", re.IGNORECASE)
_CONCLUSION = re.compile(r"=|\b(?:so|thus|hence|therefore|in total|altogether|makes)\b", re.IGNORECASE)
_REASON = re.compile(r"\s(?:because|since|instead of|rather than)\b(?:[^\n=,]|,(?=\d{3}))*$")
_RANGE = re.compile(r"\s*(?:-|\bto\b|\bor\b)\s*[$€£]?\s*|:")


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
    text = _CALCULATION.sub("", answer[-MAX_COMPLETION_CHARS:])
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
    r"""The content of the last closed box that is not empty; of several in one statement, a list of them all."""
    boxes = sorted((box for box in _boxes(text) if box[2]), key=lambda box: box[0])
    if not boxes:
        return None
    listed = [boxes[-1][2]]
    for (_, end, content), (start, _, last) in itertools.islice(
        zip(reversed(boxes[:-1]), reversed(boxes), strict=False), _MAX_LISTED_BOXES
    ):
        if not _in_one_statement(text[end:start]):
            break
        if content != last and not _same_value(content, last):
            listed += [r" \text{ or } " if re.search(r"\bor\b", text[end:start]) else ", ", content]
    return "".join(reversed(listed))


def _same_value(content: str, other: str) -> bool:
    value = numbers.parse_number(content)
    return value is not None and value == numbers.parse_number(other)


def _in_one_statement(between: str) -> bool:
    r"""Whether nothing but a list's separators stands between two boxes: "\quad \text{and} \quad", "$, $y = "."""
    if not 0 < len(between) <= _MAX_BETWEEN_BOXES or not _SEPARATOR.search(between):
        return False
    return not _BETWEEN_BOXES.sub("", between)


def _boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Every closed box: where it starts and ends, and its content. One pass, whatever the nesting."""
    found: list[tuple[int, int, str]] = []
    open_braces: list[re.Match[str] | None] = []  # the command that opens a box; None for a brace that is no box
    for token in _BRACES.finditer(text):
        if token.group() == "}":
            box = open_braces.pop() if open_braces else None
            if box is not None and token.start() - box.end() <= MAX_COMPLETION_CHARS // 10:
                found.append((box.start(), token.end(), text[box.end() : token.start()].strip()))
        elif token.group() == "{":
            open_braces.append(None)
        elif token.group().endswith("{") and "box" in token.group():
            open_braces.append(token)
    return found


def _json(text: str, is_numeric: bool) -> str | None:
    keys = list(_JSON_KEY.finditer(text))
    if not keys:
        return None
    value = _json_value(text[keys[-1].end() :][:_MAX_TAIL_CHARS])
    if not value or value.casefold() in ("null", "none"):
        return None
    return _boxed(value, is_numeric) or _phrase(value, is_numeric) or _stated_in_prose(value, is_numeric)


def _stated_in_prose(value: str, is_numeric: bool) -> str | None:
    """The value of a JSON string: what it states where it is a sentence, else the string as it is."""
    if is_numeric and _COPULA.search(value) and numbers.parse_number(value) is None:
        return _stated_number(value)
    if not is_numeric and _COPULA.search(_mask(value)):
        return _stated_formula(value.rstrip(". "))
    return value.strip("$ ")


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
    """What the last phrase that announces an answer, and is followed by one, announces.

    A label that opens the text ("Answer:") is a heading of all that follows. So its value counts only where
    the last line states no other.
    """
    state = _stated_number if is_numeric else _stated_formula
    for found in reversed(list(_PHRASE.finditer(text))[-_MAX_PHRASES:]):
        before = text[max(0, found.start() - _MAX_LABEL_CHARS) : found.start()]
        if not found["marker"] and _NO_ANNOUNCEMENT.search(before):
            continue
        rest = text[found.end() :].lstrip()
        sentence, rest_of_line, lines = _announced(rest, is_numeric)
        if found["marker"]:
            answer = None if _ENUMERATED.match(rest) else _marked(sentence, bool(lines), is_numeric)
        elif found["label"]:
            answer = _labelled(text[: found.start()], sentence, rest_of_line, lines, is_numeric)
        else:
            answer = state(sentence)
        if answer:
            return answer
    return None


def _announced(rest: str, is_numeric: bool) -> tuple[str, str, list[str]]:
    """The first sentence of a text, what else stands on its line, and the lines behind it that are not empty."""
    rest = rest[:_MAX_LINE_CHARS] + rest[_MAX_LINE_CHARS:][-_MAX_TAIL_CHARS:]
    masked = rest if is_numeric else _mask(rest)  # in a text about money, "$" opens no formula
    if is_numeric and (display := _DISPLAY.match(rest)):
        masked = _MASK * display.end() + rest[display.end() :]
    ends = [found.start() for found in re.finditer(r"\n", masked)] + [len(rest)]
    line = rest[: ends[0]]
    end = _SENTENCE_END.search(masked, 0, ends[0])
    sentence = line[: end.start()] if end else line
    rest_of_line = line[end.end() :].strip(" *_\"'") if end else ""
    lines = [stripped for pair in itertools.pairwise(ends) if (stripped := rest[slice(*pair)].strip("\n *_"))]
    return sentence[:_MAX_LINE_CHARS].strip(" *_\"'"), rest_of_line, lines


def _marked(sentence: str, has_more: bool, is_numeric: bool) -> str | None:
    """What stands behind "####": a value, or a heading of Markdown, which announces nothing."""
    if not is_numeric:
        return _stated_formula(sentence) if _is_short(sentence, is_numeric) or not has_more else None
    clean = numbers.unlatex(sentence)
    spans = _spans(clean)
    if spans and not _leads(clean, spans[0]) and not re.match(r"\W*[a-zA-Z]\s*=", clean):
        return None
    if numbers.parse_number(clean) is None and len(spans) > 1:
        return clean.strip()  # "4 and 5" is not 4
    return _stated_number(sentence)


def _labelled(before: str, sentence: str, rest_of_line: str, lines: list[str], is_numeric: bool) -> str | None:
    """The value behind a label ("Answer:") that more text follows; None where the label is a heading."""
    opens = len(before) <= _MAX_LABEL_CHARS and not re.search(r"\d|final", before, re.IGNORECASE)
    short = _is_short(sentence, is_numeric) and not (rest_of_line and _is_enumeration(sentence, lines))
    is_reasoning = len(_spans(sentence)) > _MAX_STATED if is_numeric else bool(_formulas(sentence))
    if not short and opens and (lines or rest_of_line or is_reasoning):
        return None
    if not short and len(lines) > 1 and not re.search(r"\bfinal\W*$", before, re.IGNORECASE):
        return None
    answer = _stated_number(sentence) if is_numeric else _stated_formula(sentence)
    return answer if not (opens and lines) or _is_left_standing(answer, lines, is_numeric) else None


def _is_short(sentence: str, is_numeric: bool) -> bool:
    """Whether a sentence is a bare value ("18 eggs a day", "$1$ and $2$", "Evelyn") and no step of a reasoning."""
    if is_numeric:
        clean = numbers.unlatex(sentence)
        spans = _spans(clean)
        if not spans:
            return len(clean.split()) <= 4 and numbers.words_span(clean) is not None
        return len(spans) == 1 and _leads(clean, spans[0]) and re.search(r"[=:]", clean) is None
    words = re.sub(rf"{_MASK}+", " ", _mask(sentence)).split()
    return len(words) <= 3 and not re.match(r"(?:step|case|part|let|given)\b", sentence, re.IGNORECASE)


def _is_enumeration(sentence: str, lines: list[str]) -> bool:
    """Whether "1" is the number of a step, not a value: one of the next lines begins with "2."."""
    return sentence.isdecimal() and any(re.match(rf"{int(sentence) + 1}[.)]\s", line) for line in lines)


def _is_left_standing(answer: str | None, lines: list[str], is_numeric: bool) -> bool:
    """Whether the last of the lines behind an answer repeats it, or states no other."""
    last_line = lines[-1]
    if _EXPLANATION.match(lines[0]) and not _CONCLUSION.search(last_line):
        return True
    if is_numeric:
        clean = numbers.unlatex(last_line)
        stated = [_with_sign(clean, span) for span in _spans(clean)]
        value = numbers.parse_number(answer or "")
        return not stated or (value is not None and value in map(numbers.parse_number, stated))
    if answer and answer.replace(" ", "") in last_line.replace(" ", ""):
        return True
    return not _formulas(last_line) and not re.search(r"\d", last_line)


def _stated_number(sentence: str) -> str | None:
    """The number a sentence states: the one it begins with, or what its last "is" or "=" is followed by.

    A range and a list without either are returned whole.
    """
    clean = numbers.unlatex(_AFTERTHOUGHT.sub("", sentence)).strip()
    value = numbers.parse_number(clean)
    spans = _spans(clean)
    operation = _OPERATION.search(clean)
    leads = bool(spans) and _leads(clean, spans[0])
    if value is None or operation:
        *_, tail = ["", *_NUMBER_COPULA.split(numbers.unlatex(sentence))[1:]]
        if (operation or (len(spans) != 1 and not leads)) and (_spans(tail) or numbers.words_span(tail)):
            return _stated_number(tail)
    if value is not None:
        return clean.strip("$ ")
    if spans and leads and _OPERATOR_OR_LIST.match(clean, spans[0][1]):
        return clean
    spans = spans or [span for span in [numbers.words_span(clean)] if span]
    return _with_sign(clean, spans[0]) if spans else None


def _leads(clean: str, span: tuple[int, int]) -> bool:
    """Whether nothing but signs, a currency and "about" stands before a number."""
    return _BEFORE_VALUE.fullmatch(clean, 0, span[0]) is not None


def _after_copula(text: str) -> str:
    """What stands behind the last "is" or the like outside of formulas; the empty string where there is none."""
    ends = [found.end() for found in _COPULA.finditer(_mask(text))]
    return text[ends[-1] :].strip() if ends else ""


def _stated_formula(sentence: str) -> str | None:
    r"""The formula a sentence states.

    That is the formula or the list it begins with ("$1$ and $2$"), or what its last "is" is followed by, or
    its only formula, or its words.
    """
    remark = re.search(_REMARK, _mask(sentence), re.DOTALL)
    head = sentence[: remark.start()] if remark else sentence
    if not re.search(rf"[{_MASK}\d]", _mask(head)) and _formulas(sentence):
        head = sentence
    words = _mask(head).lstrip()
    formulas = _formulas(head)
    is_subject = re.match(rf"{_MASK}+\s+(?:is|are|equals)\b", words)
    if words.startswith(_MASK) and not is_subject:
        rest = re.sub(rf"{_MASK}+|\b(?:and|or)\b", " ", words)
        if re.search(r"\w", rest):
            return formulas[0]
        return (r" \text{ or } " if re.search(r"\bor\b", words) else ", ").join(formulas)
    is_worked_out = len(formulas) > 1 or _OPERATION.search(_mask(head))
    tail = _after_copula(head) or (_after_copula(sentence) if is_worked_out else "")
    if _formulas(tail) or re.search(r"\d", tail):
        return _stated_formula(tail)
    if formulas:
        return formulas[0]
    plain = head.strip("$ ")
    if found := _ONE_NUMBER_AMONG_WORDS.fullmatch(plain):
        return found[1]
    return plain[found.end() :] if (found := _LEADING_WORDS.match(plain)) else plain or None


def _last_math(text: str, is_numeric: bool) -> str | None:
    """The last formula, or what a later "is" states; a condition behind a formula ("for $n = 3$") is left out."""
    text = _DRAWING.sub("", text[-_MAX_TAIL_CHARS:])
    if (note := _NOTE.search(text)) and _FORMULA.search(text, 0, note.start()):
        text = text[: note.start()]
    found = [formula for formula in _FORMULA.finditer(text) if r"\boxed{}" not in formula[0]]
    if not found:
        return None
    behind = text[found[-1].end() :]
    for sentence in reversed(re.split(rf"\n|{_SENTENCE_END.pattern}", behind)):
        tail = _after_copula(sentence)
        if _PLAIN_FORMULA.match(tail) and len(_WORD.findall(tail)) <= _MAX_PLAIN_WORDS:
            return tail.strip(" .,*_")
    if len(found) > 1 and _CONDITION.fullmatch(text, found[-2].end(), found[-1].start()):
        del found[-1]
    if subject := _subject(text, found):
        return subject
    masked = _mask(text[: found[-1].end()])
    listed = re.search(rf"\bare\s+(?:{_MASK}+(?:,?\s+(?:and|or)\s+|,?\s+|$))+$", masked)
    formulas = _formulas(text[listed.start() if listed else found[-1].start() : found[-1].end()])
    return ", ".join(formulas)


def _subject(text: str, found: list[re.Match[str]]) -> str | None:
    """What the last sentence counts or names: "there are $2$ values of $z$", "$13$ is the largest factor of $n$"."""
    masked = _mask(text[: found[-1].end()])
    starts = [end.end() for end in re.finditer(rf"\n|{_SENTENCE_END.pattern}", masked)]
    starts += [formula.end() for formula in found[:-1] if re.search(r"\.\s*(?:\$|\\\)|\\\])$", formula[0])]
    sentence = text[max(starts, default=0) : found[-1].end()]
    words = _mask(sentence)
    named = re.search(rf"{_MASK}+\s+(?:is|are)\s+(?:the|an?)\b[^{_MASK}]*\b(?:of|by|than|for)\s+{_MASK}+$", words)
    counted = re.search(rf"{_MASK}+\s+[^{_MASK}]*\b{_COUNTED}\b[^{_MASK}]*{_MASK}+$", words)
    is_name = re.fullmatch(r"\\?[a-zA-Z]+(?:\([a-z]\))?", _content(found[-1]))
    subject = named or (counted if is_name else None)
    return _formulas(sentence[subject.start() :])[0] if subject else None


def _formulas(text: str) -> list[str]:
    return [_content(found) for found in _FORMULA.finditer(text) if r"\boxed{}" not in found[0]]


def _content(formula: re.Match[str]) -> str:
    """A formula without its delimiters; of an aligned chain the last row."""
    content = next(filter(None, formula.groups()))
    rows = content if formula[0].startswith(r"\begin") else (found[1] if (found := _ROWS.search(content)) else "")
    if rows:
        whole = _INNER_ROWS.sub(lambda inner: inner[0].replace(r"\\", "\x02").replace("&", "\x03"), rows)
        *_, content = ["", *(row for row in re.split(r"\\\\(?:\[[^\]]*\])?", whole) if row.strip())]
        content = re.sub(r"^\s*=", "", content.replace("&", " ")).replace("\x02", r"\\").replace("\x03", "&")
    content = re.sub(r"^(?:\s|\\q?quad(?![a-zA-Z])|\\(?:Rightarrow|implies|therefore)(?![a-zA-Z]))+", "", content)
    return content.strip().rstrip(" .,")


def _mask(text: str) -> str:
    """The text with every character of its formulas replaced, so that words can be looked for outside of them."""
    return _FORMULA.sub(lambda found: _MASK * len(found.group()), text)


def _last_number(text: str, is_numeric: bool) -> str | None:
    """The last number of the text, in digits or else in words; a range stays a range.

    Where the text ends in an equation and words ("5 x 2 = 10 bags in 2 days"), its right-hand side counts.
    """
    clean = numbers.unlatex(text[-_MAX_TAIL_CHARS:])
    reason = _REASON.search(clean)
    if reason and numbers.number_spans(clean[clean.rfind("\n", 0, reason.start()) + 1 : reason.start()]):
        clean = clean[: reason.start()]
    if spans := _spans(clean):
        equals = clean.rfind("=", 0, spans[-1][0])
        result = next(span for span in spans if span[0] > equals)
        return _with_sign(clean, spans[-1] if _NEW_STATEMENT.search(clean, result[1], spans[-1][0]) else result)
    span = numbers.words_span(clean)
    return clean[slice(*span)] if span else None


def _spans(text: str) -> list[tuple[int, int]]:
    """Where numbers stand; those with only "-", ":", "to" or "or" between them are one: "18-20" is not 20."""
    merged: list[tuple[int, int]] = []
    for start, end in numbers.number_spans(text):
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
