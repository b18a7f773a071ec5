"""Every command that a recipe prints is one that the commands accept."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from als.cli import collect_states, compare_runs, compute_steering_vector, main, null_test, sweep
from als.cli.options import parse

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.name for path in (ROOT / "scripts" / "recipes").glob("*.sh") if path.name != "common.sh")
COMMANDS = {
    "main.py": main.Config,
    "collect_states.py": collect_states.Config,
    "compute_steering_vector.py": compute_steering_vector.Config,
    "compare_runs.py": compare_runs.Config,
    "null_test.py": null_test.Config,
    "sweep.py": sweep.Config,
}
PAPER = {
    "MODEL": "meta-llama/Llama-3.1-8B-Instruct",
    "DATASETS": "openai/gsm8k MATH-500",
    "LABEL_BY": "verifiers",
    "N_TRAIN": "1000",
    "N_TEST": "",
}


def commands(recipe: str, **settings: str) -> list[list[str]]:
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "recipes" / recipe],
        env=os.environ | settings | {"DRY_RUN": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_there_are_recipes() -> None:
    scripts = ["all_modes.sh", "alpha_sweep.sh", "als_runs.sh", "baselines.sh", "collect_and_compute.sh", "evidence.sh"]
    assert scripts == RECIPES


@pytest.mark.parametrize("settings", [{}, PAPER], ids=["default", "paper"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_parses(recipe: str, settings: dict[str, str], tmp_path: Path) -> None:
    printed = commands(recipe, **settings, OUTPUT_DIR=str(tmp_path))
    assert printed
    for python, script, *arguments in printed:
        assert python == "python"
        assert Path(script).is_file()
        if Path(script).name == "show_runs.py":
            assert all("_eval/prompt_" in folder for folder in arguments)
            continue
        if "--settings" in arguments:  # a sweep's choice, which has not been made
            chosen = Path(arguments[arguments.index("--settings") + 1])
            chosen.parent.mkdir(parents=True, exist_ok=True)
            chosen.write_text('{"alpha": 0.1}')
        parse(COMMANDS[Path(script).name], arguments, prog="", description="")


def test_the_null_test_takes_the_choice_of_the_sweep(tmp_path: Path) -> None:
    printed = commands("evidence.sh", PROMPTS="0", OUTPUT_DIR=str(tmp_path))
    (swept,) = [line for line in printed if line[1].endswith("sweep.py")]
    (tested,) = [line for line in printed if line[1].endswith("null_test.py")]
    config = parse(sweep.Config, swept[2:], prog="", description="")
    assert Path(tested[tested.index("--settings") + 1]) == sweep._folder(config) / sweep.CHOSEN
    assert (config.selection(), config.selection_split) == ((96, 192), "train")


def test_settings_reach_the_commands() -> None:
    printed = commands("alpha_sweep.sh", ALPHAS="0.5", **PAPER)
    assert [line[line.index("--dataset") + 1] for line in printed] == ["openai/gsm8k", "MATH-500"]
    for line in printed:
        assert line[line.index("--alpha") + 1] == "0.5"
        assert "--end_data_idx" not in line
        assert "Llama-3.1-8B-Instruct" in line[line.index("--vector_name_template") + 1]


def test_phase_two_reads_what_phase_one_writes(tmp_path: Path) -> None:
    collect, compute, *_ = commands("collect_and_compute.sh", **PAPER, OUTPUT_DIR=str(tmp_path))
    config = parse(collect_states.Config, collect[2:], prog="", description="")
    states = compute[compute.index("--states_dir") + 1]
    assert states == str(collect_states._folder(config) / "hidden_states")
