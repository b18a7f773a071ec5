"""Results lines -> figures of single answers: what steering saw and did in them, and how long they are.

    trace     one answer's tokens, coloured by cos(h, v) before steering, those that were steered underlined
    gate      the distribution of that cosine over the tokens of right and of wrong answers
    length    tokens of right and of wrong answers, run by run

It knows results lines and how `als.charts` names runs and turns figures into files; it knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from als.charts import RunLog, labels, title
from als.errors import UserError
from als.records import ResultLine
from als.runlog import CONFIG, read_folder_lines, read_json

KINDS = ("trace", "gate", "length")
COLUMNS = 100
"""Characters a line of a trace."""
_EM = 9  # points
_ADVANCE = 0.602  # em, of every character in matplotlib's DejaVu Sans Mono
_LINE, _SIDE, _ABOVE, _BELOW = 0.22, 0.3, 0.4, 0.9  # inches: a line of text, and the margins around them


@dataclass(frozen=True)
class Run:
    """A run's answers, and what it is called."""

    name: str
    folder: Path
    lines: tuple[ResultLine, ...]
    """Without failures, in the order of the data set."""


def read_runs(logs: Sequence[RunLog]) -> list[Run]:
    """The answers that lie beside run logs.

    Raises:
        UserError: none do.
    """
    runs = []
    for log, name in zip(logs, labels(logs), strict=True):
        folder = log.path.parent
        lines = sorted(read_folder_lines(folder), key=lambda line: line.index)
        runs.append(Run(name, folder, tuple(line for line in lines if not line.failed)))
        if not runs[-1].lines:
            raise UserError(f"{str(folder)!r} holds no answers beside its log; give the logistics.pt in a run's folder")
    return runs


def answer_figure(kind: str, logs: Sequence[RunLog], *, index: int | None = None) -> Any:
    """A matplotlib figure.

    Args:
        kind: one of KINDS.
        logs: the runs; a trace takes one.
        index: for a trace, the problem.

    Raises:
        UserError: a run has no such answer, or none that was steered.
    """
    runs = read_runs(logs)
    if kind == "trace":
        return _trace_figure(runs[0], _line_at(runs[0], index))
    figure = _gate_figure(runs) if kind == "gate" else _length_figure(runs)
    figure.suptitle(title(logs))
    return figure


def _line_at(run: Run, index: int | None) -> ResultLine:
    line = next((line for line in run.lines if line.index == index), None)
    if line is None:
        raise UserError(f"--index {index!r}: {str(run.folder)!r} has no answer of that index")
    return line


# ------------------------------------------------------------------------------------------ one answer


@dataclass(frozen=True)
class Tokens:
    """The trace in a results line."""

    pieces: list[str]
    cosines: list[float]
    steered: list[bool]


def tokens_of(line: ResultLine) -> Tokens | None:
    """What steering saw and did in an answer; None where it was not steered.

    Raises:
        UserError: the line's trace is not one.
    """
    trace = line.details.get("trace")
    if trace is None:
        return None
    try:
        pieces, cosines = [str(piece) for piece in trace["tokens"]], [float(value) for value in trace["cosines"]]
        steered = [bool(on) for on in trace["steered"]]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"the trace of answer {line.index} cannot be read ({error!r}); run it again") from error
    if not len(pieces) == len(cosines) == len(steered):
        raise UserError(f"the trace of answer {line.index} has columns of unequal length; run it again")
    return Tokens(pieces, cosines, steered)


def layout(pieces: Sequence[str], columns: int = COLUMNS) -> list[tuple[int, int, str]]:
    """Where each piece is set: (line, column, text), a line break shown as a sign at its end."""
    places = []
    line = column = 0
    for piece in pieces:
        shown = piece.replace("\n", "⏎").replace("\t", " ")
        if column + len(shown) > columns:
            line, column = line + 1, 0
        places.append((line, column, shown))
        column += len(shown)
        if "\n" in piece:
            line, column = line + 1, 0
    return places


