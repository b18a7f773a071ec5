r"""MATH-500: competition problems whose answer is any expression. 500 test, and MATH's own 7500 for train.

A row of the test split (the solution shortened here):

    {"problem": "How many positive whole-number divisors does 196 have?",
     "solution": "First prime factorize $196=2^2\\cdot7^2$. ... there are $\\boxed{9}$ divisors of 196.",
     "answer": "9", "subject": "Number Theory", "level": 3, "unique_id": "test/number_theory/572.json"}

MATH-500 itself has no train split; the MATH training set stands in for it, less what MATH-500 holds. Rows
of that set have no answer column: there the gold answer is what the solution's last \boxed holds.
Two of its solutions end in an empty box, number_theory/7115 for one: a row without a gold answer is left out.
"""

import re

from als.benchmarks.base import BadRow, Benchmark, HubSource, NoGold, Row, has_column, text_column

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")


def read_row(row: Row) -> tuple[str, str]:
    """The problem, and the answer column or else the last box of the solution."""
    question = text_column(row, "problem")
    if has_column(row, "answer") or not has_column(row, "solution"):
        gold: str | None = text_column(row, "answer", may_be_empty=True).strip()
    else:
        gold = last_boxed(text_column(row, "solution"))
    if gold is None:
        raise BadRow("has no column 'answer' and no \\boxed answer in column 'solution'")
    if not gold:
        raise NoGold("has an empty answer")
    return question, gold


def last_boxed(solution: str) -> str | None:
    r"""What the last \boxed of a solution holds, with its braces balanced; None where there is none."""
    boxes = list(_BOX.finditer(solution))
    if not boxes:
        return None
    rest = solution[boxes[-1].end() :]
    if rest.startswith("{"):
        return _balanced(rest)
    bare = re.match(r"[^\s$.,]+", rest)  # "\boxed 9$" is TeX for a box around one sign
    return bare.group() if bare else None


def _balanced(text: str) -> str | None:
    """The inside of the brace that `text` begins with; a brace after a backslash is a printed one."""
    depth, at = 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] in "{}":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return text[1:at].strip()
        at += 1
    return None


BENCHMARK = Benchmark(
    name="math-500",
    family="math",
    read_row=read_row,
    ids=("math-500", "math500", "HuggingFaceH4/MATH-500"),
    sources={
        "train": HubSource("DigitalLearningGmbH/MATH-lighteval", None, "train"),
        "test": HubSource("HuggingFaceH4/MATH-500", None, "test"),
    },
    train_comes_from_elsewhere=True,
)
