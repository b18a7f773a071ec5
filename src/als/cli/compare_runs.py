"""als-compare: do the arms differ? Runs against a first one, paired on the problems that all of them answered.

compare_runs output/<model>-<dataset>/greedy_cot_eval/prompt_0 output/<model>-<dataset>/als_eval/prompt_0
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from als.answers.judges import JUDGES
from als.cli.options import check, option, run_command
from als.errors import UserError

if TYPE_CHECKING:
    from als.comparison import Comparison


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which runs, compared how."""

    runs: tuple[str, ...] = option(
        "Folders of two or more runs, or their logistics.pt; the first is what the others are held against.",
        positional=True,
        metavar="RUN",
    )
    output_dir: str | None = option("Folder for comparison.md and comparison.json; otherwise only printed.", None)
    figure: str | None = option(
        "PNG or SVG file for accuracy against seconds, and for the difference as it went over the problems.", None
    )
    resamples: int = option("Resamples of the bootstrap.", 10_000)
    seed: int = option("Seed of the bootstrap.", 42)
    allow_mismatch: bool = option(
        "Compare runs that differ in model, revision, data, prompt, max_new_tokens, dtype, engine or judge.", False
    )
    judge: str | None = option(
        "Judge the completions of all runs again, see main's --judge; the run folders stay as they are.",
        None,
        choices=JUDGES,
    )

    def __post_init__(self) -> None:
        from als.charts import FORMATS

        kind = Path(self.figure or "").suffix.removeprefix(".").lower()
        check(self.figure is None or kind in FORMATS, "figure", self.figure, "a name that ends in .png or .svg")
        check(self.resamples >= 100, "resamples", self.resamples, "at least 100")
        check(self.seed >= 0, "seed", self.seed, "at least 0")


def run(config: Config) -> int:
    """Print the comparison as Markdown, and write the files that were asked for."""
    from als.comparison import compare, read_arm
    from als.comparison_report import markdown

    arms = [read_arm(path, judge=config.judge) for path in config.runs]
    comparison = compare(arms, resamples=config.resamples, seed=config.seed, allow_mismatch=config.allow_mismatch)
    print(markdown(comparison), end="")
    for path in _write_files(config, comparison):
        print(f"-> {path}", file=sys.stderr)  # so that what is printed is the page and nothing else
    return 0


def _write_files(config: Config, comparison: Comparison) -> list[Path]:
    from als.comparison_charts import draw_comparison
    from als.comparison_report import markdown, to_json
    from als.files import replace_bytes

    written = []
    if config.output_dir is not None:
        folder = Path(config.output_dir).expanduser()
        as_json = json.dumps(to_json(comparison), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        for name, text in (("comparison.md", markdown(comparison)), ("comparison.json", as_json)):
            _write("output_dir", folder / name, partial(replace_bytes, content=text.encode(), what="comparison"))
            written.append(folder / name)
    if config.figure is not None:
        path = Path(config.figure).expanduser()
        _write("figure", path, partial(draw_comparison, comparison))
        written.append(path)
    return written


def _write(flag: str, path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except OSError as error:
        raise UserError(
            f"{str(path)!r} cannot be written ({error.strerror or error}): choose another --{flag}"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(
        Config, run, argv, prog="compare_runs", description="Compare runs on the problems that all of them answered."
    )
