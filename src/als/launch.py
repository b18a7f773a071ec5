"""Which of several processes this is, as whatever launched them says: accelerate, torchrun or MPI.

Read from the environment, because the processes of a run share a folder and nothing else: no process group is
made, none waits for another. Knows nothing of what the processes do.
"""

from __future__ import annotations

import os

from als.errors import UserError

_RANKS = (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
"""As torchrun, Open MPI and MPICH (or Intel's MPI) name them; the first that are set count."""
_LOCAL_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


def launched() -> tuple[int, int]:
    """(rank from 0, number of processes); (0, 1) where nothing launched several.

    Raises:
        UserError: the environment holds what no launcher sets.
    """
    for names in _RANKS:
        if any(name in os.environ for name in names):
            rank, size = (os.environ.get(name, default) for name, default in zip(names, ("0", "1"), strict=True))
            if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
                raise UserError(
                    f"the environment's {names[0]} and {names[1]} are {rank!r} and {size!r}, which no launcher sets; "
                    "unset them, or give --shard"
                )
            return int(rank), int(size)
    return 0, 1


def local_rank() -> int:
    """Which process of this machine this is, from 0: what a GPU is chosen by."""
    ranks = [os.environ[name] for name in _LOCAL_RANKS if name in os.environ]
    return int(ranks[0]) if ranks and ranks[0].isdecimal() else 0
