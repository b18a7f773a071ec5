"""Comparisons of runs: known flips are counted, what is not alike is refused, page, JSON and figure agree."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from als.cli import compare_runs
from als.comparison import Comparison, compare, labels, read_arm
from als.comparison_charts import draw_comparison
from als.comparison_report import markdown, to_json
from als.errors import UserError
from als.records import Completion, Problem, ResultLine, Verdict, failure_line, result_line
from als.runlog import RunFolder

CONFIG = {
    "mode": "greedy_cot",
    "model": "models/m",
    "revision": "0" * 40,
    "dtype": "bfloat16",
    "engine": "transformers",
    "dataset": "arithmetic",
    "benchmark": "arithmetic",
    "split": "test",
    "prompt_idx": 0,
    "max_new_tokens": 64,
    "seed": 42,
}
FIRST, OTHER, THIRD = "greedy_cot_eval/prompt_0", "als_eval/prompt_0", "als_eval/prompt_0_alpha0.6"


def a_line(index: int, correct: bool, *, question: str = "", gold: str = "7", **more: Any) -> ResultLine:
    problem = Problem(index, question or f"What is {index} + 1?", gold)
    seconds, tokens = more.pop("seconds", 0.5), more.pop("tokens", 20)
    completion = Completion("so it is", 10, tokens, "stop", seconds)
    prompt = more.pop("prompt", f"<user>{problem.question}")
    return result_line(problem, prompt, completion, Verdict("7", gold, correct, "boxed"), **more)


def write_run(
    path: Path,
    results: Sequence[bool] | Sequence[ResultLine],
    *,
    finish: bool = True,
    seconds: float = 0.5,
    **config: Any,
) -> Path:
    """A run folder as `main` leaves it; plain verdicts become lines of problems 0, 1, 2, ..."""
    lines = [
        result if isinstance(result, ResultLine) else a_line(index, result, seconds=seconds)
        for index, result in enumerate(results)
    ]
    with RunFolder(path).open({**CONFIG, "mode": path.parent.name.removesuffix("_eval"), **config}) as folder:
        for line in lines:
            folder.append(line)
        if finish:
            folder.finish({line.index for line in lines})
    return path


def flipped(first: Sequence[bool], *, helped: int, harmed: int, seed: int = 0) -> list[bool]:
    """The same results, but for so many wrong ones made right and so many right ones made wrong."""
    rng, other = random.Random(seed), list(first)
    wrong = [place for place, result in enumerate(first) if not result]
    right = [place for place, result in enumerate(first) if result]
    for place in rng.sample(wrong, helped) + rng.sample(right, harmed):
        other[place] = not other[place]
    return other


def compared(*paths: Path, **options: Any) -> Comparison:
    return compare([read_arm(path) for path in paths], **{"resamples": 500, **options})


def binomial_p(helped: int, harmed: int) -> float:
    """McNemar's exact p from the coefficients themselves."""
    n = helped + harmed
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(helped, harmed) + 1)) / 2**n)


HALF = [index % 2 == 0 for index in range(200)]


@pytest.mark.parametrize(("helped", "harmed"), [(12, 4), (3, 20), (5, 5), (30, 0)])
def test_known_flips_are_counted(tmp_path: Path, helped: int, harmed: int) -> None:
    other = flipped(HALF, helped=helped, harmed=harmed)
    comparison = compared(write_run(tmp_path / FIRST, HALF), write_run(tmp_path / OTHER, other))
    (one,) = comparison.differences
    assert (comparison.n, one.helped, one.harmed) == (200, helped, harmed)
    assert one.difference == pytest.approx((helped - harmed) / 200)
    assert one.p == one.p_holm == pytest.approx(binomial_p(helped, harmed))
    assert one.found == (one.p <= 0.05)
    assert one.interval is not None
    assert one.interval[0] < one.difference < one.interval[1]
    assert [arm.correct for arm in comparison.arms] == [100, 100 + helped - harmed]
    written = to_json(comparison)["differences"][0]
    assert written["helped_indices"] == [i for i in range(200) if other[i] and not HALF[i]]
    assert written["harmed_indices"] == [i for i in range(200) if HALF[i] and not other[i]]


