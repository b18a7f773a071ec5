"""How an answer begins: with a prefill, or with a <think> that the chat template opens. On a real model.

The model is shown, by its chat template, two answers with a reasoning block, so that it opens and closes one itself.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil

import pytest
import torch

from als.answers.extract import extract_answer
from als.benchmarks import load_problems
from als.cli import main, sweep
from als.cli.options import parse
from als.engines.transformers_engine import TransformersEngine
from als.errors import UserError
from als.generation import als_gated, greedy_cot, latentseek, self_consistency
from als.generation.settings import LatentSeekSettings, SelfConsistencySettings, Settings
from als.prompts.verifier import CHECKS
from als.records import Problem
from als.reward import check_verifiers, verify
from als.steering import Steering

PREFILL = '{"thought process": "'
PROBLEMS = [Problem(0, "What is 2 + 3?", "5"), Problem(1, "What is 10 - 4?", "6")]
STEERING = Steering(torch.ones(576), layer_idx=-2, alpha=0.05, alpha_scale="residual", similarity_threshold=None)

TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SHOWN = [("What is 1 + 1?", "One and one.", "2"), ("What is 7 + 2?", "Seven and two.", "9")]
EXAMPLES = "".join(
    TURN.format(question) + f"<think>\n{reasoning}\n</think>\n\nThe answer is \\boxed{{{answer}}}.<|im_end|>\n"
    for question, reasoning, answer in SHOWN
)
QUESTION = "{{ messages[-1]['content'].split('\\n')[0] }}"  # without what the solver prompt says of the answer's form
ASKED = "{% raw %}" + EXAMPLES + "{% endraw %}" + TURN.format(QUESTION).rstrip()
THINKING = ASKED + "{{ '\\n' }}"  # as Qwen3: the model opens the block
OPENED = ASKED + "{{ '\\n<think>\\n' }}"  # as DeepSeek-R1: the template opens it


@pytest.fixture(scope="module")
def engine_with(smollm2):
    def build(template: str | None = None) -> TransformersEngine:
        model, tokenizer = smollm2
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = template or tokenizer.chat_template
        return TransformersEngine(model, tokenizer, batch_size=4)

    return build


def settings(**more) -> Settings:
    return Settings(benchmark="arithmetic", **{"prompt_idx": 1, "max_new_tokens": 24, "steering": STEERING} | more)


def plain_continuation(smollm2, text: str, new: int) -> tuple[str, int]:
    """What transformers' own generate writes behind a text, and its tokens."""
    model, tokenizer = smollm2
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    tokens = model.generate(**ids, max_new_tokens=new, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)


# --- Prefill.


@pytest.mark.parametrize("prompt_idx", [0, 1])
def test_a_prefill_is_given_and_not_generated(smollm2, engine_with, prompt_idx):
    run = settings(prefill=PREFILL, prompt_idx=prompt_idx, max_new_tokens=8)
    for line in greedy_cot.run(engine_with(), PROBLEMS, run):
        assert line.prompt.endswith("<|im_start|>assistant\n")
        expected, tokens = plain_continuation(smollm2, line.prompt + PREFILL, 8)
        assert line.completion == PREFILL + expected
        assert line.completion_tokens == tokens


def test_the_gate_reads_the_prefill(engine_with):
    for line in als_gated.run(engine_with(), PROBLEMS, settings(prefill=PREFILL)):
        assert line.details["first_steered_token"] == 0
        assert line.details["steered_fraction"] > 0.3
        assert "".join(line.details["trace"]["tokens"]) == line.completion.removeprefix(PREFILL)


def test_every_mode_begins_with_the_prefill(engine_with):
    run = settings(
        prefill="So the answer is",
        prompt_idx=0,
        max_new_tokens=6,
        steering=None,
        self_consistency=SelfConsistencySettings(samples=2),
        latentseek=LatentSeekSettings(max_num_steps=1, k=1.0),
        verifier_max_new_tokens=2,
    )
    for mode in (self_consistency, latentseek):
        [line] = mode.run(engine_with(), PROBLEMS[:1], run)
        assert line.completion.startswith("So the answer is")
        assert not line.prompt.endswith("So the answer is")
        for sample in line.details.get("samples", []):
            assert sample["completion"].startswith("So the answer is")


