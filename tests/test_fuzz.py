"""Every reader of files, on random bytes, truncations and mutations: a UserError or a right result, nothing else."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from als.benchmarks import load_problems
from als.charts import read_log
from als.errors import UserError
from als.records import Completion, Problem, Verdict, result_line
from als.runlog import read_json, read_lines
from als.states import read_state
from als.subsets import read_subset
from als.vectors import load_vector


def pt(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def legacy_pt(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


STATE = torch.arange(6, dtype=torch.float32).reshape(2, 3)
LINE = result_line(Problem(0, "Q?", "1"), "P", Completion("T", 1, 2, "stop", 0.1), Verdict("1", "1", True, "boxed"))
LOG = {"results_history": [True, False], "time_history": [0.1, 0.2]}
ROW = {"question": "What is 1 + 1?", "answer": "so\n#### 2"}

# name of the file -> its reader, and what it looks like when it is in order
READERS: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "v.pt": (load_vector, pt({"vector": STATE, "metadata": {"n": 1}})),
    "legacy.pt": (load_vector, legacy_pt({"vector": STATE, "metadata": {"n": 1}})),
    "v.safetensors": (load_vector, save({"vector": STATE}, metadata={"metadata": '{"n": 1}'})),
    "state.safetensors": (read_state, save({"mean_state": STATE})),
    "logistics.pt": (read_log, pt(LOG)),
    "results.jsonl": (read_lines, (json.dumps(LINE.to_json()) + "\n").encode() * 2),
    "config.json": (read_json, b'{"mode": "als", "alpha": 0.3}'),
    "subset.txt": (lambda path: read_subset(path, allowed=range(100)), b"1\n7\n20\n"),
    "gsm8k.jsonl": (lambda path: load_problems(str(path), split="test"), json.dumps(ROW).encode() + b"\n"),
    "gsm8k.json": (lambda path: load_problems(str(path), split="test"), json.dumps([ROW]).encode()),
    "gsm8k.csv": (lambda path: load_problems(str(path), split="test"), b'question,answer\n"What?","#### 2"\n'),
}


def read(name: str, path: Path) -> Any:
    """What the reader makes of the file; None where it refuses it as a UserError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return READERS[name][0](path)
        except UserError as error:
            sentence = str(error)
    assert sentence
    assert "\n" not in sentence
    return None


@pytest.mark.parametrize("name", READERS)
def test_what_is_in_order_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(READERS[name][1])
    assert read(name, tmp_path / name) is not None


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The file cut short, with bytes replaced, or something else altogether."""
    kind = draw(st.sampled_from(["cut", "replaced", "inserted", "random"]))
    at = draw(st.integers(0, len(whole)))
    some = draw(st.binary(max_size=12))
    return {
        "cut": whole[:at],
        "replaced": whole[:at] + some + whole[at + len(some) :],
        "inserted": whole[:at] + some + whole[at:],
        "random": draw(st.binary(max_size=300)),
    }[kind]


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(name: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(READERS[name][1])))
    result = read(name, path)
    if result is not None and name in ("v.pt", "legacy.pt", "v.safetensors"):
        assert result.vector.ndim == 2
        assert result.vector.isfinite().all()
        assert isinstance(result.metadata, dict)
    if result is not None and name == "state.safetensors":
        assert result.ndim == 2
        assert result.isfinite().all()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(LINE.to_json())), value=JSON_VALUES)
def test_fields_of_another_type(tmp_path: Path, field: str, value: object) -> None:
    """A line that is JSON but holds something else than it should."""
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(LINE.to_json() | {field: value}) + "\n")
    lines = read("results.jsonl", path)
    assert lines is None or isinstance(lines[0].index, int)