def test_answers_that_the_judge_could_not_compare_are_counted(tmp_path: Path) -> None:
    other = [a_line(index, index > 3, **({} if index > 3 else {"judge_error": "MemoryError"})) for index in range(50)]
    comparison = compared(write_run(tmp_path / FIRST, HALF[:50]), write_run(tmp_path / OTHER, other))
    assert [arm.judge_errors for arm in comparison.arms] == [0, 4]
    assert to_json(comparison)["arms"][1]["judge_errors"] == 4
    assert "- Note: 4 answers of als prompt_0 could not be compared (judge_error)" in markdown(comparison)


def test_problems_that_one_arm_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    first = [a_line(index, index < 50) for index in range(100)]
    other = [a_line(index, index >= 50) for index in range(20, 130)]
    comparison = compared(write_run(tmp_path / FIRST, first), write_run(tmp_path / OTHER, other))
    assert comparison.n == 80
    assert [arm.unshared for arm in comparison.arms] == [20, 30]
    assert [arm.correct for arm in comparison.arms] == [30, 50]
    assert (comparison.differences[0].helped, comparison.differences[0].harmed) == (50, 30)


def test_pairs_are_found_by_question_and_not_by_index(tmp_path: Path) -> None:
    first = [a_line(index, index == 0, question=f"Question {index}?") for index in range(3)]
    other = [a_line(9 - index, index == 0, question=f"QUESTION  {index}?") for index in range(3)]
    comparison = compared(write_run(tmp_path / FIRST, first), write_run(tmp_path / OTHER, other))
    assert (comparison.n, comparison.differences[0].changes) == (3, (0, 0, 0))


def test_a_question_asked_twice_counts_twice(tmp_path: Path) -> None:
    first = [a_line(0, False, question="Same?"), a_line(1, True, question="Same?"), a_line(2, True)]
    other = [a_line(0, True, question="Same?"), a_line(1, False, question="Same?"), a_line(2, False)]
    comparison = compared(write_run(tmp_path / FIRST, first), write_run(tmp_path / OTHER, other[::-1]))
    assert (comparison.n, comparison.differences[0].changes) == (3, (1, -1, -1))


def test_several_arms_are_held_against_the_first_with_holm(tmp_path: Path) -> None:
    first = write_run(tmp_path / FIRST, HALF)
    other = write_run(tmp_path / OTHER, flipped(HALF, helped=12, harmed=3))
    third = write_run(tmp_path / THIRD, flipped(HALF, helped=9, harmed=1)[:150])
    alone = compared(first, other).differences[0]
    comparison = compared(first, other, third)
    assert comparison.n == 150
    assert [arm.unshared for arm in comparison.arms] == [50, 50, 0]
    small, large = sorted(comparison.differences, key=lambda one: one.p)
    assert small.p_holm == pytest.approx(min(1, 2 * small.p))
    assert large.p_holm == pytest.approx(max(2 * small.p, large.p))
    same = compared(first, other, write_run(tmp_path / "als_eval/again", HALF)).differences[0]
    assert (same.p, same.p_holm) == (alone.p, pytest.approx(2 * alone.p))
    assert (alone.found, same.found) == (True, False)
    assert alone.detectable is not None
    assert same.detectable is not None
    assert same.detectable > alone.detectable  # the test is at half the level


def test_tokens_seconds_and_accuracy_per_second(tmp_path: Path) -> None:
    first = [a_line(index, index < 4, seconds=2.0, tokens=10 + index) for index in range(8)]
    other = [a_line(index, index < 2, seconds=0.5, tokens=5, generated_tokens=50) for index in range(8)]
    comparison = compared(write_run(tmp_path / FIRST, first), write_run(tmp_path / OTHER, other))
    before, after = comparison.arms
    assert (before.tokens_per_problem, before.seconds_per_problem) == (13.5, 2.0)
    assert (after.tokens_per_problem, after.seconds_per_problem) == (50, 0.5)
    assert before.relative_accuracy_per_second == 1
    assert after.relative_accuracy_per_second == pytest.approx((2 / 8 / 0.5) / (4 / 8 / 2.0))


