"""--judge: what each judge makes of a completion, where a run says so, and finished runs judged again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from als.answers.judges import JUDGES, judge_by
from als.answers.lm_eval_judge import normalise, same_text
from als.answers.worker import Worker
from als.cli import collect_states, compare_runs, main, sweep
from als.cli.arms import run_folder
from als.cli.options import parse
from als.generation.self_consistency import elect
from als.records import Completion, Problem, ResultLine, Verdict, result_line
from als.runlog import CONFIG, RunFolder, read_folder_lines, read_json

ROOT = Path(__file__).resolve().parents[1]
GREEDY = ("--generation_mode", "greedy_cot", "--dataset", "arithmetic", "--end_data_idx", "2", "--max_new_tokens", "4")


@pytest.mark.parametrize(
    ("benchmark", "completion", "gold", "verdicts"),
    [
        ("gsm8k", "So she has $18.\n#### 18", "18", (True, True, True, True)),
        ("gsm8k", r"She makes \boxed{18} dollars.", "18", (True, True, True, False)),
        ("gsm8k", r"She makes \boxed{18} dollars in 2 days.", "18", (True, True, False, False)),
        ("gsm8k", r"\boxed{18.00}", "18", (True, True, False, False)),
        ("gsm8k", "The answer is 1,800.", "1800", (True, True, True, False)),
        ("gsm8k", r"\boxed{18} dollars... really", "18", (True, True, False, False)),
        ("gsm8k", "#### 17\nNo: #### 18", "18", (True, True, True, False)),
        ("gsm8k", "I do not know.", "18", (False, False, False, False)),
        ("math-500", r"It is $\boxed{\dfrac12}$.", r"\frac{1}{2}", (True, True, True, False)),
        ("math-500", r"It is \boxed{0.25}.", r"\frac{1}{4}", (True, True, False, False)),
        ("math-500", r"It is \boxed{1+x}.", "x+1", (True, True, False, False)),
        ("math-500", "It is $x+1$.", "x+1", (True, True, True, True)),
        ("math-500", r"\boxed{10 \text{ cm}}", "10", (True, True, True, False)),
    ],
)
def test_each_judge_by_its_own_rules(benchmark: str, completion: str, gold: str, verdicts: tuple[bool, ...]) -> None:
    """In the order of JUDGES, and last lm-eval's stricter rule."""
    found = [judge_by(judge, completion, gold, benchmark=benchmark, prompt_idx=0) for judge in JUDGES]
    assert (*(verdict.correct for verdict in found), found[2].details["lm_eval_strict"]) == verdicts
    assert [verdict.error for verdict in found] == [None] * 3


@pytest.mark.parametrize("completion", [r"\boxed{204}", r"$204$", "204"])
def test_aime_by_lm_eval(completion: str) -> None:
    verdict = judge_by("lm_eval", completion, "204", benchmark="aime_2024", prompt_idx=0)
    assert (verdict.correct, verdict.answer, verdict.details) == (True, "204", {})


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        (r"\tfrac12", r"\frac{1}{2}"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        (r"\frac{1}{2}\frac34", r"\frac{1}{2}\frac{3}{4}"),
        ("3/4", r"\frac{3}{4}"),
        ("0.5", r"\frac{1}{2}"),
        (".5", r"\frac{1}{2}"),
        ("k = 7", "7"),
        ("abc = 7", "abc=7"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"90^\circ", "90"),
        (r"\$5\%", "5"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"5 \text{ cm}", "5"),
        (r"5\text{cm}", r"5\text{cm}"),
    ],
)
def test_normalisation_of_hendrycks_math(written: str, normal: str) -> None:
    assert normalise(written) == normal


