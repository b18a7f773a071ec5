"""The steering hook: its arithmetic, its lifetime, its cost, and above all its tokens, against a slow oracle."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from als.engines.transformers_engine import TransformersEngine
from als.errors import UserError
from als.steering import RowTraces, Steering, steer, steered
from oracle import TINY_PROMPTS, Answer, Formula, block_outputs, decode, llama_blocks

SCALES = ("raw", "unit", "residual")
TAUS = (None, 0.1)
LAYERS = ("first", "middle", "last")
TINY = ("llama", "qwen2", "gemma2")
FEW_PROMPTS = TINY_PROMPTS[:5]
SMOLLM2_PROMPTS = [
    "The capital of France is",
    "Once upon a time, by the sea, there lived",
    "2 + 3 =",
    "Hello",
    "My favourite food is pizza because it",
]


@dataclass(frozen=True)
class Bench:
    """A model with prompts, the vector it is steered with, and how long its answers may get."""

    model: Any
    tokenizer: Any
    prompts: list[str]
    vector: torch.Tensor  # [L, D]
    norms: torch.Tensor  # [L] the states' typical norm
    max_new_tokens: int
    answers: dict[Any, list[Answer]]

    @property
    def ids(self) -> list[list[int]]:
        return [self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in self.prompts]

    @property
    def eos(self) -> list[int]:
        declared = self.model.generation_config.eos_token_id
        return declared if isinstance(declared, list) else [declared]

    def layer(self, name: str) -> int:
        return {"first": 0, "middle": len(self.vector) // 2, "last": len(self.vector) - 1}[name]

    def steering(self, layer: str, scale: str, tau: float | None) -> Steering:
        """Strong enough to change answers: about as long as the state that it is added to."""
        idx = self.layer(layer)
        alpha = {"raw": 2.0, "unit": float(self.norms[idx]), "residual": 1.0}[scale]
        return Steering(self.vector, layer_idx=idx, alpha=alpha, alpha_scale=scale, similarity_threshold=tau)

    def oracle(self, steering: Steering | None) -> list[Answer]:
        key = steering and (
            steering.layer_idx,
            steering.alpha,
            steering.alpha_scale,
            steering.similarity_threshold,
        )
        if key not in self.answers:
            formula = steering and Formula(
                self.vector[steering.layer_idx],
                steering.layer_idx,
                steering.alpha,
                steering.alpha_scale,
                steering.similarity_threshold,
            )
            self.answers[key] = [
                decode(self.model, ids, formula=formula, max_new_tokens=self.max_new_tokens, eos=self.eos)
                for ids in self.ids
            ]
        return self.answers[key]

    def engine(self, steering: Steering | None, batch_size: int) -> list[Any]:
        engine = TransformersEngine(self.model, self.tokenizer, batch_size=batch_size)
        outputs = dict(engine.generate(self.prompts, max_new_tokens=self.max_new_tokens, steering=steering))
        return [outputs[i] for i in range(len(self.prompts))]

    def plain_generate(self, steering: Steering) -> list[list[int]]:
        """Tokens of model.generate on the left-padded batch, without the padding behind an end token."""
        inputs = padded(self)
        with steer(self.model, steering):
            tokens = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        rows = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        ends = [next((i + 1 for i, token in enumerate(row) if token in self.eos), len(row)) for row in rows]
        return [row[:end] for row, end in zip(rows, ends, strict=True)]


def make_bench(model: Any, tokenizer: Any, prompts: list[str], *, along: float, max_new_tokens: int) -> Bench:
    """A random vector of half the states' norm; `along` of the mean state is mixed in, so that tau cuts in the middle.

    In a small model the cosines with a random direction scatter around 0.1 anyway.
    """
    last = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
        outputs = block_outputs(model, llama_blocks(model), **inputs, use_cache=False)
        last.append(torch.stack([stream[0, -1].cpu() for stream in outputs]))
    states = torch.stack(last)  # [prompts, L, D]
    norms = states.norm(dim=-1).mean(dim=0)
    mean = torch.nn.functional.normalize(states.mean(dim=0), dim=-1)
    chance = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    direction = torch.nn.functional.normalize(along * mean + torch.nn.functional.normalize(chance, dim=-1), dim=-1)
    return Bench(model, tokenizer, prompts, direction * norms[:, None] / 2, norms, max_new_tokens, {})


def padded(bench: Bench) -> Any:
    inputs = bench.tokenizer(
        bench.prompts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
    )
    return inputs.to(bench.model.device)


@pytest.fixture(scope="module")
def tiny(tiny_model, tiny_tokenizer):
    made: dict[str, Bench] = {}

    def bench(architecture: str) -> Bench:
        if architecture not in made:
            model = copy.deepcopy(tiny_model(architecture))
            model.generation_config.eos_token_id = [0, 17, 29, 41, 73, 88]  # several, so that some answers end early
            made[architecture] = make_bench(model, tiny_tokenizer, FEW_PROMPTS, along=0.0, max_new_tokens=20)
        return made[architecture]

    return bench


@pytest.fixture(scope="module")
def smollm2_bench(smollm2):
    return make_bench(*smollm2, SMOLLM2_PROMPTS, along=0.15, max_new_tokens=6)


def check_engine(bench: Bench, steering: Steering, batch_size: int) -> None:
    expected = bench.oracle(steering)
    for output, answer in zip(bench.engine(steering, batch_size), expected, strict=True):
        assert output.completion.text == bench.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        assert output.completion.completion_tokens == len(answer.tokens)
        assert output.steered_fraction == pytest.approx(answer.steered_fraction, abs=1e-6)
        assert output.mean_cosine == pytest.approx(answer.mean_cosine, abs=1e-4)


def check_telling(bench: Bench, steering: Steering) -> None:
    """The oracle's answers can tell right from wrong: steering changes them, and tau steers some states only."""
    expected, greedy = bench.oracle(steering), bench.oracle(None)
    assert sum(a.tokens != g.tokens for a, g in zip(expected, greedy, strict=True)) >= 2
    steered = [on for answer in expected for on in answer.steered]
    if steering.similarity_threshold is None:
        assert all(steered)
    else:
        assert 0 < sum(steered) < len(steered)