@pytest.mark.parametrize(("right", "seconds"), [(False, 1.0), (True, 0.0)])
def test_what_cannot_be_computed_is_null(tmp_path: Path, right: bool, seconds: float) -> None:
    first = write_run(tmp_path / FIRST, [right] * 4, seconds=seconds)
    comparison = compared(first, write_run(tmp_path / OTHER, [True] * 4))
    assert [arm.relative_accuracy_per_second for arm in comparison.arms] == [None, None]
    assert comparison.differences[0].interval is None
    assert comparison.differences[0].detectable is None
    json.dumps(to_json(comparison), allow_nan=False)
    text = markdown(comparison)
    assert "nan" not in text.lower()
    assert "None" not in text
    assert "4 problems are too few" in text
    draw_comparison(comparison, tmp_path / "c.png")


def test_failures_count_as_wrong_and_are_told(tmp_path: Path) -> None:
    failed = [failure_line(Problem(index, f"What is {index} + 1?", "7"), ValueError("no")) for index in range(3)]
    other = [*failed, *[a_line(index, True) for index in range(3, 20)]]
    comparison = compared(write_run(tmp_path / FIRST, [True] * 20), write_run(tmp_path / OTHER, other))
    assert (comparison.differences[0].harmed, comparison.arms[1].failures) == (3, 3)
    assert comparison.notes == ("3 problems of als prompt_0 failed and count as wrong",)


def test_an_unfinished_run_is_compared_with_a_note(tmp_path: Path) -> None:
    first = write_run(tmp_path / FIRST, HALF)
    comparison = compared(first, write_run(tmp_path / OTHER, HALF[:30], finish=False))
    assert (comparison.n, comparison.notes) == (30, ("als prompt_0 is not finished",))
    assert [arm.finished for arm in comparison.arms] == [True, False]


def test_two_runs_of_one_configuration_can_be_compared(tmp_path: Path) -> None:
    comparison = compared(write_run(tmp_path / "a" / FIRST, HALF), write_run(tmp_path / "b" / FIRST, HALF))
    (one,) = comparison.differences
    assert (one.helped, one.harmed, one.p, one.interval) == (0, 0, 1, None)
    assert [arm.name for arm in comparison.arms] == [
        "greedy_cot a/greedy_cot_eval/prompt_0",
        "greedy_cot b/greedy_cot_eval/prompt_0",
    ]
    assert "no difference was found; with 200 problems" in markdown(comparison)
    assert "No problem changed" in markdown(comparison)


def test_latentseek_against_another_engines_arms_needs_the_flag(tmp_path: Path) -> None:
    """The engine is also that of a folder so old that it does not name one."""
    paths = write_run(tmp_path / FIRST, HALF, engine="vllm"), write_run(tmp_path / "latentseek_eval/prompt_0", HALF)
    config = json.loads((paths[1] / "config.json").read_text())
    del config["engine"]
    (paths[1] / "config.json").write_text(json.dumps(config))
    words = r"engine 'vllm' and 'transformers' \(latentseek runs on --engine transformers only\)"
    with pytest.raises(UserError, match=f"{words}.*--allow_mismatch"):
        compared(*paths)
    assert re.search(f"- Note: .*differ in {words}", markdown(compared(*paths, allow_mismatch=True)))


def test_a_revision_that_is_not_known_is_noted(tmp_path: Path) -> None:
    """A local copy of a hub model has none."""
    paths = write_run(tmp_path / FIRST, HALF), write_run(tmp_path / OTHER, HALF, revision=None)
    assert compared(*paths).notes == ("the model revision of als prompt_0 is not known",)
    assert compared(paths[1], write_run(tmp_path / THIRD, HALF, revision=None)).notes == ()


def test_what_a_vector_was_made_with_is_on_the_page(tmp_path: Path) -> None:
    made = {"prompt_idx": 1, "dataset": "MATH-500"}
    paths = write_run(tmp_path / FIRST, HALF), write_run(tmp_path / OTHER, HALF, vector_made_with=made)
    note = "als prompt_0 adds a vector that was made with prompt_idx 1, dataset 'MATH-500'"
    assert compared(*paths).notes == (note,)


