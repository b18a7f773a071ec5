"""LatentSeek against an oracle that keeps no cache (latentseek_oracle.py): the same tokens after every step.

The tiny models judge their own answers: their tokenizer's vocabulary holds verdicts and boxes, so rewards differ
from text to text and the real verifiers decide when a search ends. Learning rates are high, so tokens change.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from als.cli import main
from als.engines.latent import LatentDecoder
from als.engines.transformers_engine import TransformersEngine
from als.generation import latentseek
from als.generation.latentseek import Search
from als.generation.settings import LatentSeekSettings, Settings
from als.prompts.verifier import verifier_messages
from als.records import Problem
from als.reward import read_verdict
from conftest import ARCHITECTURES, WORDS, randomise
from latentseek_oracle import Found, Judge, decode, head_logits, judging_tokenizer, search

ENDS = [0, 12, 36, 60, 61, 68, 72, 92]
NEW = 20
QUESTION = "w3 w59 ?"
PROBLEM = Problem(0, QUESTION, "5")
PROMPTS = ["w3 w7 w11", "w15 w19 w23 w27 w31 w35", "w51"]
SEEK = LatentSeekSettings(lr=0.3, k=0.4, max_num_steps=4, reward_threshold=-0.1)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama_tied": ("llama", {"tie_word_embeddings": True}),
    "gemma2_capped": ("gemma2", {"final_logit_softcapping": 2.0}),
}


@pytest.fixture(scope="module")
def tokenizer():
    return judging_tokenizer(WORDS)


@pytest.fixture(scope="module")
def model(tiny_model) -> Callable[[str], Any]:
    """Room for the verifiers' prompts, and several end tokens, so that answers end at different lengths."""

    def build(name: str) -> Any:
        architecture, changes = MODELS[name]
        built = tiny_model(architecture, max_position_embeddings=1024, **changes)
        built.generation_config.eos_token_id = ENDS
        return built

    return build


@pytest.fixture(scope="module")
def ours(model, tokenizer) -> Callable[..., tuple[Search, Any]]:
    """Runs the search under test on a tiny model: the finished search and its results line."""

    def run(name: str, prompt: str, seek: LatentSeekSettings = SEEK, *, new: int = NEW, batch_size: int = 4) -> Any:
        engine = TransformersEngine(model(name), tokenizer, batch_size=batch_size)
        settings = Settings(benchmark="arithmetic", max_new_tokens=new, latentseek=seek)
        done = Search(engine, PROBLEM, prompt, settings)
        return done, done.run()

    return run


@pytest.fixture(scope="module")
def theirs(model, tokenizer) -> Callable[..., tuple[Found, Judge]]:
    """The oracle's search for the same; asked once for the same arguments."""
    done: dict[Any, Any] = {}

    def run(name: str, prompt: str, seek: LatentSeekSettings = SEEK, **more: Any) -> tuple[Found, Judge]:
        key = (name, prompt, seek, *more.items())
        if key not in done:
            judge = Judge(model(name), tokenizer, QUESTION, ENDS, NEW, boxed=seek.boxed_rule)
            ids = tokenizer(prompt)["input_ids"]
            options = oracle_options(seek) | {"eos": ENDS, "max_new_tokens": NEW}
            done[key] = search(model(name), tokenizer, ids, judge.reward, **options, **more), judge
        return done[key]

    return run


def oracle_options(seek: LatentSeekSettings) -> dict[str, Any]:
    names = ("lr", "k", "max_num_steps", "reward_threshold", "grad_clip")
    return {name: getattr(seek, name) for name in names}


def tokens(done: Search) -> list[list[int]]:
    return [list(text.tokens) for text in done.texts]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", MODELS)
def test_every_step_is_the_oracles(ours, theirs, tokenizer, name, prompt):
    done, line = ours(name, prompt)
    found, judge = theirs(name, prompt)
    assert tokens(done) == found.tokens
    assert [text.text for text in done.texts] == found.texts
    assert done.rewards == pytest.approx(found.rewards)
    assert done.verdicts == [judge.verdicts(text) for text in found.texts]
    steps = len(found.tokens) - 1
    assert line.details["rewards"] == pytest.approx(found.rewards)
    assert line.details["steps"] == steps
    assert line.details["updated_tokens"] == (found.updated if steps else 0)
    silent = [list(judge.verdicts(text).values()).count(None) for text in found.texts]
    assert line.details["without_verdict"] == sum(silent)
    assert (line.completion, line.completion_tokens) == (found.texts[-1], len(found.tokens[-1]))
    decoded = [max(0, len(answer) - (i > 0) * found.updated) for i, answer in enumerate(found.tokens)]
    assert line.generated_tokens == sum(decoded) + sum(judge.costs[text] for text in found.texts)
    assert line.finish_reason == ("stop" if found.tokens[-1][-1] in ENDS else "length")
    assert line.prompt_tokens == len(tokenizer(prompt)["input_ids"])
    assert line.seconds > 0


