"""What goes wrong on shared machines, done to the real commands as processes of their own.

Killed at random instants, told to stop, out of disk, two at once, a torn line, another configuration, several
processes: no finished example is lost, none is counted twice, and the end is that of an uninterrupted run.

The long form (-m slow) starts the scripts with the real model, and kills each of them ALS_KILLS times
(scripts/soak.sh sets that) at instants that follow from ALS_SEED. The short form, which runs by default, does the most
important of these to a tiny model: each command runs in a child of a process that has imported the libraries already,
is stopped at a chosen write to the disk, and is killed or told to stop there.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from als.runlog import read_folder_lines
from als.states import read_state
from conftest import TINY_HIDDEN, TINY_LAYERS
from forked import Forked, hear_ctrl_c

ROOT = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get("ALS_KILLS", "10"))
SEED = int(os.environ.get("ALS_SEED", "0"))
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
MPI_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # in a container, mostly
MODEL = "SmolLM2-135M-Instruct"
N = 12


LONG = pytest.param(MODEL, marks=pytest.mark.slow)
only_long = pytest.mark.parametrize("model", [LONG], indirect=True)
"""For a test that has no short form."""


@pytest.fixture(scope="module", params=["tiny", LONG])
def model(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def options(model, request) -> list[str]:
    path = request.getfixturevalue("tiny_path" if model == "tiny" else "smollm2_path")
    model = ["--model_name_or_path", str(path), "--dtype", "float32", "--device", "cpu"]
    return [*model, "--dataset", "arithmetic", "--end_data_idx", str(N), "--batch_size", "2", "--max_new_tokens", "6"]


@pytest.fixture(scope="module")
def vector(model, tmp_path_factory) -> Path:
    import torch

    shape = (TINY_LAYERS, TINY_HIDDEN) if model == "tiny" else (30, 576)
    path = tmp_path_factory.mktemp("vectors") / "v.pt"
    generator = torch.Generator().manual_seed(0)
    torch.save({"vector": torch.randn(shape, generator=generator), "metadata": {}}, path)
    return path


@pytest.fixture(scope="module")
def commands(model, options, vector) -> dict[str, list[str]]:
    """The command lines under test; --output_dir is still to come. A name after FORKED runs as `Forked`."""
    start = FORKED if model == "tiny" else ""
    evaluate = [f"{start}main", *options, "--prompts_to_run", "0"]
    steer = ["--vector_name_template", str(vector), "--alpha_scale", "residual"]
    return {
        "collect_states": [f"{start}collect_states", *options, "--label_by", "answer"],
        "als": [*evaluate, "--generation_mode", "als", *steer],
        "latentseek": [
            *evaluate,
            "--generation_mode",
            "latentseek",
            "--k",
            "0.5",
            "--max_num_steps",
            "1",
            "--end_data_idx",
            "4",
        ],
        "greedy_cot": [*evaluate, "--generation_mode", "greedy_cot"],
        "sweep": [f"{start}sweep", *options, *steer[:2], *SWEEP],
        "null_test": [f"{start}null_test", *options, *steer, "--controls", "1", "--kinds", "random"],
    }


SWEEP = ["--alphas", "0,0.5", "--layers", "1", "--thresholds", "none", "--scales", "raw", "--selection_range", "0:6"]


FORKED = "forked "


def start(command: list[str], output: Path, *more: str, launcher: tuple[str, ...] = (), stop_at: int | None = None):
    name, *arguments = command
    if name.startswith(FORKED):
        name, flag = name.removeprefix(FORKED), "--output_file" if output.suffix else "--output_dir"
        return Forked(name, [*arguments, flag, str(output), *more], stop_at=stop_at)
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "src" / f"{name}.py"), *arguments, "--output_dir", str(output), *more],
        env=ONE_THREAD | MPI_AS_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )


def start_and_stop(command: list[str], output: Path, *more: str, writes: int):
    """A process that has come to a stop with some lines on the disk; kill it, or let it go on with SIGCONT."""
    process = start(command, output, *more, stop_at=writes)
    if isinstance(process, Forked):
        deadline = time.monotonic() + 100
        stat = Path(f"/proc/{process.pid}/stat")
        while time.monotonic() < deadline and process.poll() is None:
            if stat.read_text().rpartition(")")[2].split()[0] == "T":
                return process
            time.sleep(0.005)
        raise AssertionError(f"{writes} writes did not come: {process.communicate(1)}")
    wait_for_lines(output, max(1, writes - 2), process)
    process.send_signal(signal.SIGSTOP)
    return process


def finish(process: subprocess.Popen[str] | Forked, code: int = 0) -> tuple[str, str]:
    """What a process printed, once it has ended with this exit code."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    return out, err


