"""als-compute-vector: phase 2, from a folder of labelled states to a vector file.

    compute_steering_vector --states_dir output/<model>-<dataset>/state_collection/prompt0_thresh3/hidden_states \
        --output_file vectors/<name>.pt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als.cli.options import check, option, run_command

if TYPE_CHECKING:
    from als.vectors import MeanDifference


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which states, averaged how, written where."""

    states_dir: str = option("The hidden_states folder that collect_states wrote.")
    output_file: str = option("Vector file to write; its ending, .pt or .safetensors, says the format.")
    averaging_method: str = option(
        "mean, or ema: an exponential moving average in the order of indices.",
        "mean",
        choices=("mean", "ema"),
    )
    ema_beta: float = option("Weight of the past in the moving average.", 0.9)
    skip_bad: bool = option("Leave bad state files out, naming each, instead of stopping.", False)
    overwrite: bool = option("Replace an existing vector file.", False)

    def __post_init__(self) -> None:
        check(0 <= self.ema_beta < 1, "ema_beta", self.ema_beta, "a number from 0 to below 1")


def run(config: Config) -> int:
    """Average, subtract, save, and print what came out."""
    from als.errors import UserError
    from als.states import read_states
    from als.vectors import SteeringVector, check_vector_name, mean_difference, save_vector

    output = Path(config.output_file).expanduser()
    check_vector_name(output)
    if output.exists() and not config.overwrite:
        raise UserError(f"--output_file {str(output)!r} exists; give another name, or --overwrite to replace it")
    states = read_states(Path(config.states_dir), skip_bad=config.skip_bad)
    difference = mean_difference(states, averaging_method=config.averaging_method, ema_beta=config.ema_beta)  # type: ignore[arg-type]
    metadata = _metadata(config, difference)
    try:
        save_vector(output, SteeringVector(difference.vector, metadata))
    except OSError as error:
        raise UserError(f"--output_file {str(output)!r} cannot be written ({error.strerror})") from error
    _report(difference)
    print(f"vector -> {output}")
    return 0


def _metadata(config: Config, difference: MeanDifference) -> dict[str, Any]:
    """What the vector was made from, as far as the folder tells."""
    import warnings

    from als import __version__
    from als.runlog import CONFIG, lines_files, read_folder_lines, read_json
    from als.states import EXAMPLES

    folder = Path(config.states_dir).resolve().parent
    metadata: dict[str, Any] = {
        "tool_version": __version__,
        "layers": difference.vector.shape[0],
        "hidden_size": difference.vector.shape[1],
        "averaging_method": config.averaging_method,
        "ema_beta": config.ema_beta if config.averaging_method == "ema" else None,
        "n_good": difference.n_good,
        "n_bad": difference.n_bad,
    }
    if (folder / CONFIG).is_file() and lines_files(folder, EXAMPLES):
        metadata |= {"collection": read_json(folder / CONFIG)}
        lines = read_folder_lines(folder, EXAMPLES)
        metadata |= {"problem_hashes": sorted(line.problem_hash for line in lines if not line.failed)}
    else:
        warnings.warn(
            f"no {CONFIG} and {EXAMPLES}.jsonl beside {config.states_dir!r}: "
            "the vector will not know its model and problems",
            stacklevel=2,
        )
    return metadata


def _report(difference: MeanDifference) -> None:
    """A line for about ten of the layers."""
    v_norm = difference.vector.norm(dim=-1)  # [L]
    h_norm = difference.mean_state_norm  # [L]
    layers = len(v_norm)
    print(f"{difference.n_good} good and {difference.n_bad} bad answers, {layers} layers")
    print(f"{'layer':>5} {'|v|':>10} {'|mean h|':>10} {'ratio':>8}")
    shown = sorted({*range(0, layers, max(1, layers // 10)), max(layers - 2, 0), layers - 1})
    for layer in shown:
        v, h = float(v_norm[layer]), float(h_norm[layer])
        print(f"{layer:>5} {v:>10.3f} {h:>10.1f} {v / h:>8.2%}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(
        Config,
        run,
        argv,
        prog="compute_steering_vector",
        description="Compute a steering vector for each layer: mean of the good states minus mean of the bad.",
    )