def test_cases_reach_what_they_are_for(theirs):
    """Tokens change with every step, searches end early and late, and some ends are among the forced tokens."""
    found = [theirs(name, prompt)[0] for name in MODELS for prompt in PROMPTS]
    for one in found:
        starts = [tuple(answer[: one.updated]) for answer in one.tokens]
        assert len(set(starts)) > len(starts) / 2
    assert {len(one.tokens) - 1 for one in found} >= {0, SEEK.max_num_steps}
    assert any(0 < len(one.tokens) - 1 < SEEK.max_num_steps for one in found)
    assert any(len(answer) <= one.updated and answer[-1] in ENDS for one in found for answer in one.tokens)
    assert len({round(reward, 3) for one in found for reward in one.rewards}) > 5


def test_smollm2_is_the_oracles(smollm2):
    """The real verifiers on a real model, whose head is tied; some say something and some do not."""
    model, tokenizer = smollm2
    question, prompt = (
        "What is 6 * 7?",
        "<|im_start|>user\nRepeat: The answer is 42.<|im_end|>\n<|im_start|>assistant\n",
    )
    seek = LatentSeekSettings(lr=1.0, k=0.7, max_num_steps=1, reward_threshold=0.0, boxed_rule=False)
    settings = Settings(benchmark="arithmetic", max_new_tokens=13, latentseek=seek, verifier_max_new_tokens=14)
    done = Search(TransformersEngine(model, tokenizer, batch_size=4), Problem(0, question, "42"), prompt, settings)
    line = done.run()
    one_by_one = TransformersEngine(model, tokenizer, batch_size=1)
    verdicts = []

    def reward(text: str) -> float:
        lost = 0
        for check, weight in {"calculation": 2, "answer": 1, "completeness": 2, "understanding": 1}.items():
            asked = one_by_one.render(verifier_messages(check, question=question, completion=text))
            [(_, output)] = one_by_one.generate([asked], max_new_tokens=14)
            verdicts.append(read_verdict(output.completion))
            lost += weight * (verdicts[-1] is not True)
        return -lost / 6

    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    options = oracle_options(seek) | {"eos": [tokenizer.eos_token_id], "max_new_tokens": 13}
    found = search(model, tokenizer, ids, reward, **options)
    assert tokens(done) == found.tokens
    assert done.rewards == pytest.approx(found.rewards)
    assert line.details["without_verdict"] == verdicts.count(None)
    assert {True, None} <= set(verdicts)
    assert found.tokens[0][:4] != found.tokens[1][:4]


# --- When a search ends, and which text it leaves. Shorter searches are beginnings of longer ones.

LONG = ("llama", PROMPTS[1], replace(SEEK, max_num_steps=6, reward_threshold=1.0))


@pytest.fixture(scope="module")
def long_search(ours) -> Search:
    """All steps, whatever the rewards."""
    done, _ = ours(*LONG)
    assert len(done.rewards) == 7
    assert len(set(done.rewards)) > 2
    return done


def test_the_search_ends_with_the_first_reward_above_the_threshold(ours, long_search):
    name, prompt, seek = LONG
    rewards = long_search.rewards
    for threshold in {-2.0, 0.0, *rewards, *(reward - 1e-6 for reward in rewards)}:
        above = [reward > threshold for reward in rewards]
        tried = above.index(True) + 1 if True in above else len(rewards)
        done, line = ours(name, prompt, replace(seek, reward_threshold=threshold))
        assert tokens(done) == tokens(long_search)[:tried], threshold
        assert line.details["steps"] == tried - 1
        assert line.completion == long_search.texts[tried - 1].text


@pytest.mark.parametrize("steps", [0, 1, 3, 6])
def test_the_search_ends_after_the_last_step(ours, long_search, steps):
    name, prompt, seek = LONG
    done, line = ours(name, prompt, replace(seek, max_num_steps=steps))
    assert tokens(done) == tokens(long_search)[: steps + 1]
    assert line.details["steps"] == steps
    assert line.details["rewards"] == long_search.rewards[: steps + 1]