def folder(output: Path) -> Path:
    """The one folder with a configuration below an output folder."""
    (config,) = output.glob("**/config.json")
    return config.parent


def lines(output: Path) -> list[dict[str, object]]:
    """Every results line but for its seconds and environment, in the order of the data set."""
    return lines_of(folder(output))


def all_lines(output: Path) -> dict[str, list[dict[str, object]]]:
    """The same for each of several run folders."""
    return {str(path.parent.relative_to(output)): lines_of(path.parent) for path in output.glob("**/config.json")}


def lines_of(path: Path) -> list[dict[str, object]]:
    stem = "examples" if "state_collection" in str(path) else "results"
    read = [line.to_json() | {"seconds": 0, "environment": 0} for line in read_folder_lines(path, stem)]
    read = [line | {name: near(line[name]) for name in MEASURED if name in line} for line in read]
    return sorted(read, key=lambda line: int(str(line["index"])))


MEASURED = ("trace", "cosine_quantiles", "mean_relative_dose")
"""Fields with numbers for every token, too many for all to be rounded alike; everything else is equal."""


class Near(float):
    """Equal to what is rounded one digit up or down: what else was in a batch changes a cosine's last digits."""

    __hash__ = float.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(self - other) <= 1.1e-3


def near(value: Any) -> Any:
    """The same JSON with its fractions as `Near`."""
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    if isinstance(value, list):
        return [near(item) for item in value]
    return Near(value) if isinstance(value, float) else value


def same_states(output: Path, straight: Path) -> bool:
    """Whether two folders hold the same states; what else was in a batch changes their last digits."""
    mine, theirs = (
        {path.name: read_state(path) for path in run.glob("**/*.safetensors")} for run in (output, straight)
    )
    assert mine.keys() == theirs.keys()
    return all(bool((mine[name] - theirs[name]).norm() < 1e-4 * theirs[name].norm()) for name in mine)


