"""als-run: phase 3, evaluate one generation mode of a model on a data set.

    main --generation_mode als --model_name_or_path M --dataset openai/gsm8k --split test \
        --vector_name_template "vectors/llama_gsm8k_p{prompt_idx}_thresh3.pt" --prompts_to_run 0
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als.cli.options import DataConfig, FolderConfig, ModelConfig, check, number_or_none, option, run_command
from als.cli.pipeline import exit_code, fit_prompts, identity, load_engine, read_problems, record, run_root, shard
from als.errors import UserError
from als.generation import MODES, STEERED_MODES, TRANSFORMERS_MODES

if TYPE_CHECKING:
    from als.engines.base import Engine
    from als.generation.settings import Settings
    from als.records import Problem, ResultLine
    from als.runlog import RunFolder
    from als.steering import Steering
    from als.vectors import SteeringVector


@dataclass(frozen=True, kw_only=True)
class Config(FolderConfig, DataConfig, ModelConfig):
    """Which mode, on which problems, with which vector."""

    generation_mode: str = option("How answers are generated.", choices=MODES)
    prompts_to_run: tuple[int, ...] = option(
        "Solver prompts, one run each: 0 asks for a boxed answer, 1 for JSON.", (0, 1), choices=(0, 1)
    )
    fixed_subset_path: str | None = option("File with the indices to run, one a line; see create_subsets.", None)
    vector_name_template: str | None = option(
        "Vector file for the steered modes; {prompt_idx} stands for the prompt's index.", None
    )
    alpha: float = option("Steering strength.", 0.3)
    alpha_scale: str = option(
        "raw: alpha*v; unit: alpha*v/|v|; residual: alpha*|h|*v/|v|.",
        "raw",
        choices=("raw", "unit", "residual"),
    )
    layer_idx: int = option("Decoder block whose output is steered; negative counts from the end.", -2)
    similarity_threshold: float | None = option(
        "tau: steer where cos(h, v) is below it; none steers everywhere.", 0.1, type=number_or_none
    )

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
        if self.vector_name_template is not None:
            _check_template(self.vector_name_template)

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
        if self.generation_mode == "als_gated" and 0 in self.prompts_to_run:
            raise UserError(
                "--generation_mode als_gated steers inside JSON answers, which prompt 0 does not ask for; "
                "give --prompts_to_run 1"
            )

    @property
    def steers(self) -> bool:
        """Whether a vector is added."""
        return self.generation_mode in STEERED_MODES or self.sc_steered

    def vector_path(self, prompt_idx: int) -> Path:
        """The vector file of a prompt."""
        assert self.vector_name_template is not None, "a mode that does not steer has no vector"
        return Path(self.vector_name_template.format(prompt_idx=prompt_idx)).expanduser()


def run(config: Config) -> int:
    """Everything that can be wrong is looked at first; then a run for each prompt, and a table of them."""
    from als.generation.solve import prepare
    from als.reward import check_verifiers
    from als.runlog import RunFolder
    from als.stats import runs_table
    from als.vectors import load_vector

    problems = read_problems(config, config.fixed_subset_path)
    steered = {idx: load_vector(config.vector_path(idx)) for idx in config.prompts_to_run} if config.steers else {}
    share = shard(config)
    folders = {idx: RunFolder(run_folder(config, idx), shard=share) for idx in config.prompts_to_run}
    for folder in folders.values():
        folder.refuse_if_started(resume=config.resume, overwrite=config.overwrite)
    engine = load_engine(config)
    settings = {idx: _settings(config, idx, engine, steered.get(idx)) for idx in config.prompts_to_run}
    fit_prompts(
        config, engine, [text for each in settings.values() for text in prepare(engine, problems, each).prompts]
    )
    if config.generation_mode == "latentseek":
        check_verifiers(engine, problems, max_new_tokens=config.max_new_tokens)
    summaries = []
    with ExitStack() as opened:
        for idx, folder in folders.items():  # all of them before the first run: a conflict should not wait for hours
            fields = _identity(config, engine, idx, steered.get(idx))
            opened.enter_context(folder.open(fields, resume=config.resume, overwrite=config.overwrite))
            folder.check_problems(problems)
        for idx, folder in folders.items():
            _evaluate(config, engine, share.share(problems), folder, settings[idx])
            summary = folder.finish({problem.index for problem in problems})
            summaries.append(summary)
            print(f"results -> {folder.path}" if summary else f"this share is done, others are not -> {folder.path}")
    titles = [_title(config, idx) for idx in folders]
    if finished := [(title, summary) for title, summary in zip(titles, summaries, strict=True) if summary]:
        print(runs_table(finished))
    return exit_code(summaries)


def _identity(config: Config, engine: Engine, prompt_idx: int, vector: SteeringVector | None) -> dict[str, Any]:
    """The content of a run's config.json."""
    return identity(
        config,
        engine,
        prompt_idx=prompt_idx,
        mode=config.generation_mode,
        subset=config.fixed_subset_path and Path(config.fixed_subset_path).name,
        **_mode_fields(config),
        **(_steering_fields(config, prompt_idx, vector) if vector else {}),
    )


def _evaluate(config: Config, engine: Engine, problems: list[Problem], folder: RunFolder, settings: Settings) -> None:
    """Answer what has no line yet."""
    from als.generation import mode_function

    done = folder.done()
    todo = [problem for problem in problems if problem.index not in done]
    lines = mode_function(config.generation_mode)(engine, todo, settings)
    title = _title(config, settings.prompt_idx)
    for _ in record(config, folder, problems, _appended(folder, lines), title=title):
        pass


