"""Every command that a recipe prints is one that the commands accept."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from als.cli import collect_states, compute_steering_vector, main
from als.cli.options import parse

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.name for path in (ROOT / "scripts" / "recipes").glob("*.sh") if path.name != "common.sh")
COMMANDS = {
    "main.py": main.Config,
    "collect_states.py": collect_states.Config,
    "compute_steering_vector.py": compute_steering_vector.Config,
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
    assert RECIPES == ["all_modes.sh", "alpha_sweep.sh", "als_runs.sh", "baselines.sh", "collect_and_compute.sh"]


@pytest.mark.parametrize("settings", [{}, PAPER], ids=["default", "paper"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_parses(recipe: str, settings: dict[str, str]) -> None:
    printed = commands(recipe, **settings)
    assert printed
    for python, script, *arguments in printed:
        assert python == "python"
        assert Path(script).is_file()
        if Path(script).name == "show_runs.py":
            assert all("_eval/prompt_" in folder for folder in arguments)
            continue
        parse(COMMANDS[Path(script).name], arguments, prog="", description="")


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