def test_truncated_answers_and_rules_are_on_the_page(tmp_path: Path) -> None:
    first = [a_line(index, index < 6) for index in range(10)]
    other = [
        replace(line, finish_reason="length" if line.index < 4 else "stop", details={"rule": "last_number"})
        for line in first
    ]
    comparison = compared(write_run(tmp_path / FIRST, first), write_run(tmp_path / OTHER, other))
    assert [(arm.truncated, arm.strict_accuracy, arm.rules) for arm in comparison.arms] == [
        (0.0, 0.6, {"boxed": {"n": 10, "correct": 6}}),
        (0.4, 0.0, {"last_number": {"n": 10, "correct": 6}}),
    ]
    page = markdown(comparison)
    assert "| truncated | strict accuracy |" in page
    assert re.search(r"\| als prompt_0 .*\| +40 % \| +0.0 % \| +last_number 6/10 \|", page)
    assert to_json(comparison)["arms"][1]["strict_accuracy"] == 0.0


def test_labels_tell_arms_apart_by_as_little_of_the_path_as_does(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / FIRST, tmp_path / "y" / FIRST, tmp_path / "x" / OTHER]
    arms = [read_arm(write_run(path, [True])) for path in paths]
    assert labels(arms[::2]) == ["greedy_cot prompt_0", "als prompt_0"]
    assert labels(arms) == [
        "greedy_cot x/greedy_cot_eval/prompt_0",
        "greedy_cot y/greedy_cot_eval/prompt_0",
        "als prompt_0",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "models/n"),
        ("dataset", "gsm8k"),
        ("benchmark", "gsm8k"),
        ("split", "train"),
        ("prompt_idx", 1),
        ("max_new_tokens", 65),
        ("dtype", "float32"),
        ("engine", "vllm"),
        ("revision", "1" * 40),
    ],
)
def test_arms_that_are_not_alike_are_refused(tmp_path: Path, field: str, value: object) -> None:
    paths = write_run(tmp_path / FIRST, HALF), write_run(tmp_path / OTHER, HALF, **{field: value})
    words = f"{field} {CONFIG[field]!r} and {value!r}"
    with pytest.raises(UserError, match=f"{re.escape(words)}.*--allow_mismatch"):
        compared(*paths)
    third = write_run(tmp_path / THIRD, HALF)
    with pytest.raises(UserError, match=re.escape(words)):  # wherever it stands
        compared(third, paths[0], paths[1])
    comparison = compared(*paths, allow_mismatch=True)
    assert comparison.notes == (f"greedy_cot prompt_0 and als prompt_0 differ in {words}",)
    assert field not in comparison.setting
    assert words in markdown(comparison)


def test_what_may_differ(tmp_path: Path) -> None:
    other = write_run(tmp_path / OTHER, HALF, model="/elsewhere/m", seed=1, alpha=0.3)
    assert compared(write_run(tmp_path / FIRST, HALF), other).notes == ()


def test_other_gold_answers_are_other_data(tmp_path: Path) -> None:
    other = [a_line(index, True, gold="8" if index < 2 else "7") for index in range(5)]
    paths = write_run(tmp_path / FIRST, [True] * 5), write_run(tmp_path / OTHER, other)
    with pytest.raises(UserError, match=r"gold answers of 2 shared problems.*--allow_mismatch"):
        compared(*paths)
    assert len(compared(*paths, allow_mismatch=True).notes) == 1


def test_prompts_of_another_wording_are_told(tmp_path: Path) -> None:
    other = [a_line(index, True, prompt=f"today: {index}") for index in range(5)]
    comparison = compared(write_run(tmp_path / FIRST, [True] * 5), write_run(tmp_path / OTHER, other))
    assert comparison.notes == ("als prompt_0 was given 5 prompts of another wording than greedy_cot prompt_0",)