# --- Tokens, against the oracle


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("architecture", TINY)
def test_tokens_are_the_oracles_on_tiny_models(tiny, architecture, scale, tau, layer):
    bench = tiny(architecture)
    steering = bench.steering(layer, scale, tau)
    check_telling(bench, steering)
    check_engine(bench, steering, batch_size=1)
    check_engine(bench, steering, batch_size=5)
    assert bench.plain_generate(steering) == [answer.tokens for answer in bench.oracle(steering)]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("scale", SCALES)
def test_tokens_are_the_oracles_on_smollm2(smollm2_bench, scale, tau, layer):
    steering = smollm2_bench.steering(layer, scale, tau)
    check_telling(smollm2_bench, steering)
    check_engine(smollm2_bench, steering, batch_size=5)


def test_longer_answers_one_at_a_time_and_by_plain_generate_on_smollm2(smollm2_bench):
    bench = replace(smollm2_bench, max_new_tokens=16, answers={})
    steering = bench.steering("middle", "residual", 0.1)
    check_engine(bench, steering, batch_size=5)
    check_engine(bench, steering, batch_size=1)
    assert bench.plain_generate(steering) == [answer.tokens for answer in bench.oracle(steering)]


def test_tiny_answers_end_both_ways(tiny):
    """Else the tests above would say nothing about rows that leave the batch early."""
    lengths = {
        len(answer.tokens) < bench.max_new_tokens
        for bench in map(tiny, TINY)
        for scale in SCALES
        for answer in bench.oracle(bench.steering("middle", scale, None))
    }
    assert lengths == {True, False}


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("architecture", TINY)
def test_alpha_zero_gives_greedys_tokens(tiny, architecture, scale, tau):
    bench = tiny(architecture)
    steering = replace(bench.steering("middle", scale, tau), alpha=0.0)
    for output, answer in zip(bench.engine(steering, 5), bench.oracle(None), strict=True):
        assert output.completion.text == bench.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        assert output.completion.completion_tokens == len(answer.tokens)


