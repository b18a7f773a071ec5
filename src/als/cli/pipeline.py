"""What collect_states and main share: the problems, the engine, the folder of a model on a data set, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als.cli.options import ENGINE_OPTIONS, DataConfig, FolderConfig, ModelConfig
from als.launch import alone_on_its_gpu

if TYPE_CHECKING:
    from als.engines.base import Engine
    from als.engines.transformers_engine import TransformersEngine
    from als.engines.vllm_engine import VllmEngine
    from als.records import Problem, ResultLine
    from als.runlog import RunFolder, Shard

VLLM_MOST = 256
"""Answers in flight in vLLM with --batch_size auto."""
LOG_EVERY = 10.0
"""Seconds between two updates of logistics.pt, so that a running run can be plotted."""


def read_problems(config: DataConfig, subset_path: str | None = None) -> list[Problem]:
    """The problems of the split, cut down to the range and the subset file.

    Raises:
        UserError: see `benchmarks.load_problems`, `subsets.read_subset` and `subsets.select`.
    """
    from als.benchmarks import load_problems
    from als.subsets import read_subset, select

    problems = load_problems(config.dataset, split=config.split, benchmark=config.benchmark)
    indices = None
    if subset_path is not None:
        indices = read_subset(Path(subset_path), allowed={problem.index for problem in problems})
    return select(problems, start=config.start_data_idx, end=config.end_data_idx, indices=indices)


def load_engine(config: ModelConfig) -> Engine:
    """Load the model into the engine that --engine names."""
    import torch
    from transformers import logging

    logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    return _load_vllm(config) if config.engine == "vllm" else _load_transformers(config)


def _load_transformers(config: ModelConfig) -> TransformersEngine:
    from als.engines.transformers_engine import TransformersEngine
    from als.models import load_model

    model, tokenizer = load_model(
        config.model_name_or_path,
        dtype=config.dtype,
        device=config.device,
        device_map=config.device_map,
        attn_implementation=config.attn_implementation,
        allow_pickle=config.allow_pickle,
        trust_remote_code=config.trust_remote_code,
    )
    return TransformersEngine(
        model,
        tokenizer,
        batch_size=config.batch_size or 1,  # see check_context
        chat_template_kwargs=config.chat_template_kwargs,
    )


@alone_on_its_gpu()
def _load_vllm(config: ModelConfig) -> VllmEngine:
    from als.engines.vllm_engine import VllmEngine

    return VllmEngine.load(
        config.model_name_or_path,
        dtype=config.dtype,
        device=config.device,
        allow_pickle=config.allow_pickle,
        trust_remote_code=config.trust_remote_code,
        batch_size=config.batch_size or VLLM_MOST,  # it admits what fits into memory
        seed=config.seed,
        chat_template_kwargs=config.chat_template_kwargs,
        options={name: value for name in ENGINE_OPTIONS["vllm"] if (value := getattr(config, name)) is not None},
    )


def check_context(
    config: ModelConfig,
    engine: Engine,
    problems: Sequence[Problem],
    prompts: Sequence[str],
    *,
    verifier_tokens: int | None,
) -> None:
    """Make sure that prompts and answers fit into the model's context; with --batch_size auto, into memory too.

    Args:
        config: what says how long answers may be.
        engine: of the model.
        problems: those that the run is about.
        prompts: everything that is put to the model as it is.
        verifier_tokens: tokens that a verdict may have where answers go through the verifiers, whose prompts hold
            them; None where they do not.

    Raises:
        UserError: a prompt is too long.
    """
    import warnings

    from als.reward import check_verifiers

    longest = engine.check_prompts(prompts, max_new_tokens=config.max_new_tokens)
    new_tokens = config.max_new_tokens
    if verifier_tokens is not None:
        with_answers = check_verifiers(
            engine, problems, max_new_tokens=new_tokens, verifier_max_new_tokens=verifier_tokens
        )
        longest, new_tokens = max(longest, with_answers), max(new_tokens, verifier_tokens)
    if config.batch_size is None and config.engine == "transformers":
        from als.engines.memory import fitting_batch_size

        fits = fitting_batch_size(engine.model, prompt_tokens=longest, max_new_tokens=new_tokens)
        engine.batch_size = fits
        warnings.warn(f"--batch_size auto: {fits} answers together", stacklevel=2)


def effective_prefill(config: Any, engine: Engine, prompt_idx: int) -> str:
    """The beginning of the answers to a solver prompt: --prefill, or the prompt's own.

    A model that is made to think first does not begin with its answer: it gets no prefill unless asked for.
    """
    from als.benchmarks import find_benchmark
    from als.generation.solve import template_opening
    from als.prompts.solver import default_prefill

    if config.prefill is not None:
        return str(config.prefill)
    benchmark = find_benchmark(config.dataset, config.benchmark).name
    thinks = template_opening(engine, benchmark=benchmark, prompt_idx=prompt_idx, system_prompt=config.system_prompt)
    return "" if thinks else default_prefill(prompt_idx)


def run_root(output_dir: str, model_name_or_path: str, dataset: str) -> Path:
    """output/<model>-<dataset>: a data set's name keeps its slash, a path counts by its last part."""
    from als.benchmarks import dataset_label
    from als.models import model_label

    return Path(output_dir).expanduser() / f"{model_label(model_name_or_path)}-{dataset_label(dataset)}"


