"""als-sweep: choose alpha, layer, tau and scale on problems that are neither the test's nor the vector's.

    sweep --model_name_or_path M --dataset openai/gsm8k --vector_name_template "vectors/m_gsm8k_p{prompt_idx}.pt" \
        --alphas 0,0.1,0.3,0.6 --layers every:4 --thresholds none,0.1 --scales raw,residual \
        --selection_split train --selection_range 1000:1200

Every cell of the grid is a run in main's own folders, so an interrupted sweep goes on with --resume and any cell can
be looked at like any other run. The model is loaded once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als.cli.arms import Arm, evaluate, load_steering_vector, make_arm, refuse_started, run_config
from als.cli.main import Config as RunConfig
from als.cli.options import (
    DataConfig,
    FolderConfig,
    ModelConfig,
    PromptConfig,
    check,
    number_or_none,
    option,
    run_command,
    shared,
)
from als.cli.pipeline import exit_code, judge_label, load_engine, read_problems, run_root
from als.cli.steering_options import ALPHA_SCALES, OnePromptConfig
from als.errors import UserError

if TYPE_CHECKING:
    from als.records import Problem
    from als.runlog import Json
    from als.selection import Cell, Outcome
    from als.vectors import SteeringVector

CHOSEN = "chosen.json"
TABLE = "sweep.csv"
HEAT_MAP = "sweep.png"


@dataclass(frozen=True, kw_only=True)
class Config(FolderConfig, OnePromptConfig, DataConfig, PromptConfig, ModelConfig):
    """Which settings are tried, and on what."""

    alphas: str = option("Strengths to try, separated by commas.", "0,0.1,0.3,0.6")
    layers: str = option("Layers to try: all, every:<n>, or indices separated by commas (--layers=-2,-4).", "every:4")
    thresholds: str = option("Values of tau to try, separated by commas; none steers everywhere.", "none,0.1")
    scales: str = option("Alpha scales to try, separated by commas: raw, unit, residual.", "raw,residual")
    selection_split: str = option("Split that the settings are chosen on.", "train")
    selection_range: str = option("Range of it, first:end, end exclusive; other problems than the vector's.")
    final: bool = option("Afterwards run the chosen setting on --split; otherwise its command is printed.", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_folder()
        self.check_vector()
        self.cells([0])
        self.selection()
        if self.final and self.processes > 1:
            raise UserError("--final is for one process alone, the one that chooses; run the printed command instead")

    def cells(self, layers: Sequence[int]) -> list[Cell]:
        """The grid, at these layers.

        Raises:
            UserError: a list that cannot be read.
        """
        from als.selection import grid

        scales = self.scales.split(",")
        for scale in scales:
            check(scale in ALPHA_SCALES, "scales", self.scales, f"some of {', '.join(ALPHA_SCALES)}")
        alphas = [value for value in _numbers("alphas", self.alphas) if value is not None]
        check(len(alphas) == self.alphas.count(",") + 1, "alphas", self.alphas, "numbers separated by commas")
        thresholds = _numbers("thresholds", self.thresholds)
        return grid(alphas=alphas, scales=scales, layers=layers, thresholds=thresholds)

    def selection(self) -> tuple[int, int]:
        """First and end of the range that the settings are chosen on."""
        first, colon, end = self.selection_range.partition(":")
        well_formed = bool(colon) and first.isdecimal() and end.isdecimal() and int(first) < int(end)
        check(well_formed, "selection_range", self.selection_range, "first:end, for example 1000:1200")
        return int(first), int(end)


def _numbers(flag: str, text: str) -> list[float | None]:
    try:
        return [number_or_none(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--{flag} {text!r}: {error}; expected numbers separated by commas") from None


def run(config: Config) -> int:
    """Run the grid, choose, and say how to go on."""
    from als.models import decoder_blocks
    from als.selection import best, choose, parse_layers

    idx, selection = config.solver_prompt_idx, run_config(config, **_selection_fields(config))
    problems = read_problems(selection)
    test = run_config(config, run_name=None)
    test_problems = read_problems(test, test.fixed_subset_path)
    _check_held_out(config, problems, test_problems)
    vector = load_steering_vector(selection, idx, problems)
    assert vector is not None, "the mode steers"
    _refuse_other_choice(config, vector)
    if config.final:
        load_steering_vector(test, idx, test_problems)  # what would stop the test should not wait for the grid
    engine = load_engine(config)
    cells = config.cells(parse_layers(config.layers, len(decoder_blocks(engine.model))))
    arms = [make_arm(dataclasses.replace(selection, **dataclasses.asdict(cell)), idx, vector) for cell in cells]
    with _runs_in_mains_folders():
        refuse_started(config, arms)
        print(f"{len(cells)} settings on {len(problems)} problems of {config.selection_split}")
        summaries = evaluate(arms, engine, problems)
    if any(summary is None for summary in summaries):
        print("this share is done, others are not; the last one to finish chooses")
        return exit_code(summaries)
    outcomes = [_outcome(cell, summary) for cell, summary in zip(cells, summaries, strict=True) if summary]
    chosen = choose(outcomes)
    _write(config, arms, outcomes, chosen, best(outcomes))
    return max(exit_code(summaries), _finish(config, chosen, engine))


@contextmanager
def _runs_in_mains_folders() -> Iterator[None]:
    """Advise --output_dir where a run's folder is in the way: --run_name names the sweep and does not move its runs."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--run_name", "--output_dir")) from error


