"""State files and vector files: what is read, and every unusable file. For what lies between see test_estimation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from als.errors import UserError
from als.states import all_states, find_states, read_states, read_states_again
from als.vectors import SteeringVector, load_vector, save_vector

LAYERS, HIDDEN = 3, 5


def some_states(n: int = 12) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [("good" if i % 3 else "bad", torch.randn(LAYERS, HIDDEN, generator=generator)) for i in range(n)]


def write_states(folder: Path, states: list[tuple[str, torch.Tensor]]) -> Path:
    folder.mkdir()
    for index, (label, state) in enumerate(states):
        save_file({"mean_state": state}, folder / f"idx_{index}_{label}.safetensors")
    return folder


def read(folder: Path, **options: bool) -> list[tuple[str, torch.Tensor]]:
    files = find_states(folder, **options)
    return [(file.label, state) for file, state in zip(files, read_states(files), strict=True)]


def test_reading_streams_in_the_order_of_indices(tmp_path: Path) -> None:
    states = some_states()
    found = read(write_states(tmp_path / "states", states))
    assert [label for label, _ in found] == [label for label, _ in states]
    assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(found, states, strict=True))


def test_reading_again_gives_the_same(tmp_path: Path) -> None:
    """Also from a file whose state is not alone, or does not come first."""
    states = some_states()
    folder = write_states(tmp_path / "states", states)
    more = {"a": torch.zeros(7), "mean_state": states[4][1], "z": torch.ones(LAYERS, HIDDEN)}
    save_file(more, folder / f"idx_4_{states[4][0]}.safetensors")
    again = list(read_states_again(find_states(folder)))
    assert all(torch.equal(mine, theirs) for mine, (_, theirs) in zip(again, states, strict=True))
    assert np.array_equal(all_states(find_states(folder)), torch.stack([state for _, state in states]).numpy())


@pytest.mark.parametrize("missing", ["good", "bad"])
def test_a_label_without_states(tmp_path: Path, missing: str) -> None:
    folder = write_states(tmp_path / "states", [state for state in some_states() if state[0] != missing])
    with pytest.raises(UserError, match=missing):
        read(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    "tensors",
    [
        {"mean_state": torch.full((LAYERS, HIDDEN), torch.nan)},
        {"mean_state": torch.zeros(LAYERS, HIDDEN, dtype=torch.float16)},
        {"mean_state": torch.zeros(LAYERS, HIDDEN, dtype=torch.int32)},
        {"mean_state": torch.zeros(LAYERS, HIDDEN + 1)},
        {"mean_state": torch.zeros(HIDDEN)},
        {"other": torch.zeros(LAYERS, HIDDEN)},
    ],
    ids=["nan", "dtype", "dtype of the same size", "another size", "shape", "name"],
)
def test_a_bad_state_file_is_named(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder = write_states(tmp_path / "states", some_states())
    save_file(tensors, folder / "idx_5_good.safetensors")
    with pytest.raises(UserError, match="idx_5_good"):
        read(folder)


def test_a_bad_state_file_is_left_out_when_asked_for(tmp_path: Path) -> None:
    states = some_states()
    folder = write_states(tmp_path / "states", states)
    save_file({"mean_state": torch.zeros(LAYERS, HIDDEN + 1)}, folder / "idx_5_good.safetensors")
    with pytest.warns(UserWarning, match="left out.*idx_5_good"):
        found = read(folder, skip_bad=True)
    assert len(found) == len(states) - 1


def test_a_truncated_state_file_is_named(tmp_path: Path) -> None:
    folder = write_states(tmp_path / "states", some_states())
    whole = (folder / "idx_4_good.safetensors").read_bytes()
    (folder / "idx_4_good.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="idx_4_good"):
        read(folder)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_vector_survives_its_file(tmp_path: Path, ending: str) -> None:
    vector = SteeringVector(torch.randn(LAYERS, HIDDEN), {"n_good": 3, "collection": {"model": "m"}})
    path = tmp_path / "deep" / f"v{ending}"
    save_vector(path, vector)
    loaded = load_vector(path)
    assert torch.equal(loaded.vector, vector.vector)
    assert loaded.metadata == vector.metadata
    assert loaded.sha256 == vector.sha256
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_bare_tensor_loads_with_a_warning(tmp_path: Path) -> None:
    torch.save(torch.arange(5.0), tmp_path / "v.pt")
    with pytest.warns(UserWarning, match="bare tensor"):
        loaded = load_vector(tmp_path / "v.pt")
    assert loaded.vector.tolist() == [[0, 1, 2, 3, 4]]
    assert loaded.metadata == {}


class Payload:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.path)!r}, 'w').write('ran')",))


def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    torch.save({"vector": Payload(tmp_path / "ran")}, tmp_path / "v.pt")
    with pytest.raises(UserError, match="plain tensors"):
        load_vector(tmp_path / "v.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        "text",
        {"metadata": {}},
        {"vector": [1.0, 2.0]},
        torch.zeros(2, 2, 2),
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([1.0, float("nan")]),
        torch.tensor([1.0, float("inf")]),
        torch.zeros(0),
    ],
    ids=["text", "no vector", "a list", "three dimensions", "integers", "nan", "inf", "empty"],
)
def test_what_is_not_a_vector(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "v.pt")
    with pytest.raises(UserError, match=r"v\.pt"):
        load_vector(tmp_path / "v.pt")


@pytest.mark.parametrize("name", ["missing.pt", "missing.safetensors", "vector.bin", "vector"])
def test_a_vector_that_is_not_there_or_of_no_known_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=name):
        load_vector(tmp_path / name)


@pytest.mark.parametrize("name", ["v.pt", "v.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04K\x01.", bytes(200)])
def test_bytes_that_are_no_vector(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_vector(tmp_path / name)
