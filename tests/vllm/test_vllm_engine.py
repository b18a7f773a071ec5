"""What the engine promises beside the tokens: telemetry, states, samples, cache, end tokens, order, errors."""

from __future__ import annotations

import importlib
import json
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from vllm_bench import Bench, answers, texts

from als.engines import vllm_worker
from als.engines.base import Sampling
from als.engines.vllm_worker import PAIRS
from als.errors import UserError
from als.steering import Steering

LAYER = 15


def no_seconds(output: Any) -> Any:
    return replace(output.completion, seconds=0.0)


# --- States and telemetry


@pytest.mark.parametrize("steers", [False, True])
def test_mean_states_are_those_of_the_transformers_engine(bench: Bench, smollm2_prompts, steers) -> None:
    """Also at the steered layer, where the state after steering counts, and for answers of any length."""
    options: dict[str, Any] = {"capture_states": True}
    if steers:
        options["steering"] = replace(bench.steering(LAYER, "raw", 0.1), alpha=0.5)
    theirs, ours = (answers(engine, smollm2_prompts, **options) for engine in (bench.transformers, bench.vllm))
    assert {output.completion.finish_reason for output in ours} == {"stop", "length"}
    for a, b in zip(theirs, ours, strict=True):
        assert no_seconds(a) == no_seconds(b)
        assert b.mean_state.shape == bench.vector.shape
        assert b.mean_state.dtype == torch.float32
        off = (a.mean_state - b.mean_state).norm(dim=-1) / a.mean_state.norm(dim=-1)
        assert float(off.max()) < 1e-4
        if steers:
            assert a.steered_fraction == pytest.approx(b.steered_fraction, abs=1e-6)
            assert a.mean_cosine == pytest.approx(b.mean_cosine, abs=1e-5)


def test_every_emitting_position_is_counted_once(bench: Bench, smollm2_prompts) -> None:
    """Where tau cuts, the share of steered positions is a whole number of tokens of the answer."""
    outputs = answers(bench.vllm, smollm2_prompts, steering=bench.steering(LAYER, "raw", 0.1))
    steered = [output.steered_fraction * output.completion.completion_tokens for output in outputs]
    assert any(0 < output.steered_fraction < 1 for output in outputs)
    assert steered == pytest.approx([round(count) for count in steered], abs=1e-4)


# --- What is in flight together changes nothing


@pytest.fixture(scope="module")
def cramped_engine(start_vllm):
    """Few blocks of cache, and prompts in pieces; all of what was preempted is computed again."""
    room = {"num_gpu_blocks_override": 12, "max_num_batched_tokens": 40, "max_model_len": 256}
    return start_vllm(batch_size=6, options={**room, "enable_prefix_caching": False})