def test_a_first_answer_that_is_good_enough_stands(ours, long_search):
    name, prompt, seek = LONG
    done, line = ours(name, prompt, replace(seek, reward_threshold=-2.0))
    assert tokens(done) == tokens(long_search)[:1]
    assert (line.details["steps"], line.details["updated_tokens"]) == (0, 0)
    assert line.completion == long_search.texts[0].text


@pytest.mark.parametrize(("k", "parameters"), [(0.0, 0), (0.049, 0), (0.05, 1), (0.349, 6), (0.35, 7), (1.0, 20)])
def test_the_number_of_parameters_is_rounded_down(ours, long_search, k, parameters):
    """The first answer has 20 tokens; with no parameter it stands."""
    name, prompt, seek = LONG
    assert len(long_search.texts[0].tokens) == 20
    done, line = ours(name, prompt, replace(seek, k=k, max_num_steps=1))
    assert line.details["updated_tokens"] == parameters
    assert line.details["steps"] == min(parameters, 1)
    assert tokens(done)[0] == tokens(long_search)[0]


@pytest.mark.parametrize("name", MODELS)
def test_all_tokens_as_parameters_leave_nothing_to_decode(ours, theirs, name):
    seek = replace(SEEK, k=1.0, lr=1.0, max_num_steps=2, reward_threshold=1.0)
    done, _ = ours(name, PROMPTS[1], seek)
    found, _ = theirs(name, PROMPTS[1], seek)
    assert tokens(done) == found.tokens
    assert found.tokens[0] != found.tokens[1] != found.tokens[2]


def test_at_most_three_hundred_parameters(model, tokenizer):
    endless = copy.deepcopy(model("llama"))
    endless.generation_config.eos_token_id = 0
    torch.nn.init.zeros_(endless.lm_head.weight[0])
    engine = TransformersEngine(endless, tokenizer, batch_size=4)
    seek = LatentSeekSettings(lr=0.5, k=1.0, max_num_steps=1, reward_threshold=1.0)
    done = Search(engine, PROBLEM, PROMPTS[0], Settings("arithmetic", max_new_tokens=310, latentseek=seek))
    line = done.run()
    assert len(done.texts[0].tokens) == 310
    assert line.details["updated_tokens"] == 300
    ids = tokenizer(PROMPTS[0])["input_ids"]
    # One pass instead of 310: what each position chooses behind the second answer's tokens.
    second = list(done.texts[1].tokens)
    with torch.no_grad():
        chosen = endless(torch.tensor([ids + second])).logits[0, len(ids) - 1 :].argmax(dim=-1).tolist()
    assert chosen[300:310] == second[300:]
    assert chosen[:300] != second[:300]


def test_keeping_the_best_text(ours, theirs):
    seek = replace(SEEK, reward_threshold=1.0)
    differ = 0
    for prompt in PROMPTS:
        found, _ = theirs("llama", prompt)
        kept = ours("llama", prompt, replace(seek, keep="best"))[1]
        last = ours("llama", prompt, replace(seek, keep="last"))[1]
        rewards = kept.details["rewards"]
        assert rewards == last.details["rewards"]
        assert rewards[: len(found.rewards)] == pytest.approx(found.rewards)
        done = ours("llama", prompt, seek)[0]
        best = [text for text, reward in zip(done.texts, rewards, strict=True) if reward == max(rewards)]
        assert kept.completion in [text.text for text in best]
        assert kept.completion_tokens in [len(text.tokens) for text in best]
        assert last.completion == done.texts[-1].text
        differ += kept.completion != last.completion
    assert differ > 0


@pytest.mark.parametrize("grad_clip", [None, 1.0])
def test_a_reward_of_zero_pulls_nowhere(ours, grad_clip):
    """Every check passed is no gradient; where the threshold demands more, the text stays as it is."""
    seek = replace(SEEK, reward_threshold=0.0, grad_clip=grad_clip)
    done, line = ours("llama_tied", PROMPTS[0], seek)
    assert done.rewards == [0.0] * (SEEK.max_num_steps + 1)
    assert tokens(done) == [tokens(done)[0]] * (SEEK.max_num_steps + 1)
    assert line.details["updated_tokens"] == int(SEEK.k * len(tokens(done)[0]))


