"""The commands as a person runs them: bad input gets one sentence, exit code 2, and nothing is written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
from als.cli.options import Terminated, run_command
from conftest import TINY_HIDDEN as HIDDEN
from conftest import TINY_LAYERS as LAYERS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def vector(here) -> Callable[..., str]:
    """Writes a vector file and names it."""
    import torch

    def write(name: str = "v.pt", *, layers: int = LAYERS, hidden: int = HIDDEN, value: float = 0.5) -> str:
        torch.save({"vector": torch.full((layers, hidden), value), "metadata": {"problem_hashes": []}}, here / name)
        return name

    return write


def run(command, *arguments: str) -> int:
    """The exit code of a command, whether it returns it or argparse exits with it."""
    try:
        return command.main([*map(str, arguments)])
    except SystemExit as exit:
        return int(exit.code or 0)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(command, *arguments: str, capsys, here: Path) -> str:
    """Run a command that has to be refused; returns its one sentence."""
    before = everything(here)
    capsys.readouterr()
    assert run(command, *arguments) == 2
    assert everything(here) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err


def greedy(model: str, *more: str) -> tuple[str, ...]:
    """A run of two short answers."""
    options = ("--generation_mode", "greedy_cot", "--model_name_or_path", model, "--dataset", "arithmetic")
    return (*options, "--end_data_idx", "2", "--max_new_tokens", "4", "--dtype", "float32", *more)


def als(model: str, template: str, *more: str) -> tuple[str, ...]:
    return greedy(model, "--generation_mode", "als", "--vector_name_template", template, *more)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model_name_or_path", "./nothing"), "'./nothing'"),
        (("--model_name_or_path", "/nothing/at/all"), "'/nothing/at/all'"),
        (("--model_name_or_path", "nothing.gguf"), "'nothing.gguf'"),
        (("--dataset", "unheard-of"), "--benchmark"),
        (("--benchmark", "unheard-of"), "gsm8k"),
        (("--split", "dev"), "'dev'"),
        (("--start_data_idx", "5", "--end_data_idx", "5"), "--end_data_idx"),
        (("--start_data_idx", "-3"), "--start_data_idx"),
        (("--start_data_idx", "900", "--end_data_idx", "999"), "--start_data_idx"),
        (("--fixed_subset_path", "missing.txt"), "missing.txt"),
        (("--device", "cuda"), "CUDA"),
        (("--device", "tpu"), "'tpu'"),
        (("--device", "cpu", "--device_map", "auto"), "--device_map"),
        (("--batch_size", "0"), "--batch_size"),
        (("--max_new_tokens", "0"), "--max_new_tokens"),
        (("--max_new_tokens", "some"), "--max_new_tokens"),
        (("--max_new_tokens", "100000"), "--max_new_tokens"),
        (("--dtype", "float8"), "float8"),
        (("--generation_mode", "beam"), "beam"),
        (("--generation_mode", "als"), "--vector_name_template"),
        (("--prompts_to_run", "7"), "7"),
        (("--prompts_to_run", "0", "0"), "--prompts_to_run"),
        (("--resume", "--overwrite"), "--overwrite"),
        (("--run_name", "a/b"), "--run_name"),
        (("--similarity_threshold", "little"), "'none'"),
        (("--unheard_of", "1"), "--unheard_of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_main_refuses(options, words, tiny_path, here, capsys) -> None:
    assert words in refused(main, *greedy(tiny_path), *options, capsys=capsys, here=here)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1\nseven\n", "line 2"),
        ("1\n800\n", "800"),
        ("1\n2\n1\n", "line 3"),
        ("-1\n", "line 1"),
        ("", "empty"),
    ],
)
def test_subset_files_that_are_refused(content, words, tiny_path, here, capsys) -> None:
    (here / "subset.txt").write_text(content)
    sentence = refused(main, *greedy(tiny_path, "--fixed_subset_path", "subset.txt"), capsys=capsys, here=here)
    assert words in sentence
    assert "subset.txt" in sentence


@pytest.mark.parametrize(
    ("made", "options", "words"),
    [
        ({"hidden": HIDDEN + 1}, (), f"hidden size {HIDDEN}"),
        ({"layers": LAYERS + 1}, (), f"{LAYERS} layers"),
        ({"value": float("nan")}, (), "NaN"),
        ({}, ("--layer_idx", "3"), "-3 to 2"),
        ({}, ("--layer_idx", "-4"), "-3 to 2"),
        ({}, ("--alpha", "nan"), "alpha"),
        ({"value": 0.0}, ("--alpha_scale", "unit"), "zero"),
    ],
)
def test_vectors_that_do_not_fit(made, options, words, tiny_path, vector, here, capsys) -> None:
    arguments = als(tiny_path, vector(**made), "--prompts_to_run", "0", *options)
    assert words in refused(main, *arguments, capsys=capsys, here=here)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("v_{idx}.pt", "{idx}"),
        ("v_{}.pt", "{prompt_idx}"),
        ("v_{prompt_idx.pt", "{prompt_idx}"),
        ("v_{prompt_idx:x%}.pt", "{prompt_idx}"),
        ("missing.pt", "missing.pt"),
        ("v_p{prompt_idx}.pt", "v_p1.pt"),
        ("v.bin", ".safetensors"),
    ],
)
def test_templates_that_are_refused(template, words, tiny_path, vector, here, capsys) -> None:
    vector("v_p0.pt")  # there for the first of the two prompts only
    assert words in refused(main, *als(tiny_path, template), capsys=capsys, here=here)


def test_a_vector_file_of_something_else(tiny_path, here, capsys) -> None:
    (here / "v.pt").write_text("no vector")
    assert "v.pt" in refused(main, *als(tiny_path, "v.pt"), capsys=capsys, here=here)


def test_an_output_folder_that_cannot_be_written(tiny_path, here, capsys) -> None:
    (here / "output").write_text("in the way")
    assert "--output_dir" in refused(main, *greedy(tiny_path), capsys=capsys, here=here)
    arguments = [option for option in greedy(tiny_path) if option not in ("--generation_mode", "greedy_cot")]
    assert "--output_dir" in refused(collect_states, *arguments, capsys=capsys, here=here)


def test_the_other_commands_refuse(here, capsys) -> None:
    def check(words: str, command, *arguments: str) -> None:
        assert words in refused(command, *arguments, capsys=capsys, here=here)

    check("is not a folder", compute_steering_vector, "--states_dir", "nothing", "--output_file", "v.pt")
    check(".safetensors", compute_steering_vector, "--states_dir", "nothing", "--output_file", "v.bin")
    check("--ema_beta", compute_steering_vector, "--states_dir", "x", "--output_file", "v.pt", "--ema_beta", "1.5")
    ema = ("--states_dir", "x", "--output_file", "v.pt", "--averaging_method", "ema")
    check("--match_length", compute_steering_vector, *ema, "--match_length")
    check("--within_problem", compute_steering_vector, *ema, "--within_problem")
    check("--method pca", compute_steering_vector, *ema, "--method", "pca")
    check("--n_samples", create_subsets, "--dataset_name", "arithmetic", "--n_samples", "801")
    check("--n_samples", create_subsets, "--dataset_name", "arithmetic", "--n_samples", "0")
    check("'nothing.pt'", create_chart, "--log_file", "nothing.pt")
    check("--window", create_chart, "--log_file", "nothing.pt", "--window", "0")
    check("--index", create_chart, "--log_file", "nothing.pt", "--kind", "trace")
    check("--index", create_chart, "--log_file", "nothing.pt", "--index", "3")
    check("--kind trace", create_chart, "--log_file", "a.pt", "b.pt", "--kind", "trace", "--index", "3")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--alphas", "0,much"), "--alphas"),
        (("--alphas", "0,none"), "--alphas"),
        (("--thresholds", ""), "--thresholds"),
        (("--scales", "raw,cubed"), "--scales"),
        (("--selection_range", "5"), "--selection_range"),
        (("--selection_range", "5:5"), "--selection_range"),
        (("--selection_range", "99998:99999"), "99998"),
        (("--selection_split", "dev"), "'dev'"),
        (("--layers", "3"), "-3 to 2"),
        (("--layers", "every:4"), "--layers"),
        (("--generation_mode", "als_gated"), "--solver_prompt_idx 1"),
    ],
)
def test_sweep_refuses(options, words, tiny_path, vector, here, capsys) -> None:
    given = ("--model_name_or_path", tiny_path, "--dataset", "arithmetic", "--vector_name_template", vector())
    chosen = ("--selection_range", "0:2", "--max_new_tokens", "4", "--layers", "all", *options)
    assert words in refused(sweep, *given, *chosen, capsys=capsys, here=here)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--controls", "0"), "--controls"),
        (("--kinds", "random", "random"), "--kinds"),
        (("--kinds", "lucky"), "lucky"),
        (("--kinds", "shuffled"), "--states_dir"),
        (("--kinds", "shuffled", "--states_dir", "nothing"), "'nothing'"),
        (("--settings", "missing.json"), "missing.json"),
        (("--settings", "v.pt"), "v.pt"),
        (("--generation_mode", "als_gated"), "--solver_prompt_idx 1"),
    ],
)
def test_null_test_refuses(options, words, tiny_path, vector, here, capsys) -> None:
    given = ("--model_name_or_path", tiny_path, "--dataset", "arithmetic", "--vector_name_template", vector())
    assert words in refused(null_test, *given, "--end_data_idx", "2", *options, capsys=capsys, here=here)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"alpha": "much"}', "'much'"),
        ('{"alpha_scale": "cubed"}', "'cubed'"),
        ('{"layer_idx": 1.5}', "1.5"),
        ('{"similarity_threshold": true}', "True"),
        ('{"accuracy": 1}', "alpha"),
        ("[1]", "list"),
    ],
)
def test_settings_that_are_refused(content, words, tiny_path, vector, here, capsys) -> None:
    (here / "chosen.json").write_text(content)
    arguments = als(tiny_path, vector(), "--prompts_to_run", "0", "--settings", "chosen.json")
    assert words in refused(main, *arguments, capsys=capsys, here=here)


def test_a_control_seed_below_zero(tiny_path, vector, here, capsys) -> None:
    arguments = als(tiny_path, vector(), "--control", "random", "--control_seed", "-1")
    assert "--control_seed" in refused(main, *arguments, capsys=capsys, here=here)


def test_controls_belong_to_modes_that_steer(tiny_path, here, capsys) -> None:
    assert "--control" in refused(main, *greedy(tiny_path, "--control", "random"), capsys=capsys, here=here)


def test_a_model_with_several_streams_runs_but_is_not_steered(smollm2_path, vector, here, capsys) -> None:
    """Gemma 3n hands four copies of its state from block to block."""
    from transformers import AutoTokenizer, Gemma3nForCausalLM, Gemma3nTextConfig

    sizes = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}
    sizes |= {"vocab_size": 49152, "vocab_size_per_layer_input": 49152, "num_kv_shared_layers": 0, "eos_token_id": 2}
    kinds = {"layer_types": ["full_attention"] * LAYERS, "activation_sparsity_pattern": None}
    Gemma3nForCausalLM(Gemma3nTextConfig(**sizes, **kinds)).save_pretrained(here / "gemma3n")
    AutoTokenizer.from_pretrained(smollm2_path).save_pretrained(here / "gemma3n")
    template = vector("v.pt")
    for command, arguments in (
        (main, als("gemma3n", template, "--prompts_to_run", "0")),
        (collect_states, greedy("gemma3n", "--split", "train", "--label_by", "answer")[2:]),
    ):
        assert "states of shape [4, 1, 1, 32]" in refused(command, *arguments, capsys=capsys, here=here)
    assert run(main, *greedy("gemma3n", "--prompts_to_run", "0")) == 0


def test_answers_without_a_configuration_are_neither_adopted_nor_lost(tiny_path, here, capsys) -> None:
    assert run(main, *greedy(tiny_path, "--prompts_to_run", "0")) == 0
    (folder,) = (path.parent for path in here.rglob("config.json"))
    (folder / "config.json").unlink()
    answers = (folder / "results.jsonl").read_bytes()
    other = greedy(tiny_path, "--prompts_to_run", "0", "--max_new_tokens", "5")
    for more in ("--resume",), ():
        assert "without config.json" in refused(main, *other, *more, capsys=capsys, here=here)
    assert run(main, *other, "--overwrite") == 0
    assert (folder.with_name("prompt_0.1") / "results.jsonl").read_bytes() == answers
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert {line["completion_tokens"] for line in lines} == {5}


def test_hub_out_of_reach_is_told_within_40_seconds(here) -> None:
    """With the network of this machine, or the lack of it; a closed port stands for the hub either way."""
    for options in (("--model_name_or_path", "Qwen/Qwen2.5-7B-Instruct"), ("--dataset", "openai/gsm8k")):
        done = subprocess.run(
            [sys.executable, ROOT / "src" / "main.py", *greedy("."), *options],
            env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(here / "cache")},
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert done.returncode == 2
        assert "local" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert not (here / "output").exists()


def test_out_of_memory_says_which_option_lowers_it(tiny_path, here) -> None:
    """Really out of memory: more is asked of the allocator than there is address space."""
    model = here / "model"
    model.mkdir()
    for file in Path(tiny_path).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10**15}))
    done = subprocess.run(
        [sys.executable, ROOT / "src" / "main.py", *greedy(str(model), "--max_new_tokens", str(10**12))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "--batch_size" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


ONE_COMMAND = {
    "main": (main, ("--generation_mode", "greedy_cot", "--model_name_or_path", "x", "--dataset", "x")),
    "collect_states": (collect_states, ("--model_name_or_path", "x", "--dataset", "x")),
    "compute_steering_vector": (compute_steering_vector, ("--states_dir", "x", "--output_file", "v.pt")),
    "create_subsets": (create_subsets, ("--dataset_name", "arithmetic", "--n_samples", "1")),
    "create_chart": (create_chart, ("--log_file", "x.pt")),
    "compare_runs": (compare_runs, ("a", "b")),
}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1),
        (MemoryError(), 2),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", ONE_COMMAND)
def test_only_options_that_a_command_has_are_advised(name, error, code, here, capsys) -> None:
    """Every flag that the sentence names is read by the command's own parser."""
    command, arguments = ONE_COMMAND[name]

    def fail(_config) -> int:
        raise error

    assert run_command(command.Config, fail, arguments, prog=name, description="") == code
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    flags = set(re.findall(r"--(\w+)", sentence))
    known = {field.name for field in dataclasses.fields(command.Config)}
    assert flags <= known, sentence
    assert ("--resume" in sentence) == (name in ("main", "collect_states"))
    if isinstance(error, MemoryError):
        assert ("--batch_size" in sentence) == (name in ("main", "collect_states"))
        assert ("--method" in sentence) == (name == "compute_steering_vector")