@pytest.mark.parametrize("text", ["x/2", r"\frac", r"\sqrt", r"1\text{ m}2\text{ m}"])
def test_what_cannot_be_normalised_has_to_be_equal_as_it_is(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int's own
        normalise(text)
    assert same_text(text, text)
    assert not same_text(text, f"{text} ")


def test_a_completion_that_math_verify_does_not_finish_is_wrong_with_a_reason() -> None:
    worker = Worker("als.answers.math_verify_judge", "compare_completion", seconds=1)
    assert worker.call(r"\boxed{\binom{99999999}{9999999}}", "5", "latex").error == "time limit of 1 CPU seconds"
    worker.close()


# --- The run's identity and folder.


def run(command: Any, *arguments: str) -> int:
    return int(command.main(list(arguments)))


def test_the_runs_identity_and_folder_say_which_judge(tiny_path, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    options = (*GREEDY, "--model_name_or_path", tiny_path, "--prompts_to_run", "0")
    assert run(main, *options) == run(main, *options, "--judge", "lm_eval") == 0
    runs = tmp_path / "output" / "tiny-arithmetic" / "greedy_cot_eval"
    assert sorted(path.name for path in runs.iterdir()) == ["prompt_0", "prompt_0_lm_eval"]
    assert "judge" not in read_json(runs / "prompt_0" / CONFIG)  # as in the folders of earlier versions
    assert read_json(runs / "prompt_0_lm_eval" / CONFIG)["judge"] == "lm_eval"
    assert all("lm_eval_strict" in line.details for line in read_folder_lines(runs / "prompt_0_lm_eval"))
    assert not any("lm_eval_strict" in line.details for line in read_folder_lines(runs / "prompt_0"))
    capsys.readouterr()
    assert run(main, *options, "--resume", "--judge", "math_verify", "--run_name", "lm_eval") == 2
    assert "judge: then 'lm_eval', now 'math_verify'" in capsys.readouterr().err
    assert run(main, *options, "--resume", "--judge", "als") == 0


def test_folders_of_sweeps_and_states_say_which_judge() -> None:
    common = ["--model_name_or_path", "m", "--dataset", "arithmetic", "--judge", "math_verify"]
    grid = ["--vector_name_template", "v{prompt_idx}.pt", "--selection_range", "0:9"]
    cells = parse(sweep.Config, [*common, *grid], prog="", description="")
    assert sweep._folder(cells).name == "prompt_0_math_verify"
    assert run_folder(sweep.run_config(cells, **sweep._selection_fields(cells)), 0).name == "prompt_0_train_math_verify"
    assert "--judge=math_verify" in sweep._test_command(cells)
    states = parse(collect_states.Config, [*common, "--label_by", "answer"], prog="", description="")
    assert collect_states._folder(states).name == "prompt0_answer_math_verify"


# --- Finished runs judged again.

CONTENT = {
    "mode": "greedy_cot",
    "model": "m",
    "dtype": "float32",
    "engine": "transformers",
    "dataset": "openai/gsm8k",
    "benchmark": "gsm8k",
    "split": "test",
    "prompt_idx": 0,
    "max_new_tokens": 64,
    "seed": 42,
}
BOXED_THEN_MORE = r"\boxed{18} in 2 days"  # right by als, wrong by lm_eval
NUMBER = "It is 18"  # right by both
WRONG = "It is 17"


def a_line(index: int, completion: str, judge: str = "als", **details: Any) -> ResultLine:
    verdict = judge_by(judge, completion, "18", benchmark="gsm8k", prompt_idx=0)
    problem = Problem(index, f"What is {index}?", "18")
    return result_line(problem, "P", Completion(completion, 1, 2, "stop", 0.5), verdict, **details)


def write_run(path: Path, lines: list[ResultLine], **config: Any) -> str:
    with RunFolder(path).open({**CONTENT, **config}) as folder:
        for line in lines:
            folder.append(line)
        folder.finish({line.index for line in lines})
    return str(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def two_runs(tmp_path) -> tuple[str, str]:
    first = [a_line(i, text) for i, text in enumerate([BOXED_THEN_MORE] * 3 + [NUMBER] * 4 + [WRONG] * 3)]
    other = [a_line(i, text) for i, text in enumerate([NUMBER] * 9 + [WRONG])]
    return write_run(tmp_path / "greedy_cot_eval" / "prompt_0", first), write_run(tmp_path / "als_eval" / "p", other)


def test_finished_runs_are_judged_again_without_a_change_on_disk(two_runs, tmp_path, capsys) -> None:
    before = contents(tmp_path)
    assert run(compare_runs, *two_runs) == 0
    own = capsys.readouterr().out
    assert run(compare_runs, *two_runs, "--judge", "lm_eval") == 0
    again = capsys.readouterr().out
    assert contents(tmp_path) == before
    assert "judge als" in own
    assert "70.0 %" in own
    assert "judged again" not in own
    assert "judge lm_eval" in again
    assert "40.0 %" in again
    assert (
        "greedy_cot prompt_0 was judged again by lm_eval: of 10 verdicts 3 changed, 0 to right and 3 to wrong" in again
    )
    assert "greedy_cot p was judged again by lm_eval: of 10 verdicts 0 changed, 0 to right and 0 to wrong" in again


def test_the_json_says_what_changed(two_runs, tmp_path, capsys) -> None:
    folder = tmp_path / "compared"
    assert run(compare_runs, *two_runs, "--judge", "lm_eval", "--output_dir", str(folder)) == 0
    content = json.loads((folder / "comparison.json").read_text())
    assert content["setting"]["judge"] == "lm_eval"
    assert [arm["changed"] for arm in content["arms"]] == [[0, 3], [0, 0]]


def test_runs_of_different_judges_are_refused_unless_judged_again(two_runs, tmp_path, capsys) -> None:
    lines = [a_line(i, BOXED_THEN_MORE, "lm_eval") for i in range(10)]
    third = write_run(tmp_path / "als_eval" / "prompt_0_lm_eval", lines, judge="lm_eval")
    assert run(compare_runs, two_runs[0], third) == 2
    sentence = capsys.readouterr().err
    assert "judge 'als' and 'lm_eval' (--judge judges all runs again)" in sentence
    assert sentence.count("\n") == 1
    assert run(compare_runs, two_runs[0], third, "--allow_mismatch") == 0
    assert "differ in judge" in capsys.readouterr().out
    assert run(compare_runs, two_runs[0], third, "--judge", "als") == 0
    assert "of 10 verdicts 10 changed, 10 to right and 0 to wrong" in capsys.readouterr().out


def test_votes_are_held_again_from_their_samples(tmp_path, capsys) -> None:
    """By als the samples say 18, 18 and 17; by lm_eval 2, 2 and 17."""
    samples = [{"completion": text, "answer": None, "completion_tokens": 2} for text in [BOXED_THEN_MORE] * 2 + [WRONG]]
    runs = [
        write_run(tmp_path / name, [a_line(0, WRONG, samples=samples, votes=[["17", 1]])], mode="self_consistency")
        for name in ("a", "b")
    ]
    assert run(compare_runs, *runs, "--judge", "als") == 0
    assert "of 1 verdicts 1 changed, 1 to right" in capsys.readouterr().out
    assert run(compare_runs, *runs, "--judge", "lm_eval") == 0
    assert "of 1 verdicts 0 changed" in capsys.readouterr().out


def test_a_run_whose_configuration_names_no_benchmark_is_refused(two_runs, tmp_path, capsys) -> None:
    path = tmp_path / "als_eval" / "p" / CONFIG
    path.write_text(json.dumps({name: value for name, value in CONTENT.items() if name != "benchmark"}))
    assert run(compare_runs, *two_runs, "--judge", "als") == 2
    assert "has no benchmark" in capsys.readouterr().err


# --- How often the judges disagree.


def test_the_script_counts_disagreements_and_says_why(tmp_path) -> None:
    texts = [
        NUMBER,
        BOXED_THEN_MORE,
        r"\boxed{18.00}",
        r"\boxed{18} dollars... really",
        "The answer is eighteen.",
        WRONG,
    ]
    folder = write_run(tmp_path / "greedy_cot_eval" / "prompt_0", [a_line(i, text) for i, text in enumerate(texts)])
    before = contents(tmp_path)
    command = [sys.executable, str(ROOT / "scripts" / "judge_agreement.py"), folder, "--examples", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert contents(tmp_path) == before
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    counts = {tuple(row[:2]): (row[2], set(row[4].split(", "))) for row in rows if len(row) == 5}
    assert counts["als", "lm_eval"] == (
        "4",
        {
            "another place read: text after the answer 1",
            "other spelling of the number 1",
            "punctuation read as a number 1",
            "no answer found 1",
        },
    )
    assert counts["als", "math_verify"] == ("1", {"no answer found 1"})
    assert counts["lm_eval", "als"] == ("0", {""})
    assert "4 of 6 are judged differently" in done.stdout
    assert "[1] another place read: text after the answer: gold '18'; als '18', lm_eval '2'" in done.stdout


def test_the_script_refuses_what_is_no_run(tmp_path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "judge_agreement.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n"), "is not a run" in done.stderr) == (2, 1, True)


@pytest.mark.parametrize(
    ("completion", "answer", "gold", "why"),
    [
        (r"\boxed{5 \text{ cm}}", r"5 \text{ cm}", "5", "unit or word"),
        (r"\boxed{1{,}000}", "1{,}000", "1000", "thousands separator"),
        (r"\boxed{x = 5}", "x = 5", "5", "equation in place of its value"),
        (r"\boxed{\frac 12}", r"\frac 12", "0.5", "other spelling of the number"),
        ("the text", None, "5", "no answer found"),
    ],
)
def test_reasons(monkeypatch, completion: str, answer: str | None, gold: str, why: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from judge_agreement import reason

    right, wrong = Verdict(gold, gold, True, "boxed"), Verdict(answer, gold, False, None if answer is None else "boxed")
    assert reason(completion, right, wrong) == why


@pytest.mark.parametrize("judge", JUDGES)
def test_every_judge_reads_what_follows_the_reasoning(judge) -> None:
    for text, correct in (("<think>\\boxed{4}</think>\\boxed{5}", True), ("<think>so \\boxed{5}", False)):
        verdict = judge_by(judge, text, "5", benchmark="gsm8k", prompt_idx=0)
        assert verdict.correct is correct, text


def test_samples_without_an_answer_do_not_vote_and_their_errors_are_kept() -> None:
    texts = ["I do not know this one.", "Nor this one.", "\\boxed{18}"]
    verdicts = [judge_by("lm_eval", text, "18", benchmark="math-500", prompt_idx=0) for text in texts]
    assert elect(verdicts, "18", benchmark="math-500")[0].correct
    failed = Verdict(None, "18", False, None, error="time limit of 10 CPU seconds")
    assert elect([failed, failed], "18", benchmark="math-500")[0].error == "in the vote: time limit of 10 CPU seconds"


def test_strict_accuracy_is_of_the_rules_of_the_judge_als() -> None:
    from als.runlog import accuracy_by_form

    assert accuracy_by_form([], prompt_idx=0) == {"strict_accuracy": None, "flexible_accuracy": None}
    assert accuracy_by_form([], prompt_idx=0, judge="math_verify") == {}
