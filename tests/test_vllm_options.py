"""What can be told of --engine vllm without vLLM: options, refusals, and which positions of a step emit."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from als.cli import arms, collect_states, main
from als.cli.options import ModelConfig, parse
from als.engines.vllm_engine import Request, Requests, VllmEngine, longer_than_another
from als.engines.vllm_worker import plan, request_name, slot_of
from als.errors import UserError
from als.models import load_skeleton
from als.runlog import RunFolder

MODEL = ("--model_name_or_path", "./nothing")


def refusal(*options: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(ModelConfig, [*MODEL, *options], prog="", description="")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Options


@pytest.mark.parametrize(
    "option",
    [
        ("--tensor_parallel_size", "2"),
        ("--pipeline_parallel_size", "2"),
        ("--distributed_executor_backend", "ray"),
        ("--gpu_memory_utilization", "0.5"),
        ("--max_num_seqs", "8"),
    ],
)
def test_options_of_vllm_need_it(option) -> None:
    sentence = refusal(*option)
    assert option[0] in sentence
    assert "--engine vllm" in sentence
    config = parse(ModelConfig, [*MODEL, *option, "--engine", "vllm"], prog="", description="")
    assert str(getattr(config, option[0].removeprefix("--"))) == option[1]


@pytest.mark.parametrize("option", [("--device_map", "auto"), ("--attn_implementation", "eager")])
def test_options_of_transformers_need_it(option) -> None:
    sentence = refusal(*option, "--engine", "vllm")
    assert option[0] in sentence
    assert "--engine transformers" in sentence


@pytest.mark.parametrize(
    "option",
    [
        ("--tensor_parallel_size", "0"),
        ("--pipeline_parallel_size", "-1"),
        ("--gpu_memory_utilization", "0"),
        ("--gpu_memory_utilization", "1.5"),
        ("--max_num_seqs", "0"),
    ],
)
def test_values_that_make_no_sense(option) -> None:
    assert " ".join((option[0], option[1])) in refusal(*option, "--engine", "vllm").replace(".0:", ":")


@pytest.mark.parametrize("mode", ["als_gated", "latentseek"])
def test_modes_that_need_transformers(mode, capsys, tmp_path) -> None:
    options = ["--dataset", "arithmetic", "--generation_mode", mode, "--prompts_to_run", "1", "--engine", "vllm"]
    output = ["--output_dir", str(tmp_path), "--vector_name_template", "v.pt"]
    assert main.main([*MODEL, *options, *output]) == 2
    sentence = capsys.readouterr().err
    assert mode in sentence
    assert "--engine transformers" in sentence
    assert "nothing" not in sentence  # the model had not been looked for


@pytest.mark.parametrize("command", [main, collect_states])
def test_vllm_is_not_installed(command, smollm2_path, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)
    mode = ["--generation_mode", "greedy_cot"] if command is main else []
    options = ["--dataset", "arithmetic", "--end_data_idx", "1", "--engine", "vllm", "--output_dir", str(tmp_path)]
    assert command.main(["--model_name_or_path", str(smollm2_path), *mode, *options]) == 2
    captured = capsys.readouterr()
    assert "pip install -e '.[vllm]'" in captured.err
    assert "als-steering[" not in captured.err  # PyPI has no such name
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="not installed"):
        VllmEngine.load(smollm2_path)


@pytest.mark.parametrize(("options", "name"), [((), "prompt_0"), (("--engine", "vllm"), "prompt_0_vllm")])
def test_folders_name_vllm_alone(options, name) -> None:
    arguments = [*MODEL, "--dataset", "arithmetic", "--generation_mode", "greedy_cot", *options]
    config = parse(main.Config, arguments, prog="", description="")
    assert arms.run_folder(config, 0).name == name
    named = replace(config, run_name="mine")
    assert arms.run_folder(named, 0).name == "prompt_0_mine"


def test_a_folder_without_the_field_is_of_the_transformers_engine(tmp_path) -> None:
    with RunFolder(tmp_path).open({"mode": "als"}):
        pass
    with RunFolder(tmp_path).open({"mode": "als", "engine": "transformers"}):
        pass
    with pytest.raises(UserError, match="engine: then 'transformers', now 'vllm'"):
        RunFolder(tmp_path).open({"mode": "als", "engine": "vllm"})


# --- A model without its weights


def test_skeleton_knows_what_the_model_knows(smollm2, smollm2_path) -> None:
    from als.models import decoder_blocks, end_tokens, hidden_size

    skeleton, tokenizer = load_skeleton(smollm2_path, dtype=torch.bfloat16)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert skeleton.dtype == torch.bfloat16
    assert (len(decoder_blocks(skeleton)), hidden_size(skeleton)) == (30, 576)
    assert end_tokens(skeleton, tokenizer) == end_tokens(*smollm2)
    assert skeleton.generation_config.to_dict() == smollm2[0].generation_config.to_dict()


def test_weights_in_a_pickle_are_refused_unless_allowed(smollm2_path, tmp_path) -> None:
    for file in smollm2_path.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).symlink_to(file.resolve())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="no safetensors"):
        load_skeleton(tmp_path, dtype=torch.float32)
    model, _ = load_skeleton(tmp_path, dtype=torch.float32, allow_pickle=True)
    assert model.name_or_path == str(tmp_path)


# --- Positions


def step(next_positions: np.ndarray, *requests: tuple[int, int, int, int]) -> tuple[list[bool], list[int], list[int]]:
    """`plan` for requests of (slot, tokens in this step, first position, tokens of the prompt)."""
    slots, lengths, starts, prompts = (np.array(column, dtype=np.int64) for column in zip(*requests, strict=True))
    planned = plan(slots=slots, lengths=lengths, starts=starts, prompts=prompts, next_positions=next_positions)
    return tuple(column.tolist() for column in planned)


def test_the_last_token_of_a_prompt_emits_and_every_one_after_it() -> None:
    positions = np.zeros(3, dtype=np.int64)
    assert step(positions, (0, 4, 0, 4)) == ([False, False, False, True], [3, 3, 3, 0], [0, 0, 0, 0])
    assert step(positions, (0, 1, 4, 4)) == ([True], [0], [1])
    assert step(positions, (0, 1, 5, 4)) == ([True], [0], [2])


def test_requests_lie_one_after_the_other() -> None:
    positions = np.zeros(3, dtype=np.int64)
    emits, rows, columns = step(positions, (2, 1, 9, 5), (0, 3, 0, 3), (1, 1, 0, 1))
    assert emits == [True, False, False, True, True]
    assert rows == [2, 3, 3, 0, 1]
    assert columns == [5, 0, 0, 0, 0]
    assert positions.tolist() == [3, 1, 10]


def test_a_piece_of_a_prompt_emits_nothing() -> None:
    positions = np.zeros(1, dtype=np.int64)
    assert step(positions, (0, 3, 0, 5)) == ([False] * 3, [1] * 3, [0] * 3)
    assert step(positions, (0, 1, 3, 5)) == ([False], [1], [0])
    assert step(positions, (0, 1, 4, 5)) == ([True], [0], [0])


def test_what_is_computed_again_is_steered_again_and_not_counted_again() -> None:
    """A preempted request begins anew: two tokens of prompt, three that it had generated, of which one is new."""
    positions = np.zeros(1, dtype=np.int64)
    for start, length in ((0, 2), (2, 1), (3, 1)):
        step(positions, (0, length, start, 2))
    assert step(positions, (0, 5, 0, 2)) == ([False, True, True, True, True], [1, 1, 1, 1, 0], [0, 0, 0, 0, 3])


def test_names_of_requests() -> None:
    assert [slot_of(request_name(slot)) for slot in (0, 7, 123)] == [0, 7, 123]
    assert slot_of(request_name(12) + "-1a2b3c4d") == 12


def test_seconds_are_those_that_pass_shared_out_by_tokens() -> None:
    """Also those in which nothing was asked of vLLM, which works on meanwhile."""

    class Llm:
        def add_request(self, name: str, *_: object) -> None:
            self.names = [*getattr(self, "names", []), name]

        def step(self) -> list[SimpleNamespace]:
            texts = ([1, 2, 3], [4])
            outputs = [[SimpleNamespace(token_ids=ids)] for ids in texts]
            pairs = zip(self.names, outputs, strict=True)
            return [SimpleNamespace(request_id=name, outputs=output, finished=True) for name, output in pairs]

    requests = Requests(Llm(), slots=2)
    for position in range(2):
        requests.add(Request(position, [7]), None, None)
    requests.start_clock()
    started = time.perf_counter()
    ended = requests.step()
    time.sleep(0.05)
    requests.share_seconds()
    passed = time.perf_counter() - started
    long, short = (answer.seconds for _, answer in ended)
    assert long == pytest.approx(3 * short)
    assert 0.05 <= long + short <= passed
    assert not requests.answers


def test_prompts_that_go_on_where_another_ends() -> None:
    prompts = [[1, 2, 3], [1, 2], [5], [1, 2], [1, 2, 3, 4], [1, 9], [5, 5], [4]]
    assert longer_than_another(prompts) == {0, 4, 6}
    assert longer_than_another([]) == set()
