"""als-create-subsets: draw a fixed subset of a data set's split.

create_subsets --dataset_name openai/gsm8k --split test --n_samples 200   # -> subsets/openai-gsm8k_test_200.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from als.cli.options import check, option, run_command


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to draw from what."""

    dataset_name: str = option("Data set: a name, hub id, local folder or file; see main --dataset.")
    split: str = option("Split of the data set.", "test")
    benchmark: str | None = option("Benchmark, where the data set's name does not tell.", None)
    n_samples: int = option("How many problems to draw, without repetition.")
    seed: int = option("Seed of the draw.", 42)
    output_dir: str = option("Folder of the subset file.", "./subsets")

    def __post_init__(self) -> None:
        check(self.n_samples >= 1, "n_samples", self.n_samples, "at least 1")


def run(config: Config) -> int:
    """Draw and write one subset file."""
    from als.benchmarks import load_problems
    from als.subsets import draw, subset_name, write_subset

    problems = load_problems(config.dataset_name, split=config.split, benchmark=config.benchmark)
    indices = draw([problem.index for problem in problems], config.n_samples, config.seed)
    path = Path(config.output_dir).expanduser() / subset_name(config.dataset_name, config.split, config.n_samples)
    write_subset(path, indices)
    print(f"{len(indices)} of {len(problems)} problems (seed {config.seed}) -> {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv, prog="create_subsets", description="Draw a fixed subset of a data set.")
