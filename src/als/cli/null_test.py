"""als-null-test: is it the vector's direction, or would any push of that size do?

    null_test --model_name_or_path M --dataset openai/gsm8k --vector_name_template "vectors/m_gsm8k_p{prompt_idx}.pt" \
        --controls 20 --kinds random shuffled --settings output/.../chosen.json

Runs the unsteered model, the vector and its controls on the same problems with one model load, every one of them in
main's own folders: an interrupted test goes on with --resume, and runs that are there already count.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from als.cli.arms import Arm, evaluate, load_steering_vector, make_arm, refuse_started, run_config
from als.cli.main import Config as RunConfig
from als.cli.options import DataConfig, FolderConfig, ModelConfig, PromptConfig, check, option, run_command
from als.cli.pipeline import exit_code, load_engine, read_problems
from als.cli.steering_options import OnePromptConfig, StrengthConfig
from als.controls import CONTROLS

if TYPE_CHECKING:
    from als.null import Standing
    from als.runlog import Json
    from als.vectors import SteeringVector


@dataclass(frozen=True, kw_only=True)
class Config(FolderConfig, StrengthConfig, OnePromptConfig, DataConfig, PromptConfig, ModelConfig):
    """Which vector is held against how many controls."""

    controls: int = option("Controls of each kind; negative has one.", 20)
    kinds: tuple[str, ...] = option(
        "Kinds of controls; see main's --control.", ("random", "negative"), choices=CONTROLS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_folder()
        self.check_vector()
        check(self.controls >= 1, "controls", self.controls, "at least 1")
        check(len(set(self.kinds)) == len(self.kinds), "kinds", self.kinds, "each kind once")


REPORT = "null_test"
CHOSEN_FOR_V = (
    "The settings were chosen with v, and the controls run with the same: p is smaller than if each control had been "
    "given settings of its own."
)


def run(config: Config) -> int:
    """Run everything, then say where the vector stands."""
    idx = config.solver_prompt_idx
    steered = run_config(config)
    problems = read_problems(steered, config.fixed_subset_path)
    vector = load_steering_vector(steered, idx, problems)
    assert vector is not None, "the mode steers"
    plain = make_arm(run_config(config, generation_mode="greedy_cot"), idx, None)
    controls = _controls(config, steered, vector)
    arms = [plain, make_arm(steered, idx, vector), *controls]
    refuse_started(config, arms)
    summaries = evaluate(arms, load_engine(config), problems)
    if any(summary is None for summary in summaries):
        print("this share is done, others are not; the last one to finish reports")
        return exit_code(summaries)
    finished = [summary for summary in summaries if summary is not None]
    _report(config, arms, finished)
    return exit_code(finished)


def _controls(config: Config, steered: RunConfig, vector: SteeringVector) -> list[Arm]:
    """The arms of all controls, kind by kind, in the order of their seeds."""
    from als.controls import control_vector

    controls = []
    for kind in config.kinds:
        for seed in range(config.controls if kind != "negative" else 1):
            control = control_vector(vector, kind, seed=seed, states_dir=config.states_dir)
            fields = dataclasses.replace(steered, control=kind, control_seed=seed)
            controls.append(make_arm(fields, config.solver_prompt_idx, control))
    return controls


def _standings(config: Config, arms: Sequence[Arm], summaries: Sequence[Json]) -> list[Standing]:
    """The second arm's, among the controls of each kind."""
    from als.null import stand

    found = [(arm.config.control, summary["accuracy"]) for arm, summary in zip(arms, summaries, strict=True)]
    return [stand(kind, found[1][1], [accuracy for of, accuracy in found if of == kind]) for kind in config.kinds]


def _report(config: Config, arms: Sequence[Arm], summaries: Sequence[Json]) -> None:
    """The table, where the vector stands, and the figure; in the vector's own run folder and on the terminal."""
    from als.files import replace_bytes
    from als.null import markdown
    from als.null_charts import draw_null
    from als.stats import runs_table

    plain, steered = summaries[0], summaries[1]
    standings = _standings(config, arms, summaries)
    table = runs_table([(arm.title, summary) for arm, summary in zip(arms, summaries, strict=True)])
    text = f"{table}\n\n{markdown(standings, n=steered['n'])}"
    if config.settings is not None:
        text += f"\n\n{CHOSEN_FOR_V}"
    content = {
        "n": steered["n"],
        "runs": [str(arm.folder.path) for arm in arms],
        "unsteered_accuracy": plain["accuracy"],
        "standings": [dataclasses.asdict(standing) for standing in standings],
    }
    folder = arms[1].folder.path
    replace_bytes(folder / f"{REPORT}.md", f"{text}\n".encode(), what="report")
    replace_bytes(folder / f"{REPORT}.json", f"{json.dumps(content, indent=2)}\n".encode(), what="report")
    replace_bytes(folder / f"{REPORT}.png", draw_null(standings, plain["accuracy"], n=steered["n"]), what="chart")
    print(f"{text}\nnull test -> {folder / REPORT}.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(
        Config, run, argv, prog="null_test", description="Hold a vector against controls that ought not to help."
    )
