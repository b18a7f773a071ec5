"""als-create-chart: rolling accuracy of one or several runs in one figure.

create_chart --log_file output/<model>-<dataset>/als_eval/prompt_0/logistics.pt --output_dir charts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from als.cli.options import check, option, run_command


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which logs, drawn how."""

    log_file: tuple[str, ...] = option("logistics.pt of one or several runs.")
    output_dir: str = option("Folder of the figures.", "./charts")
    window: int = option("Problems that the rolling accuracy is taken over.", 50)
    name: str | None = option("Name of the figure's files; otherwise told from the logs.", None)

    def __post_init__(self) -> None:
        check(self.window >= 1, "window", self.window, "at least 1")
        check(
            self.name is None or (bool(self.name) and "/" not in self.name),
            "name",
            self.name,
            "no slash in it",
        )


def run(config: Config) -> int:
    """Draw one figure, as PNG and as SVG."""
    from als.charts import draw_accuracy, read_log

    logs = [read_log(Path(path)) for path in config.log_file]
    for path in draw_accuracy(logs, window=config.window, output_dir=Path(config.output_dir), name=config.name):
        print(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv, prog="create_chart", description="Draw the rolling accuracy of runs.")