def wait_for_lines(output: Path, n: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has written its first lines."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        written = [path.read_bytes().count(b"\n") for path in output.glob("**/*.jsonl")]
        if sum(written) >= n:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {n} lines came: {process.communicate()}")


@pytest.fixture(scope="module")
def uninterrupted(commands, tmp_path_factory):
    """mode -> (output folder of a run that nothing disturbed, its seconds)."""
    done: dict[str, tuple[Path, float]] = {}

    def run(mode: str) -> tuple[Path, float]:
        if mode not in done:
            output = tmp_path_factory.mktemp(f"straight_{mode}")
            started = time.monotonic()
            finish(start(commands[mode], output))
            done[mode] = output, time.monotonic() - started
        return done[mode]

    return run


@pytest.mark.parametrize("model", ["tiny"], indirect=True)
@pytest.mark.parametrize("mode", ["collect_states", "als", "latentseek"])
def test_killed_at_a_random_write(mode, commands, uninterrupted, tmp_path) -> None:
    straight, _ = uninterrupted(mode)
    n = len(lines(straight))
    process = start_and_stop(commands[mode], tmp_path, writes=random.Random(f"{SEED} {mode}").randint(2, n))
    process.kill()
    process.communicate(100)
    assert process.returncode == -signal.SIGKILL
    assert len(lines(tmp_path)) < n
    written = {path: path.read_bytes() for path in tmp_path.glob("**/*.jsonl")}
    finish(start(commands[mode], tmp_path, "--resume"))
    assert all(path.read_bytes().startswith(content) for path, content in written.items())
    assert lines(tmp_path) == lines(straight)
    assert same_states(tmp_path, straight)
    assert json.loads((folder(tmp_path) / "summary.json").read_text())["n"] == n > 3


@pytest.mark.parametrize("model", ["tiny"], indirect=True)
@pytest.mark.parametrize(("name", "report"), [("sweep", "chosen.json"), ("null_test", "null_test.json")])
def test_a_command_of_several_runs_killed_at_a_random_write(name, report, commands, uninterrupted, tmp_path) -> None:
    straight, _ = uninterrupted(name)
    n = sum(map(len, all_lines(straight).values()))
    process = start_and_stop(commands[name], tmp_path, writes=random.Random(f"{SEED} {name}").randint(9, n))
    process.kill()
    process.communicate(100)
    assert sum(map(len, all_lines(tmp_path).values())) < n
    assert not list(tmp_path.glob(f"**/{report}"))
    written = {path: path.read_bytes() for path in tmp_path.glob("**/*.jsonl")}
    assert any(written.values())
    finish(start(commands[name], tmp_path, "--resume"))
    assert all(path.read_bytes().startswith(content) for path, content in written.items())
    assert all_lines(tmp_path) == all_lines(straight)
    (mine,), (theirs,) = (list(output.glob(f"**/{report}")) for output in (tmp_path, straight))
    assert json.loads(mine.read_text()) | {"runs": 0} == json.loads(theirs.read_text()) | {"runs": 0}


def test_a_vector_that_is_being_written_when_the_command_is_killed(tmp_path) -> None:
    import torch
    from safetensors.torch import save_file

    states, output = tmp_path / "hidden_states", tmp_path / "v.pt"
    states.mkdir()
    for i in range(8):
        state = torch.randn(TINY_LAYERS, TINY_HIDDEN, generator=torch.Generator().manual_seed(i))
        save_file({"mean_state": state}, states / f"idx_{i}_{'good' if i % 2 else 'bad'}.safetensors")
    command = [f"{FORKED}compute_steering_vector", "--states_dir", str(states)]
    process = start_and_stop(command, output, writes=1)
    process.kill()
    process.communicate(100)
    assert not output.exists()
    finish(start(command, output))
    assert torch.load(output, weights_only=True)["vector"].shape == (TINY_LAYERS, TINY_HIDDEN)


@only_long
@pytest.mark.timeout(100 + 100 * KILLS)
@pytest.mark.parametrize("mode", ["collect_states", "als", "latentseek"])
def test_killed_at_random_instants(mode, commands, uninterrupted, tmp_path) -> None:
    straight, seconds = uninterrupted(mode)
    instants = random.Random(f"{SEED} {mode}")
    output, kills = tmp_path / "0", 0
    while kills < KILLS:
        process = start(commands[mode], output, "--resume")
        try:
            process.wait(instants.uniform(0.3, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:  # it got through: what it left is whole, and the kills that are left hit a new run
            finish(process)
            assert lines(output) == lines(straight)
            output = tmp_path / str(kills)
    finish(start(commands[mode], output, "--resume"))
    assert lines(output) == lines(straight)
    assert same_states(output, straight)
    n = len(lines(straight))
    assert [line["index"] for line in lines(output)] == list(range(n))
    assert json.loads((folder(output) / "summary.json").read_text())["n"] == n > 3


@pytest.mark.parametrize(
    ("sent", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_stops_cleanly_and_says_how_to_resume(sent, code, word, commands, uninterrupted, tmp_path) -> None:
    process = start_and_stop(commands["als"], tmp_path, writes=4)
    process.send_signal(sent)
    process.send_signal(signal.SIGCONT)
    _, err = finish(process, code)
    assert word in err.splitlines()[-1]
    assert "--resume" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (folder(tmp_path) / "summary.json").exists()
    assert (folder(tmp_path) / "logistics.pt").exists()
    finish(start(commands["als"], tmp_path, "--resume"))
    assert lines(tmp_path) == lines(uninterrupted("als")[0])


def test_two_writers(commands, uninterrupted, tmp_path) -> None:
    first = start_and_stop(commands["als"], tmp_path, writes=3)  # so that it is still there when the second comes
    _, err = finish(start(commands["als"], tmp_path, "--resume"), 2)
    assert "another process" in err
    first.send_signal(signal.SIGCONT)
    finish(first)
    assert lines(tmp_path) == lines(uninterrupted("als")[0])


@only_long
def test_a_torn_line_a_lost_log_and_a_torn_state_are_made_again(commands, uninterrupted, tmp_path) -> None:
    straight, _ = uninterrupted("collect_states")
    process = start(commands["collect_states"], tmp_path)
    wait_for_lines(tmp_path, 6, process)
    process.kill()
    process.communicate()
    examples = folder(tmp_path) / "examples.jsonl"
    examples.write_bytes(examples.read_bytes()[:-20])
    state = next(iter(sorted(tmp_path.glob("**/*.safetensors"))))
    state.write_bytes(state.read_bytes()[:1000])
    (folder(tmp_path) / "logistics.pt").write_bytes(b"torn")
    _, err = finish(start(commands["collect_states"], tmp_path, "--resume"))
    assert "unfinished last line" in err
    assert lines(tmp_path) == lines(straight)
    assert same_states(tmp_path, straight)


@only_long
def test_another_configuration_is_refused_and_nothing_is_lost(commands, uninterrupted) -> None:
    straight, _ = uninterrupted("als")
    before = {path: path.read_bytes() for path in straight.glob("**/*") if path.is_file()}
    changed = [*commands["als"], "--seed", "7", "--max_new_tokens", "5"]
    _, err = finish(start(changed, straight, "--resume"), 2)
    assert "max_new_tokens: then 6, now 5; seed: then 42, now 7" in err
    assert {path: path.read_bytes() for path in straight.glob("**/*") if path.is_file()} == before


@pytest.fixture
def small_disk(model, tmp_path):
    """A file system that holds the first few states of the model."""
    size = "40k" if model == "tiny" else "200k"
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk(commands, small_disk, uninterrupted) -> None:
    """Each state file takes 70 kB (4 kB with the tiny model): the third (the tenth, at the latest) does not fit."""
    _, err = finish(start(commands["collect_states"], small_disk), 1)
    assert "No space left" in err.splitlines()[-1]
    assert "Traceback" not in err
    written = lines(small_disk)
    assert written
    assert written == lines(uninterrupted("collect_states")[0])[: len(written)]
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    finish(start(commands["collect_states"], small_disk, "--resume"))
    assert lines(small_disk) == lines(uninterrupted("collect_states")[0])
    assert same_states(small_disk, uninterrupted("collect_states")[0])


@only_long
def test_a_disk_that_becomes_read_only(commands, small_disk) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    process = start(commands["collect_states"], small_disk)
    wait_for_lines(small_disk, 2, process)
    # A writer holds a file open, so the kernel refuses to remount; a bind on top would not reach it either.
    refused = subprocess.run(["mount", "-o", "remount,ro", small_disk], capture_output=True).returncode
    process.kill()
    process.communicate()
    assert refused
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    _, err = finish(start(commands["collect_states"], small_disk, "--resume"), 2)
    assert "cannot be written" in err
    assert len(lines(small_disk)) >= 2
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)


@only_long
def test_a_problem_that_fails_is_recorded_and_the_run_goes_on(options, tmp_path) -> None:
    """Half a surrogate pair in a question: no tokenizer takes it."""
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
    rows[1]["question"] = "What is \ud83d + 1?"
    (tmp_path / "arithmetic").mkdir()
    (tmp_path / "arithmetic" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--generation_mode", "greedy_cot", "--prompts_to_run", "0"]
    command = ["main", *options, *more, "--dataset", str(tmp_path / "arithmetic")]
    out, err = finish(start(command, tmp_path / "out"), 3)
    assert "1 problems failed" in err
    written = lines(tmp_path / "out")
    assert [line["index"] for line in written] == [0, 1, 2]
    assert "UnicodeEncodeError" in str(written[1]["error"])
    assert "error" not in written[0]
    assert json.loads((folder(tmp_path / "out") / "summary.json").read_text())["failures"] == 1
    assert "| 3 |" in " ".join(out.split())


def test_shards_share_a_run_whenever_they_start(commands, uninterrupted, tmp_path) -> None:
    straight, _ = uninterrupted("als")
    first = start_and_stop(commands["als"], tmp_path, "--shard", "2/3", writes=2)
    second = start(commands["als"], tmp_path, "--shard", "3/3")
    first.send_signal(signal.SIGCONT)
    assert "others are not" in finish(first)[0]
    assert "others are not" in finish(second)[0]
    assert not (folder(tmp_path) / "summary.json").exists()
    out, _ = finish(start(commands["als"], tmp_path, "--shard", "1/3"))
    assert "accuracy" in out
    assert lines(tmp_path) == lines(straight)
    assert json.loads((folder(tmp_path) / "summary.json").read_text())["n"] == N


# `--multi_gpu` is what makes accelerate start several processes; the GPUs need not be there.
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")


@only_long
@pytest.mark.parametrize("mode", ["greedy_cot", "collect_states"])
def test_launched_processes_give_the_results_of_one(mode, commands, uninterrupted, tmp_path) -> None:
    straight, _ = uninterrupted(mode)
    finish(start(commands[mode], tmp_path, launcher=LAUNCH))
    assert lines(tmp_path) == lines(straight)
    assert same_states(tmp_path, straight)
    assert len(list(folder(tmp_path).glob("*.?of2.jsonl"))) == 2
    assert json.loads((folder(tmp_path) / "summary.json").read_text())["n"] == N


@only_long
def test_accelerates_cpu_launcher(commands, uninterrupted, tmp_path) -> None:
    """Without MPI it starts one process, whatever number it is told; with MPI, that number."""
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    if shutil.which("mpirun"):
        (tmp_path / "hosts").write_text("localhost slots=2\n")
        launcher += ["--mpirun_hostfile", str(tmp_path / "hosts")]
    finish(start(commands["greedy_cot"], tmp_path / "out", launcher=tuple(launcher)))
    assert lines(tmp_path / "out") == lines(uninterrupted("greedy_cot")[0])
    files = {path.name for path in folder(tmp_path / "out").glob("*.jsonl")}
    assert files == ({"results.1of2.jsonl", "results.2of2.jsonl"} if shutil.which("mpirun") else {"results.jsonl"})
    assert json.loads((folder(tmp_path / "out") / "summary.json").read_text())["n"] == N


@only_long
@pytest.mark.parametrize(("before", "after"), [(LAUNCH, ()), ((), LAUNCH)], ids=["two then one", "one then two"])
def test_a_run_is_resumed_by_another_number_of_processes(before, after, commands, uninterrupted, tmp_path) -> None:
    process = start(commands["greedy_cot"], tmp_path, launcher=before)
    wait_for_lines(tmp_path, 2, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert not (folder(tmp_path) / "summary.json").exists()
    finish(start(commands["greedy_cot"], tmp_path, "--resume", launcher=after))
    assert lines(tmp_path) == lines(uninterrupted("greedy_cot")[0])
    assert json.loads((folder(tmp_path) / "summary.json").read_text())["n"] == N


@only_long
def test_a_dead_rank_ends_the_run(commands, uninterrupted, tmp_path) -> None:
    command = [*commands["latentseek"], "--end_data_idx", "200"]
    process = start(command, tmp_path, launcher=LAUNCH)
    wait_for_lines(tmp_path, 2, process)
    listed = subprocess.run(["pgrep", "-f", f"main.py.*{tmp_path}"], capture_output=True, text=True).stdout.split()
    ranks = [int(pid) for pid in listed if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    os.kill(ranks[0], signal.SIGKILL)
    started = time.monotonic()
    _, err = process.communicate(timeout=100)
    assert process.returncode not in (0, None)
    assert time.monotonic() - started < 60
    assert "SIGKILL" in err or "-9" in err


@pytest.mark.slow
def test_a_thousand_states_of_a_large_model_take_less_than_a_gigabyte(tmp_path) -> None:
    """32 layers of 4096, 500 good and 500 bad: half a gigabyte of files, read one at a time."""
    import torch
    from safetensors.torch import save_file

    states = tmp_path / "hidden_states"
    states.mkdir()
    for i in range(1000):
        save_file(
            {"mean_state": torch.full((32, 4096), float(i))},
            states / f"idx_{i}_{'good' if i % 2 else 'bad'}.safetensors",
        )
    measured = """
import resource, sys
from als.cli.compute_steering_vector import main
code = main(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    options = ["--states_dir", str(states), "--output_file", str(tmp_path / "v.pt")]
    out = subprocess.run([sys.executable, "-c", measured, *options], capture_output=True, text=True, check=True).stdout
    code, kilobytes = map(int, out.splitlines()[-1].split())
    assert (code, kilobytes < 1_000_000) == (0, True), kilobytes
    assert torch.load(tmp_path / "v.pt", weights_only=True)["vector"].unique().tolist() == [1.0]