@pytest.mark.parametrize("scale", SCALES)
def test_alpha_zero_leaves_smollm2s_logits_bit_for_bit(smollm2_bench, scale):
    inputs = padded(smollm2_bench)
    with torch.inference_mode():
        plain = smollm2_bench.model(**inputs).logits
        with steer(smollm2_bench.model, replace(smollm2_bench.steering("middle", scale, None), alpha=0.0)):
            assert torch.equal(smollm2_bench.model(**inputs).logits, plain)


@pytest.mark.parametrize(("tau", "same_as"), [(-1.01, "greedy"), (1.01, "none")])
def test_tau_beyond_every_cosine(tiny, tau, same_as):
    bench = tiny("llama")
    steering = bench.steering("middle", "residual", tau)
    reference = None if same_as == "greedy" else replace(steering, similarity_threshold=None)
    for output, answer in zip(bench.engine(steering, 5), bench.oracle(reference), strict=True):
        assert output.completion.text == bench.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        assert output.steered_fraction == (0.0 if same_as == "greedy" else 1.0)


# --- Arithmetic of one forward pass


def passes(bench: Bench, steering: Steering) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Block outputs of a padded batch without and with steering, and which positions are no padding."""
    inputs = padded(bench)
    blocks = llama_blocks(bench.model)
    plain = block_outputs(bench.model, blocks, **inputs)
    with steer(bench.model, steering):  # block_outputs' hooks come after this one and see what it returns
        changed = block_outputs(bench.model, blocks, **inputs)
    return plain, changed, inputs["attention_mask"].bool()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("architecture", TINY)
def test_only_the_last_position_of_the_hooked_block_changes(tiny, architecture, layer):
    bench = tiny(architecture)
    steering = bench.steering(layer, "raw", None)
    plain, changed, real = passes(bench, steering)
    for before, after in zip(plain[: steering.layer_idx], changed[: steering.layer_idx], strict=True):
        assert torch.equal(before, after)
    h, steered = plain[steering.layer_idx], changed[steering.layer_idx]
    torch.testing.assert_close(steered[:, -1], h[:, -1] + steering.alpha * bench.vector[steering.layer_idx])
    for before, after in zip(plain[steering.layer_idx :], changed[steering.layer_idx :], strict=True):
        assert torch.equal(before[:, :-1][real[:, :-1]], after[:, :-1][real[:, :-1]])
        assert not torch.isclose(before[:, -1], after[:, -1]).all(dim=-1).any()


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("scale", SCALES)
def test_steered_state_follows_the_formula(tiny, scale, tau):
    bench = tiny("qwen2")
    steering = bench.steering("middle", scale, tau)
    plain, changed, _ = passes(bench, steering)
    h, v = plain[steering.layer_idx][:, -1], bench.vector[steering.layer_idx]
    s = {"raw": torch.ones(5), "unit": torch.ones(5) / v.norm(), "residual": h.norm(dim=-1) / v.norm()}[scale]
    on = torch.cosine_similarity(h, v[None]) < (math.inf if tau is None else tau)
    expected = h + on[:, None] * steering.alpha * s[:, None] * v
    torch.testing.assert_close(changed[steering.layer_idx][:, -1], expected)


def test_layer_minus_two_is_what_enters_the_last_block(tiny):
    bench = tiny("llama")
    entering = []
    last = llama_blocks(bench.model)[-1]
    look = last.register_forward_pre_hook(lambda _block, args: entering.append(args[0]))
    try:
        bench.model(**padded(bench))
        with steer(bench.model, Steering(bench.vector, alpha=2.0, similarity_threshold=None)):
            bench.model(**padded(bench))
    finally:
        look.remove()
    torch.testing.assert_close(entering[1][:, -1], entering[0][:, -1] + 2.0 * bench.vector[-2])


@pytest.mark.parametrize("vector_of", ["one row", "row of one", "double"])
def test_spellings_of_one_vector(tiny, vector_of):
    bench = tiny("llama")
    steering = bench.steering("middle", "raw", 0.1)
    row = bench.vector[steering.layer_idx]
    vector = {"one row": row, "row of one": row[None], "double": bench.vector.double()}[vector_of]
    other = replace(steering, vector=vector, layer_idx=steering.layer_idx - len(bench.vector))
    for ours, theirs in zip(bench.engine(steering, 5), bench.engine(other, 5), strict=True):
        assert ours.completion.text == theirs.completion.text
        assert ours.mean_cosine == theirs.mean_cosine


def test_states_keep_their_dtype(tiny):
    """In bfloat16 too the state is the original plus the vector, as near as bfloat16 can say it."""
    bench = replace(tiny("llama"), model=copy.deepcopy(tiny("llama").model).to(torch.bfloat16))
    steering = bench.steering("middle", "residual", None)
    plain, changed, _ = passes(bench, steering)
    h, v = plain[steering.layer_idx][:, -1].float(), bench.vector[steering.layer_idx]
    expected = h + h.norm(dim=-1, keepdim=True) * v / v.norm()
    assert changed[steering.layer_idx].dtype == torch.bfloat16
    torch.testing.assert_close(changed[steering.layer_idx][:, -1].float(), expected, rtol=2**-8, atol=1e-5)


def test_zero_vector_is_no_nan(tiny):
    bench = tiny("llama")
    steering = Steering(torch.zeros_like(bench.vector), alpha=1.0)
    for output, answer in zip(bench.engine(steering, 5), bench.oracle(None), strict=True):
        assert output.completion.text == bench.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        assert output.mean_cosine == 0.0


class TupleBlock(torch.nn.Module):
    """A block of the older kind, which returns a tuple with something beside the stream."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, str]:
        return self.block(*args, **kwargs), "something else"