def test_a_home_folder_is_expanded_in_every_path(tiny_path, vector, here, monkeypatch, capsys) -> None:
    import torch
    from safetensors.torch import save_file

    monkeypatch.setenv("HOME", str(here / "home"))
    home = here / "home"
    assert run(create_subsets, "--dataset_name", "arithmetic", "--n_samples", "2", "--output_dir", "~/subsets") == 0
    (home / "first.txt").write_text("0\n1\n")
    assert run(main, *greedy(tiny_path, "--fixed_subset_path", "~/first.txt", "--output_dir", "~/output")) == 0
    (log,) = home.glob("output/*/greedy_cot_eval/prompt_0_first/logistics.pt")
    log = f"~/{log.relative_to(home)}"
    assert run(create_chart, "--log_file", log, "--output_dir", "~/charts") == 0
    assert len(list((home / "charts").iterdir())) == 2
    for i in range(8):
        (home / "hidden_states").mkdir(exist_ok=True)
        state = torch.randn(LAYERS, HIDDEN, generator=torch.Generator().manual_seed(i))
        save_file({"mean_state": state}, home / "hidden_states" / f"idx_{i}_{'good' if i % 2 else 'bad'}.safetensors")
    states = ("--states_dir", "~/hidden_states")
    assert run(compute_steering_vector, *states, "--output_file", "~/v.pt") == 0
    shuffled = ("--control", "shuffled", *states, "--prompts_to_run", "0", "--output_dir", "~/output")
    assert run(main, *als(tiny_path, "~/v.pt", *shuffled)) == 0
    assert not list(here.rglob("~")), capsys.readouterr().err


def test_a_question_is_shown_without_its_control_characters(tiny_path, here, capsys) -> None:
    row = {"question": "What is\x1b[2J\r 1 + 1?\nSay it.", "answer": "2"}
    (here / "arithmetic").mkdir()
    (here / "arithmetic" / "test.jsonl").write_text(json.dumps(row) + "\n")
    data = ("--dataset", str(here / "arithmetic"), "--prompts_to_run", "0", "--verbose")
    assert run(main, *greedy(tiny_path, *data)) == 0
    shown = capsys.readouterr()
    assert "[0] What is\\x1b[2J\\r 1 + 1?\nSay it." in shown.out + shown.err
    assert "\x1b[2J" not in shown.out + shown.err


@pytest.mark.parametrize("command", ["main", "collect_states", "compute_steering_vector", "sweep", "null_test"])
def test_help_imports_nothing_heavy(command) -> None:
    code = f"""
import sys
from als.cli.{command} import main
try:
    main(["--help"])
except SystemExit:
    pass
print("heavy:", [name for name in ("torch", "transformers", "datasets", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    assert "--resume" in done.stdout or command == "compute_steering_vector"
