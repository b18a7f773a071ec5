"""als-compute-vector: phase 2, from a folder of labelled states to a vector file, with what speaks for the vector.

    compute_steering_vector --states_dir output/<model>-<dataset>/state_collection/prompt0_thresh3/hidden_states \
        --output_file vectors/<name>.pt
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als.cli.options import check, option, run_command
from als.errors import UserError

if TYPE_CHECKING:
    from als.agreement import Labels
    from als.contrast import Contrast
    from als.diagnostics import Column, Diagnostics
    from als.estimation import Estimate
    from als.states import StateFile


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which states, contrasted how, written where."""

    states_dir: str = option("The hidden_states folder that collect_states wrote.")
    output_file: str = option("Vector file to write; its ending, .pt or .safetensors, says the format.")
    method: str = option(
        "mean_diff: mean of the good states minus mean of the bad, read one at a time. pca, lda, logistic: the first "
        "principal component, Fisher's discriminant or a logistic regression, as long as that difference; these hold "
        "all states in memory, fit every layer 46 times, and take long where layers are wide.",
        "mean_diff",
        choices=("mean_diff", "pca", "lda", "logistic"),
    )
    match_length: bool = option(
        "Count only pairs of a good and a bad answer of like length, at most a tenth apart.", False
    )
    within_problem: bool = option(
        "Contrast good and bad answers to the same problem only; for states of collect_states --samples_per_problem.",
        False,
    )
    averaging_method: str = option(
        "mean, or ema: an exponential moving average in the order of indices.",
        "mean",
        choices=("mean", "ema"),
    )
    ema_beta: float = option("Weight of the past in the moving average.", 0.9)
    permutations: int | None = option(
        "Permutations of the labels from which the best AUC gets its p-value; 0: none. Otherwise 199 with mean_diff, "
        "and 0 with the other methods, which fit every layer five times for each.",
        None,
    )
    seed: int = option("Seed by which problems are dealt to halves and folds, to check the vector.", 42)
    skip_bad: bool = option(
        "Leave bad state files out, naming each, instead of stopping; reads all files first.", False
    )
    overwrite: bool = option("Replace an existing vector file.", False)

    def __post_init__(self) -> None:
        check(0 <= self.ema_beta < 1, "ema_beta", self.ema_beta, "a number from 0 to below 1")
        check(self.seed >= 0, "seed", self.seed, "at least 0")
        check((self.permutations or 0) >= 0, "permutations", self.permutations, "at least 0")
        if self.averaging_method == "ema":
            other = next((name for name in ("match_length", "within_problem") if getattr(self, name)), None)
            other = other or (f"method {self.method}" if self.method != "mean_diff" else None)
            if other:
                raise UserError(
                    f"--averaging_method ema and --{other} contradict each other: a moving average weighs answers by "
                    "their order; leave out one"
                )


def run(config: Config) -> int:
    """Contrast, check, save, and print what came out."""
    import warnings

    from als.agreement import describe_labels, label_cautions
    from als.contrast import choose, lengths, make_estimate
    from als.diagnostics import cautions, diagnose
    from als.permutation import best_auc_p
    from als.states import find_states
    from als.vectors import SteeringVector, check_vector_name, save_vector

    output = Path(config.output_file).expanduser()
    check_vector_name(output)
    if output.exists() and not config.overwrite:
        raise UserError(f"--output_file {str(output)!r} exists; give another name, or --overwrite to replace it")
    found = find_states(Path(config.states_dir).expanduser(), skip_bad=config.skip_bad)
    contrast = _contrast(config)
    files, sample = choose(contrast, found, seed=config.seed)
    estimate = make_estimate(contrast, files, sample, seed=config.seed)
    permutations = _permutations(config)
    p = best_auc_p(contrast, found, seed=config.seed, permutations=permutations) if permutations else None
    diagnostics = diagnose(sample, estimate, lengths(files), best_auc_p=p, permutations=permutations)
    labels = describe_labels([file.line for file in files if file.line])
    metadata = _metadata(config, files, estimate, diagnostics) | {"state_indices": [file.index for file in found]}
    metadata["labels"] = labels.to_json() if labels else None
    try:
        save_vector(output, SteeringVector(estimate.vector, metadata))
    except OSError as error:
        raise UserError(f"--output_file {str(output)!r} cannot be written ({error.strerror})") from error
    _report(diagnostics, labels, left_out=len(found) - len(files))
    for sentence in [*cautions(diagnostics), *(label_cautions(labels) if labels else [])]:
        warnings.warn(sentence, stacklevel=2)
    print(f"vector -> {output}")
    return 0


def _permutations(config: Config) -> int:
    from als.permutation import PERMUTATIONS

    if config.permutations is not None:
        return config.permutations
    return PERMUTATIONS if config.method == "mean_diff" else 0