def judge_label(config: DataConfig) -> list[str]:
    """The judge's part of a folder's name; none for the default judge."""
    return [] if config.judge == "als" else [config.judge]


def identity(config: Any, engine: Engine, *, prompt_idx: int, mode: str, **more: Any) -> dict[str, Any]:
    """What makes a run this run and no other: the content of config.json.

    The range of problems, the batch size and the device are not part of it: a run may be widened, or go on
    elsewhere. The engine is: two engines add in another order, and a last digit can decide between two tokens.
    """
    from als.benchmarks import find_benchmark
    from als.models import model_revision
    from als.runlog import LATER_FIELDS

    return {
        "mode": mode,
        "model": str(config.model_name_or_path).rstrip("/"),
        "revision": model_revision(engine.model),
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "engine": config.engine,
        "dataset": config.dataset.rstrip("/"),
        "benchmark": find_benchmark(config.dataset, config.benchmark).name,
        "split": config.split,
        "prompt_idx": prompt_idx,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "chat_template_hash": engine.template.hash,
        "chat_template_kwargs": config.chat_template_kwargs or None,
        "system_prompt": config.system_prompt,
        "prefill": effective_prefill(config, engine, prompt_idx) or None,
        **({"judge": config.judge} if config.judge != LATER_FIELDS["judge"] else {}),
        **more,
    }


def environment(config: Any, engine: Engine) -> dict[str, Any]:
    """What does not identify a run but decides how fast it is: this process's entry of environment.json."""
    from als.environment import describe

    problems = (config.start_data_idx, config.end_data_idx)
    return describe(engine, problem_range=problems, shard=f"{config.process + 1}/{config.processes}")


def shard(config: FolderConfig) -> Shard:
    """The share of the run that this process does."""
    from als.runlog import Shard

    return Shard(config.process, config.processes)


def record(
    config: FolderConfig, folder: RunFolder, problems: list[Problem], lines: Iterable[ResultLine], *, title: str
) -> Iterator[ResultLine]:
    """Pass lines through to be written, under a progress bar with the running accuracy.

    Of processes that were launched together only the first shows a bar, that of its own share. logistics.pt is
    refreshed now and then, and when the run ends for whatever reason.

    Args:
        problems: those of this process.
        lines: the results to come, of the problems that have none yet.
    """
    from tqdm import tqdm

    silent = config.shard is None and config.process > 0
    wanted = {problem.index for problem in problems}
    earlier = [line for line in folder.lines if line.index in wanted and not line.failed]
    n, correct = len(earlier), sum(line.correct for line in earlier)
    with (
        tqdm(total=len(problems), initial=n, desc=title, unit="problem", disable=silent) as bar,
        _log_kept(folder) as refresh,
    ):
        for line in lines:
            yield line
            n, correct = n + 1, correct + line.correct
            bar.set_postfix_str(f"accuracy {correct / n:.1%}", refresh=False)
            bar.update()
            refresh()
            if config.verbose:
                bar.write(_shown(line))


def exit_code(summaries: Sequence[Mapping[str, Any] | None]) -> int:
    """0, or 3 where single problems failed; a share whose run is not complete yet has no summary."""
    failures = sum(summary["failures"] for summary in summaries if summary)
    if failures:
        sys.stderr.write(f"{failures} problems failed, see `error` in their lines; --resume tries them again\n")
    return 3 if failures else 0


@contextmanager
def _log_kept(folder: RunFolder) -> Iterator[Any]:
    written = time.monotonic()

    def refresh() -> None:
        nonlocal written
        if time.monotonic() - written > LOG_EVERY:
            folder.write_logistics()
            written = time.monotonic()

    try:
        yield refresh
    finally:
        folder.write_logistics()


def _shown(line: ResultLine) -> str:
    """One answer for the terminal; control characters of question and completion are escaped."""
    from termcolor import colored

    question, text = (
        "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in raw)
        for raw in (line.question, line.completion)
    )
    verdict = colored("right", "green") if line.correct else colored("wrong", "red")
    return f"[{line.index}] {question}\n{text}\n-> {line.answer!r}, gold {line.gold!r}: {verdict}\n"