def test_a_file_of_the_run_stands_for_its_folder(tmp_path: Path) -> None:
    path = write_run(tmp_path / FIRST, HALF)
    arms = [read_arm(path / name) for name in ("", "logistics.pt", "results.jsonl")]
    assert {arm.folder for arm in arms} == {path.resolve()}


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'nothing' is not a run.*config\.json"):
        read_arm("nothing")
    with pytest.raises(UserError, match="is not a run"):
        read_arm(tmp_path)
    with pytest.raises(UserError, match="no results"):
        read_arm(write_run(tmp_path / FIRST, []))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="JSON object"):
        read_arm(tmp_path)
    path = write_run(tmp_path / OTHER, [True])
    lines = (path / "results.jsonl").read_text()
    (path / "results.jsonl").write_text(lines.replace('"seconds": 0.5', '"seconds": NaN'))
    with pytest.raises(UserError, match=r"results\.jsonl, line 1: .*seconds"):
        read_arm(path)


def test_arms_that_cannot_be_compared(tmp_path: Path) -> None:
    first = write_run(tmp_path / FIRST, [True] * 5)
    with pytest.raises(UserError, match="two or more"):
        compared(first)
    with pytest.raises(UserError, match="given twice"):
        compared(first, first / "logistics.pt")
    other = write_run(tmp_path / OTHER, [a_line(index, True) for index in range(5, 9)])
    with pytest.raises(UserError, match="share no problem"):
        compared(first, other)


def test_the_conclusion_in_words(tmp_path: Path) -> None:
    first = write_run(tmp_path / FIRST, HALF)
    names = "als prompt_0 against greedy_cot prompt_0: "
    for helped, harmed, words in (
        (30, 4, f"a difference was found, in favour of {names.split(' against')[0]}."),
        (4, 30, "a difference was found, in favour of greedy_cot prompt_0."),
        (12, 9, r"no difference was found; with 200 problems one of [67]\.\d points would have been \(80 % power\)\."),
        (3, 1, r".*\(80 % power\)\. So few problems changed that the interval is rough: go by p\."),
    ):
        other = write_run(tmp_path / str(helped) / OTHER, flipped(HALF, helped=helped, harmed=harmed))
        text = to_json(compared(first, other))["differences"][0]["conclusion"]
        values = (
            rf"{(helped - harmed) / 2:+.1f} points \[.*\], {helped} helped, {harmed} harmed, p (= 0\.\d+|< 0\.0001): "
        )
        assert re.fullmatch(re.escape(names) + values.replace("+", r"\+", 1) + words, text), text


# ---------------------------------------------------------------------------------------------- the command