def _contrast(config: Config) -> Contrast:
    from als.contrast import Contrast

    return Contrast(
        method=config.method,
        averaging_method=config.averaging_method,
        ema_beta=config.ema_beta,
        match_length=config.match_length,
        within_problem=config.within_problem,
    )


def _metadata(
    config: Config, files: Sequence[StateFile], estimate: Estimate, diagnostics: Diagnostics
) -> dict[str, Any]:
    """What the vector was made from, as far as the folder tells, and what speaks for it."""
    from als import __version__

    options = dataclasses.asdict(config)
    for name in ("output_file", "overwrite", "permutations"):  # they say nothing of the vector
        del options[name]
    return {
        "tool_version": __version__,
        **options,
        "states_dir": str(Path(config.states_dir).expanduser().resolve()),
        "ema_beta": config.ema_beta if config.averaging_method == "ema" else None,
        "layers": estimate.vector.shape[0],
        "hidden_size": estimate.vector.shape[1],
        "n_good": diagnostics.n_good,
        "n_bad": diagnostics.n_bad,
        "diagnostics": diagnostics.to_json(),
        **_origin(config, files),
    }


def _origin(config: Config, files: Sequence[StateFile]) -> dict[str, Any]:
    """The collection's configuration and the problems whose answers count."""
    import warnings

    from als.records import hash_question
    from als.runlog import CONFIG, read_json

    written = Path(config.states_dir).expanduser().resolve().parent / CONFIG
    lines = [file.line for file in files if file.line]
    if not (written.is_file() and lines):
        warnings.warn(
            f"no {CONFIG} and examples.jsonl beside {config.states_dir!r}: "
            "the vector will not know its model and problems",
            stacklevel=2,
        )
        return {}
    return {
        "collection": read_json(written),
        "problem_hashes": sorted({line.problem_hash for line in lines}),
        "masked_problem_hashes": sorted({hash_question(line.question, masked=True) for line in lines}),
    }


HEAD = (
    f"{'layer':>5} {'|v|':>10} {'mean |h|':>10} {'ratio':>8} {'split-half':>10} {'AUC, 95 % interval':>20} "
    f"{'r(length)':>9}"
)


def _report(diagnostics: Diagnostics, labels: Labels | None, *, left_out: int) -> None:
    """A line for about ten of the layers, those that matter among them."""
    from als.agreement import report as agreement

    layers = len(diagnostics.v_norm)
    counts = f"{diagnostics.n_good} good and {diagnostics.n_bad} bad answers to {diagnostics.n_problems} problems"
    print(
        f"{counts}, {layers} layers" + (f"; {left_out} answers that compare with no other left out" if left_out else "")
    )
    if diagnostics.tokens_good is not None and diagnostics.tokens_bad is not None:
        print(f"mean length {diagnostics.tokens_good:.1f} tokens of the good, {diagnostics.tokens_bad:.1f} of the bad")
    if labels and (text := agreement(labels)):
        print(text)
    print(HEAD)
    for layer in sorted({*range(0, layers, max(1, layers // 10)), *diagnostics.judged_layers, layers - 1}):
        print(_row(diagnostics, layer))
    if diagnostics.best_auc_layer is not None:
        print(_best(diagnostics, diagnostics.best_auc_layer))


def _best(diagnostics: Diagnostics, layer: int) -> str:
    """The best AUC with a p-value that takes the choice of the layer into account."""
    said = f"best AUC of {len(diagnostics.auc)} layers: {diagnostics.auc[layer]:.3f} at layer {layer}, "
    if diagnostics.best_auc_p is None:
        said += "no p-value (see --permutations)"
    else:
        said += f"p = {diagnostics.best_auc_p:.3f} (best AUCs of {diagnostics.permutations} label permutations)"
    return f"{said}; the intervals are those of layers fixed beforehand"


def _row(diagnostics: Diagnostics, layer: int) -> str:
    def cell(column: Column, form: str) -> str:
        value = column[layer]
        return "" if value is None else format(value, form)

    interval = ""
    if diagnostics.auc[layer] is not None:
        ends = f"[{cell(diagnostics.auc_low, '.3f')}, {cell(diagnostics.auc_high, '.3f')}]"
        interval = f"{cell(diagnostics.auc, '.3f')} {ends}"
    best = "  best AUC" if layer == diagnostics.best_auc_layer else ""
    return (
        f"{layer:>5} {cell(diagnostics.v_norm, '.3f'):>10} {cell(diagnostics.h_norm, '.1f'):>10} "
        f"{cell(diagnostics.ratio, '.2%'):>8} {cell(diagnostics.split_half_cosine, '.2f'):>10} {interval:>20} "
        f"{cell(diagnostics.length_correlation, '.2f'):>9}{best}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(
        Config,
        run,
        argv,
        prog="compute_steering_vector",
        description="Compute a steering vector for each layer from good and bad states, and what speaks for it.",
    )