def _check_held_out(config: Config, selection: list[Problem], test: list[Problem]) -> None:
    """Raise a UserError where settings would be chosen on problems of the test."""
    tested = {problem.problem_hash for problem in test}
    if both := sum(problem.problem_hash in tested for problem in selection):
        raise UserError(
            f"--selection_split {config.selection_split} --selection_range {config.selection_range}: {both} of these "
            f"{len(selection)} problems are among the test's, those of --split {config.split}; choose on others, or "
            "cut the test down with --start_data_idx and --end_data_idx"
        )


def _refuse_other_choice(config: Config, vector: SteeringVector) -> None:
    """Raise a UserError where the folder holds the choice of another sweep."""
    from als.runlog import LATER_FIELDS, read_json

    path = _folder(config) / CHOSEN
    if config.overwrite or not path.exists():
        return
    then, now = LATER_FIELDS | read_json(path), _about(config, vector)
    if differing := [name for name in now if then.get(name) != now[name]]:
        fields = "; ".join(f"{name}: then {then.get(name)!r}, now {now[name]!r}" for name in differing)
        raise UserError(f"{str(path)!r} was chosen otherwise ({fields}); give --run_name, or --overwrite to replace it")


def _about(config: Config, vector: SteeringVector) -> dict[str, Any]:
    """What a choice was made on and for."""
    return {
        "selection_split": config.selection_split,
        "selection_range": config.selection_range,
        "vector": config.vector_path(config.solver_prompt_idx).name,
        "vector_sha256": vector.sha256,
        "engine": config.engine,
        "judge": config.judge,
        "chat_template_kwargs": config.chat_template_kwargs or None,
        "system_prompt": config.system_prompt,
        "prefill": config.prefill,
    }


def _selection_fields(config: Config) -> dict[str, Any]:
    first, end = config.selection()
    return {
        "split": config.selection_split,
        "start_data_idx": first,
        "end_data_idx": end,
        "fixed_subset_path": None,
        "run_name": None,  # it names the sweep; every cell has a folder of its own
    }


def _folder(config: Config) -> Path:
    apart = [config.run_name] if config.run_name else judge_label(config)
    name = "_".join([f"prompt_{config.solver_prompt_idx}", *apart])
    root = run_root(config.output_dir, config.model_name_or_path, config.dataset)
    return root / f"{config.generation_mode}_sweep" / name


def _outcome(cell: Cell, summary: Json) -> Outcome:
    from als.selection import Outcome

    return Outcome(cell, summary["n"], summary["correct"], summary.get("mean_relative_dose", 0.0))


def _write(config: Config, arms: Sequence[Arm], outcomes: Sequence[Outcome], chosen: Outcome, top: Outcome) -> None:
    """The table, the figure and the choice; and the same on the terminal."""
    from als.files import replace_bytes
    from als.selection_charts import draw_sweep
    from als.selection_report import choice, csv_table, markdown_table

    folder = _folder(config)
    replace_bytes(folder / TABLE, csv_table(outcomes, [str(arm.folder.path) for arm in arms]).encode(), what="table")
    replace_bytes(folder / HEAT_MAP, draw_sweep(outcomes, chosen), what="chart")
    assert arms[0].vector is not None, "every arm steers"
    content = json.dumps(choice(chosen, top, outcomes) | _about(config, arms[0].vector), indent=2) + "\n"
    replace_bytes(folder / CHOSEN, content.encode(), what="choice")
    print(markdown_table(outcomes, chosen, top))
    print(f"sweep -> {folder}")


def _finish(config: Config, chosen: Outcome, engine: Any) -> int:
    """Run the test, or say with which command to."""
    from als.stats import runs_table

    if not config.final:
        print(f"the test has not been touched; to run it:\n    {_test_command(config)}")
        return 0
    final = run_config(config, **dataclasses.asdict(chosen.cell) | {"run_name": None})
    problems = read_problems(final, final.fixed_subset_path)
    arm = make_arm(final, config.solver_prompt_idx, load_steering_vector(final, config.solver_prompt_idx, problems))
    with _runs_in_mains_folders():
        refuse_started(config, [arm])
        (summary,) = evaluate([arm], engine, problems)
    if summary:
        print(runs_table([(arm.title, summary)]))
    return exit_code([summary])


def _test_command(config: Config) -> str:
    """The main command that evaluates the choice, with what was given on this one's command line."""
    defaults = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    words = _main_command()
    for name, value in shared(config, RunConfig).items():
        if name not in ("resume", "overwrite", "run_name", "shard") and value != defaults[name]:
            words.append(_as_word(name, value))
    words += ["--prompts_to_run", str(config.solver_prompt_idx), "--settings", str(_folder(config) / CHOSEN)]
    return shlex.join(words)


def _as_word(name: str, value: object) -> str:
    """An option as it is written on a command line; with "=", because a value may begin with a dash."""
    if value is True:
        return f"--{name}"
    shown = json.dumps(value) if isinstance(value, Mapping) else "auto" if value is None else str(value)
    return f"--{name}={shown}"


def _main_command() -> list[str]:
    """How main is started where this command was started: as the script beside it, or as an entry point."""
    started = Path(sys.argv[0])
    if started.name == "sweep.py":
        return ["python", str(started.with_name("main.py"))]
    beside = started.with_name("als-run")
    return [str(beside) if beside.is_file() and shutil.which("als-run") is None else "als-run"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(
        Config, run, argv, prog="sweep", description="Choose steering settings on problems that are not the test."
    )