def test_tuple_returning_block(tiny):
    """The same model twice, once with a block that returns a tuple, unpacked again behind the hook."""
    bench = tiny("llama")
    steering = bench.steering("middle", "residual", 0.1)
    model = copy.deepcopy(bench.model)
    blocks = llama_blocks(model)
    wrapped = TupleBlock(blocks[steering.layer_idx])
    wrapped.attention_type = getattr(wrapped.block, "attention_type", None)
    blocks[steering.layer_idx] = wrapped
    seen: list[str] = []

    def unpack(_block: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        stream, beside = args[0]
        seen.append(beside)
        return (stream, *args[1:]), kwargs

    blocks[steering.layer_idx + 1].register_forward_pre_hook(unpack, with_kwargs=True)
    check_engine(replace(bench, model=model), steering, batch_size=5)
    assert set(seen) == {"something else"}


# --- The hook's lifetime


def hooks(model: torch.nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_hook_is_gone_after_the_block(tiny, error):
    bench = tiny("llama")
    inputs = padded(bench)
    plain = bench.model(**inputs).logits

    def inside() -> None:
        with steer(bench.model, bench.steering("middle", "raw", None)):
            assert hooks(bench.model) == 1
            assert not torch.equal(bench.model(**inputs).logits, plain)
            if error is not None:
                raise error

    if error is None:
        inside()
    else:
        with pytest.raises(error):
            inside()
    assert hooks(bench.model) == 0
    assert torch.equal(bench.model(**inputs).logits, plain)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_gone_after_generation_broke_off(tiny, error):
    bench = tiny("llama")
    calls = []

    def fail_at_third(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise error

    trouble = llama_blocks(bench.model)[-1].register_forward_hook(fail_at_third)
    engine = TransformersEngine(bench.model, bench.tokenizer, batch_size=5)
    steering = bench.steering("middle", "raw", None)
    try:
        with pytest.raises(error):
            list(engine.generate(bench.prompts, max_new_tokens=8, steering=steering, capture_states=True))
    finally:
        trouble.remove()
    assert len(calls) == 3
    assert hooks(bench.model) == 0


def test_model_is_plain_between_two_answers_and_after_an_abandoned_run(tiny):
    bench = tiny("llama")
    inputs = padded(bench)
    plain = bench.model(**inputs).logits
    engine = TransformersEngine(bench.model, bench.tokenizer, batch_size=2)
    steering = bench.steering("middle", "raw", None)
    run = engine.generate(bench.prompts, max_new_tokens=4, steering=steering, capture_states=True)
    next(run)
    assert torch.equal(bench.model(**inputs).logits, plain)
    run.close()
    assert hooks(bench.model) == 0


# --- Compiled models, and ways to generate


def compiled(model: torch.nn.Module, how: str, layer_idx: int) -> Any:
    """What to call, compiled by Dynamo without a backend: it decides whether hooks are seen."""
    if how == "wrapped":
        return torch.compile(model, backend="eager")
    if how == "in place":
        model.compile(backend="eager")
    elif how == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    elif how == "block in place":
        llama_blocks(model)[layer_idx].compile(backend="eager")
    else:
        llama_blocks(model)[layer_idx] = torch.compile(llama_blocks(model)[layer_idx], backend="eager")
    return model


@pytest.fixture
def dynamo():
    """Forget what other tests compiled, and what this one does."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["wrapped", "in place", "forward", "block in place", "block wrapped"])
def test_a_model_that_was_compiled_before_is_steered_and_stays_compiled(tiny, dynamo, how):
    bench = tiny("llama")
    steering = bench.steering("middle", "residual", None)
    inputs = padded(bench)
    with torch.no_grad():
        with steer(bench.model, steering):
            expected = bench.model(**inputs).logits
        model = copy.deepcopy(bench.model)
        call = compiled(model, how, steering.layer_idx)
        plain = call(**inputs).logits
        with steer(model, steering):
            assert torch.equal(call(**inputs).logits, expected)
            with steer(model, replace(steering, layer_idx=0)):
                twice = call(**inputs).logits
            assert not torch.equal(twice, expected)
            assert torch.equal(call(**inputs).logits, expected)
        assert torch.equal(call(**inputs).logits, plain)
        with torch.compiler.set_stance("fail_on_recompile"):
            assert torch.equal(call(**inputs).logits, plain)


def test_the_wrapper_that_torch_compile_returns_is_steered(tiny, dynamo):
    bench = tiny("llama")
    inputs = padded(bench)
    model = torch.compile(copy.deepcopy(bench.model), backend="eager")
    with torch.no_grad():
        plain = model(**inputs).logits
        with steer(model, bench.steering("middle", "residual", None)):
            assert not torch.equal(model(**inputs).logits, plain)
        assert torch.equal(model(**inputs).logits, plain)


def test_a_static_cache_for_which_generate_compiles_by_itself(tiny, dynamo):
    """As on CUDA; a switch of transformers' own tests makes it compile on every device."""
    from transformers import CompileConfig

    bench = replace(tiny("llama"), model=copy.deepcopy(tiny("llama").model))
    config = CompileConfig(backend="eager", fullgraph=False, mode=None)
    config._compile_all_devices = True
    static = {"cache_implementation": "static", "compile_config": config}
    inputs = padded(bench)
    options = {"max_new_tokens": bench.max_new_tokens, "do_sample": False}
    steering = bench.steering("middle", "residual", None)
    plain = bench.model.generate(**inputs, **options, **static)
    assert bench.model._compiled_call is not None
    with steer(bench.model, steering):
        expected = bench.model.generate(**inputs, **options)
        assert torch.equal(bench.model.generate(**inputs, **options, **static), expected)
    assert not torch.equal(expected, plain)
    assert torch.equal(bench.model.generate(**inputs, **options, **static), plain)


@pytest.mark.parametrize("given", ["argument", "configuration", "the model's own"])
@pytest.mark.parametrize(
    "option",
    [{"use_cache": False}, {"prefill_chunk_size": 2}, {"prompt_lookup_num_tokens": 2}, {"assistant_early_exit": 2}],
    ids=lambda option: next(iter(option)),
)
def test_ways_to_generate_that_do_not_end_at_the_emitting_position_are_refused(tiny, option, given):
    from transformers import GenerationConfig

    bench = replace(tiny("llama"), model=copy.deepcopy(tiny("llama").model), prompts=FEW_PROMPTS[:1])
    inputs = padded(bench)
    arguments = {"max_new_tokens": 4, "do_sample": False}
    if given == "argument":
        arguments |= option
    elif given == "configuration":
        arguments = {"generation_config": GenerationConfig(**arguments, **option)}
    else:
        bench.model.generation_config.update(**option)
    [(name, value)] = option.items()
    with steer(bench.model, bench.steering("middle", "residual", None)):
        with pytest.raises(UserError, match=f"{name}={value!r}") as caught:
            bench.model.generate(**inputs, **arguments)
        assert "\n" not in str(caught.value)
    assert bench.model.generate(**inputs, **arguments).shape[1] > inputs["input_ids"].shape[1]


def test_an_assistant_and_continuous_batching_are_refused_and_only_inside_the_block(tiny):
    bench = replace(tiny("llama"), model=copy.deepcopy(tiny("llama").model), prompts=FEW_PROMPTS[:1])
    inputs = padded(bench)
    steering = bench.steering("middle", "residual", None)
    methods = {name: getattr(bench.model, name) for name in ("generate", "init_continuous_batching")}
    with steer(bench.model, steering), steer(bench.model, replace(steering, layer_idx=0)):
        with pytest.raises(UserError, match="assistant_model"):
            bench.model.generate(**inputs, max_new_tokens=4, assistant_model=bench.model)
        with pytest.raises(UserError, match="generate_batch"):
            bench.model.generate_batch([bench.ids[0]])
    assert {name: getattr(bench.model, name) for name in methods} == methods
    assert not set(methods) & set(vars(bench.model))


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True}, {"use_cache": True}], ids=str)
def test_other_ways_to_generate_are_not_refused(tiny, options):
    bench = tiny("llama")
    with steer(bench.model, bench.steering("middle", "residual", None)):
        assert len(bench.model.generate(**padded(bench), max_new_tokens=4, **options)) == len(bench.prompts)


