"""als-collect-states: phase 1, from a model and a data set to labelled mean states.

collect_states --model_name_or_path M --dataset openai/gsm8k --split train --end_data_idx 1000 --resume
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from als.cli.pipeline import (
    check_context,
    effective_prefill,
    environment,
    exit_code,
    identity,
    judge_label,
    load_engine,
    read_problems,
    record,
    run_root,
    shard,
)
from als.errors import UserError

if TYPE_CHECKING:
    from als.engines.base import Engine, Verifier
    from als.engines.remote import RemoteModel
    from als.generation.settings import Settings
    from als.records import Problem, ResultLine
    from als.states import Drawing, StateFolder


REMOTE_MOST = 32
"""Requests in flight at a verifier's address with --batch_size auto."""


@dataclass(frozen=True, kw_only=True)
class Config(FolderConfig, DataConfig, PromptConfig, VerifierConfig, ModelConfig):
    """Which problems are answered by which model, and how the answers are labelled."""

    split: str = option("Split of the data set.", "train")
    solver_prompt_idx: int = option("Solver prompt: 0 asks for a boxed answer, 1 for JSON.", 0, choices=(0, 1))
    label_by: str = option(
        "verifiers: by four verdicts, the model's own or another one's; answer: by the gold answer, without verifiers.",
        "verifiers",
        choices=("verifiers", "answer"),
    )
    good_example_threshold: int = option(
        "An answer is good if at least so many of the four verdicts are true.", 3, choices=(1, 2, 3, 4)
    )
    verifier_model_name_or_path: str | None = option(
        "Model that gives the verdicts, loaded beside the first one with the same options; or http://host:port of an "
        "OpenAI-compatible server, with its key in OPENAI_API_KEY. Otherwise the model judges its own answers.",
        None,
    )
    verifier_served_model_name: str | None = option("Name under which that server has the model.", None)
    samples_per_problem: int = option(
        "Answers to each problem; above 1 they are drawn, and compute_steering_vector --within_problem compares them.",
        1,
    )
    temperature: float | None = option("Temperature of the draws with --samples_per_problem above 1; 0.7 there.", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_folder()
        self.check_verifier()
        check(self.start_data_idx >= 0, "start_data_idx", self.start_data_idx, "at least 0")
        check(self.samples_per_problem >= 1, "samples_per_problem", self.samples_per_problem, "at least 1")
        self._check_verifier()
        if self.temperature is not None:
            check(0 < self.temperature < math.inf, "temperature", self.temperature, "a number above 0")
            if self.samples_per_problem == 1:
                raise UserError(
                    f"--temperature {self.temperature} needs --samples_per_problem above 1; a single answer is greedy"
                )

    def _check_verifier(self) -> None:
        verifier, served = self.verifier_model_name_or_path, self.verifier_served_model_name
        if verifier is not None and self.label_by == "answer":
            raise UserError(
                f"--verifier_model_name_or_path {verifier!r} and --label_by answer contradict each other: no verifier "
                "runs; leave out one"
            )
        if served is None and self.has_remote_verifier:
            raise UserError(
                f"--verifier_model_name_or_path {verifier!r} is an address; give --verifier_served_model_name, the "
                "name under which that server has the model"
            )
        if served is not None and not self.has_remote_verifier:
            raise UserError(
                f"--verifier_served_model_name {served!r} needs the address of a server as "
                "--verifier_model_name_or_path, such as http://localhost:8000"
            )

    @property
    def has_remote_verifier(self) -> bool:
        """Whether the verdicts come from a server."""
        from als.engines.remote import is_address

        return is_address(self.verifier_model_name_or_path or "")


def run(config: Config) -> int:
    """Collect, and say how many answers are good and bad."""
    from als.benchmarks import find_benchmark
    from als.generation.settings import Settings
    from als.generation.solve import prepare
    from als.states import StateFolder, samples_of

    problems = read_problems(config)
    share = shard(config)
    folder = StateFolder(_folder(config), shard=share)
    folder.refuse_if_started(resume=config.resume, overwrite=config.overwrite)
    remote = _remote_verifier(config)
    engine = load_engine(config)
    local = _local_verifier(config)
    settings = Settings(
        benchmark=find_benchmark(config.dataset, config.benchmark).name,
        prompt_idx=config.solver_prompt_idx,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        system_prompt=config.system_prompt,
        prefill=effective_prefill(config, engine, config.solver_prompt_idx),
        verifier_max_new_tokens=config.verifier_max_new_tokens,
        judge=config.judge,
    )
    engine.check_hooks()
    prompts = prepare(engine, problems, settings).prompts
    verifies = config.label_by == "verifiers"
    own = settings.verifier_tokens if verifies and config.verifier_model_name_or_path is None else None
    check_context(config, engine, problems, prompts, verifier_tokens=own)
    if local is not None:
        check_context(config, local, problems, [], verifier_tokens=settings.verifier_tokens)
    threshold = config.good_example_threshold if verifies else None
    fields = identity(
        config,
        engine,
        prompt_idx=config.solver_prompt_idx,
        mode="state_collection",
        label_by=config.label_by,
        good_example_threshold=threshold,
        **_drawing_fields(config),
        **_verifier_fields(config, local),
    )
    problems = samples_of(problems, config.samples_per_problem)
    with folder.open(fields, resume=config.resume, overwrite=config.overwrite, goes_on=False):
        folder.check_problems(problems)
        folder.check_prompts(prepare(engine, problems, settings).by_index())
        folder.drop_unfinished()
        part = share.share(problems)
        examples = _collect(config, engine, part, folder, settings, verifier=remote or local)
        for _ in record(config, folder, part, examples, title="collect_states"):
            pass
        summary = folder.finish({problem.index for problem in problems})
        print(_report(folder))
        _check_labels(folder)
    return exit_code([summary])


def _folder(config: Config) -> Path:
    rule = f"thresh{config.good_example_threshold}" if config.label_by == "verifiers" else "answer"
    samples = f"samples{config.samples_per_problem}" if config.samples_per_problem > 1 else ""
    engine = ["vllm"] if config.engine == "vllm" else []
    apart = [config.run_name] if config.run_name else [*judge_label(config), *engine]
    name = "_".join(filter(None, (f"prompt{config.solver_prompt_idx}", rule, _verifier_label(config), samples, *apart)))
    return run_root(config.output_dir, config.model_name_or_path, config.dataset) / "state_collection" / name


def _verifier_label(config: Config) -> str:
    """What the verifier is called in the folder's name; an empty text for the model itself."""
    from als.models import model_label

    name = config.verifier_served_model_name or config.verifier_model_name_or_path
    return model_label(name) if name else ""


def _remote_verifier(config: Config) -> RemoteModel | None:
    """The server that gives the verdicts, asked once; None where there is none."""
    from als.engines.remote import RemoteModel

    if not config.has_remote_verifier:
        return None
    address, name = config.verifier_model_name_or_path, config.verifier_served_model_name
    remote = RemoteModel(str(address), str(name), at_once=config.batch_size or REMOTE_MOST)
    remote.check()
    return remote


def _local_verifier(config: Config) -> Engine | None:
    """The second model, in an engine of its own; None where there is none."""
    if config.verifier_model_name_or_path is None or config.has_remote_verifier:
        return None
    # The arguments of the chat template are the first model's: another template may know none of them.
    other = replace(config, model_name_or_path=config.verifier_model_name_or_path, chat_template_kwargs=None)
    return load_engine(other)


def _verifier_fields(config: Config, local: Engine | None) -> dict[str, Any]:
    """What config.json says of the verifier: nothing of the model itself, and no address, since servers move."""
    from als.models import model_revision

    length = config.verifier_max_new_tokens if config.label_by == "verifiers" else None
    fields: dict[str, Any] = {} if length is None else {"verifier_max_new_tokens": length}
    if config.has_remote_verifier:
        return fields | {"verifier_model": config.verifier_served_model_name, "verifier_revision": None}
    if local is None:
        return fields
    name = str(config.verifier_model_name_or_path).rstrip("/")
    return fields | {"verifier_model": name, "verifier_revision": model_revision(local.model)}


def _drawing(config: Config) -> Drawing:
    from als.states import Drawing

    return Drawing(config.samples_per_problem, config.temperature or Drawing.temperature)


def _drawing_fields(config: Config) -> dict[str, Any]:
    """What config.json says of the draws; nothing where answers are greedy, as in folders older than draws."""
    if config.samples_per_problem == 1:
        return {}
    return {"samples_per_problem": config.samples_per_problem, "temperature": _drawing(config).temperature}


def _collect(
    config: Config,
    engine: Engine,
    problems: list[Problem],
    folder: StateFolder,
    settings: Settings,
    *,
    verifier: Verifier | None,
) -> Iterator[ResultLine]:
    from als.states import Labelling, collect

    labelling = Labelling(config.label_by, config.good_example_threshold)  # type: ignore[arg-type]
    done = folder.done()
    todo = [problem for problem in problems if problem.index not in done]
    if todo:
        folder.begin(environment(config, engine))
    for example in collect(engine, todo, settings, labelling, drawing=_drawing(config), verifier=verifier):
        folder.add(example)
        yield example.line


def _report(folder: StateFolder) -> str:
    labels = [line.details.get("label") for line in folder.lines]
    text = f"{labels.count('good')} good and {labels.count('bad')} bad answers -> {folder.states_path}"
    verdicts = [passed for line in folder.lines for passed in line.details.get("verdicts", {}).values()]
    if verdicts:
        text += f"\n{verdicts.count(None)} of {len(verdicts)} checks came back without a verdict and count as failed"
    return text


def _check_labels(folder: StateFolder) -> None:
    """Print how the labels agree with correctness, and warn where they say little."""
    import warnings

    from als.agreement import describe_labels, label_cautions, report

    labels = describe_labels(folder.lines)
    if labels is None:
        return
    if text := report(labels):
        print(text)
    for sentence in label_cautions(labels):
        warnings.warn(sentence, stacklevel=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(
        Config,
        run,
        argv,
        prog="collect_states",
        description="Answer problems, label the answers good or bad, and keep each answer's mean hidden states.",
    )
