"""Which of several processes this is, as whatever launched them says: accelerate, torchrun, MPI or Slurm's srun.

Read from the environment, because the processes of a run share a folder and nothing else: no process group is
made, none waits for another. Knows nothing of what the processes do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from als.errors import UserError

_RANKS = (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
"""As torchrun, Open MPI and MPICH (or Intel's MPI) name them; the first that are set count."""
_LOCAL_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""In the same order. With PMI-2 the ranks are MPICH's and the local one is Slurm's; in a batch script that is 0."""
_LAST_STEP = 0xFFFFFFF0
"""Slurm's largest step id of tasks; those of the batch script and of an interactive shell lie above."""
_GROUP_NAMES = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
}
_GROUP_PREFIX = "TORCHELASTIC_"
"""What torchrun and accelerate set for torch.distributed."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def launched() -> tuple[int, int]:
    """(rank from 0, number of processes); (0, 1) where nothing launched several.

    Raises:
        UserError: the environment holds what no launcher sets.
    """
    for names in (*_RANKS, *_srun_names()):
        if any(name in os.environ for name in names):
            rank, size = (os.environ.get(name, default) for name, default in zip(names, ("0", "1"), strict=True))
            if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
                raise UserError(
                    f"the environment's {names[0]} and {names[1]} are {rank!r} and {size!r}, which no launcher sets; "
                    "unset them, or give --shard"
                )
            return int(rank), int(size)
    return 0, 1


def _srun_names() -> list[tuple[str, str]]:
    """Slurm's names of rank and size, where this process is a task that srun started.

    A batch script has SLURM_PROCID=0 too, and SLURM_NTASKS for the tasks that it may start, but it is one process.
    Only a task of srun has SLURM_STEP_ID, and with it SLURM_STEP_NUM_TASKS: SLURM_NTASKS may be the whole job's.
    """
    step = os.environ.get("SLURM_STEP_ID", "")
    if not step.isdecimal() or int(step) > _LAST_STEP:
        return []
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in os.environ else "SLURM_NTASKS"
    return [("SLURM_PROCID", size)]


def local_rank() -> int:
    """Which process of this machine this is, from 0: what a GPU is chosen by."""
    ranks = [os.environ[name] for name in _LOCAL_RANKS if name in os.environ]
    return int(ranks[0]) if ranks and ranks[0].isdecimal() else 0


def local_gpu() -> int:
    """The index, among the GPUs that this process can see, of the one it takes.

    A launcher may leave each process one GPU to see (srun --gpus-per-task=1); that one has the index 0.
    """
    return 0 if len(_visible()) == 1 else local_rank()


def _visible() -> list[str]:
    """The names in CUDA_VISIBLE_DEVICES; empty where it is not set."""
    return [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]


@contextmanager
def alone_on_its_gpu() -> Iterator[None]:
    """Inside, this process sees no launcher; for good, it sees no GPU but its own where several were launched.

    For vLLM, which starts processes and a process group of its own: a launcher's variables would make it join
    that launcher's group, and wait for it. CUDA must not have been used before.

    Raises:
        UserError: there are fewer visible GPUs than processes on this machine.
    """
    _, processes = launched()
    visible = _visible()
    if processes > 1 and (len(visible) > 1 or _VISIBLE not in os.environ):
        if visible and local_rank() >= len(visible):
            raise UserError(
                f"{_VISIBLE} is {os.environ[_VISIBLE]!r}, which has no GPU for the process of local rank "
                f"{local_rank()}; start at most {len(visible)} processes on this machine"
            )
        os.environ[_VISIBLE] = visible[local_rank()] if visible else str(local_rank())
    names = [name for name in os.environ if name in _GROUP_NAMES or name.startswith(_GROUP_PREFIX)]
    taken = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(taken)