# --- Reasoning blocks.


def test_a_model_that_thinks_is_steered_and_read_behind_its_block(engine_with):
    """The model opens the block itself, closes it, and answers in prose: nothing is JSON, nothing is steered."""
    lines = list(als_gated.run(engine_with(THINKING), PROBLEMS, settings()))
    assert all(line.completion.startswith("<think>") and "</think>" in line.completion for line in lines)
    assert [line.details["steered_fraction"] for line in lines] == [0, 0]
    for line in lines:
        behind = line.completion.split("</think>")[1]
        assert line.answer == extract_answer(behind, benchmark="arithmetic", prompt_idx=1) is not None


def test_a_block_that_the_template_opens_is_part_of_the_completion(smollm2, engine_with):
    for line in als_gated.run(engine_with(OPENED), PROBLEMS, settings(max_new_tokens=8)):
        assert line.completion.startswith("<think>\n")
        assert not line.prompt.endswith("<think>\n")
        expected, tokens = plain_continuation(smollm2, line.prompt + "<think>\n", 8)
        assert line.completion == "<think>\n" + expected
        assert line.completion_tokens == tokens


def test_a_block_that_is_never_closed_has_no_answer_and_opens_no_gate(engine_with):
    lines = list(als_gated.run(engine_with(OPENED), PROBLEMS, settings(max_new_tokens=3)))
    assert all("</think>" not in line.completion for line in lines)
    assert [(line.answer, line.correct, line.details["steered_fraction"]) for line in lines] == [(None, False, 0)] * 2


class Asked(TransformersEngine):
    """Keeps the prompts."""

    def generate(self, prompts, **options):
        self.prompts = list(prompts)
        return super().generate(prompts, **options)


def test_verifiers_see_the_answer_without_the_reasoning(smollm2):
    engine = Asked(*smollm2, batch_size=4)
    answers = [("Q?", "<think>SECRET 4</think>It is 5."), ("Q?", "<think>SECRET 4, and so on")]
    verify(engine, answers, max_new_tokens=1)
    assert len(engine.prompts) == 2 * len(CHECKS)
    assert not any("SECRET" in prompt or "think>" in prompt for prompt in engine.prompts)
    assert all("It is 5." in prompt for prompt in engine.prompts[: len(CHECKS)])


# --- The commands.


