"""Ranks by each launcher's names."""

import pytest

from als.errors import UserError
from als.launch import launched, local_rank

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
NAMES += ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process() -> None:
    assert (launched(), local_rank()) == ((0, 1), 0)


@pytest.mark.parametrize(("rank", "size", "local"), [NAMES[:3], NAMES[3:6], NAMES[6:]])
def test_every_launcher(rank, size, local, monkeypatch) -> None:
    monkeypatch.setenv(rank, "5")
    monkeypatch.setenv(size, "8")
    monkeypatch.setenv(local, "1")
    assert (launched(), local_rank()) == ((5, 8), 1)


@pytest.mark.parametrize(("rank", "size"), [("8", "8"), ("-1", "2"), ("one", "2"), ("3", None)])
def test_what_no_launcher_sets(rank, size, monkeypatch) -> None:
    monkeypatch.setenv("RANK", rank)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UserError, match="which no launcher sets"):
        launched()
