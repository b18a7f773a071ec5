"""What main, null_test and sweep share: arms, each one mode with one configuration in a folder of its own.

All arms of a command run on one engine. An arm is described by main's Config, so its folder and the configuration on
disk are those that main itself would have written: what sweep or null_test began, main goes on with.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als.cli.options import FolderConfig, shared
from als.cli.pipeline import (
    check_context,
    effective_prefill,
    environment,
    identity,
    judge_label,
    record,
    run_root,
    shard,
)
from als.errors import UserError

if TYPE_CHECKING:
    from als.cli.main import Config
    from als.engines.base import Engine
    from als.generation.settings import Settings
    from als.generation.solve import Prepared
    from als.records import Problem, ResultLine
    from als.runlog import Json, RunFolder
    from als.steering import Steering
    from als.vectors import SteeringVector


LATENTSEEK_OPTIONS = (
    "lr",
    "k",
    "max_num_steps",
    "reward_threshold",
    "grad_clip",
    "rule_format_string",
    "keep",
    "verifier_max_new_tokens",
)


@dataclass(frozen=True, eq=False)
class Arm:
    """One prompt of one configuration: where it is written, and what decides its answers."""

    config: Config
    prompt_idx: int
    vector: SteeringVector | None
    """The one that is added, controls included; None where nothing is."""
    folder: RunFolder

    @property
    def title(self) -> str:
        """Mode and folder."""
        return f"{self.config.generation_mode} {self.folder.path.name}"

    def settings(self, engine: Engine) -> Settings:
        """What the mode needs to know, checked against the model."""
        from als.benchmarks import find_benchmark
        from als.generation.settings import LatentSeekSettings, SelfConsistencySettings, Settings

        config = self.config
        return Settings(
            benchmark=find_benchmark(config.dataset, config.benchmark).name,
            prompt_idx=self.prompt_idx,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
            system_prompt=config.system_prompt,
            prefill=effective_prefill(config, engine, self.prompt_idx),
            verifier_max_new_tokens=config.verifier_max_new_tokens,
            judge=config.judge,
            steering=_steering(config, self.vector, engine) if self.vector else None,
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

    def identity(self, engine: Engine) -> dict[str, Any]:
        """The content of the folder's config.json."""
        config = self.config
        return identity(
            config,
            engine,
            prompt_idx=self.prompt_idx,
            mode=config.generation_mode,
            subset=config.fixed_subset_path and Path(config.fixed_subset_path).name,
            **_mode_fields(config),
            **(_steering_fields(config, self.prompt_idx, self.vector) if self.vector else {}),
        )


def load_steering_vector(config: Config, prompt_idx: int, problems: Sequence[Problem]) -> SteeringVector | None:
    """The vector file of a prompt, or with --control what is added in its place; None where nothing is steered.

    Raises:
        UserError: unreadable, or made from some of these problems, unless --allow_leakage.
    """
    from als.controls import control_vector
    from als.leakage import check_leakage
    from als.vectors import load_vector

    if not config.steers:
        return None
    vector = load_vector(config.vector_path(prompt_idx))
    check_settings(config, vector)
    if differs := made_otherwise(config, prompt_idx, vector):
        from als.runlog import in_words

        warnings.warn(
            f"the vector was made with {in_words(differs)}, unlike this run; config.json says so", stacklevel=2
        )
    check_leakage(vector, problems, allowed=config.allow_leakage)
    if config.control is None:
        return vector
    return control_vector(vector, config.control, seed=config.control_seed, states_dir=config.states_dir)


def check_settings(config: Config, vector: SteeringVector) -> None:
    """Warn where --settings were chosen for another vector."""
    from als.runlog import read_json

    if config.settings is None:
        return
    chosen_for = read_json(Path(config.settings).expanduser()).get("vector_sha256")
    if chosen_for not in (None, vector.sha256):
        warnings.warn(f"--settings {config.settings!r} were chosen for another vector than this one", stacklevel=2)


def made_otherwise(config: Config, prompt_idx: int, vector: SteeringVector) -> dict[str, Any]:
    """The prompt and the data set that a vector was made with, where they are not the run's.

    A split or a copy of the same data set is no difference. What a vector's file does not say is not held against it.
    """
    from als.benchmarks import find_benchmark

    made = vector.metadata.get("collection")
    if not isinstance(made, dict):
        return {}
    differs = {"prompt_idx": made["prompt_idx"]} if made.get("prompt_idx", prompt_idx) != prompt_idx else {}
    benchmark = find_benchmark(config.dataset, config.benchmark).name
    same_data = _data_name(made.get("dataset", config.dataset)) == _data_name(config.dataset)
    if not same_data or made.get("benchmark", benchmark) != benchmark:
        differs["dataset"] = made.get("dataset")
    return differs


