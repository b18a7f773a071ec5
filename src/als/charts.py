"""Run logs -> figures: how accuracy went over a run, one run or several in one picture.

    draw_accuracy([read_log(path)], window=50, output_dir=Path("charts"), name=None)

It knows the two lists in a `logistics.pt` and what the folders above it are called; it knows no model, and
reads neither results nor configurations. Figures are drawn without pyplot, so no display and no state of the
process is involved, and the same logs give the same bytes.
"""

import hashlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from als.benchmarks import BENCHMARKS
from als.errors import UserError
from als.files import load_pt, replace_bytes

FORMATS = ("png", "svg")


@dataclass(frozen=True)
class RunLog:
    """One run's log, and what its folders say about the run."""

    path: Path
    results: tuple[bool, ...]
    """Whether each answer was right, in the order of the run."""
    seconds: tuple[float, ...]
    """How long each answer took."""
    model: str
    """The model's name; empty where the path does not say it."""
    data: str
    """The data set's name; empty where the path does not tell it from the model's."""
    run: str
    """Mode and prompt, for instance "als prompt_0"."""

    @property
    def accuracy(self) -> float:
        """The share of right answers in the whole run."""
        return sum(self.results) / len(self.results)


def rolling_mean(results: Sequence[bool], window: int) -> list[float]:
    """The share of right answers among the last `window`; at the start, among those so far."""
    if window < 1:
        raise UserError(f"--window {window!r} is too small: give the number of problems to average, 1 or more")
    means, right = [], 0
    for place, result in enumerate(results):
        right += result
        if place >= window:
            right -= results[place - window]
        means.append(right / min(place + 1, window))
    return means


# ------------------------------------------------------------------------------------------ reading logs


def read_log(path: Path | str) -> RunLog:
    """Read a `logistics.pt`.

    Raises:
        UserError: no such file, or one that holds something else than a run's two lists.
    """
    path = Path(path).expanduser()
    content = load_pt(path, expected="the logistics.pt of a run, at --log_file")
    results, seconds = _lists(content, path)
    model, data, run = _describe(path)
    return RunLog(path, tuple(results), tuple(map(float, seconds)), model, data, run)


def _lists(content: Any, path: Path) -> tuple[list[bool], list[float]]:
    expected = "give a logistics.pt with the lists results_history and time_history"
    if not isinstance(content, dict):
        raise UserError(f"--log_file {str(path)!r} holds {type(content).__name__}, not a run log: {expected}")
    results, seconds = content.get("results_history"), content.get("time_history")
    if not (isinstance(results, list) and all(isinstance(result, bool) for result in results)):
        raise UserError(f"--log_file {str(path)!r} has no results_history of True and False: {expected}")
    if not (isinstance(seconds, list) and all(map(_is_duration, seconds))):
        raise UserError(f"--log_file {str(path)!r} has no time_history of seconds: {expected}")
    if len(results) != len(seconds):
        raise UserError(
            f"--log_file {str(path)!r} has {len(results)} results but {len(seconds)} times, which is not "
            "what a run writes: make the log again by running with --resume"
        )
    if not results:
        raise UserError(f"--log_file {str(path)!r} has no results yet: draw it once the run has answered some")
    return results, seconds


def _is_duration(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]


def _describe(path: Path) -> tuple[str, str, str]:
    """Model, data set and run, from <model>-<data set>/<mode>_eval/prompt_<i>/.../<file>.

    The name of a data set may hold a slash and so take two folders, and a dash does not tell where the
    model's name ends; the names of the known data sets do.
    """
    parts = path.absolute().parts[:-1]
    at = next((i for i in reversed(range(len(parts))) if parts[i].endswith("_eval")), None)
    if at is None:
        return "", "", parts[-1] if path.name == "logistics.pt" and len(parts) > 1 else path.stem
    run = " ".join((parts[at].removesuffix("_eval"), *parts[at + 1 :]))
    subject = "/".join(parts[max(at - 2, 0) : at])
    for name in _dataset_names():
        if subject.casefold().endswith(f"-{name.casefold()}"):
            return subject[: -len(name) - 1].rsplit("/", 1)[-1], subject[-len(name) :], run
    return parts[at - 1] if at > 1 else "", "", run


def _dataset_names() -> list[str]:
    """The names that data sets go by, the longest first: -openai/gsm8k before -gsm8k."""
    names = {name for benchmark in BENCHMARKS.values() for name in (benchmark.name, *benchmark.ids)}
    return sorted(names, key=lambda name: (-len(name), name))