def cells(page: str, name: str) -> list[list[str]]:
    """The rows of a page's tables that begin with a name."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] == name]


def test_the_command_writes_a_page_and_the_same_numbers_as_json(tmp_path: Path, capsys) -> None:
    first = write_run(tmp_path / FIRST, HALF, seconds=0.25)
    other = write_run(tmp_path / OTHER, flipped(HALF, helped=14, harmed=5)[:160])
    out = tmp_path / "out"
    arguments = [str(first), str(other / "logistics.pt"), "--resamples", "400", "--output_dir", str(out)]
    assert compare_runs.main(arguments) == 0
    page, told = capsys.readouterr()
    assert (out / "comparison.md").read_text() == page
    assert told == f"-> {out}/comparison.md\n-> {out}/comparison.json\n"
    written = json.loads((out / "comparison.json").read_text())
    arm, one = written["arms"][1], written["differences"][0]
    arm_row, difference_row = cells(page, "als prompt_0")
    low, high = arm["accuracy_interval"]
    assert arm_row[1] == f"{100 * arm['correct'] / 160:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    assert arm_row[2:6] == ["20.0", "0.5", f"{arm['relative_accuracy_per_second']:.3g}", "0"]
    rule = f"boxed {arm['rules']['boxed']['correct']}/{arm['rules']['boxed']['n']}"
    assert arm_row[6:] == [f"{arm['truncated']:.0%}".replace("%", " %"), f"{100 * arm['strict_accuracy']:.1f} %", rule]
    low, high = one["interval"]
    assert difference_row[1] == f"{100 * one['difference']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert difference_row[2:4] == [str(one["helped"]), str(one["harmed"])]
    assert [float(cell) for cell in difference_row[4:6]] == pytest.approx([one["p"], one["p_holm"]], rel=0.05)
    assert difference_row[6] == f"{100 * one['detectable']:.1f}"
    assert one["conclusion"] in page
    assert cells(page, "greedy_cot prompt_0")[0][5] == "40"
    assert (written["n"], written["resamples"], written["seed"]) == (160, 400, 42)


def test_the_seed_is_the_bootstrap_s(tmp_path: Path, capsys) -> None:
    paths = [
        str(write_run(tmp_path / FIRST, HALF)),
        str(write_run(tmp_path / OTHER, flipped(HALF, helped=30, harmed=25))),
    ]
    pages = []
    for seed in ("1", "1", "2"):
        assert compare_runs.main([*paths, "--resamples", "100", "--seed", seed]) == 0
        pages.append(cells(capsys.readouterr().out, "als prompt_0")[1])
    assert pages[0] == pages[1] != pages[2]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_figure(tmp_path: Path, capsys, kind: str) -> None:
    first = write_run(tmp_path / FIRST, HALF, seconds=0.02)
    other = write_run(tmp_path / OTHER, flipped(HALF, helped=14, harmed=5))
    third = write_run(tmp_path / THIRD, [False] * 200)
    path = tmp_path / "charts" / f"c.{kind}"
    arguments = [str(first), str(other), "--resamples", "100", "--figure", str(path)]
    assert compare_runs.main(arguments) == 0
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    assert capsys.readouterr().err == f"-> {path}\n"
    assert compare_runs.main(arguments) == 0
    assert path.read_bytes() == content
    assert "held another" not in capsys.readouterr().err
    assert compare_runs.main([str(third), *arguments]) == 0
    assert path.read_bytes() != content
    assert f"{path} held another chart, which is replaced" in capsys.readouterr().err


def test_another_comparison_is_replaced_with_a_warning(tmp_path: Path, capsys) -> None:
    paths = [str(write_run(tmp_path / name, HALF)) for name in (FIRST, OTHER, THIRD)]
    assert compare_runs.main([*paths[:2], "--resamples", "100", "--output_dir", str(tmp_path / "out")]) == 0
    assert "held another" not in capsys.readouterr().err
    assert compare_runs.main([*paths, "--resamples", "100", "--output_dir", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.count("held another comparison, which is replaced") == 2


def test_mistakes_get_one_sentence(tmp_path: Path, capsys) -> None:
    first, other = (str(write_run(tmp_path / name, HALF)) for name in (FIRST, OTHER))
    odd = str(write_run(tmp_path / THIRD, HALF, dtype="float32"))
    (tmp_path / "file").write_text("in the way")
    for words, arguments in (
        ("RUN", []),
        ("two or more", [first]),
        ("'nothing'", [first, "nothing"]),
        ("dtype 'bfloat16' and 'float32'", [first, odd]),
        ("--figure 'c.pdf'", [first, other, "--figure", "c.pdf"]),
        ("--resamples 3", [first, other, "--resamples", "3"]),
        ("--seed -1", [first, other, "--seed", "-1"]),
        ("--output_dir", [first, other, "--resamples", "100", "--output_dir", str(tmp_path / "file")]),
        ("--figure", [first, other, "--resamples", "100", "--figure", str(tmp_path / "file" / "c.png")]),
    ):
        try:
            code = compare_runs.main(arguments)
        except SystemExit as exit:
            code = exit.code
        told = capsys.readouterr().err
        assert (code, told.count("\n")) == (2, 1), told
        assert words in told
    assert compare_runs.main([first, odd, "--allow_mismatch", "--resamples", "100"]) == 0
    assert "Note: greedy_cot prompt_0 and als prompt_0_alpha0.6 differ in dtype" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from als.cli.compare_runs import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = ("torch", "transformers", "datasets", "numpy", "scipy", "sklearn", "matplotlib")
print("heavy:", [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    assert "RUN [RUN ...]" in done.stdout
    assert "--run" not in done.stdout
