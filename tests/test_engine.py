"""The transformers engine: what it says of an answer, and that neither batching nor settings change its tokens."""

from __future__ import annotations

import copy
import time

import pytest
import torch

from als.engines.transformers_engine import TransformersEngine
from als.errors import UserError
from oracle import ENDS, TINY_PROMPTS, decode

PROMPTS = TINY_PROMPTS[:5]


@pytest.fixture
def engine(llama, tiny_tokenizer):
    return TransformersEngine(llama, tiny_tokenizer, batch_size=3)


@pytest.fixture
def watched(llama):
    """(rows, columns) of the input of every forward pass."""
    seen: list[tuple[int, int]] = []
    look = llama.register_forward_pre_hook(
        lambda _model, _args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    look.remove()


def in_order(outputs):
    return [output for _, output in sorted(outputs, key=lambda pair: pair[0])]


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_answers_do_not_depend_on_batch_size_on_smollm2(smollm2_runs, batch_size):
    alone, _ = smollm2_runs(1)
    together, _ = smollm2_runs(batch_size)
    for one, other in zip(alone, together, strict=True):
        assert one.completion.text == other.completion.text
        assert one.completion.prompt_tokens == other.completion.prompt_tokens
        assert one.completion.completion_tokens == other.completion.completion_tokens
        assert one.completion.finish_reason == other.completion.finish_reason


def test_answers_are_plain_generates_on_smollm2(smollm2, smollm2_runs, smollm2_prompts):
    """The longest, the shortest and one that ends early, one by one and without padding."""
    model, tokenizer = smollm2
    outputs, _ = smollm2_runs(8)
    for i in (1, 4, 7):
        inputs = tokenizer(smollm2_prompts[i], return_tensors="pt", add_special_tokens=False)
        tokens = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert outputs[i].completion.text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert outputs[i].completion.completion_tokens == len(tokens)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_completion_is_the_oracles(llama, tiny_tokenizer, batch_size):
    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=batch_size)
    outputs = in_order(engine.generate(PROMPTS, max_new_tokens=20))
    reasons = set()
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = tiny_tokenizer(prompt)["input_ids"]
        tokens = decode(llama, ids, formula=None, max_new_tokens=20, eos=ENDS).tokens
        completion = output.completion
        assert completion.text == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
        assert completion.prompt_tokens == len(ids)
        assert completion.completion_tokens == len(tokens)  # the ending one among them
        assert completion.finish_reason == ("stop" if tokens[-1] in ENDS else "length")
        assert (output.steered_fraction, output.mean_cosine, output.mean_state) == (None, None, None)
        reasons.add(completion.finish_reason)
    assert reasons == {"stop", "length"}


def test_end_token_that_comes_as_the_last_allowed_one_is_a_stop(engine, llama, tiny_tokenizer):
    ids = [tiny_tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    answers = [decode(llama, row, formula=None, max_new_tokens=20, eos=ENDS).tokens for row in ids]
    prompt, answer = next((p, a) for p, a in zip(PROMPTS, answers, strict=True) if a[-1] in ENDS and len(a) > 1)
    [(_, just)] = engine.generate([prompt], max_new_tokens=len(answer))
    [(_, short)] = engine.generate([prompt], max_new_tokens=len(answer) - 1)
    assert (just.completion.finish_reason, just.completion.completion_tokens) == ("stop", len(answer))
    assert (short.completion.finish_reason, short.completion.completion_tokens) == ("length", len(answer) - 1)


def test_one_new_token(engine, llama, tiny_tokenizer):
    for prompt, output in zip(PROMPTS, in_order(engine.generate(PROMPTS, max_new_tokens=1)), strict=True):
        logits = llama(torch.tensor([tiny_tokenizer(prompt)["input_ids"]])).logits[0, -1]
        assert output.completion.text == tiny_tokenizer.decode([int(logits.argmax())], skip_special_tokens=True)
        assert output.completion.completion_tokens == 1


def test_every_position_comes_once(engine):
    assert sorted(position for position, _ in engine.generate(PROMPTS, max_new_tokens=2)) == list(range(len(PROMPTS)))


def test_no_prompts_no_outputs(engine):
    assert list(engine.generate([], max_new_tokens=5)) == []


def test_same_prompt_twice(engine):
    first, second = in_order(engine.generate([PROMPTS[0]] * 2, max_new_tokens=20))
    assert first.completion.text == second.completion.text


def test_special_tokens_of_the_prompt_are_not_doubled(smollm2_engine, smollm2):
    """Prompts are exact texts: their tokens are counted as they are, with none put before them."""
    prompt = "<|im_start|>user\nHi<|im_end|>\n"
    [(_, output)] = smollm2_engine.generate([prompt], max_new_tokens=1)
    assert output.completion.prompt_tokens == len(smollm2[1](prompt, add_special_tokens=False)["input_ids"]) == 6


def test_sampling_defaults_of_a_checkpoint_are_ignored(llama, tiny_tokenizer):
    """Greedy is the argmax, also for a checkpoint that asks for sampling and a repetition penalty."""
    model = copy.deepcopy(llama)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, no_repeat_ngram_size=1)
    outputs = [
        [
            o.completion.text
            for o in in_order(TransformersEngine(m, tiny_tokenizer).generate(PROMPTS, max_new_tokens=20))
        ]
        for m in (llama, model)
    ]
    assert outputs[0] == outputs[1]


def test_context_may_be_filled_but_not_exceeded(engine):
    """The model has room for 64 tokens."""
    prompt = " ".join(["w5"] * 60)
    [(_, output)] = engine.generate([prompt], max_new_tokens=4)
    assert output.completion.prompt_tokens == 60
    with pytest.raises(UserError) as caught:
        list(engine.generate(["w1", prompt], max_new_tokens=5))
    assert [word for word in ("--max_new_tokens", "5", "60", "64", "4") if word not in str(caught.value)] == []


