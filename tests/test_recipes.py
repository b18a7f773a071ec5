"""Every command that a recipe prints is one that the commands accept."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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


DEFAULTS = {
    "MODEL": str(ROOT / ".cache" / "SmolLM2-135M-Instruct"),
    "DATASETS": "arithmetic",
    "PROMPTS": "0 1",
    "LABEL_BY": "answer",
    "N_TRAIN": "96",
    "N_TEST": "96",
    "MAX_NEW_TOKENS": "256",
}
SETTINGS = {
    "default": {},
    "paper": PAPER,
    "one of each": {"DATASETS": "openai/gsm8k", "PROMPTS": "1", "N_TEST": "7", "MAX_NEW_TOKENS": "33"},
    "prompt 0": {"MODEL": "some/model", "PROMPTS": "0", "N_TRAIN": "12", "LABEL_BY": "verifiers"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_parses_to_the_settings(recipe: str, settings: dict[str, str], tmp_path: Path) -> None:
    printed = commands(recipe, **settings, OUTPUT_DIR=str(tmp_path), VECTORS=str(tmp_path / "vectors"))
    wanted = DEFAULTS | settings
    read = {"datasets": set[str](), "prompts": set[int](), "vectors": set[str](), "written": set[str]()}
    for python, script, *arguments in printed:
        assert python == "python"
        assert Path(script).is_file()
        if Path(script).name == "show_runs.py":
            assert all("_eval/prompt_" in folder for folder in arguments)
            assert all(Path(folder).is_relative_to(tmp_path) for folder in arguments)
            continue
        if "--settings" in arguments:  # a sweep's choice, which has not been made
            chosen = Path(arguments[arguments.index("--settings") + 1])
            chosen.parent.mkdir(parents=True, exist_ok=True)
            chosen.write_text('{"alpha": 0.1}')
        config = parse(COMMANDS[Path(script).name], arguments, prog="", description="")
        if isinstance(config, compute_steering_vector.Config):
            read["written"].add(config.output_file)
        elif not isinstance(config, compare_runs.Config):
            check_run(config, wanted, tmp_path)
            read["datasets"].add(config.dataset)
            prompts = getattr(config, "prompts_to_run", None) or (config.solver_prompt_idx,)
            read["prompts"] |= set(prompts)
            if template := getattr(config, "vector_name_template", None):
                read["vectors"] |= {template.replace("{prompt_idx}", str(idx)) for idx in prompts}
    assert read["datasets"] == set(wanted["DATASETS"].split())
    assert read["prompts"] == set(map(int, wanted["PROMPTS"].split()))
    if read["written"]:
        assert read["vectors"] <= read["written"]
        assert len(read["written"]) == len(read["datasets"]) * len(read["prompts"])


def check_run(config: Any, wanted: dict[str, str], output: Path) -> None:
    """A command that loads a model was given the settings, and not the defaults."""
    assert config.model_name_or_path == wanted["MODEL"]
    assert config.max_new_tokens == int(wanted["MAX_NEW_TOKENS"])
    assert config.output_dir == str(output)
    assert config.resume
    ends = {"train": wanted["N_TRAIN"], "test": wanted["N_TEST"]}
    if not isinstance(config, sweep.Config):
        assert config.end_data_idx == (int(ends[config.split]) if ends[config.split] else None)
    if isinstance(config, collect_states.Config):
        assert config.label_by == wanted["LABEL_BY"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An active environment whose python writes down what it is asked to run, and runs nothing but `-c`."""
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then exec {shlex.quote(sys.executable)} "$@"; fi\n'
        f'echo "$@" >>{shlex.quote(str(tmp_path / "log"))}\n'
    )
    python.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name != "CONDA_PREFIX"}
    return kept | {"VIRTUAL_ENV": str(python.parents[1]), "MODEL": "some/model", "DRY_RUN": "0"}


def test_recipes_run_in_the_active_environment_and_install_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    recipe = ROOT / "scripts" / "recipes" / "all_modes.sh"
    settings = {"DATASETS": "openai/gsm8k", "PROMPTS": "1"}
    done = subprocess.run(["bash", recipe], env=environment | settings, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    asked = (tmp_path / "log").read_text().splitlines()
    assert asked == [" ".join(line[1:]) for line in commands("all_modes.sh", MODEL="some/model", **settings)]
    assert all("/src/" in line.split()[0] or "show_runs.py" in line.split()[0] for line in asked)


@pytest.mark.parametrize(
    ("hide", "settings", "words"),
    [
        ("als", {"MODEL": "some/model"}, ["cannot import als", "pip install -e", "scripts/setup.sh"]),
        ("", {"MODEL": ""}, ["SmolLM2-135M-Instruct", "scripts/setup.sh", "MODEL"]),
    ],
    ids=["not installed", "no model"],
)
def test_what_is_missing_is_said_in_a_sentence(
    hide: str, settings: dict[str, str], words: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    """A copy of the scripts has no .venv and no model beside it; a python without site-packages has no als."""
    copy = tmp_path / "clone" / "scripts"
    shutil.copytree(ROOT / "scripts" / "recipes", copy / "recipes")
    if hide:
        python = tmp_path / "environment" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S "$@"\n')
    done = subprocess.run(
        ["bash", copy / "recipes" / "baselines.sh"], env=environment | settings, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert all(word in sentence for word in words), sentence
    assert not (tmp_path / "log").exists()


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