# --- What was done is tallied


def test_traces_hold_what_was_seen_and_done_and_respect_the_gate(tiny):
    bench = tiny("llama")
    steering = bench.steering("middle", "raw", 0.1)
    inputs = padded(bench)
    h = block_outputs(bench.model, llama_blocks(bench.model), **inputs)[steering.layer_idx][:, -1]
    v = bench.vector[steering.layer_idx]
    cosines = torch.cosine_similarity(h, v[None])
    open_rows = torch.tensor([True, False, True, True, False])
    slots, columns = torch.tensor([4, 3, 2, 1, 0]), torch.tensor([1, 0, 1, 2, 2])
    traces = RowTraces(slots, columns, torch.full((5, 3, 3), -7.0), gate=open_rows)
    with steer(bench.model, steering, traces=traces):
        changed = block_outputs(bench.model, llama_blocks(bench.model), **inputs)[steering.layer_idx][:, -1]
    on = (cosines < 0.1) & open_rows
    assert 0 < on.sum() < open_rows.sum() + 1
    assert torch.equal((changed != h).any(dim=-1), on)
    doses = (changed - h).norm(dim=-1) / h.norm(dim=-1)
    expected = torch.full((5, 3, 3), -7.0)
    expected[slots, columns] = torch.stack((cosines, on.float(), doses), dim=1)
    torch.testing.assert_close(traces.seen, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_relative_dose_is_the_share_of_the_states_norm(scale):
    h, v = torch.randn(4, 6), torch.randn(6)
    applied = steered(h, v, Steering(v, alpha=-0.5, alpha_scale=scale, similarity_threshold=None))
    moved = (applied.stream - h).norm(dim=-1) / h.norm(dim=-1)
    torch.testing.assert_close(applied.relative_dose, moved, atol=1e-5, rtol=1e-5)
    if scale == "residual":
        torch.testing.assert_close(applied.relative_dose, torch.full((4,), 0.5))


# --- No waiting for the device


class HostReads(TorchDispatchMode):
    """Counts the operations whose result the host has to wait for."""

    names = frozenset(
        f"aten.{name}"
        for name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "unique_dim")
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func.overloadpacket) in self.names
        return func(*args, **(kwargs or {}))