def test_clipped_gradients_are_the_oracles(ours, theirs):
    """Adam does not care for the gradient's scale, until the gradient is about as small as its epsilon."""
    found = {}
    for clip in (None, 1e3, 1e-7, 1e-12):
        seek = replace(SEEK, reward_threshold=1.0, max_num_steps=3, grad_clip=clip)
        done, _ = ours("llama_tied", PROMPTS[1], seek)
        found[clip] = tokens(done)
        if clip == 1e-7:
            assert found[clip] == theirs("llama_tied", PROMPTS[1], seek)[0].tokens
    assert found[None] == found[1e3] != found[1e-7]
    assert found[1e-12] == [found[None][0]] * 4


def test_soft_capping_is_in_the_gradient(ours, theirs):
    """What the capped model finds is not what it would find without the cap."""
    unlike = []
    for prompt in PROMPTS[1:2]:
        done, _ = ours("gemma2_capped", prompt)
        uncapped, _ = theirs("gemma2_capped", prompt, capped=False)
        unlike.append(tokens(done) != uncapped.tokens)
    assert any(unlike)


@pytest.mark.parametrize("prompt_idx", [0, 1])
@pytest.mark.parametrize("boxed_rule", [True, False])
def test_the_box_counts_where_the_prompt_asks_for_it(model, tokenizer, theirs, boxed_rule, prompt_idx):
    """`w39` on llama: the greedy answer has no box and fails some checks."""
    found, judge = theirs("llama", "w39")
    assert "\\boxed{" not in found.texts[0]
    weights = {"calculation": 2, "answer": 1, "completeness": 2, "understanding": 1}
    failed = sum(weights[check] for check, verdict in judge.verdicts(found.texts[0]).items() if verdict is not True)
    settings = Settings(
        "arithmetic",
        prompt_idx=prompt_idx,
        max_new_tokens=NEW,
        latentseek=replace(SEEK, max_num_steps=0, boxed_rule=boxed_rule),
    )
    done = Search(TransformersEngine(model("llama"), tokenizer), PROBLEM, "w39", settings)
    done.run()
    asked = boxed_rule and prompt_idx == 0
    assert done.rewards == pytest.approx([-(failed + 2 * asked) / 6])


# --- Decoding from a forced beginning.

HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "llama_tied": ("llama", {"tie_word_embeddings": True}),
    "gemma2_capped": ("gemma2", {"final_logit_softcapping": 2.0}),
}


def cohere(**changes: Any) -> Any:
    """Scales its logits."""
    from transformers import CohereConfig, CohereForCausalLM

    return _scaled(CohereForCausalLM, CohereConfig, logit_scale=0.25, **changes)


def granite(**changes: Any) -> Any:
    """Divides its logits."""
    from transformers import GraniteConfig, GraniteForCausalLM

    return _scaled(GraniteForCausalLM, GraniteConfig, logits_scaling=4.0, **changes)


def _scaled(model_class: Any, config_class: Any, **options: Any) -> Any:
    sizes = {**ARCHITECTURES["llama"][1], "vocab_size": WORDS, "tie_word_embeddings": False}
    sizes.pop("head_dim")
    config = config_class(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0, **options)
    model = model_class(config).eval()
    randomise(model)
    return model


FORCED = [[], [5], [9, 9, 31, 64], [7, 20, 33, 46, 59, 72, 85, 6, 19], [3, 17, 12], [88]]


@pytest.mark.parametrize("name", [*HEADS, "cohere", "granite"])
def test_continuations_and_latents_of_every_architecture(tiny_model, tokenizer, name):
    """Each continuation is the oracle's, in whatever order they are asked for, and the logits are the model's."""
    if name in HEADS:
        architecture, changes = HEADS[name]
        model = copy.deepcopy(tiny_model(architecture, **changes))
    else:
        model = {"cohere": cohere, "granite": granite}[name]()
    model.generation_config.eos_token_id = ENDS
    ids = tokenizer(PROMPTS[1])["input_ids"]
    decoder = LatentDecoder(TransformersEngine(model, tokenizer), PROMPTS[1], max_new_tokens=12)
    answer, latents = decode(model, ids, eos=ENDS, max_new_tokens=12)
    assert list(decoder.greedy.tokens) == answer
    assert decoder.prompt_tokens == len(ids)
    torch.testing.assert_close(decoder.latents, latents, rtol=1e-3, atol=1e-4)
    for forced in [*FORCED, *FORCED[::-1]]:
        expected, _ = decode(model, ids, eos=ENDS, max_new_tokens=12, forced=forced)
        continuation = decoder.continue_from(forced)
        assert list(continuation.tokens) == expected
        assert continuation.stopped is (expected[-1] in ENDS)
        assert continuation.text == tokenizer.decode(expected, skip_special_tokens=True)
    with torch.no_grad():
        logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
    torch.testing.assert_close(decoder.logits(decoder.latents).detach(), logits, rtol=1e-3, atol=1e-3)