def _data_name(dataset: str) -> str:
    """What a data set is, whatever spelling or place it has: the benchmark that its name tells, or else its label."""
    from als.benchmarks import dataset_label, find_benchmark

    try:
        return find_benchmark(dataset).name
    except UserError:
        return dataset_label(dataset).casefold()


def run_config(config: Any, **fields: Any) -> Config:
    """The main command with another command's options and these."""
    from als.cli.main import Config

    return Config(**shared(config, Config) | {"prompts_to_run": (config.solver_prompt_idx,)} | fields)


def make_arm(config: Config, prompt_idx: int, vector: SteeringVector | None) -> Arm:
    """An arm in the folder that main gives it."""
    from als.runlog import RunFolder

    return Arm(config, prompt_idx, vector, RunFolder(run_folder(config, prompt_idx), shard=shard(config)))


def refuse_started(config: FolderConfig, arms: Sequence[Arm]) -> None:
    """Stop, before a model is loaded, where results lie that nobody said what to do with."""
    for arm in arms:
        if arm.vector is not None:
            _check_vector_of(arm, arm.vector, overwrite=config.overwrite)
        arm.folder.refuse_if_started(resume=config.resume, overwrite=config.overwrite)


def _check_vector_of(arm: Arm, vector: SteeringVector, *, overwrite: bool) -> None:
    """Raise a UserError where the arm's folder belongs to another vector; point out one that has an older name."""
    path = arm.folder.path
    now = _vector_fields(arm.config, arm.prompt_idx, vector)
    then = _vector_in(path)
    if then is not None and then != now and not overwrite:
        raise UserError(
            f"{str(path)!r} belongs to another vector, {' '.join(map(repr, then))}, than {' '.join(map(repr, now))}; "
            "give --run_name to write elsewhere, or --overwrite to move that folder aside"
        )
    stem = f"_{arm.config.vector_path(arm.prompt_idx).stem}"
    earlier = path.with_name(path.name.removesuffix(stem))
    if not arm.config.run_name and not path.exists() and earlier != path and _vector_in(earlier) == now:
        warnings.warn(
            f"{str(earlier)!r} was made with this vector by an earlier version, which named folders otherwise; rename "
            f"it to {str(path)!r} to continue it",
            stacklevel=2,
        )


def _vector_in(folder: Path) -> tuple[object, object] | None:
    """Name and hash of the vector that a run folder belongs to; None where there is no such folder or vector."""
    from als.runlog import CONFIG, read_json

    path = folder / CONFIG
    if not path.exists():
        return None
    config = read_json(path)
    return (config["vector"], config.get("vector_sha256")) if "vector" in config else None


def evaluate(arms: Sequence[Arm], engine: Engine, problems: list[Problem]) -> list[Json | None]:
    """Run arms one after the other on the same problems.

    Everything that can be wrong is looked at before the first one begins: a conflict should not wait for hours.

    Returns:
        The summary of each; None where other processes have not done their share yet.
    """
    prepared = check(arms, engine, problems)
    for arm in arms:  # opened again one at a time: a large grid has more folders than a process may hold open
        config = arm.config
        with arm.folder.open(arm.identity(engine), resume=config.resume, overwrite=config.overwrite, goes_on=False):
            arm.folder.check_problems(problems)
            arm.folder.check_prompts(prepared[arm.prompt_idx].by_index())
    summaries = [_run(arm, engine, problems) for arm in arms]
    # Whoever shares the run may have finished an arm after this process had; the last one sees all of them complete.
    return [summary or _finish(arm, engine, problems) for arm, summary in zip(arms, summaries, strict=True)]


def check(arms: Sequence[Arm], engine: Engine, problems: list[Problem]) -> dict[int, Prepared]:
    """Make sure that vectors fit the model and can be added to it, and prompts and verifiers its context.

    Returns:
        The prompts, by solver prompt.
    """
    from als.generation.solve import prepare

    settings = {arm.prompt_idx: arm.settings(engine) for arm in arms}  # which also holds every vector against the model
    if any(arm.vector for arm in arms):
        engine.check_hooks()
    prepared = {idx: prepare(engine, problems, each) for idx, each in settings.items()}
    prompts = [text for each in prepared.values() for text in each.prompts]
    verifies = any(arm.config.generation_mode == "latentseek" for arm in arms)
    verifier_tokens = max(each.verifier_tokens for each in settings.values()) if verifies else None
    check_context(arms[0].config, engine, problems, prompts, verifier_tokens=verifier_tokens)
    return prepared


