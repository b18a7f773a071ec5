r"""Judge the completions of finished runs by every judge, and print how often they disagree and why.

    python scripts/judge_agreement.py RUN... [--examples N]

RUN is a run folder with results.jsonl; nothing is written. The reason of a disagreement is told from the texts by
rule, see `reason`; it says what the judge did that found the answer wrong, and not which of the two is mistaken.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from als.answers.judges import JUDGES, judge_by
from als.answers.numbers import parse_number
from als.comparison import Arm, read_arm
from als.errors import UserError
from als.records import ResultLine, Verdict
from als.stats import accuracy_text, markdown_table

_SPACING = re.compile(r"\s|\$|\\[!,;: ]|\\(?:left|right|displaystyle)\b")
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3})")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]*\}|\^?\\circ|\^\{\\circ\}|\\?%|[€£]|[a-zA-Z]{2,}\.?$")


@dataclass(frozen=True)
class Judged:
    """A completion and its verdict by each judge."""

    line: ResultLine
    verdicts: dict[str, Verdict]


def judge_run(arm: Arm) -> list[Judged]:
    """Judge every completion of a run; of several samples, the one that won the vote."""
    where = {name: arm.config[name] for name in ("benchmark", "prompt_idx")}
    return [
        Judged(line, {judge: judge_by(judge, line.completion, line.gold, **where) for judge in JUDGES})
        for line in arm.lines
        if not line.failed
    ]


def reason(completion: str, right: Verdict, wrong: Verdict) -> str:
    """Why one judge found wrong what another found right, as far as the texts tell."""
    if wrong.error is not None:
        return "limit of time or memory"
    if wrong.answer is None:
        return "no answer found"
    if wrong.rule in ("between_dollars", "text"):
        return "no box: other text compared"
    if not re.search(r"\w", wrong.answer):
        return "punctuation read as a number"
    if same_value(wrong.answer, right.answer or right.gold):
        return why_unequal(wrong.answer, wrong.gold)
    return f"another place read: {where_read(completion, right, wrong)}"


def where_read(completion: str, right: Verdict, wrong: Verdict) -> str:
    """Where the wrong answer stands, seen from the right one."""
    if r"\boxed" not in completion:
        return "no box"
    good, bad = (completion.rfind(verdict.answer or "") for verdict in (right, wrong))
    if min(good, bad) < 0 or good == bad:
        return f"rule {wrong.rule}"
    return "text after the answer" if bad > good else "text before the answer"


def same_value(answer: str, other: str) -> bool:
    """Whether two extracted texts are of one answer, whatever stands beside the value."""
    bare = [bare_value(text) for text in (answer, other)]
    numbers = [parse_number(text) for text in bare]
    return bare[0] == bare[1] or (numbers[0] is not None and numbers[0] == numbers[1])


def bare_value(text: str) -> str:
    """A value without spacing, thousands separators, a unit and the name it is assigned to."""
    return _UNIT.sub("", _THOUSANDS.sub("", _SPACING.sub("", text))).rpartition("=")[2].rstrip(".")


def why_unequal(answer: str, gold: str) -> str:
    """What sets an answer apart from the gold answer that has its value."""
    a, g = (_SPACING.sub("", text) for text in (answer, gold))
    if _THOUSANDS.sub("", a) == _THOUSANDS.sub("", g):
        return "spacing" if a == g else "thousands separator"
    if "=" in a and "=" not in g:
        return "equation in place of its value"
    if _UNIT.sub("", a) == _UNIT.sub("", g) and a != g:
        return "unit or word"
    if parse_number(a) is not None and parse_number(a) == parse_number(g):
        return "other spelling of the number"
    return "equivalent form"


def accuracies(judged: Sequence[Judged]) -> str:
    """A table of every judge's accuracy, lm_eval's stricter rule included."""
    n = len(judged)
    rows = []
    for judge in JUDGES:
        verdicts = [one.verdicts[judge] for one in judged]
        errors = sum(verdict.error is not None for verdict in verdicts)
        rows.append((judge, accuracy_text(sum(verdict.correct for verdict in verdicts), n), str(errors)))
    strict = [one.verdicts["lm_eval"].details.get("lm_eval_strict") for one in judged]
    if None not in strict:
        rows.append(("lm_eval_strict", accuracy_text(sum(map(bool, strict)), n), ""))
    return markdown_table(("judge", "accuracy, 95 % Wilson interval", "judge errors"), rows)


def disagreements(judged: Sequence[Judged]) -> dict[tuple[str, str], list[tuple[str, Judged]]]:
    """(judge that found it right, judge that found it wrong) -> the reasons and the completions."""
    found = {}
    for right, wrong in permutations(JUDGES, 2):
        found[right, wrong] = [
            (reason(one.line.completion, one.verdicts[right], one.verdicts[wrong]), one)
            for one in judged
            if one.verdicts[right].correct and not one.verdicts[wrong].correct
        ]
    return found


def pairs_table(found: dict[tuple[str, str], list[tuple[str, Judged]]], n: int) -> str:
    """A row for each ordered pair of judges."""
    rows = []
    for (right, wrong), cases in found.items():
        kinds = Counter(kind for kind, _ in cases).most_common()
        share = f"{len(cases) / n:.1%}".replace("%", " %")
        rows.append((right, wrong, str(len(cases)), share, ", ".join(f"{kind} {count}" for kind, count in kinds)))
    return markdown_table(("right by", "wrong by", "n", "share", "reasons"), rows)


def shown(pair: tuple[str, str], kind: str, one: Judged) -> str:
    """One disagreement: the gold answer, both extracted answers, and the end of the completion."""
    answers = ", ".join(f"{judge} {_cut(one.verdicts[judge].answer)}" for judge in pair)
    end = one.line.completion[-160:]
    return f"  [{one.line.index}] {kind}: gold {one.line.gold!r}; {answers}\n    ...{end!r}"


def _cut(answer: str | None) -> str:
    return repr(answer if answer is None or len(answer) <= 60 else answer[:60] + "...")


def report(arm: Arm, examples: int) -> None:
    """Print what is found in one run."""
    judged = judge_run(arm)
    print(f"\n## {arm.name}: {arm.config.get('dataset')}, {len(judged)} completions of {arm.config.get('model')}\n")
    if not judged:
        return
    found = disagreements(judged)
    differing = sum(len({verdict.correct for verdict in one.verdicts.values()}) > 1 for one in judged)
    print(f"{accuracies(judged)}\n\n{differing} of {len(judged)} are judged differently by some two judges.\n")
    print(pairs_table(found, len(judged)))
    for pair, cases in found.items():
        if cases[:examples]:
            print(f"\nright by {pair[0]}, wrong by {pair[1]}:")
            print("\n".join(shown(pair, *case) for case in cases[:examples]))


def main() -> int:
    """Report on every run; 2 where one cannot be read."""
    parser = argparse.ArgumentParser(description="Count how often the judges disagree on finished runs, and why.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="examples of each pair (default 0)")
    args = parser.parse_args()
    try:
        arms = [read_arm(path) for path in args.runs]
    except UserError as error:
        print(f"judge_agreement: {error}", file=sys.stderr)
        return 2
    for arm in arms:
        report(arm, args.examples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
