"""als-run: phase 3, evaluate one generation mode of a model on a data set.

    main --generation_mode als --model_name_or_path M --dataset openai/gsm8k --split test \
        --vector_name_template "vectors/llama_gsm8k_p{prompt_idx}_thresh3.pt" --prompts_to_run 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from als.cli.arms import evaluate, load_steering_vector, make_arm, refuse_started
from als.cli.options import (
    DataConfig,
    FolderConfig,
    ModelConfig,
    PromptConfig,
    VerifierConfig,
    check,
    option,
    run_command,
)
from als.cli.pipeline import exit_code, load_engine, read_problems
from als.cli.steering_options import StrengthConfig, VectorConfig, check_prompts
from als.controls import CONTROLS
from als.errors import UserError
from als.generation import MODES, STEERED_MODES, TRANSFORMERS_MODES


@dataclass(frozen=True, kw_only=True)
class Config(FolderConfig, StrengthConfig, VectorConfig, DataConfig, PromptConfig, VerifierConfig, ModelConfig):
    """Which mode, on which problems, with which vector."""

    generation_mode: str = option("How answers are generated.", choices=MODES)
    prompts_to_run: tuple[int, ...] = option(
        "Solver prompts, one run each: 0 asks for a boxed answer, 1 for JSON.", (0, 1), choices=(0, 1)
    )
    control: str | None = option(
        "Add, in the vector's place, one that ought not to help: random (a direction of the same norm), negative (-v), "
        "shuffled (from the same states with labels shuffled).",
        None,
        choices=CONTROLS,
    )
    control_seed: int = option("--control: seed of its draw.", 0)

    sc_k: int = option("self_consistency: samples that vote.", 5)
    temperature: float = option("self_consistency: temperature of the samples.", 0.7)
    sc_steered: bool = option("self_consistency: steer the samples with the vector.", False)
    lr: float = option("latentseek: learning rate of Adam.", 0.03)
    k: float = option("latentseek: share of the answer's latent states that are searched over.", 0.1)
    max_num_steps: int = option("latentseek: most gradient steps a problem.", 10)
    reward_threshold: float = option("latentseek: a reward above this ends the search; 0 is the best.", -0.2)
    grad_clip: float | None = option("latentseek: largest norm of the gradient; otherwise it is not clipped.", None)
    rule_format_string: str = option(
        "latentseek: boxed makes an answer to prompt 0 without \\boxed{} lose reward.",
        "boxed",
        choices=("boxed", "none"),
    )
    keep: str = option(
        "latentseek: the answer is the last text (the paper's) or that of the best reward.",
        "last",
        choices=("last", "best"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_folder()
        self.check_vector()
        self.check_verifier()
        self._check_modes()
        check(self.start_data_idx >= 0, "start_data_idx", self.start_data_idx, "at least 0")
        check(
            len(set(self.prompts_to_run)) == len(self.prompts_to_run),
            "prompts_to_run",
            self.prompts_to_run,
            "each index once",
        )
        if self.steers and self.vector_name_template is None:
            steered = "--sc_steered" if self.sc_steered else f"--generation_mode {self.generation_mode}"
            raise UserError(f"{steered} needs a vector: give --vector_name_template")
        check(0 <= self.control_seed < 2**63, "control_seed", self.control_seed, "from 0 to below 2**63")
        if self.control is not None and not self.steers:
            raise UserError(f"--control {self.control} belongs to a mode that steers, not to {self.generation_mode!r}")

    def _check_modes(self) -> None:
        """Values and combinations that only some modes know."""
        check(self.sc_k >= 1, "sc_k", self.sc_k, "at least 1")
        check(self.temperature > 0, "temperature", self.temperature, "a number above 0")
        check(self.lr > 0, "lr", self.lr, "a number above 0")
        check(0 <= self.k <= 1, "k", self.k, "a share from 0 to 1")
        check(self.max_num_steps >= 0, "max_num_steps", self.max_num_steps, "at least 0")
        check(self.grad_clip is None or self.grad_clip > 0, "grad_clip", self.grad_clip, "a number above 0")
        if self.sc_steered and self.generation_mode != "self_consistency":
            raise UserError(
                f"--sc_steered belongs to --generation_mode self_consistency, not to {self.generation_mode!r}"
            )
        if self.engine == "vllm" and self.generation_mode in TRANSFORMERS_MODES:
            raise UserError(
                f"--generation_mode {self.generation_mode} needs --engine transformers: "
                "vLLM has no place for a gate or a gradient"
            )
        check_prompts(self.generation_mode, self.prompts_to_run, flag="prompts_to_run")

    @property
    def steers(self) -> bool:
        """Whether a vector is added."""
        return self.generation_mode in STEERED_MODES or self.sc_steered


def run(config: Config) -> int:
    """Everything that can be wrong is looked at first; then a run for each prompt, and a table of them."""
    from als.stats import runs_table

    problems = read_problems(config, config.fixed_subset_path)
    arms = [make_arm(config, idx, load_steering_vector(config, idx, problems)) for idx in config.prompts_to_run]
    refuse_started(config, arms)
    summaries = evaluate(arms, load_engine(config), problems)
    names = [f"{config.generation_mode} prompt_{arm.prompt_idx}" for arm in arms]
    if finished := [(name, summary) for name, summary in zip(names, summaries, strict=True) if summary]:
        print(runs_table(finished))
    return exit_code(summaries)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(
        Config, run, argv, prog="main", description="Evaluate one generation mode of a model on a data set."
    )