def _trace_figure(run: Run, line: ResultLine) -> Any:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    tokens = tokens_of(line)
    if tokens is None or not tokens.pieces:
        raise UserError(f"{str(run.folder)!r} did not steer: its answers have no trace; give the log of a steered run")
    places = layout(tokens.pieces)
    height = places[-1][0] + 1
    width = COLUMNS * _EM * _ADVANCE / 72  # inches
    size = (width + 2 * _SIDE, _LINE * height + _BELOW + _ABOVE)
    figure = Figure(figsize=size)
    axes = figure.add_axes((_SIDE / size[0], _BELOW / size[1], width / size[0], _LINE * height / size[1]))
    axes.set_xlim(0, COLUMNS)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    most = max(abs(value) for value in tokens.cosines) or 1.0
    scale, colours = Normalize(-most, most), colormaps["coolwarm"]
    for place, cosine, on in zip(places, tokens.cosines, tokens.steered, strict=True):
        _draw_token(axes, place, colours(float(scale(cosine))), on=on)
    verdict = "right" if line.correct else "wrong"
    axes.set_title(f"{run.name}, problem {line.index}: {verdict}", fontsize="medium")
    bar = figure.add_axes((0.3, 0.55 / size[1], 0.4, 0.12 / size[1]))
    figure.colorbar(
        ScalarMappable(scale, colours),
        cax=bar,
        orientation="horizontal",
        label="cos(h, v) before steering; underlined: steered",
    )
    return figure


def _draw_token(axes: Any, place: tuple[int, int, str], colour: Any, *, on: bool) -> None:
    from matplotlib.patches import Rectangle

    line, column, text = place
    axes.add_patch(Rectangle((column, line), len(text), 0.92, facecolor=(*colour[:3], 0.6), linewidth=0))
    # A dollar sign is a dollar sign and no formula.
    axes.text(column, line + 0.72, text, family="monospace", fontsize=_EM, parse_math=False)
    if on and text:
        axes.plot([column + 0.1, column + len(text) - 0.1], [line + 0.88] * 2, color="black", linewidth=0.8)


# ------------------------------------------------------------------------------------------ many answers


def _gate_figure(runs: Sequence[Run]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.0 + 2.4 * len(runs)), layout="constrained")
    rows = figure.subplots(len(runs), 1, squeeze=False, sharex=True)[:, 0]
    for axes, run in zip(rows, runs, strict=True):
        _draw_gate(axes, run)
    rows[-1].set_xlabel("cos(h, v) before steering, every token")
    return figure


def _draw_gate(axes: Any, run: Run) -> None:
    import numpy as np

    traces = [(line.correct, tokens_of(line)) for line in run.lines]
    cosines = {
        name: [value for correct, tokens in traces if tokens and correct == right for value in tokens.cosines]
        for name, right in (("right", True), ("wrong", False))
    }
    everything = [value for values in cosines.values() for value in values]
    if not everything:
        raise UserError(f"{str(run.folder)!r} did not steer: its answers have no trace; give the log of a steered run")
    bins = np.linspace(min(everything), max(everything) + 1e-6, 60)
    for name, values in cosines.items():
        answers = sum(line.correct == (name == "right") for line in run.lines)
        label = f"{name}: {answers} answers, {len(values)} tokens"
        axes.hist(values, bins=bins, density=bool(values), histtype="step", linewidth=1.4, label=label)
    tau = read_json(run.folder / CONFIG).get("similarity_threshold")
    if isinstance(tau, int | float):
        axes.axvline(tau, color="black", linestyle="--", linewidth=1, label=f"tau = {tau:g}: steered to the left")
    axes.set_title(run.name, fontsize="medium")
    axes.set_ylabel("density")
    axes.legend(fontsize="small", frameon=False)


def _length_figure(runs: Sequence[Run]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.8 * len(runs)), layout="constrained")
    axes = figure.add_subplot()
    ticks = []
    for place, run in enumerate(runs):
        for right, colour, offset in ((True, "tab:green", -0.18), (False, "tab:red", 0.18)):
            tokens = [line.completion_tokens for line in run.lines if line.correct == right]
            ticks.append((place + offset, f"{run.name}, {'right' if right else 'wrong'} ({len(tokens)})"))
            if tokens:
                box = axes.boxplot([tokens], positions=[place + offset], widths=0.3, orientation="horizontal")
                for part in (*box["boxes"], *box["medians"]):
                    part.set_color(colour)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize="small")
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlabel("tokens of the completion")
    axes.grid(axis="x", alpha=0.3)
    return figure