def test_host_reads_are_noticed():
    """The instrument of the next tests: it sees a branch on a tensor, and the meta device refuses one."""
    with HostReads() as reads:
        assert bool(torch.ones(1) > 0)
        float(torch.ones(1))
    assert reads.count == 2
    with pytest.raises(RuntimeError):
        bool(torch.ones(1, device="meta") > 0)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(1, device="meta").cpu()


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("scale", SCALES)
def test_hook_adds_no_host_read_to_a_forward_pass(tiny, scale, tau):
    bench = tiny("llama")
    inputs = padded(bench)
    with HostReads() as plain:
        bench.model(**inputs)
    traces = RowTraces(torch.arange(5), torch.zeros(5).long(), torch.zeros(5, 1, 3))
    with steer(bench.model, bench.steering("middle", scale, tau), traces=traces), HostReads() as hooked:
        bench.model(**inputs)
    assert (traces.seen[:, 0, 0] != 0).all()
    assert hooked.count == plain.count


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("scale", SCALES)
def test_hook_runs_where_there_are_no_values_to_read(tiny, scale, tau):
    """On the meta device every look at a value, and every copy to the host, is an error."""
    bench = tiny("llama")
    model = copy.deepcopy(bench.model).to("meta")
    ids = torch.zeros(5, 7, dtype=torch.int64, device="meta")
    traces = RowTraces(*torch.zeros(2, 5, dtype=torch.int64, device="meta"), torch.zeros(5, 1, 3, device="meta"))
    with torch.inference_mode(), steer(model, bench.steering("middle", scale, tau), traces=traces):
        first = model(input_ids=ids, use_cache=True)
        second = model(input_ids=ids[:, :1], past_key_values=first.past_key_values, use_cache=True)
    assert second.logits.shape == (5, 1, model.config.vocab_size)


