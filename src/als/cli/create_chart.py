"""als-create-chart: one or several runs in one figure: rolling accuracy, lengths of answers, or what the gate did.

create_chart --log_file output/<model>-<dataset>/als_eval/prompt_0/logistics.pt --output_dir charts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from als.cli.options import check, option, run_command
from als.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which logs, drawn how."""

    log_file: tuple[str, ...] = option("logistics.pt of one or several runs.")
    kind: str = option(
        "accuracy: rolling accuracy; length: tokens of right and wrong answers; gate: cos(h, v) in right "
        "and wrong ones; trace: one answer's tokens, coloured by it.",
        "accuracy",
        choices=("accuracy", "length", "gate", "trace"),
    )
    index: int | None = option("trace: the problem's index.", None)
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
        if (self.kind == "trace") != (self.index is not None):
            raise UserError(
                "--index names the answer of --kind trace, which cannot do without it; give both or neither"
            )
        if self.kind == "trace" and len(self.log_file) > 1:
            raise UserError(f"--kind trace draws an answer of one run, and --log_file names {len(self.log_file)}")


def run(config: Config) -> int:
    """Draw one figure, as PNG and as SVG."""
    from als.answer_charts import answer_figure
    from als.charts import default_name, draw_accuracy, read_log, save_figure

    logs = [read_log(Path(path)) for path in config.log_file]
    folder = Path(config.output_dir).expanduser()
    if config.kind == "accuracy":
        paths = draw_accuracy(logs, window=config.window, output_dir=folder, name=config.name)
    else:
        figure = answer_figure(config.kind, logs, index=config.index)
        detail = "" if config.index is None else f"index{config.index}"
        paths = save_figure(figure, folder, config.name or default_name(logs, config.kind, detail))
    for path in paths:
        print(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv, prog="create_chart", description="Draw runs and their answers.")
