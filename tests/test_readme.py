"""What the README shows works: its Python example, its flags, its commands."""

import re
import shlex
from pathlib import Path
from string import Template

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


def test_the_commands_parse(tmp_path, monkeypatch) -> None:
    text = README.replace("\\\n", " ")
    configs = {"main": main.Config, "collect_states": collect_states.Config}
    configs |= {"compute_steering_vector": compute_steering_vector.Config, "sweep": sweep.Config}
    configs |= {"null_test": null_test.Config, "compare_runs": compare_runs.Config}
    variables: dict[str, str] = {}
    for name, value in re.findall(r'\b([A-Z])="?([^";\n]+)', text):
        variables[name] = Template(value).safe_substitute(variables)
    found = re.findall(r"^    python src/(\w+)\.py (.*)$", text, flags=re.MULTILINE)
    assert len(found) == 14
    chosen = tmp_path / "output/SmolLM2-135M-Instruct-arithmetic/als_sweep/prompt_0/chosen.json"
    chosen.parent.mkdir(parents=True)
    chosen.write_text('{"alpha": 0.1}')  # --settings are read with the options
    monkeypatch.chdir(tmp_path)
    assert {name for name, _ in found} == set(configs)
    for name, arguments in found:
        words = shlex.split(Template(arguments).substitute(variables))
        parse(configs[name], words, prog="", description="")