# ------------------------------------------------------------------------------------------ words on it


def title(logs: Sequence[RunLog]) -> str:
    """What the logs have in common: the model, the data set, both or neither."""
    models, data = {log.model for log in logs}, {log.data for log in logs}
    shared = [values.pop() for values in (models, data) if len(values) == 1]
    return " on ".join(value for value in shared if value) or "Accuracy"


def labels(logs: Sequence[RunLog]) -> list[str]:
    """What each log is called in the legend: its run, and the model and data set where these differ."""
    names = [log.run for log in logs]
    for field in ("model", "data"):
        values = [getattr(log, field) for log in logs]
        if len(set(values)) > 1:
            names = [f"{name}, {value}" if value else name for name, value in zip(names, values, strict=True)]
    return [
        f"{name} ({log.path.parent})" if names.count(name) > 1 else name for name, log in zip(names, logs, strict=True)
    ]


def default_name(logs: Sequence[RunLog], kind: str, detail: str = "") -> str:
    """A file name, without ending, that says what is drawn; long ones are cut and marked with a digest."""
    whole = "_".join(filter(None, (kind, title(logs), *labels(logs), detail)))
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", whole).strip("-.")
    if len(plain) <= 120:
        return plain
    return f"{plain[:100]}_{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


# ---------------------------------------------------------------------------------------------- drawing


def draw_accuracy(logs: Sequence[RunLog], *, window: int, output_dir: Path, name: str | None = None) -> list[Path]:
    """Draw the rolling accuracy of each log with its overall accuracy, as PNG and as SVG.

    A chart of the same name that looks otherwise, as after more of a run, is replaced with a warning.

    Args:
        logs: the runs, all into one picture.
        window: how many problems the rolling accuracy covers.
        output_dir: made if it is not there.
        name: the file name without its ending; by default one that says what is drawn.
    """
    if not logs:
        raise UserError("no --log_file was given: give the logistics.pt of one run or more")
    return save_figure(_figure(logs, window), output_dir, name or default_name(logs, "accuracy", f"window{window}"))


def save_figure(figure: Any, output_dir: Path, stem: str) -> list[Path]:
    """Write a figure as PNG and as SVG; a chart of the same name that looks otherwise is replaced with a warning.

    Args:
        figure: matplotlib's.
        output_dir: made if it is not there.
        stem: the file name without its ending.
    """
    paths = [Path(output_dir) / f"{stem}.{kind}" for kind in FORMATS]
    try:
        for path, kind in zip(paths, FORMATS, strict=True):
            replace_bytes(path, render(figure, kind), what="chart")
    except OSError as error:
        raise UserError(
            f"the chart cannot be written to {str(output_dir)!r} ({error.strerror or error}): "
            "choose another --output_dir"
        ) from error
    return paths


def _figure(logs: Sequence[RunLog], window: int) -> Any:
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    names, colours = labels(logs), colormaps["tab10"]
    figure = Figure(figsize=(8, 4.4 + 0.24 * len(logs)), layout="constrained")
    axes = figure.add_subplot()
    for place, log in enumerate(logs):
        _draw_log(axes, log, name=names[place], window=window, colour=colours(place % 10))
    axes.set_title(title(logs))
    axes.set_xlabel("problems answered")
    axes.set_ylabel(f"accuracy over the last {window} problems" if window > 1 else "accuracy")
    axes.set_ylim(-2, 102)  # room for lines that lie on 0 or 100 %
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", frameon=False, title="dashed: accuracy of the whole run")
    return figure


def _draw_log(axes: Any, log: RunLog, *, name: str, window: int, colour: Any) -> None:
    overall = 100 * log.accuracy
    places = range(1, len(log.results) + 1)
    means = [100 * mean for mean in rolling_mean(log.results, window)]
    # A run of one answer has no line to see, so it gets a dot.
    axes.plot(
        places,
        means,
        color=colour,
        linewidth=1.6,
        marker="o" if len(means) == 1 else None,
        label=f"{name}: {overall:.1f} % of {len(means)}",
    )
    axes.axhline(overall, color=colour, linestyle="--", linewidth=1, alpha=0.8)


def render(figure: Any, kind: str) -> bytes:
    """A figure as the bytes of a file; kind is one of FORMATS."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # Without these two an SVG carries the time and random ids, and differs from itself on every call.
    with rc_context({"svg.hashsalt": "als"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