def test_context_is_checked_before_anything_is_generated(engine, llama):
    """The prompt that does not fit is in the last batch; nobody waits for the first to learn that."""
    calls = []
    look = llama.register_forward_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(UserError):
            next(engine.generate(["w1"] * 9 + ["w1 " * 60], max_new_tokens=5))
    finally:
        look.remove()
    assert calls == []


@pytest.mark.parametrize("batch_size", [1, 8])
def test_seconds_add_up_to_the_wall_clock(smollm2_runs, batch_size):
    outputs, elapsed = smollm2_runs(batch_size)
    seconds = [output.completion.seconds for output in outputs]
    assert all(second > 0 for second in seconds)
    assert 0.8 * elapsed < sum(seconds) <= elapsed


def test_the_seconds_of_a_step_are_shared_out_among_the_rows_in_flight(llama, tiny_tokenizer):
    """Answers of as many tokens, in flight together, cost the same; a longer one costs more."""
    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=5)
    seconds: dict[int, set[float]] = {}
    for _, output in engine.generate([*PROMPTS[:3], *PROMPTS[:2]], max_new_tokens=20):
        seconds.setdefault(output.completion.completion_tokens, set()).add(round(output.completion.seconds, 9))
    assert len(seconds) > 1
    assert all(len(same) == 1 for same in seconds.values())
    costs = [same.pop() for _, same in sorted(seconds.items())]
    assert costs == sorted(costs)


def test_answers_are_handed_over_as_they_end(llama, tiny_tokenizer, watched):
    """What is finished can be written down while others are still being written."""
    run = TransformersEngine(llama, tiny_tokenizer, batch_size=5).generate(PROMPTS, max_new_tokens=20)
    ended = [(output.completion.completion_tokens, len(watched)) for _, output in run]
    assert len(set(ended)) > 2
    assert all(tokens == forwards for tokens, forwards in ended)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_next_answer_takes_the_place_of_one_that_has_ended(llama, tiny_tokenizer, watched, batch_size):
    """No step runs with a free row while somebody waits, and none with more rows than were asked for."""
    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=batch_size)
    outputs = in_order(engine.generate(PROMPTS * 2, max_new_tokens=20))
    counts = [output.completion.completion_tokens for output in outputs]
    assert sum(rows for rows, _ in watched) == sum(counts)
    steps = [rows for rows, width in watched if width == 1]
    assert max(steps) == batch_size
    full = steps.index(batch_size), len(steps) - steps[::-1].index(batch_size)
    assert set(steps[slice(*full)]) <= {batch_size, batch_size - 1}


@pytest.mark.parametrize("lived", [0, 1, 3])
def test_exhausted_memory_halves_the_batch_and_loses_nothing(llama, tiny_tokenizer, lived):
    """A model that has memory for two rows; the first batch of five dies over its prompts, or later."""
    found = in_order(TransformersEngine(llama, tiny_tokenizer).generate(PROMPTS, max_new_tokens=20))
    long = [i for i, output in enumerate(found) if output.completion.completion_tokens > lived]  # none lands before
    prompts, straight = [PROMPTS[i] for i in long] * 2, [found[i] for i in long] * 2
    passes = []

    def exhaust(_model, _args, kwargs):
        passes.append(1)
        if len(kwargs["input_ids"]) > 2 and len(passes) > lived:
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=5)
    look = llama.register_forward_pre_hook(exhaust, with_kwargs=True)
    try:
        with pytest.warns(UserWarning, match="--batch_size is 2 from here on"):
            outputs = list(engine.generate(prompts, max_new_tokens=20))
    finally:
        look.remove()
    assert engine.batch_size == 2
    assert sorted(position for position, _ in outputs) == list(range(len(prompts)))
    for output, expected in zip(in_order(outputs), straight, strict=True):
        assert output.completion.text == expected.completion.text


def test_exhausted_memory_for_a_single_answer_is_an_error(llama, tiny_tokenizer):
    def exhaust(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    look = llama.register_forward_pre_hook(exhaust)
    try:
        with pytest.warns(UserWarning, match="--batch_size is"), pytest.raises(torch.OutOfMemoryError):
            list(TransformersEngine(llama, tiny_tokenizer, batch_size=4).generate(PROMPTS, max_new_tokens=20))
    finally:
        look.remove()


def test_finished_rows_cost_nothing(llama, tiny_tokenizer, watched):
    """Rows that ended are no longer computed: the model sees fewer rows step by step, and stops with the last."""
    outputs = in_order(TransformersEngine(llama, tiny_tokenizer, batch_size=5).generate(PROMPTS, max_new_tokens=20))
    counts = [output.completion.completion_tokens for output in outputs]
    assert len(set(counts)) > 1
    assert [rows for rows, _ in watched] == [sum(count > step for count in counts) for step in range(max(counts))]


@pytest.mark.gpu
def test_answers_do_not_depend_on_batch_size_on_cuda(smollm2_path, smollm2_prompts):
    from als.models import load_model

    model, tokenizer = load_model(smollm2_path, dtype="float32", device="cuda")
    texts = []
    for batch_size in (1, 3, 8):
        started = time.perf_counter()
        engine = TransformersEngine(model, tokenizer, batch_size=batch_size)
        outputs = in_order(engine.generate(smollm2_prompts, max_new_tokens=64))
        assert sum(output.completion.seconds for output in outputs) <= time.perf_counter() - started
        texts.append([output.completion.text for output in outputs])
    assert texts[0] == texts[1] == texts[2]