def test_engine_reads_no_more_a_token_with_steering_and_capture(tiny):
    """One more token costs the same number of host reads with the hooks as without."""
    bench = replace(tiny("qwen2"), prompts=FEW_PROMPTS[:1])
    engine = TransformersEngine(bench.model, bench.tokenizer, batch_size=1)
    assert len(bench.oracle(None)[0].tokens) >= 12

    def reads(max_new_tokens: int, **options: Any) -> int:
        with HostReads() as counted:
            [(_, output)] = engine.generate(bench.prompts, max_new_tokens=max_new_tokens, **options)
        assert output.completion.completion_tokens == max_new_tokens
        return counted.count

    hooked = {"steering": replace(bench.steering("middle", "raw", 0.1), alpha=0.0), "capture_states": True}
    assert reads(12, **hooked) - reads(4, **hooked) == reads(12) - reads(4)


# --- Values that make no sense


def bad(bench: Bench, **values: Any) -> None:
    """Steer with these values; where they are caught, at once or at the model, is not our business."""
    with steer(bench.model, Steering(**{"vector": bench.vector, **values})):
        pass


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"alpha_scale": "cosine"}, ["alpha_scale", "'cosine'", *SCALES]),
        ({"alpha_scale": "RAW"}, ["alpha_scale", "'RAW'", *SCALES]),
        ({"alpha": math.nan}, ["alpha", "nan", "finite"]),
        ({"alpha": math.inf}, ["alpha", "inf", "finite"]),
        ({"similarity_threshold": math.nan}, ["similarity_threshold", "nan", "none"]),
        ({"layer_idx": 5}, ["layer_idx", "5", "-5", "4"]),
        ({"layer_idx": -6}, ["layer_idx", "-6", "-5", "4"]),
        ({"layer_idx": 99, "vector": torch.ones(32)}, ["layer_idx", "99", "-5", "4"]),
        ({"vector": torch.ones(5, 31)}, ["vector", "[5, 31]", "32"]),
        ({"vector": torch.ones(31)}, ["vector", "[31]", "32"]),
        ({"vector": torch.ones(4, 32)}, ["vector", "[4, 32]", "5"]),
        ({"vector": torch.ones(6, 32)}, ["vector", "[6, 32]", "5"]),
        ({"vector": torch.ones(5, 32, 1)}, ["vector", "[5, 32, 1]", "[layers, hidden]"]),
        ({"vector": torch.ones(5, 32, dtype=torch.int64)}, ["vector", "int64", "floating"]),
        ({"vector": torch.tensor([math.nan] + [1.0] * 31)}, ["vector", "NaN"]),
        ({"vector": torch.tensor([math.inf] + [1.0] * 31)}, ["vector", "infinite"]),
        ({"vector": torch.zeros(32), "alpha_scale": "unit"}, ["vector", "zero", "'unit'"]),
        ({"vector": torch.zeros(5, 32), "alpha_scale": "residual"}, ["vector", "zero", "'residual'"]),
    ],
)
def test_bad_values_are_user_errors_that_name_value_and_allowed(tiny, values, words):
    bench = tiny("llama")
    with pytest.raises(UserError) as caught:
        bad(bench, **values)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message
    assert hooks(bench.model) == 0


