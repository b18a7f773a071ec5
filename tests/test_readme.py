"""What the README shows works: its Python example, its flags, its commands."""

import re
import shlex
from pathlib import Path

import torch

from als.cli import (
    collect_states,
    compare_runs,
    compute_steering_vector,
    create_chart,
    create_subsets,
    main,
    null_test,
    sweep,
)
from als.cli.options import parse
from als.vectors import SteeringVector, save_vector

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_steers(smollm2, smollm2_path, tmp_path, capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    generator = torch.Generator().manual_seed(0)
    save_vector(tmp_path / "v.pt", SteeringVector(100 * torch.randn(30, 576, generator=generator)))
    code = code.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(smollm2_path))
    code = re.sub(r'load_vector\("[^"]*"\)', f'load_vector("{tmp_path / "v.pt"}")', code)
    code = code.replace("max_new_tokens=64", "max_new_tokens=12")  # enough to see a difference
    names: dict[str, torch.Tensor] = {}
    exec(compile(code, "README.md", "exec"), names)
    steered = names["tokens"]
    plain = names["model"].generate(**names["inputs"], max_new_tokens=12, do_sample=False)
    assert steered.shape[1] > names["inputs"]["input_ids"].shape[1]
    assert steered.tolist() != plain.tolist()


def test_the_flags_in_the_tables_exist() -> None:
    commands = (main, collect_states, compute_steering_vector, create_subsets, create_chart)
    commands += (compare_runs, null_test, sweep)
    known = {f"--{name}" for command in commands for name in command.Config.__dataclass_fields__}
    known |= {"--help", "--fix", "--strict", "--quick"}  # of scripts/check.sh, of mypy, of scripts/bench.py
    known |= {"--multi_gpu", "--cpu", "--num_processes", "--mpirun_hostfile", "--nproc_per_node"}  # of the launchers
    known |= {"--dist", "--head", "--address"}  # of pytest, and of Ray
    assert set(re.findall(r"--[a-z_]+\b", README)) <= known


def test_the_commands_parse() -> None:
    text = README.replace("\\\n", " ")
    configs = {"main": main.Config, "collect_states": collect_states.Config}
    configs |= {"compute_steering_vector": compute_steering_vector.Config, "sweep": sweep.Config}
    configs["null_test"] = null_test.Config
    found = re.findall(r"^    python src/(\w+)\.py (.*)$", text, flags=re.MULTILINE)
    assert [name for name, _ in found] == ["collect_states", "compute_steering_vector", "main", "sweep", "null_test"]
    for name, arguments in found:
        parse(configs[name], shlex.split(arguments), prog="", description="")
