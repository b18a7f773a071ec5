"""Phase 1: answer problems, label the answers good or bad, and keep each answer's mean residual stream.

    <folder>/config.json
    <folder>/examples.jsonl                              a results line an example, with label and verdicts
    <folder>/hidden_states/idx_<i>_<good|bad>.safetensors   `mean_state` [L, D] float32

An example is finished when its state file and its line are both on disk; the line comes last.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from als.errors import UserError
from als.files import write_bytes
from als.generation.self_consistency import sample_seed
from als.generation.settings import Settings
from als.generation.solve import solve
from als.records import Problem, ResultLine
from als.reward import approvals, verify
from als.runlog import RunFolder, Shard, lines_files, read_folder_lines

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from als.engines.base import Engine, Output, Sampling, Verifier

Label = Literal["good", "bad"]
EXAMPLES = "examples"
STATES = "hidden_states"
_LARGEST_STATE = 2**31
"""Bytes; a file that claims more is left to the library."""
_NAME = re.compile(r"idx_(\d+)_(good|bad)\.safetensors")


@dataclass(frozen=True)
class Labelling:
    """How an answer comes to be good or bad."""

    by: Literal["verifiers", "answer"] = "verifiers"
    """`verifiers`: by the model's own four verdicts; `answer`: by the gold answer, and no verifier runs."""
    good_example_threshold: int = 3
    """How many of the four verdicts have to be true."""


@dataclass(frozen=True)
class Drawing:
    """How many answers a problem gets."""

    samples: int = 1
    """With 1 the answer is the greedy one."""
    temperature: float = 0.7
    """Divides the logits where there are several."""