def _appended(folder: RunFolder, lines: Iterator[ResultLine]) -> Iterator[ResultLine]:
    for line in lines:
        folder.append(line)
        yield line


def _settings(config: Config, prompt_idx: int, engine: Engine, vector: SteeringVector | None) -> Settings:
    from als.benchmarks import find_benchmark
    from als.generation.settings import LatentSeekSettings, SelfConsistencySettings, Settings

    return Settings(
        benchmark=find_benchmark(config.dataset, config.benchmark).name,
        prompt_idx=prompt_idx,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        steering=_steering(config, vector, engine) if vector else None,
        self_consistency=SelfConsistencySettings(config.sc_k, config.temperature),
        latentseek=LatentSeekSettings(
            lr=config.lr,
            k=config.k,
            max_num_steps=config.max_num_steps,
            reward_threshold=config.reward_threshold,
            grad_clip=config.grad_clip,
            boxed_rule=config.rule_format_string == "boxed",
            keep=config.keep,  # type: ignore[arg-type]
        ),
    )


def run_folder(config: Config, prompt_idx: int) -> Path:
    """output/<model>-<dataset>/<mode>_eval/prompt_<i>, and what sets the run apart from the default one.

    Split, subset, engine, and for steered modes alpha, layer, tau and scale are named where they differ from the
    defaults, and the vector where the folder already belongs to a vector file of another name, so that runs
    which differ in them never meet. --run_name takes the place of all that.
    """
    root = run_root(config.output_dir, config.model_name_or_path, config.dataset)
    mode = root / f"{config.generation_mode}_eval"
    if config.run_name:
        return mode / f"prompt_{prompt_idx}_{config.run_name}"
    name = "_".join([f"prompt_{prompt_idx}", *_distinctions(config)])
    if config.steers and _vector_of(mode / name) not in (None, config.vector_path(prompt_idx).name):
        name += f"_{config.vector_path(prompt_idx).stem}"
    return mode / name


def _distinctions(config: Config) -> list[str]:
    parts = []
    if config.split != "test":
        parts.append(config.split)
    if config.fixed_subset_path is not None:
        parts.append(Path(config.fixed_subset_path).stem)
    if config.sc_steered:
        parts.append("steered")
    if config.steers:
        tau = "none" if config.similarity_threshold is None else f"{config.similarity_threshold:g}"
        parts += [f"alpha{config.alpha:g}"] if config.alpha != 0.3 else []
        parts += [config.alpha_scale] if config.alpha_scale != "raw" else []
        parts += [f"layer{config.layer_idx}"] if config.layer_idx != -2 else []
        parts += [f"tau{tau}"] if config.similarity_threshold != 0.1 else []
    parts += ["vllm"] if config.engine == "vllm" else []
    return parts


def _vector_of(folder: Path) -> str | None:
    """The name of the vector file that a run folder belongs to; None where there is no such folder."""
    from als.runlog import CONFIG, read_json

    path = folder / CONFIG
    return read_json(path).get("vector") if path.exists() else None


def _steering(config: Config, vector: SteeringVector, engine: Engine) -> Steering:
    """The steering of a run, checked against the model."""
    import warnings

    from als.models import model_label
    from als.steering import Steering, layer_vector

    steering = Steering(vector.vector, config.layer_idx, config.alpha, config.alpha_scale, config.similarity_threshold)
    layer_vector(engine.model, steering)
    collection = vector.metadata.get("collection")
    made_with = collection.get("model") if isinstance(collection, dict) else None
    if made_with and model_label(made_with) != model_label(config.model_name_or_path):
        warnings.warn(f"the vector was made with {made_with!r}, not with {config.model_name_or_path!r}", stacklevel=2)
    return steering


def _mode_fields(config: Config) -> dict[str, Any]:
    """The options that identify a run of this mode."""
    names = {
        "self_consistency": ("sc_k", "temperature", "sc_steered"),
        "latentseek": ("lr", "k", "max_num_steps", "reward_threshold", "grad_clip", "rule_format_string", "keep"),
    }
    return {name: getattr(config, name) for name in names.get(config.generation_mode, ())}


def _steering_fields(config: Config, prompt_idx: int, vector: SteeringVector) -> dict[str, Any]:
    return {
        "vector": config.vector_path(prompt_idx).name,
        "vector_sha256": vector.sha256,
        "alpha": config.alpha,
        "alpha_scale": config.alpha_scale,
        "layer_idx": config.layer_idx,
        "similarity_threshold": config.similarity_threshold,
    }


def _check_template(template: str) -> None:
    """A template may hold {prompt_idx} and nothing else in braces."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if names <= {"prompt_idx"}:
            template.format(prompt_idx=0)
            return
        problem = f"unknown placeholder {{{min(names - {'prompt_idx'})}}}"
    except (ValueError, KeyError) as error:
        problem = str(error)
    raise UserError(f"--vector_name_template {template!r}: {problem}; only {{prompt_idx}} may stand in braces")


def _title(config: Config, prompt_idx: int) -> str:
    return f"{config.generation_mode} prompt_{prompt_idx}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(
        Config, run, argv, prog="main", description="Evaluate one generation mode of a model on a data set."
    )