def _run(arm: Arm, engine: Engine, problems: list[Problem]) -> Json | None:
    """Answer what has no line yet."""
    from als.generation import mode_function

    own = shard(arm.config).share(problems)
    with arm.folder.open(arm.identity(engine), resume=True, goes_on=False):
        done = arm.folder.done()
        todo = [problem for problem in own if problem.index not in done]
        if todo:
            arm.folder.begin(environment(arm.config, engine))
        lines = mode_function(arm.config.generation_mode)(engine, todo, arm.settings(engine))
        for _ in record(arm.config, arm.folder, own, _appended(arm.folder, lines), title=arm.title):
            pass
        summary = arm.folder.finish({problem.index for problem in problems})
        print(_outcome(arm.folder, summary))
    return summary


def _outcome(folder: RunFolder, summary: Json | None) -> str:
    """Where the results are, and how many the folder holds where this command is about fewer."""
    if summary is None:
        return f"this share is done, others are not -> {folder.path}"
    n, here = len(folder.lines), summary["n"]
    more = f" (its summary holds {n} problems, this command is about {here} of them)" if n > here else ""
    return f"results -> {folder.path}{more}"


def _finish(arm: Arm, engine: Engine, problems: Sequence[Problem]) -> Json | None:
    """The summary of an arm whose own share is done, if all others are by now."""
    with arm.folder.open(arm.identity(engine), resume=True, goes_on=False):
        return arm.folder.finish({problem.index for problem in problems})


def _appended(folder: RunFolder, lines: Iterator[ResultLine]) -> Iterator[ResultLine]:
    for line in lines:
        folder.append(line)
        yield line


def run_folder(config: Config, prompt_idx: int) -> Path:
    """output/<model>-<dataset>/<mode>_eval/prompt_<i>, and what sets the run apart from the default one.

    Split, subset, judge, engine, and for steered modes alpha, layer, tau and scale are named where they differ from the
    defaults, and the vector where the template of its name has no {prompt_idx}. --run_name takes the place of all
    that. Controls are always named. The name depends on the command alone, not on what is on the disk.
    """
    root = run_root(config.output_dir, config.model_name_or_path, config.dataset)
    mode = root / f"{config.generation_mode}_eval"
    control = [control_label(config)] if config.control else []
    if config.run_name:
        return mode / "_".join([f"prompt_{prompt_idx}", config.run_name, *control])
    one_for_all = config.steers and config.vector_path(0) == config.vector_path(1)  # there is no {prompt_idx}
    vector = [config.vector_path(prompt_idx).stem] if one_for_all else []
    return mode / "_".join([f"prompt_{prompt_idx}", *_distinctions(config), *control, *vector])


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
    parts += judge_label(config)
    parts += ["vllm"] if config.engine == "vllm" else []
    return parts


def control_label(config: Config) -> str:
    """What a control is called in names: random3, shuffled0, negative."""
    return "negative" if config.control == "negative" else f"{config.control}{config.control_seed}"


def _steering(config: Config, vector: SteeringVector, engine: Engine) -> Steering:
    """The steering of a run, checked against the model."""
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
        "latentseek": LATENTSEEK_OPTIONS,
    }
    return {name: getattr(config, name) for name in names.get(config.generation_mode, ())}


def _vector_fields(config: Config, prompt_idx: int, vector: SteeringVector) -> tuple[object, object]:
    """Name and hash of the vector that a run belongs to; a control's are those of the vector that it controls."""
    return config.vector_path(prompt_idx).name, vector.metadata.get("control_of", vector.sha256)


def _steering_fields(config: Config, prompt_idx: int, vector: SteeringVector) -> dict[str, Any]:
    from als.runlog import VECTOR_MADE_WITH

    more: dict[str, Any] = {"control": control_label(config)} if config.control else {}
    if config.allow_leakage:
        more["allow_leakage"] = True
    if differs := made_otherwise(config, prompt_idx, vector):
        more[VECTOR_MADE_WITH] = differs
    name, sha256 = _vector_fields(config, prompt_idx, vector)
    return more | {
        "vector": name,
        "vector_sha256": sha256,
        "alpha": config.alpha,
        "alpha_scale": config.alpha_scale,
        "layer_idx": config.layer_idx,
        "similarity_threshold": config.similarity_threshold,
    }