GREEDY = Drawing()


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled answer."""

    line: ResultLine
    label: Label | None
    """None where the line is a failure."""
    mean_state: Tensor | None
    """[L, D] float32: mean over emitting positions of the output of each block; None for a failure."""


def samples_of(problems: Sequence[Problem], samples: int) -> list[Problem]:
    """Each problem as often as it is answered: sample k of problem i has the index i * samples + k."""
    return [replace(problem, index=problem.index * samples + k) for problem in problems for k in range(samples)]


def collect(
    engine: Engine,
    problems: Sequence[Problem],
    settings: Settings,
    labelling: Labelling,
    *,
    drawing: Drawing = GREEDY,
    verifier: Verifier | None = None,
) -> Iterator[Example]:
    """Answer problems; yield each with its label and mean state.

    Args:
        engine: the model.
        problems: where several answers are drawn, what `samples_of` makes of them, or any part of it.
        settings: the run's.
        labelling: what a good answer is.
        drawing: how often each problem is answered.
        verifier: what gives the verdicts; without one, the model itself.
    """
    if labelling.by == "answer":
        examples = _by_answer(engine, problems, settings, drawing=drawing)
    else:
        threshold = labelling.good_example_threshold
        verifier = verifier or engine
        examples = _by_verifiers(engine, problems, settings, drawing=drawing, threshold=threshold, verifier=verifier)
    for example in examples:
        yield example if drawing.samples == 1 else _numbered(example, drawing.samples)


def _by_answer(
    engine: Engine, problems: Sequence[Problem], settings: Settings, *, drawing: Drawing
) -> Iterator[Example]:
    for line, output in _answer(engine, problems, settings, drawing=drawing):
        yield _example(line, output, good=line.correct)


def _by_verifiers(
    engine: Engine,
    problems: Sequence[Problem],
    settings: Settings,
    *,
    drawing: Drawing,
    threshold: int,
    verifier: Verifier,
) -> Iterator[Example]:
    """A batch of answers at a time, because engines do one thing at a time."""
    start = 0
    while start < len(problems):
        batch = problems[start : start + engine.batch_size]
        start += len(batch)  # not the batch size, which the engine lowers when memory runs out
        answered = list(_answer(engine, batch, settings, drawing=drawing))
        asked = [(line.question, line.completion) for line, output in answered if output]
        verdicts = iter(verify(verifier, asked, max_new_tokens=settings.verifier_tokens))
        for line, output in answered:
            passed = next(verdicts) if output else {}
            yield _example(line, output, good=approvals(passed) >= threshold, verdicts=passed)


def _answer(
    engine: Engine, problems: Sequence[Problem], settings: Settings, *, drawing: Drawing
) -> Iterator[tuple[ResultLine, Output | None]]:
    sampling = None if drawing.samples == 1 else partial(_sampling, settings.seed, drawing)
    return solve(engine, problems, settings, capture_states=True, sampling=sampling)


def _sampling(seed: int, drawing: Drawing, problems: Sequence[Problem]) -> Sampling:
    """A draw for each of these samples, decided by the run's seed, the question and the sample's number."""
    from als.engines.base import Sampling

    seeds = [[sample_seed(seed, problem, problem.index % drawing.samples)] for problem in problems]
    return Sampling(drawing.temperature, seeds)


def _numbered(example: Example, samples: int) -> Example:
    problem_index, sample = divmod(example.line.index, samples)
    return replace(example, line=example.line.with_details(problem_index=problem_index, sample=sample))


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

    def _read_lines(self) -> list[ResultLine]:
        return _read_examples(self.path, state_files(self.states_path), traces=False)

    def _state_path(self, index: int, label: str) -> Path:
        return self.states_path / f"idx_{index}_{label}.safetensors"


def _read_examples(folder: Path, files: Iterable[tuple[int, Label, Path]], *, traces: bool = True) -> list[ResultLine]:
    """The lines of all processes, an index once. Of several lines, that counts whose label has a state file.

    An example that is collected again may get the other label, and then its line may stand in another file.
    """
    labels = {(index, label) for index, label, _ in files}
    return read_folder_lines(
        folder, EXAMPLES, traces=traces, counts=lambda line: (line.index, _label_of(line)) in labels
    )


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

    state = _read_plain(path)
    state = _read_by_library(path) if state is None else state
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


def _read_plain(path: Path) -> Tensor | None:
    """The mean state of a file that holds nothing else, in half the library's time; None where it may hold more.

    A safetensors file is the header's length (8 bytes), the header in JSON, and the numbers. Whatever is not
    exactly so is for the library to read or to refuse.
    """
    import numpy as np
    import torch

    try:
        with path.open("rb", buffering=0) as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size - 8 - length
            if not 0 < size <= _LARGEST_STATE:
                return None
            header = json.loads(file.read(length))
            shape = header["mean_state"]["shape"]
            if header != {"mean_state": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}:
                return None
            state = np.empty(size // 4, dtype="<f4").reshape(shape)
            return torch.from_numpy(state) if file.readinto(state.data) == size else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _read_by_library(path: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: Tensor = load_file(path)["mean_state"]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"state file {str(path)!r} cannot be read ({error}); collect it again with --resume") from error
    return state


@dataclass(frozen=True, eq=False)
class StateFile:
    """A labelled state on disk."""

    index: int
    label: Label
    path: Path
    line: ResultLine | None
    """What examples.jsonl says of the answer; None where there is no such file."""


def find_states(states_dir: Path, *, skip_bad: bool = False) -> list[StateFile]:
    """The labelled states of a hidden_states folder, in the order of indices.

    Where the folder's examples.jsonl is there, a state file without a line is passed over: the process that
    wrote it was killed before its example was finished.

    Args:
        states_dir: the folder.
        skip_bad: read every file now, name a bad one in a warning and leave it out.

    Raises:
        UserError: no such folder, or no state of either label.
    """
    if not states_dir.is_dir():
        raise UserError(f"--states_dir {str(states_dir)!r} is not a folder; give the one that collect_states made")
    found = state_files(states_dir)
    folder = states_dir.resolve().parent
    if lines_files(folder, EXAMPLES):
        lines = {line.index: line for line in _read_examples(folder, found)}
        files = [StateFile(*file, lines[file[0]]) for file in found if file[0] in lines]
    else:
        files = [StateFile(*file, None) for file in found]
    if skip_bad:
        files = _without_bad(files)
    for label in ("good", "bad"):
        if not any(file.label == label for file in files):
            raise UserError(
                f"--states_dir {str(states_dir)!r} holds {len(files)} states and none of them is labelled {label}; "
                "both labels are needed: collect more examples, or label with another --good_example_threshold"
            )
    return files


def _without_bad(files: Sequence[StateFile]) -> list[StateFile]:
    whole: list[StateFile] = []
    shape: list[int] | None = None
    for file in files:
        try:
            shape = list(read_state(file.path, shape=shape).shape)
            whole.append(file)
        except UserError as error:
            warnings.warn(f"left out: {error}", stacklevel=3)
    return whole


def read_states(files: Iterable[StateFile]) -> Iterator[Tensor]:
    """Stream the mean states [L, D] float32 of files, one in memory at a time.

    Raises:
        UserError: a bad file, or files of unequal shape.
    """
    shape: list[int] | None = None
    for file in files:
        try:
            state = read_state(file.path, shape=shape)
        except UserError as error:
            raise UserError(f"{error}, or leave it out with --skip_bad") from error
        shape = list(state.shape)
        yield state


def all_states(files: Sequence[StateFile]) -> npt.NDArray[np.float32]:
    """The mean states of files together: [N, L, D] float32.

    Raises:
        UserError: see `read_states`.
    """
    import numpy as np

    read = read_states(files)
    first = next(read)
    states = np.empty((len(files), *first.shape), dtype=np.float32)
    states[0] = first
    for i, state in enumerate(read, start=1):
        states[i] = state
    return states


def read_by_layer(files: Sequence[StateFile], *, at_once: int = 2**30) -> Iterator[npt.NDArray[np.float32]]:
    """The states of all files, layer by layer: [N, D] float32 each.

    Args:
        files: those to read.
        at_once: bytes of states in memory; the files are read as often as this needs.

    Raises:
        UserError: see `read_states`.
    """
    import numpy as np

    layers, width = next(read_states(files)).shape
    group = max(1, at_once // (len(files) * width * 4))
    for start in range(0, layers, group):
        states = np.empty((min(group, layers - start), len(files), width), dtype=np.float32)
        for i, state in enumerate(read_states(files) if start == 0 else read_states_again(files)):
            states[:, i] = state[start : start + group]
        yield from states


def read_states_again(files: Iterable[StateFile]) -> Iterator[Tensor]:
    """The same of files that `read_states` has been through: not checked again."""
    for file in files:
        state = _read_plain(file.path)
        yield _read_by_library(file.path) if state is None else state


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