def test_forced_tokens_end_where_they_hold_an_end(tiny_model, tokenizer):
    model = copy.deepcopy(tiny_model("llama"))
    model.generation_config.eos_token_id = ENDS
    decoder = LatentDecoder(TransformersEngine(model, tokenizer), PROMPTS[0], max_new_tokens=4)
    ended = decoder.continue_from([3, ENDS[1], 11])
    assert (ended.tokens, ended.stopped, ended.text) == ((3, ENDS[1]), True, tokenizer.decode([3, ENDS[1]]))
    assert decoder.continue_from([3, 7, 11, 0]).stopped is True
    full = decoder.continue_from([3, 7, 11, 15])
    assert (full.tokens, full.stopped) == ((3, 7, 11, 15), False)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_written_out_heads(model, tokenizer, name):
    decoder = LatentDecoder(TransformersEngine(model(name), tokenizer), PROMPTS[1], max_new_tokens=12)
    gradients = []
    for logits in (decoder.logits, lambda latents: head_logits(model(name), latents)):
        z = decoder.latents[:5].clone().requires_grad_()
        logits(z).log_softmax(dim=-1).amax(dim=-1).sum().backward()
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients)


@pytest.fixture(scope="module")
def low(model) -> Callable[[str], Any]:
    """The same models in bfloat16."""

    def build(name: str) -> Any:
        built = copy.deepcopy(model(name)).to(torch.bfloat16)
        built.generation_config.eos_token_id = ENDS
        return built

    return build


@pytest.mark.parametrize("name", MODELS)
def test_latents_of_bfloat16_models_choose_the_greedy_tokens(low, tokenizer, name):
    engine = TransformersEngine(low(name), tokenizer)
    for prompt in PROMPTS:
        decoder = LatentDecoder(engine, prompt, max_new_tokens=NEW)
        logits = decoder.logits(decoder.latents)
        assert (decoder.latents.dtype, logits.dtype) == (torch.float32, torch.float32)
        assert logits.argmax(dim=-1).tolist() == list(decoder.greedy.tokens)
        torch.testing.assert_close(logits, head_logits(engine.model, decoder.latents), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("prompt", PROMPTS[1:])
def test_parameters_of_bfloat16_models_are_float32(low, tokenizer, prompt):
    """Steps that bfloat16 rounds away add up: the search written out, with the engine's own latents and rewards."""
    engine = TransformersEngine(low("llama"), tokenizer, batch_size=4)
    seek = LatentSeekSettings(lr=0.0015, k=1.0, max_num_steps=30, reward_threshold=2.0, boxed_rule=False)
    done = Search(engine, PROBLEM, prompt, Settings("arithmetic", max_new_tokens=4, latentseek=seek))
    done.run()
    start = LatentDecoder(engine, prompt, max_new_tokens=4).latents
    weight = engine.model.lm_head.weight.detach()
    ours = [answer[:4] for answer in tokens(done)]

    def written_out(dtype: torch.dtype) -> list[list[int]]:
        z = start.to(dtype).clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=seek.lr)
        chosen = []
        for reward in done.rewards:
            logits = (z.to(weight.dtype) @ weight.T).float()
            chosen.append(logits.argmax(dim=-1).tolist())
            optimizer.zero_grad()
            (-reward * logits.log_softmax(dim=-1).amax(dim=-1).sum()).backward()
            optimizer.step()
        return [forced[: len(answer)] for forced, answer in zip(chosen, ours, strict=True)]

    assert ours == written_out(torch.float32)
    assert ours != written_out(torch.bfloat16)


# --- What it costs, and the command.