def test_nan_in_another_layers_row_is_refused(tiny):
    bench = tiny("llama")
    vector = bench.vector.clone()
    vector[0, 0] = math.nan
    with pytest.raises(UserError, match="NaN"):
        bad(bench, vector=vector, layer_idx=3)


def test_good_values_are_not_refused(tiny):
    """The errors above come from the values they name, not from the rest."""
    bad(tiny("llama"), layer_idx=-5, alpha=-3, alpha_scale="unit", similarity_threshold=0)


# --- On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("placement", [{"device": "cuda"}, {"device_map": "auto"}])
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("scale", SCALES)
def test_tokens_are_the_oracles_on_cuda(smollm2_path, scale, tau, placement):
    from als.models import load_model

    model, tokenizer = load_model(smollm2_path, dtype="float32", **placement)
    assert model.device.type == "cuda"
    bench = make_bench(model, tokenizer, SMOLLM2_PROMPTS, along=0.15, max_new_tokens=24)
    steering = bench.steering("middle", scale, tau)
    check_telling(bench, steering)
    check_engine(bench, steering, batch_size=5)
    check_engine(bench, steering, batch_size=1)
    assert bench.plain_generate(steering) == [answer.tokens for answer in bench.oracle(steering)]


@pytest.mark.gpu
def test_hook_never_waits_for_cuda(smollm2_path):
    """CUDA itself refuses a synchronisation while the hooked model runs."""
    from als.models import load_model

    model, tokenizer = load_model(smollm2_path, dtype="float32", device="cuda")
    bench = make_bench(model, tokenizer, SMOLLM2_PROMPTS, along=0.15, max_new_tokens=24)
    ids = torch.ones(5, 7, dtype=torch.int64, device="cuda")
    traces = RowTraces(
        torch.arange(5, device="cuda"), torch.zeros(5, device="cuda").long(), torch.zeros(5, 1, 3, device="cuda")
    )
    with torch.inference_mode(), steer(model, bench.steering("middle", "residual", 0.1), traces=traces):
        cache = model(input_ids=ids, use_cache=True).past_key_values  # the vector moves to the device once
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
