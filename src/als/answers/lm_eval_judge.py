r"""Judge a completion by the rules of lm-evaluation-harness, so that an accuracy compares with published ones.

    benchmark            the verdict                                      lm_eval_strict, recorded beside it
    gsm8k, arithmetic    task gsm8k, filter flexible-extract: the last    filter strict-match: the number after
                         number of the completion                         the first "#### "
    math-500             the last box, else the text between the first    task hendrycks_math500, which does not
                         and the last "$", else all of it (as aime24)     look for a box
    aime_2024            task aime24                                      -

Numbers are compared as text without "," and "$" and a final ".", formulas as text after the normalisation of
hendrycks_math. Only these rules are taken from there (version 0.4.13): not the few-shot prompts, and not the strings
at which its tasks stop generation. minerva_math500 reads what follows "Final Answer: The final answer is", which no
prompt of this toolkit asks for; its second metric is the judge math_verify.
"""

import re

from als.benchmarks import benchmark_named
from als.records import Verdict

_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")
_REMOVED = (r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$")
_PERCENT = r"\%"


def judge_completion(completion_text: str, gold: str, *, benchmark: str, prompt_idx: int) -> Verdict:
    """Extract and compare in the way of the benchmark's task."""
    known = benchmark_named(benchmark)
    if known.family == "math" or known.name == "aime_2024":
        return _judge_math(completion_text, gold, records_strict=known.family == "math")
    answer, strict = flexible_number(completion_text), strict_number(completion_text)
    details = {"lm_eval_strict": _same_number(strict, gold)}
    rule = "last_number" if answer is not None else None
    return Verdict(answer, gold, correct=_same_number(answer, gold), rule=rule, details=details)


def _judge_math(text: str, gold: str, *, records_strict: bool) -> Verdict:
    box, dollars = last_box(text), between_dollars(text)
    answer = dollars if box is None else box
    details = {"lm_eval_strict": same_text(dollars, gold)} if records_strict else {}
    rule = "boxed" if box is not None else "text" if dollars == text else "between_dollars"
    correct = same_text(answer, gold)
    # A whole text is compared, as upstream does, but it is no answer: it shall not vote.
    return Verdict(answer if rule != "text" or correct else None, gold, correct=correct, rule=rule, details=details)


def flexible_number(text: str) -> str | None:
    """The last number; two or more of "$0-9.," count as one, whatever their order."""
    found = _FLEXIBLE.findall(text)
    return found[-1] if found else None


def strict_number(text: str) -> str | None:
    """The number after the first "#### "."""
    found = _STRICT.search(text)
    return found[1] if found else None


def _same_number(answer: str | None, gold: str) -> bool:
    if answer is None:
        return False
    for pattern in _IGNORED:
        answer, gold = re.sub(pattern, "", answer), re.sub(pattern, "", gold)
    return answer.lower() == gold.lower()


def between_dollars(text: str) -> str:
    """What stands between the first and the last dollar sign; the whole text where there are not two."""
    first, last = text.find("$"), text.rfind("$")
    return text[first + 1 : last] if first < last else text


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed{...}; None where there is none or where the last one is not complete."""
    if r"\boxed " in text:
        return text.rpartition(r"\boxed ")[2].partition("$")[0]
    start = text.rfind(r"\boxed")
    if start < 0 or not text.startswith(r"\boxed{", start):
        return None
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if text[place] == "}" and depth == 0:
            return text[start + len(r"\boxed{") : place]
    return None


def same_text(answer: str, gold: str) -> bool:
    """Whether two answers are one text after normalisation; one that cannot be normalised has to be equal as it is."""
    try:
        return normalise(answer) == normalise(gold)
    except ValueError:
        return answer == gold


def normalise(text: str) -> str:
    """Spell LaTeX in one way, as the task does.

    Raises:
        ValueError: the task fails on such a text.
    """
    text = text.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    for part in _REMOVED:
        text = text.replace(part, "")
    text = _without_unit(text).replace(_PERCENT, "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = f"0{text}" if text.startswith(".") else text
    name, equals, value = text.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        text = value
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    return _as_fraction(r"\frac{1}{2}" if text == "0.5" else text)


def _without_unit(text: str) -> str:
    head, mark, unit = text.partition(r"\text{ ")
    if mark in unit and mark:
        raise ValueError("two units")
    return head


def _braced_roots(text: str) -> str:
    r"""\sqrt3 -> \sqrt{3}."""
    head, *parts = text.split(r"\sqrt")
    if "" in parts:
        raise ValueError("a root of nothing")
    return head + "".join(rf"\sqrt{part if part[0] == '{' else f'{{{part[0]}}}{part[1:]}'}" for part in parts)


def _braced_fractions(text: str) -> str:
    r"""\frac12 -> \frac{1}{2} and \frac1{72} -> \frac{1}{72}; nothing at all where one has a single character."""
    head, *parts = text.split(r"\frac")
    for part in parts:
        if not part:
            raise ValueError("a fraction of nothing")
        if len(part) < 2 and part != "{":
            return text
    return head + "".join(rf"\frac{_braced(part)}" for part in parts)


def _braced(part: str) -> str:
    if part[0] == "{":
        return part
    below = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
    return f"{{{part[0]}}}{below}"


def _as_fraction(text: str) -> str:
    r"""3/4 -> \frac{3}{4}, for whole numbers."""
    if text.count("/") != 1:
        return text
    above, below = (int(side) for side in text.split("/"))  # ValueError: the task compares x/2 as it is
    return rf"\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text