def test_preempted_answers_and_prompts_in_pieces(bench: Bench, cramped_engine, monkeypatch) -> None:
    scheduler = cramped_engine.llm.engine_core.engine_core.scheduler
    preempted: list[int] = []  # generated tokens of each
    preempt = scheduler._preempt_request

    def count(request: Any, *rest: Any, **options: Any) -> Any:
        preempted.append(request.num_tokens - request.num_prompt_tokens)
        return preempt(request, *rest, **options)

    monkeypatch.setattr(scheduler, "_preempt_request", count)
    options = {"steering": bench.steering(LAYER, "raw", 0.1), "capture_states": True, "max_new_tokens": 60}
    prompts = bench.prompts[:14]  # more than two batches of slots
    theirs, ours = (answers(engine, prompts, **options) for engine in (bench.transformers, cramped_engine))
    assert max(preempted) > 10
    assert [no_seconds(a) for a in theirs] == [no_seconds(b) for b in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert a.steered_fraction == pytest.approx(b.steered_fraction, abs=1e-6)
        torch.testing.assert_close(a.mean_state, b.mean_state, rtol=1e-3, atol=1e-3)


# --- The prefix cache


@pytest.fixture(scope="module")
def long_prompts(bench: Bench) -> list[str]:
    """Prompts of several blocks with a common beginning."""
    turns = "".join(f"<|im_start|>user\nWhat is {i} + {i}?<|im_end|>\n" for i in range(12))
    return [turns + prompt for prompt in bench.prompts[:3]]


def test_two_alphas_in_a_row_are_two_fresh_engines(bench: Bench, start_vllm, long_prompts) -> None:
    """Keys and values that were computed under one vector must not serve under another, or under none.

    An engine without a prefix cache is a fresh one every time.
    """
    strong = bench.steering(LAYER, "raw", None)
    weak = replace(strong, alpha=0.7)
    orders: list[dict[str, Any]] = [{"steering": strong}, {"steering": weak}, {}, {"steering": strong}]
    forgetful = start_vllm(options={"enable_prefix_caching": False})
    used, fresh = (
        [texts(answers(engine, long_prompts, **order)) for order in orders] for engine in (bench.vllm, forgetful)
    )
    assert used == fresh
    assert len({tuple(said) for said in fresh}) == 3


def test_a_prompt_that_goes_on_where_a_steered_answer_ended(bench: Bench, start_vllm, long_prompts) -> None:
    """There the answer's tokens are a prompt's, which is not steered; its keys and values must not be the answer's."""
    steering = bench.steering(LAYER, "raw", None)
    engine = start_vllm(batch_size=1)  # so that the answer is in the cache before the prompt comes
    options = {"steering": steering, "max_new_tokens": 40}
    (said,) = texts(answers(engine, long_prompts[:1], **options))
    going_on = long_prompts[0] + said + " So"
    (alone,) = texts(answers(engine, [going_on], **options))
    assert texts(answers(engine, [long_prompts[0], going_on], **options)) == [said, alone]


def test_samples_of_a_prompt_share_its_cache(bench: Bench, long_prompts, monkeypatch) -> None:
    """All but the last, unfinished block of a prompt is computed once."""
    seen = []
    step = bench.vllm.llm.step
    monkeypatch.setattr(bench.vllm.llm, "step", lambda: seen.extend(outputs := step()) or outputs)
    sampling = Sampling(0.7, [[1, 2, 3, 4]])
    outputs = answers(
        bench.vllm, long_prompts[:1], sampling=sampling, steering=bench.steering(LAYER, "raw", None), max_new_tokens=4
    )
    block = bench.vllm.llm.vllm_config.cache_config.block_size
    shared = outputs[0].completion.prompt_tokens // block * block
    assert shared > 0
    assert sorted(output.num_cached_tokens for output in seen if output.finished) == [0, shared, shared, shared]


# --- Sampling


def test_samples_depend_on_their_seed_alone(bench: Bench) -> None:
    prompts = bench.prompts[:4]
    seeds = [[10 * i + j for j in range(3)] for i in range(4)]
    together = texts(answers(bench.vllm, prompts, sampling=Sampling(0.9, seeds)))
    reverse = texts(answers(bench.vllm, prompts[::-1], sampling=Sampling(0.9, seeds[::-1])))
    alone = texts(answers(bench.vllm, prompts[1:2], sampling=Sampling(0.9, [seeds[1][:1]])))
    as_asked = [text for i in range(4) for text in reverse[3 * (3 - i) : 3 * (3 - i) + 3]]
    assert together == as_asked
    assert together[3:4] == alone
    assert len(set(together)) > 8
    greedy = texts(answers(bench.vllm, prompts))
    assert [text for text in greedy for _ in range(3)] != together


def test_equal_seeds_draw_equal_samples(bench: Bench) -> None:
    outputs = answers(bench.vllm, bench.prompts[:1], sampling=Sampling(0.9, [[5, 5, 6]]))
    first, second, third = texts(outputs)
    assert first == second != third


# --- Answers come as they end


def test_answers_come_while_others_are_written(bench: Bench, smollm2_prompts) -> None:
    started = time.perf_counter()
    run = bench.vllm.generate(smollm2_prompts, max_new_tokens=48)
    position, output = next(run)
    assert bench.vllm.llm.has_unfinished_requests()
    rest = list(run)
    assert sorted([position, *(i for i, _ in rest)]) == list(range(len(smollm2_prompts)))
    seconds = [output.completion.seconds, *(output.completion.seconds for _, output in rest)]
    assert min(seconds) > 0
    assert sum(seconds) < time.perf_counter() - started


def test_an_abandoned_run_leaves_a_plain_model(bench: Bench, smollm2_prompts) -> None:
    before = texts(answers(bench.vllm, smollm2_prompts))
    run = bench.vllm.generate(
        smollm2_prompts, max_new_tokens=48, steering=bench.steering(LAYER, "raw", None), capture_states=True
    )
    next(run)
    with pytest.raises(RuntimeError, match="one generate at a time"):
        next(bench.vllm.generate(smollm2_prompts, max_new_tokens=2))
    run.close()
    assert not bench.vllm.llm.has_unfinished_requests()
    assert texts(answers(bench.vllm, smollm2_prompts)) == before


# --- Models


def test_blocks_whose_pairs_are_known_are_vllms() -> None:
    for name in PAIRS:
        module, _, block = name.partition(".")
        assert hasattr(importlib.import_module(f"vllm.model_executor.models.{module}"), block), name


def test_a_pair_of_unknown_meaning_is_not_touched(bench: Bench, smollm2_prompts, monkeypatch) -> None:
    before = texts(answers(bench.vllm, smollm2_prompts[:2]))
    monkeypatch.setattr(vllm_worker, "PAIRS", PAIRS - {"llama.LlamaDecoderLayer"})
    with pytest.raises(UserError, match=r"llama\.LlamaDecoderLayer returns .* use --engine transformers"):
        answers(bench.vllm, smollm2_prompts[:2], steering=bench.steering(LAYER, "raw", None))
    assert texts(answers(bench.vllm, smollm2_prompts[:2])) == before  # which needs no hooks


# --- The checkpoint


def test_end_tokens_are_the_checkpoints_and_its_sampling_defaults_are_not_applied(
    smollm2, smollm2_path, start_vllm, bench: Bench, tmp_path
) -> None:
    """A repetition penalty would change every answer; a second end token, one of many answers, ends those early."""
    _, tokenizer = smollm2
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts(bench.plain()[:8])]
    [(common, _)] = Counter(token for ids in tokens for token in set(ids[4:])).most_common(1)
    for file in smollm2_path.iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    config = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").unlink()
    config |= {"eos_token_id": [2, common], "repetition_penalty": 1.8, "do_sample": True, "temperature": 1.5}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    engine = start_vllm(tmp_path, batch_size=8)
    outputs = answers(engine, bench.prompts[:8])
    stopped = 0
    for output, ids in zip(outputs, tokens, strict=True):
        if common in ids:
            stopped += 1
            ids = ids[: ids.index(common) + 1]
            assert output.completion.finish_reason == "stop"
            assert output.completion.completion_tokens == len(ids)
        assert output.completion.text == tokenizer.decode(ids)
    assert stopped > 2


# --- Errors


def test_what_vllm_cannot_do_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="--engine transformers"):
        next(bench.vllm.generate(["Hi"], max_new_tokens=2, gates=lambda: pytest.fail("no gate is made")))
    with pytest.raises(UserError, match=r"--max_new_tokens 9000 .* of 1024; give at most 10"):
        bench.vllm.check_prompts(["Hi"], max_new_tokens=9000)
    with pytest.raises(UserError, match="layer_idx 30"):
        next(bench.vllm.generate(["Hi"], max_new_tokens=2, steering=Steering(bench.vector, 30)))
    assert answers(bench.vllm, []) == []


def test_a_model_that_vllm_cannot_run_is_one_sentence(start_vllm) -> None:
    with pytest.raises(UserError, match=r"vLLM cannot run the model .*SmolLM2"):
        start_vllm(options={"tensor_parallel_size": 7})
