"""Ranks by each launcher's names, and the GPU that each process takes."""

import os

import pytest

from als.cli import main
from als.cli.options import parse
from als.errors import UserError
from als.launch import alone_on_its_gpu, launched, local_gpu, local_rank
from als.models import resolve_device

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
NAMES += ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}
TORCHRUN |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*NAMES, *SLURM, *TORCHRUN, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def set_all(monkeypatch):
    """Sets environment variables."""

    def set_all(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_all


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


def test_tasks_of_srun(set_all) -> None:
    set_all(SLURM_STEP_ID=0, SLURM_PROCID=5, SLURM_NTASKS=8, SLURM_LOCALID=1)
    assert (launched(), local_rank()) == ((5, 8), 1)
    set_all(SLURM_STEP_NUM_TASKS=6)  # the step may have fewer tasks than the job
    assert launched() == (5, 6)
    set_all(RANK=1, WORLD_SIZE=2, LOCAL_RANK=0)  # torchrun as the task of a step
    assert (launched(), local_rank()) == ((1, 2), 0)


@pytest.mark.parametrize("step", [None, "4294967291", "4294967290"], ids=["unset", "batch", "interactive"])
def test_a_batch_script_is_one_process_whatever_the_job_may_start(step, set_all) -> None:
    set_all(SLURM_PROCID=0, SLURM_NTASKS=8, SLURM_LOCALID=0, **({"SLURM_STEP_ID": step} if step else {}))
    assert launched() == (0, 1)


def test_ranks_of_pmi2_have_slurms_local_rank(set_all) -> None:
    set_all(PMI_RANK=5, PMI_SIZE=8, SLURM_PROCID=5, SLURM_NTASKS=8, SLURM_LOCALID=1, SLURM_STEP_ID=0)
    assert (launched(), local_rank(), local_gpu()) == ((5, 8), 1, 1)


def test_the_model_goes_to_the_gpu_of_the_local_rank(set_all, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    set_all(PMI_RANK=5, PMI_SIZE=8, SLURM_PROCID=5, SLURM_NTASKS=8, SLURM_LOCALID=1, SLURM_STEP_ID=0)
    assert str(resolve_device("auto")) == "cuda:1"


def test_a_task_that_sees_one_gpu_takes_it(set_all) -> None:
    set_all(SLURM_STEP_ID=0, SLURM_PROCID=5, SLURM_NTASKS=8, SLURM_LOCALID=1, CUDA_VISIBLE_DEVICES=6)
    assert (local_rank(), local_gpu()) == (1, 0)  # srun --gpus-per-task=1
    set_all(CUDA_VISIBLE_DEVICES="6,7")
    assert local_gpu() == 1


@pytest.mark.parametrize(
    ("visible", "taken"), [(None, "1"), ("4,5,6,7", "5"), ("GPU-a, GPU-b", "GPU-b"), ("6", "6"), ("", "")]
)
def test_vllm_under_a_launcher_takes_the_gpu_of_its_local_rank_by_itself(visible, taken, set_all) -> None:
    set_all(**TORCHRUN, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    with alone_on_its_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == taken
        assert not TORCHRUN.keys() & os.environ.keys()
        with alone_on_its_gpu():  # which takes no second turn
            assert os.environ["CUDA_VISIBLE_DEVICES"] == taken
    assert os.environ["CUDA_VISIBLE_DEVICES"] == taken
    assert launched() == (5, 8)  # which share of the problems is still known
    assert os.environ["MASTER_PORT"] == "29500"


def test_a_process_alone_keeps_its_gpus(set_all) -> None:
    with alone_on_its_gpu():
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    set_all(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, TORCHELASTIC_USE_AGENT_STORE="True", CUDA_VISIBLE_DEVICES="2,3")
    with alone_on_its_gpu():
        assert "TORCHELASTIC_USE_AGENT_STORE" not in os.environ
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_more_processes_than_gpus_are_refused(set_all) -> None:
    set_all(**TORCHRUN | {"LOCAL_RANK": "2"}, CUDA_VISIBLE_DEVICES="0,1")
    with pytest.raises(UserError, match=r"'0,1'.*local rank 2"), alone_on_its_gpu():
        pass


def test_several_devices_for_each_of_several_launched_processes_are_refused(set_all) -> None:
    arguments = ["--model_name_or_path", "m", "--dataset", "arithmetic", "--generation_mode", "greedy_cot"]
    arguments += ["--engine", "vllm", "--tensor_parallel_size", "2"]
    parse(main.Config, arguments, prog="", description="")
    set_all(**TORCHRUN)
    with pytest.raises(UserError, match=r"--tensor_parallel_size 2.*8 processes.*--shard"):
        parse(main.Config, arguments, prog="", description="")
    parse(main.Config, [*arguments[:-1], "1"], prog="", description="")
