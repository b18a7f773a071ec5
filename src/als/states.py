"""Phase 1: answer problems, label the answers good or bad, and keep each answer's mean residual stream.

    <folder>/config.json
    <folder>/examples.jsonl                              a results line an example, with label and verdicts
    <folder>/hidden_states/idx_<i>_<good|bad>.safetensors   `mean_state` [L, D] float32

An example is finished when its state file and its line are both on disk; the line comes last.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from als.errors import UserError
from als.files import write_bytes
from als.generation.settings import Settings
from als.generation.solve import solve
from als.records import Problem, ResultLine
from als.reward import approvals, verify
from als.runlog import RunFolder, Shard, lines_files, read_folder_lines

if TYPE_CHECKING:
    from torch import Tensor

    from als.engines.base import Engine, Output

Label = Literal["good", "bad"]
EXAMPLES = "examples"
STATES = "hidden_states"
_NAME = re.compile(r"idx_(\d+)_(good|bad)\.safetensors")


@dataclass(frozen=True)
class Labelling:
    """How an answer comes to be good or bad."""

    by: Literal["verifiers", "answer"] = "verifiers"
    """`verifiers`: by the model's own four verdicts; `answer`: by the gold answer, and no verifier runs."""
    good_example_threshold: int = 3
    """How many of the four verdicts have to be true."""


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled answer."""

    line: ResultLine
    label: Label | None
    """None where the line is a failure."""
    mean_state: Tensor | None
    """[L, D] float32: mean over emitting positions of the output of each block; None for a failure."""


def collect(engine: Engine, problems: Sequence[Problem], settings: Settings, labelling: Labelling) -> Iterator[Example]:
    """Answer problems; yield each with its label and mean state."""
    if labelling.by == "answer":
        return _by_answer(engine, problems, settings)
    return _by_verifiers(engine, problems, settings, labelling.good_example_threshold)


def _by_answer(engine: Engine, problems: Sequence[Problem], settings: Settings) -> Iterator[Example]:
    for line, output in solve(engine, problems, settings, capture_states=True):
        yield _example(line, output, good=line.correct)


def _by_verifiers(engine: Engine, problems: Sequence[Problem], settings: Settings, threshold: int) -> Iterator[Example]:
    """A batch of answers at a time, because engines do one thing at a time."""
    start = 0
    while start < len(problems):
        batch = problems[start : start + engine.batch_size]
        start += len(batch)  # not the batch size, which the engine lowers when memory runs out
        answered = list(solve(engine, batch, settings, capture_states=True))
        asked = [(line.question, line.completion) for line, output in answered if output]
        verdicts = iter(verify(engine, asked, max_new_tokens=settings.max_new_tokens))
        for line, output in answered:
            passed = next(verdicts) if output else {}
            yield _example(line, output, good=approvals(passed) >= threshold, verdicts=passed)


def _example(line: ResultLine, output: Output | None, *, good: bool, **details: object) -> Example:
    if output is None:
        return Example(line, None, None)
    label: Label = "good" if good else "bad"
    return Example(line.with_details(label=label, **details), label, output.mean_state)


class StateFolder(RunFolder):
    """The folder of phase 1: a run folder whose lines come with state files."""

    def __init__(self, path: Path, *, shard: Shard | None = None) -> None:
        super().__init__(path, stem=EXAMPLES, shard=shard)
        self.states_path = path / STATES

    def drop_unfinished(self) -> None:
        """Forget examples without a readable state file."""
        self.forget(lambda line: not line.failed and not _is_whole(self._state_path(line.index, _label_of(line))))

    def add(self, example: Example) -> None:
        """Write the state file, then the line; a file of the same example without a line is of a killed process."""
        from safetensors.torch import save

        if example.mean_state is None or example.label is None:
            self.append(example.line)
            return
        other: Label = "bad" if example.label == "good" else "good"
        self._state_path(example.line.index, other).unlink(missing_ok=True)
        tensors = {"mean_state": example.mean_state.contiguous()}
        write_bytes(self._state_path(example.line.index, example.label), save(tensors))
        self.append(example.line)

    def _state_path(self, index: int, label: str) -> Path:
        return self.states_path / f"idx_{index}_{label}.safetensors"


def state_files(states_dir: Path) -> list[tuple[int, Label, Path]]:
    """(index, label, path) of every state file of a folder, in the order of indices."""
    found = [(match, path) for path in states_dir.glob("*.safetensors") if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), match[2], path) for match, path in found)  # type: ignore[misc]


def read_state(path: Path, *, shape: list[int] | None = None) -> Tensor:
    """The mean state [L, D] float32 of one file.

    Args:
        path: the file.
        shape: what its shape has to be, where that is known.

    Raises:
        UserError: not a state file: unreadable, another shape or dtype, NaN or infinite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: Tensor = load_file(path)["mean_state"]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"state file {str(path)!r} cannot be read ({error}); collect it again with --resume") from error
    if state.ndim != 2 or state.dtype != torch.float32 or not _all_finite(state):
        raise UserError(
            f"state file {str(path)!r} holds {list(state.shape)} {state.dtype}, or values that are not finite; "
            "expected a finite float32 mean_state of [layers, hidden]; collect it again with --resume"
        )
    if shape is not None and list(state.shape) != shape:
        raise UserError(
            f"state file {str(path)!r} has shape {list(state.shape)}, the files before it {shape}; "
            "one folder holds the states of one model"
        )
    return state


def read_states(states_dir: Path, *, skip_bad: bool = False) -> Iterator[tuple[Label, Tensor]]:
    """Stream the labelled mean states of a hidden_states folder, one in memory at a time.

    Where the folder's examples.jsonl is there, a state file without a line is passed over: the process that
    wrote it was killed before its example was finished.

    Args:
        states_dir: the folder.
        skip_bad: name a bad file in a warning and leave it out, instead of stopping.

    Raises:
        UserError: no such folder, no state file of either label, a bad file, or files of unequal shape.
    """
    if not states_dir.is_dir():
        raise UserError(f"--states_dir {str(states_dir)!r} is not a folder; give the one that collect_states made")
    files = state_files(states_dir)
    if lines_files(states_dir.resolve().parent, EXAMPLES):
        finished = {line.index for line in read_folder_lines(states_dir.resolve().parent, EXAMPLES)}
        files = [file for file in files if file[0] in finished]
    for label in ("good", "bad"):
        if not any(found == label for _, found, _ in files):
            raise UserError(
                f"--states_dir {str(states_dir)!r} holds {len(files)} states and none of them is labelled {label}; "
                "both labels are needed: collect more examples, or label with another --good_example_threshold"
            )
    shape: list[int] | None = None
    for _, label, path in files:
        try:
            state = read_state(path, shape=shape)
        except UserError as error:
            if not skip_bad:
                raise UserError(f"{error}, or leave it out with --skip_bad") from error
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        shape = list(state.shape)
        yield label, state


def _all_finite(state: Tensor) -> bool:
    """In one pass without a copy: NaN is the least and the largest of numbers that hold one."""
    return not state.numel() or all(math.isfinite(float(extreme)) for extreme in state.aminmax())


def _label_of(line: ResultLine) -> str:
    return str(line.details.get("label"))


def _is_whole(path: Path) -> bool:
    try:
        read_state(path)
    except UserError:
        return False
    return True