@pytest.fixture
def run_main(smollm2_path, tmp_path, monkeypatch):
    """main, greedily, on two problems with a copy of the model whose chat template can be replaced."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    for path in smollm2_path.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        else:
            shutil.copy(path, folder)

    def run(*options: str, template: str | None = None, prompt_idx: str = "1") -> int:
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        model = ("--generation_mode", "greedy_cot", "--model_name_or_path", "model", "--dataset", "arithmetic")
        size = ("--end_data_idx", "2", "--max_new_tokens", "3", "--prompts_to_run", prompt_idx)
        return main.main([*model, *size, *options])

    return run


def config(tmp_path) -> dict:
    [path] = tmp_path.rglob("prompt_?/config.json")
    return json.loads(path.read_text())


def lines(tmp_path) -> list[dict]:
    [path] = tmp_path.rglob("prompt_*/results.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_prompt_1_begins_with_the_object_unless_told_otherwise(run_main, tmp_path):
    assert run_main() == 0
    assert config(tmp_path)["prefill"] == PREFILL
    assert all(line["completion"].startswith(PREFILL) for line in lines(tmp_path))
    assert run_main("--prefill", "", "--overwrite") == 0
    assert config(tmp_path)["prefill"] is None


def test_a_template_that_opens_a_block_gets_no_prefill_of_its_own_accord(run_main, tmp_path):
    assert run_main(template=OPENED) == 0
    assert config(tmp_path)["prefill"] is None
    assert all(line["completion"].startswith("<think>\n") for line in lines(tmp_path))


def test_options_of_the_prompt_are_part_of_the_identity(run_main, tmp_path, capsys):
    template = "{{ mood }}" + THINKING
    options = ["--chat_template_kwargs", '{"mood": "calm"}', "--system_prompt", "Be brief."]
    assert run_main(*options, template=template, prompt_idx="0") == 0
    found = config(tmp_path)
    assert (found["chat_template_kwargs"], found["system_prompt"]) == ({"mood": "calm"}, "Be brief.")
    assert all(line["prompt"].startswith("calm<|im_start|>") for line in lines(tmp_path))
    capsys.readouterr()
    assert run_main("--resume", "--chat_template_kwargs", '{"mood": "wild"}', prompt_idx="0") == 2
    said = capsys.readouterr().err
    assert "chat_template_kwargs: then {'mood': 'calm'}, now {'mood': 'wild'}" in said
    assert "system_prompt: then 'Be brief.', now None" in said


def test_another_chat_template_is_another_run(run_main, tmp_path, capsys):
    assert run_main(prompt_idx="0") == 0
    assert run_main("--resume", template=THINKING, prompt_idx="0") == 2
    assert "chat_template_hash: then" in capsys.readouterr().err


def test_a_folder_without_a_template_hash_goes_on_with_a_note(run_main, tmp_path, capsys):
    assert run_main(prompt_idx="0") == 0
    [path] = tmp_path.rglob("prompt_*/config.json")
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "chat_template_hash"}
    path.write_text(json.dumps(older))
    capsys.readouterr()
    assert run_main("--resume", template=THINKING, prompt_idx="0") == 0
    assert "note: 2 of 2 answers" in capsys.readouterr().err


def test_answers_to_another_wording_are_not_gone_on_with(run_main, tmp_path, capsys):
    assert run_main(prompt_idx="0") == 0
    [path] = tmp_path.rglob("prompt_*/results.jsonl")
    path.write_text(path.read_text().replace("step by step", "slowly"))
    assert run_main("--resume", prompt_idx="0") == 2
    assert "2 of 2 answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chat_template_kwargs", "{enable_thinking: false}"], "is not a JSON object such as"),
        (["--chat_template_kwargs", "[1]"], "is not a JSON object such as"),
        (
            ["--chat_template_kwargs", '{"enable_thinkng": false}'],
            "'enable_thinkng': the model's chat template does not",
        ),
        (["--verifier_max_new_tokens", "0"], "--verifier_max_new_tokens 0: expected at least 1"),
    ],
)
def test_wrong_options_are_one_sentence(run_main, tmp_path, capsys, options, said):
    try:
        code = run_main(*options)
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "output").exists()


def test_the_command_that_a_sweep_prints_has_the_options_of_the_prompt():
    asked = {"chat_template_kwargs": {"enable_thinking": False}, "system_prompt": "", "prefill": "-So it's"}
    options = ["--model_name_or_path", "M", "--dataset", "arithmetic", "--vector_name_template", "v{prompt_idx}.pt"]
    options += ["--selection_range", "0:9", "--chat_template_kwargs", json.dumps(asked["chat_template_kwargs"])]
    options += ["--system_prompt", asked["system_prompt"], f"--prefill={asked['prefill']}"]
    words = shlex.split(sweep._test_command(parse(sweep.Config, options, prog="", description="")))
    words = words[words.index("--model_name_or_path=M") : words.index("--settings")]
    again = parse(main.Config, [*words, "--generation_mode", "als"], prog="", description="")
    assert {name: getattr(again, name) for name in asked} == asked


def test_what_verifiers_need_is_said_with_numbers_that_work(run_main, engine_with, capsys):
    """The model knows 8192 positions; what the message advises is accepted, and no more."""
    assert run_main("--generation_mode", "latentseek", "--max_new_tokens", "5000", prompt_idx="0") == 2
    said = capsys.readouterr().err
    assert "an answer of --max_new_tokens 5000 in it and a verdict of --verifier_max_new_tokens 5000" in said
    most = int(re.search(r"at most (\d+) together", said)[1])
    problems = load_problems("arithmetic", split="test")[:2]
    longest = check_verifiers(engine_with(), problems, max_new_tokens=5000, verifier_max_new_tokens=most - 5000)
    assert longest == 8192 - most + 5000
    with pytest.raises(UserError, match=f"at most {most} together"):
        check_verifiers(engine_with(), problems, max_new_tokens=5000, verifier_max_new_tokens=most - 4999)
