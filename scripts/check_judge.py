"""Judge the whole of GSM8K and MATH against themselves and print a table.

Every problem's own solution must be judged correct against its gold answer, and wrong against the gold
answer of the next problem that has another one. Rows where that fails are listed, with the reason as far as
a program can tell. Exit code 1 where a set falls short (GSM8K 99.9 %, MATH 99 %).

    python scripts/check_judge.py DATA_DIR      or with the environment variable DATA_DIR; default ./data

DATA_DIR holds gsm8k/{train,test}.jsonl (question, answer) and math-500/{train,test}.jsonl (problem,
solution, answer).
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from als.answers import judge

FLOORS = {"gsm8k": 0.999, "math-500": 0.99}
SPLITS = ("train", "test")
TIMED = 10_000


@dataclass(frozen=True)
class Row:
    """A solution, its gold answer, and the next gold answer of another text."""

    benchmark: str
    name: str
    solution: str
    gold: str
    other: str


@dataclass(frozen=True)
class Outcome:
    """How a row was judged."""

    row: Row
    answer: str | None
    rule: str | None
    own_is_correct: bool
    other_is_correct: bool
    seconds: float


def read_rows(folder: Path, benchmark: str, split: str) -> list[Row]:
    """Read one split; raise SystemExit where its file is missing."""
    path = folder / benchmark / f"{split}.jsonl"
    if not path.is_file():
        raise SystemExit(f"no file {path}: name the data folder as an argument or in DATA_DIR")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if benchmark == "gsm8k":
        pairs = [(line["answer"], line["answer"].rpartition("####")[2].strip()) for line in lines]
    else:
        pairs = [(line["solution"], line["answer"]) for line in lines]
    golds = [gold for _, gold in pairs]
    return [
        Row(benchmark, f"{split}/{i}", solution, gold, _next_other(golds, i))
        for i, (solution, gold) in enumerate(pairs)
    ]


def _next_other(golds: list[str], index: int) -> str:
    return next(other for other in golds[index + 1 :] + golds if other != golds[index])


def judge_row(row: Row) -> Outcome:
    """Judge a solution against its own and another gold answer."""
    start = time.perf_counter()
    own = judge.judge_completion(row.solution, row.gold, benchmark=row.benchmark, prompt_idx=0)
    other = judge.judge_answer(own.answer, row.other, benchmark=row.benchmark)
    return Outcome(row, own.answer, own.rule, own.correct, other, time.perf_counter() - start)


def reason_for_miss(outcome: Outcome) -> str:
    """Why a solution was not judged correct, as far as the texts tell."""
    if not outcome.row.gold.strip():
        return "the gold answer is empty"
    if outcome.answer is None:
        return "no answer found"
    if outcome.answer.strip() != outcome.row.gold.strip():
        return "the solution's answer is another text than the gold answer"
    return "the judge cannot read this answer"


def reason_for_match(outcome: Outcome) -> str:
    """Why a solution was judged correct against another problem's answer."""
    if judge.judge_answer(outcome.row.gold, outcome.row.other, benchmark=outcome.row.benchmark):
        return "two spellings of one value"
    return "the solution's answer is not its own gold answer"


def report(title: str, outcomes: list[Outcome], describe: Callable[[Outcome], str], *, against: str) -> None:
    """List rows that did not come out as they should."""
    print(f"\n{title}: {len(outcomes)}")
    for outcome in outcomes:
        gold = outcome.row.other if against == "next" else outcome.row.gold
        reason = describe(outcome)
        print(f"  {outcome.row.benchmark} {outcome.row.name}: {outcome.answer!r} against {gold!r}: {reason}")


def print_table(outcomes: list[Outcome]) -> bool:
    """Print a line a split; say whether every set reaches its floor."""
    header = ("set", "problems", "own gold", "share", "next gold", "mean ms", "slowest s", "rules")
    widths = (16, 8, 8, 8, 9, 8, 9)
    print("  ".join(f"{cell:>{width}}" for cell, width in zip(header, widths, strict=False)) + "  rules")
    fine = True
    for benchmark, split in [(b, s) for b in FLOORS for s in SPLITS]:
        part = [o for o in outcomes if o.row.benchmark == benchmark and o.row.name.startswith(split)]
        right = sum(o.own_is_correct for o in part)
        crossed = sum(o.other_is_correct for o in part)
        seconds = [o.seconds for o in part]
        rules = ", ".join(f"{rule} {count}" for rule, count in Counter(o.rule for o in part).most_common())
        share, mean_ms = right / len(part), 1000 * sum(seconds) / len(part)
        cells = f"{right:8d}  {share:8.3%}  {crossed:9d}  {mean_ms:8.2f}  {max(seconds):9.2f}  {rules}"
        print(f"{benchmark + ' ' + split:>16}  {len(part):8d}  {cells}")
        fine = fine and share >= FLOORS[benchmark]
    return fine


def time_numeric(rows: list[Row]) -> None:
    """Time extraction and judgement of GSM8K answers, a round number of them."""
    sample = [rows[i % len(rows)] for i in range(TIMED)]
    start = time.perf_counter()
    for row in sample:
        judge.judge_completion(row.solution, row.gold, benchmark="gsm8k", prompt_idx=0)
    print(f"\n{TIMED} GSM8K answers extracted and judged in {time.perf_counter() - start:.2f} s")


def judge_all(rows: list[Row], processes: int) -> Iterable[Outcome]:
    """Judge every row, in this process or in several."""
    if processes == 1:
        return map(judge_row, rows)
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(judge_row, rows, chunksize=50))


def main() -> int:
    """Run the check on a data folder; 0 where every set reaches its floor."""
    parser = argparse.ArgumentParser(description="Judge GSM8K and MATH against themselves.")
    parser.add_argument("data_dir", nargs="?", default=os.environ.get("DATA_DIR", "./data"), type=Path)
    parser.add_argument("--processes", type=int, default=1, help="judge in this many processes (default 1)")
    args = parser.parse_args()
    rows = [row for b in FLOORS for split in SPLITS for row in read_rows(args.data_dir, b, split)]
    start = time.perf_counter()
    outcomes = list(judge_all(rows, args.processes))
    seconds = time.perf_counter() - start
    fine = print_table(outcomes)
    misses = [o for o in outcomes if not o.own_is_correct]
    matches = [o for o in outcomes if o.other_is_correct]
    report("Not correct against the own gold answer", misses, reason_for_miss, against="own")
    report("Correct against the next problem's gold answer", matches, reason_for_match, against="next")
    print(f"\n{len(outcomes)} problems, two judgements each, in {seconds:.1f} s")
    time_numeric([row for row in rows if row.benchmark == "gsm8k"])
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