def count_fed(model: Any) -> tuple[list[int], Any]:
    """Tokens of each forward pass, rows times length; the hook that counts them."""
    fed: list[int] = []

    def count(_model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        fed.append((args[0] if args else kwargs["input_ids"]).numel())

    return fed, model.register_forward_pre_hook(count, with_kwargs=True)


def test_the_prompt_is_computed_once_and_every_token_once(model, tokenizer):
    prompt = " ".join(f"w{i}" for i in range(3, 43, 4)) + " w15 w19"
    fed, hook = count_fed(model("llama"))
    try:
        decoder = LatentDecoder(TransformersEngine(model("llama"), tokenizer), prompt, max_new_tokens=NEW)
        answer = len(decoder.greedy.tokens)
        assert sum(fed) == decoder.prompt_tokens + answer - 1
        for forced in ([5], [9, 9, 31, 64]):
            fed.clear()
            continuation = decoder.continue_from(forced)
            assert sum(fed) <= len(continuation.tokens)
    finally:
        hook.remove()


class Counting(TransformersEngine):
    """Notes how many prompts each call of `generate` had."""

    calls: list[int]

    def generate(self, prompts: Sequence[str], **options: Any) -> Any:
        self.calls.append(len(prompts))
        return super().generate(prompts, **options)


def test_the_four_verifiers_of_a_text_are_one_call(model, tokenizer):
    engine = Counting(model("llama"), tokenizer, batch_size=4)
    engine.calls = []
    done = Search(engine, PROBLEM, PROMPTS[1], Settings("arithmetic", max_new_tokens=NEW, latentseek=SEEK))
    done.run()
    assert engine.calls == [4] * len(done.rewards)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_does_not_matter(ours, batch_size):
    done, line = ours("llama", PROMPTS[0], batch_size=batch_size)
    other, reference = ours("llama", PROMPTS[0], batch_size=4)
    assert (tokens(done), done.verdicts) == (tokens(other), other.verdicts)
    assert line.details == reference.details


def test_problems_are_searched_each_for_itself(model, tokenizer):
    """In the order given, and nothing of one search stays for the next."""
    engine = TransformersEngine(model("llama"), tokenizer, batch_size=4)
    settings = Settings("arithmetic", max_new_tokens=NEW, latentseek=SEEK)
    asked = [Problem(i, question, "5") for i, question in enumerate(PROMPTS)]
    together = list(latentseek.run(engine, asked, settings))
    assert [line.index for line in together] == [0, 1, 2]
    for problem, line in zip(asked, together, strict=True):
        [alone] = latentseek.run(engine, [problem], settings)
        assert replace(alone, seconds=0.0) == replace(line, seconds=0.0)


@pytest.fixture
def command(model, tokenizer, tmp_path, monkeypatch) -> Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Runs the self-judging model from disk in an empty folder: results lines and summary."""
    monkeypatch.chdir(tmp_path)
    model("llama").save_pretrained("judging")
    tokenizer.save_pretrained("judging")
    rows = [json.dumps({"question": question, "answer": "Thus\n#### 5"}) for question in PROMPTS]
    Path("asked.jsonl").write_text("\n".join(rows) + "\n")

    def run(*more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        options = ["--generation_mode", "latentseek", "--model_name_or_path", "judging", "--dtype", "float32"]
        options += ["--dataset", "asked.jsonl", "--benchmark", "gsm8k", "--max_new_tokens", str(NEW)]
        assert main.main([*options, "--device", "cpu", "--prompts_to_run", "0", *more]) == 0
        [results] = tmp_path.rglob("results.jsonl")
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        return lines, json.loads((results.parent / "summary.json").read_text())

    return run


def test_command_searches_as_its_options_say(command, model, tokenizer):
    options = ["--lr", "0.3", "--k", "0.4", "--max_num_steps", "3", "--reward_threshold", "-0.3", "--grad_clip", "0.5"]
    lines, summary = command(*options, "--rule_format_string", "none", "--keep", "best")
    seek = LatentSeekSettings(0.3, 0.4, 3, -0.3, 0.5, boxed_rule=False, keep="best")
    settings = Settings("gsm8k", max_new_tokens=NEW, latentseek=seek)
    asked = [Problem(i, question, "5") for i, question in enumerate(PROMPTS)]
    expected = list(latentseek.run(TransformersEngine(model("llama"), tokenizer), asked, settings))
    names = ("completion", "rewards", "steps", "updated_tokens", "without_verdict")
    assert [[line[name] for name in names] for line in lines] == [
        [line.to_json()[name] for name in names] for line in expected
    ]
    assert summary["steps"] == pytest.approx(sum(line["steps"] for line in lines) / len(lines))
    assert max(line["steps"] for line in lines) > 0
