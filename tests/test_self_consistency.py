"""Self-consistency: the vote, the draws behind it, and that a seed and a problem decide a problem's samples.

Sampled tokens are held against an oracle without cache and without a batch: one sample at a time, the whole
sequence again for every token. That the draws follow softmax(logits / T) is a chi-square test with fixed seeds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch

from als.cli import main
from als.engines.base import Sampling
from als.engines.sampling import draw
from als.engines.transformers_engine import TransformersEngine
from als.generation import self_consistency
from als.generation.self_consistency import elect, sample_seed, vote
from als.generation.settings import SelfConsistencySettings, Settings
from als.records import Problem, Verdict
from als.steering import Steering
from conftest import WORDS
from oracle import ENDS, TINY_PROMPTS, llama_blocks, mean_states

# --- The vote.


@pytest.mark.parametrize(
    ("benchmark", "answers", "ballots"),
    [
        ("math-500", ["1/2", "0.5", "1.0", "1", None], [("1/2", [0, 1]), ("1.0", [2, 3])]),
        ("math-500", ["3", r"\frac{1}{2}", "0.5"], [(r"\frac{1}{2}", [1, 2]), ("3", [0])]),
        ("math-500", ["(1,2)", "(2,1)", "(1, 2)"], [("(1,2)", [0, 2]), ("(2,1)", [1])]),
        ("math-500", ["x+1", "1+x", "x"], [("x+1", [0, 1]), ("x", [2])]),
        ("gsm8k", ["1,000", "7", "1000", "$1000.00", "7"], [("1,000", [0, 2, 3]), ("7", [1, 4])]),
        ("arithmetic", ["5", "6", "6", "5"], [("5", [0, 3]), ("6", [1, 2])]),
        ("arithmetic", ["6", "5", "5", "6"], [("6", [0, 3]), ("5", [1, 2])]),
        ("arithmetic", ["4", "5", "5.0"], [("5", [1, 2]), ("4", [0])]),
        ("aime_2024", ["7", "007", "70"], [("7", [0, 1]), ("70", [2])]),
        ("aime_2024", ["7", "1001", "1001"], [("1001", [1, 2]), ("7", [0])]),
        ("arithmetic", [None, None, None, "5"], [("5", [3])]),
        ("arithmetic", [None, "6", None, "5", "5"], [("5", [3, 4]), ("6", [1])]),
        ("arithmetic", [None, None], []),
        ("arithmetic", [], []),
    ],
)
def test_votes_are_for_values_not_for_strings(benchmark, answers, ballots):
    assert [(ballot.answer, ballot.voters) for ballot in vote(answers, benchmark=benchmark)] == ballots


def test_a_comparison_that_fails_in_the_vote_is_recorded():
    errors = []
    ballots = vote([r"\binom{99999999}{9999999}", "5", "5"], benchmark="math-500", errors=errors)
    assert [(ballot.answer, ballot.voters) for ballot in ballots] == [
        ("5", [1, 2]),
        (r"\binom{99999999}{9999999}", [0]),
    ]
    assert errors == ["time limit of 3 CPU seconds"] * 2
    verdicts = [Verdict(r"\binom{99999999}{9999999}", "5", False, "boxed"), Verdict("5", "5", True, "boxed")]
    winning, winner, _ = elect(verdicts, "5", benchmark="math-500")
    assert (winner, winning.correct, winning.error) == (0, False, "in the vote: time limit of 3 CPU seconds")


# --- Seeds.


def test_every_seed_problem_and_sample_draw_for_themselves():
    problems = [Problem(i, f"What is {i} + {i}?", str(2 * i)) for i in range(20)]
    seeds = [sample_seed(seed, problem, k) for seed in (0, 1, 42) for problem in problems for k in range(10)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_in_another_process():
    """Python's own hash() is not; --resume runs in another process."""
    problem = Problem(3, "What is 2 + 3?", "5")
    code = (
        "from als.generation.self_consistency import sample_seed; from als.records import Problem\n"
        f"print([sample_seed(42, {problem!r}, k) for k in range(5)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(said.stdout) == [sample_seed(42, problem, k) for k in range(5)]


# --- The draws.

PROMPTS = TINY_PROMPTS[:5]
SEEDS = [[1, 2, 3], [4, 5, 6], [7, 1, 8], [9, 10, 11], [12, 13, 2**62]]
NEW = 16


def in_order(outputs: Any) -> list[Any]:
    return [output for _, output in sorted(outputs, key=lambda pair: pair[0])]


@torch.no_grad()
def sampling_oracle(
    model: Any, ids: Sequence[int], seed: int, *, temperature: float, steering: Steering | None
) -> tuple[list[int], list[bool]]:
    """One sample's tokens, and for each emitting position whether it was steered (residual scale)."""
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    steered: list[bool] = []

    def hook(_block: Any, _args: Any, output: Any) -> Any:
        stream = (output[0] if isinstance(output, tuple) else output).clone()  # [1, T, D]
        steered.clear()
        for position in range(len(ids) - 1, stream.shape[1]):
            h, v, tau = stream[0, position].clone(), steering.vector, steering.similarity_threshold
            steered.append(tau is None or float(h @ v / h.norm() / v.norm()) < tau)
            if steered[-1]:
                stream[0, position] = h + steering.alpha * h.norm() / v.norm() * v
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    hooks = [] if steering is None else [model.model.layers[steering.layer_idx].register_forward_hook(hook)]
    try:
        while len(tokens) < NEW and (not tokens or tokens[-1] not in ENDS):
            logits = model(torch.tensor([[*ids, *tokens]]), use_cache=False).logits[:, -1]
            tokens.append(int(draw(logits, [generator], temperature)))
    finally:
        for each in hooks:
            each.remove()
    return tokens, steered


def a_steering(tau: float | None, alpha: float = 0.5) -> Steering:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    return Steering(vector, layer_idx=-2, alpha=alpha, alpha_scale="residual", similarity_threshold=tau)


@pytest.mark.parametrize("steering", [None, a_steering(None), a_steering(0.0)], ids=["plain", "all", "tau"])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 15])
def test_samples_are_the_oracles(llama, tiny_tokenizer, batch_size, steering):
    """Position prompt * samples + sample; rows end at different times, and each keeps its own generator."""
    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=batch_size)
    outputs = list(engine.generate(PROMPTS, max_new_tokens=NEW, steering=steering, sampling=Sampling(0.7, SEEDS)))
    assert sorted(position for position, _ in outputs) == list(range(15))
    lengths = set()
    for position, output in outputs:
        ids = tiny_tokenizer(PROMPTS[position // 3])["input_ids"]
        seed = SEEDS[position // 3][position % 3]
        tokens, steered = sampling_oracle(llama, ids, seed, temperature=0.7, steering=steering)
        assert output.completion.text == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
        assert output.completion.completion_tokens == len(tokens)
        assert output.completion.finish_reason == ("stop" if tokens[-1] in ENDS else "length")
        assert output.completion.prompt_tokens == len(ids)
        if steering is None:
            assert output.steered_fraction is None
        else:
            assert output.steered_fraction == pytest.approx(sum(steered) / len(steered))
        lengths.add(len(tokens))
    assert len(lengths) > 3
    if steering is not None and steering.similarity_threshold is not None:
        assert 0 < sum(output.steered_fraction for _, output in outputs) < len(outputs)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_captured_states_of_samples_are_those_of_one_pass(llama, tiny_tokenizer, batch_size):
    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=batch_size)
    options = {"max_new_tokens": NEW, "capture_states": True}
    for position, output in engine.generate(PROMPTS, sampling=Sampling(0.7, SEEDS), **options):
        ids = tiny_tokenizer(PROMPTS[position // 3])["input_ids"]
        seed = SEEDS[position // 3][position % 3]
        tokens, _ = sampling_oracle(llama, ids, seed, temperature=0.7, steering=None)
        reference = mean_states(llama, llama_blocks(llama), ids, tokens)
        torch.testing.assert_close(output.mean_state, reference, rtol=1e-3, atol=1e-4)


def test_captured_states_of_smollm2s_samples_are_those_of_one_pass(smollm2):
    """Samples of one prompt and of a longer one; tokens are read back from the text, and checked by their number."""
    model, tokenizer = smollm2
    prompts = ["Roses are", "The capital of France is a city that"]
    engine = TransformersEngine(model, tokenizer, batch_size=6)
    outputs = engine.generate(
        prompts, max_new_tokens=6, capture_states=True, sampling=Sampling(0.7, [[1, 2, 3], [4, 5, 6]])
    )
    checked = 0
    for position, output in outputs:
        ids = tokenizer(prompts[position // 3], add_special_tokens=False)["input_ids"]
        answer = tokenizer(output.completion.text, add_special_tokens=False)["input_ids"]
        if len(answer) == output.completion.completion_tokens:
            reference = mean_states(model, llama_blocks(model), ids, answer)
            error = (output.mean_state - reference).abs().amax(dim=-1) / reference.norm(dim=-1)
            assert float(error.max()) < 1e-4
            checked += 1
    assert checked >= 4


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """The p-value; cells of fewer than five expected counts become one."""
    expected = probabilities / probabilities.sum() * counts.sum()
    small = expected < 5
    if small.any():
        counts = torch.cat([counts[~small], counts[small].sum()[None]])
        expected = torch.cat([expected[~small], expected[small].sum()[None]])
    assert len(counts) > 5
    return float(scipy.stats.chisquare(counts.numpy(), expected.numpy()).pvalue)


def seeds_of(kind: str, count: int) -> list[int]:
    if kind == "in a row":
        return list(range(count))
    return [sample_seed(run, Problem(1, "What is 1 + 1?", "2"), k) for run in range(count // 5) for k in range(5)]


@pytest.mark.parametrize("kind", ["in a row", "of runs"])
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_first_tokens_follow_the_softmax(llama, tiny_tokenizer, temperature, kind):
    """4000 samples; the same counts do not fit a temperature that is a third off, nor the plain softmax."""
    n = 4000
    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=1)
    ids = tiny_tokenizer.get_vocab()
    outputs = engine.generate([PROMPTS[0]], max_new_tokens=1, sampling=Sampling(temperature, [seeds_of(kind, n)]))
    words = Counter(output.completion.text.strip() or "<end>" for _, output in outputs)
    counts = torch.zeros(WORDS, dtype=torch.float64)
    for word, count in words.items():
        counts[ids[word]] = count
    assert counts.sum() == n
    with torch.no_grad():
        logits = llama(torch.tensor([tiny_tokenizer(PROMPTS[0])["input_ids"]])).logits[0, -1].double()
    assert chi_square(counts, (logits / temperature).softmax(dim=-1)) > 1e-3
    for wrong in (0.7 * temperature, 1.4 * temperature, 1.0):
        assert chi_square(counts, (logits / wrong).softmax(dim=-1)) < 1e-6


def test_later_tokens_follow_the_softmax_too(llama, tiny_tokenizer):
    """The second tokens behind the most frequent first one: drawn anew, not with the first one's noise."""
    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=1)
    outputs = engine.generate([PROMPTS[0]], max_new_tokens=2, sampling=Sampling(1.0, [list(range(6000))]))
    texts = [output.completion.text.split() for _, output in outputs if output.completion.completion_tokens == 2]
    first = Counter(words[0] for words in texts).most_common(1)[0][0]
    ids = tiny_tokenizer.get_vocab()
    counts = torch.zeros(WORDS, dtype=torch.float64)
    for words in texts:
        if words[0] == first:
            counts[ids[words[1]] if len(words) > 1 else 0] += 1
    # End tokens other than 0 are words; 0 is not shown.
    with torch.no_grad():
        logits = llama(torch.tensor([[*tiny_tokenizer(PROMPTS[0])["input_ids"], ids[first]]])).logits[0, -1].double()
    assert counts.sum() > 500
    assert chi_square(counts, logits.softmax(dim=-1)) > 1e-3
    assert chi_square(counts, (logits / 1.5).softmax(dim=-1)) < 1e-6


# --- The mode on the real model.

QUESTIONS = [Problem(0, "What is 2 + 3?", "5"), Problem(1, "12 + 30 = ?", "42"), Problem(2, "Add 7 and 8.", "15")]


def smollm2_lines(smollm2: Any, problems: Sequence[Problem], batch_size: int, **options: Any) -> dict[int, Any]:
    """The mode's lines by problem, without what the clock says; 5 samples at 0.7."""
    engine = TransformersEngine(*smollm2, batch_size=batch_size)
    lines = list(self_consistency.run(engine, problems, Settings("arithmetic", max_new_tokens=8, **options)))
    assert sorted(line.index for line in lines) == sorted(problem.index for problem in problems)
    return {line.index: replace(line, seconds=0.0) for line in lines}


@pytest.fixture(scope="module")
def smollm2_reference(smollm2):
    return smollm2_lines(smollm2, QUESTIONS, 1)


@pytest.mark.parametrize("batch_size", [5, 7, 12])
def test_batch_size_and_order_do_not_change_samples(smollm2, smollm2_reference, batch_size):
    problems = QUESTIONS[::-1] if batch_size == 12 else QUESTIONS
    assert smollm2_lines(smollm2, problems, batch_size) == smollm2_reference


def test_a_problems_samples_differ_and_another_seed_gives_others(smollm2, smollm2_reference):
    again = smollm2_lines(smollm2, QUESTIONS[:1], 12, seed=43)[0]
    for line in (again, *smollm2_reference.values()):
        texts = [sample["completion"] for sample in line.details["samples"]]
        assert len(texts) == 5
        assert len(set(texts)) > 2
    one, other = ([s["completion"] for s in line.details["samples"]] for line in (smollm2_reference[0], again))
    assert one != other


# --- The mode on a random model that says numbers, each value in three spellings.


@pytest.fixture(scope="module")
def numbers(tiny_model, tiny_tokenizer) -> tuple[Any, Any]:
    """Model and tokenizer; the chat template is the question alone."""
    return tiny_model("llama"), number_tokenizer(lambda i: (f"{i // 3}", f"{i // 3}.0", f"{i // 3}.00")[i % 3])


def number_tokenizer(word: Callable[[int], str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<end>": 0, **{word(i): i for i in range(1, WORDS)}}
    assert len(words) == WORDS
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=word(4)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.padding_side = "left"
    fast.chat_template = "{{ messages[-1]['content'].split('\n')[0] }}"
    return fast


NUMBER_QUESTIONS = [Problem(i, f"{i + 1} {i + 7}.0 {2 * i + 3}", str(i)) for i in range(12)]


def number_settings(samples: int, *, steering: Steering | None = None, new: int = 1) -> Settings:
    drawn = SelfConsistencySettings(samples=samples, temperature=0.7)
    return Settings("arithmetic", max_new_tokens=new, self_consistency=drawn, steering=steering)


def run_numbers(numbers: Any, problems: Sequence[Problem], settings: Settings, *, batch_size: int = 7) -> list[Any]:
    engine = TransformersEngine(*numbers, batch_size=batch_size)
    return sorted(self_consistency.run(engine, problems, settings), key=lambda line: line.index)


def test_the_line_tells_the_vote(numbers):
    """Votes counted here from the samples' answers: by value, ties to the value seen first."""
    lines = run_numbers(numbers, NUMBER_QUESTIONS, number_settings(9))
    merged = ties = 0
    for line in lines:
        samples = line.details["samples"]
        answers = [sample["answer"] for sample in samples]
        assert len(answers) == 9
        values = [Fraction(answer) for answer in answers if answer is not None]
        tally = Counter(values)  # in the order seen, as is most_common among equals
        spelled = {value: next(a for a in answers if a is not None and Fraction(a) == value) for value in tally}
        expected = [[spelled[value], count] for value, count in tally.most_common()]
        assert [list(ballot) for ballot in line.details["votes"]] == expected
        winner = tally.most_common(1)[0][0]
        assert Fraction(line.answer) == winner
        assert line.correct is (winner == Fraction(line.gold))
        first = next(sample for sample in samples if sample["answer"] and Fraction(sample["answer"]) == winner)
        assert line.completion == first["completion"]
        assert line.completion_tokens == first["completion_tokens"] == 1
        assert line.generated_tokens == sum(sample["completion_tokens"] for sample in samples) == 9
        merged += any(len({a for a in answers if a is not None and Fraction(a) == value}) > 1 for value in tally)
        ties += len(tally) > 1 and expected[0][1] == expected[1][1]
    assert merged > 0
    assert ties > 0


def test_the_majority_is_right_where_a_single_sample_is_not(numbers):
    """Gold answers taken from a first run's votes: the line is right exactly where the winner is asked for."""
    settings = number_settings(9)
    lines = run_numbers(numbers, NUMBER_QUESTIONS, settings)
    winners = [replace(p, gold=line.details["votes"][0][0]) for p, line in zip(NUMBER_QUESTIONS, lines, strict=True)]
    assert all(line.correct for line in run_numbers(numbers, winners, settings))
    losers = [replace(p, gold=line.details["votes"][-1][0]) for p, line in zip(NUMBER_QUESTIONS, lines, strict=True)]
    contested = [len(line.details["votes"]) > 1 for line in lines]
    assert any(contested)
    assert [line.correct for line in run_numbers(numbers, losers, settings)] == [not one for one in contested]


def test_no_answer_at_all_is_wrong(numbers):
    letters = number_tokenizer(lambda i: chr(97 + i // 26) + chr(97 + i % 26))
    [line] = run_numbers((numbers[0], letters), [Problem(0, "ab cd ef", "5")], number_settings(5, new=4))
    assert (line.answer, line.correct) == (None, False)
    assert list(line.details["votes"]) == []
    assert [sample["answer"] for sample in line.details["samples"]] == [None] * 5


@pytest.mark.parametrize("batch_size", [1, 5, 7, 12, 64])
def test_twelve_problems_in_any_batches_and_orders(numbers, batch_size):
    settings = number_settings(5, new=6)
    reference = run_numbers(numbers, NUMBER_QUESTIONS, settings, batch_size=25)
    for problems in (NUMBER_QUESTIONS, NUMBER_QUESTIONS[::-1], NUMBER_QUESTIONS[5:8]):
        lines = run_numbers(numbers, problems, settings, batch_size=batch_size)
        indices = sorted(problem.index for problem in problems)
        expected = [replace(reference[i], seconds=0.0) for i in indices]
        assert [replace(line, seconds=0.0) for line in lines] == expected


def test_more_samples_begin_with_the_fewer(numbers):
    """A sample depends on its number, not on how many there are."""
    few, many = (run_numbers(numbers, NUMBER_QUESTIONS[:3], number_settings(k, new=6)) for k in (3, 8))
    for short, long in zip(few, many, strict=True):
        assert long.details["samples"][:3] == short.details["samples"]


@pytest.mark.parametrize("batch_size", [1, 5, 7, 12])
def test_samples_share_a_batch_and_the_prompts_cache(numbers, batch_size):
    """The prompt is computed once for all five samples, which then go on together."""
    shapes: list[tuple[int, int]] = []
    hook = numbers[0].register_forward_pre_hook(
        lambda _model, args, kwargs: shapes.append(tuple((args[0] if args else kwargs["input_ids"]).shape)),
        with_kwargs=True,
    )
    try:
        run_numbers(numbers, NUMBER_QUESTIONS, number_settings(5, new=3), batch_size=batch_size)
    finally:
        hook.remove()
    prompts = [rows for rows, length in shapes if length > 1]
    assert sum(prompts) == len(NUMBER_QUESTIONS)
    assert max(prompts) == max(batch_size // 5, 1)
    first_steps = [later for (_, length), (later, _) in pairwise(shapes) if length > 1]
    # Rows that ended with their first token may be gone already.
    assert all(later <= 5 * rows for later, rows in zip(first_steps, prompts, strict=True))
    assert max(first_steps) > max(prompts)


def test_steered_samples(numbers):
    """Alpha 0 changes nothing but what is reported; without tau every position is steered; alpha changes samples."""
    plain = run_numbers(numbers, NUMBER_QUESTIONS, number_settings(5, new=6))
    still = run_numbers(numbers, NUMBER_QUESTIONS, number_settings(5, new=6, steering=a_steering(None, alpha=0.0)))
    moved = run_numbers(numbers, NUMBER_QUESTIONS, number_settings(5, new=6, steering=a_steering(None)))
    some = run_numbers(numbers, NUMBER_QUESTIONS, number_settings(5, new=6, steering=a_steering(0.0)))
    assert [line.details["samples"] for line in still] == [line.details["samples"] for line in plain]
    assert [line.details["samples"] for line in moved] != [line.details["samples"] for line in plain]
    assert all("steered_fraction" not in line.details for line in plain)
    assert [line.details["steered_fraction"] for line in moved] == [1.0] * len(moved)
    fractions = [line.details["steered_fraction"] for line in some]
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert 0 < sum(fractions) < len(fractions)


def test_the_steered_share_counts_samples_by_their_tokens(numbers):
    model, tokenizer = numbers
    steering = a_steering(0.0)
    problem = NUMBER_QUESTIONS[4]
    [line] = run_numbers(numbers, [problem], number_settings(9, new=8, steering=steering))
    seeds = [[sample_seed(42, problem, k) for k in range(9)]]
    engine = TransformersEngine(model, tokenizer)
    outputs = in_order(
        engine.generate([line.prompt], max_new_tokens=8, steering=steering, sampling=Sampling(0.7, seeds))
    )
    assert [output.completion.text for output in outputs] == [s["completion"] for s in line.details["samples"]]
    tokens = [output.completion.completion_tokens for output in outputs]
    steered = sum(output.steered_fraction * n for output, n in zip(outputs, tokens, strict=True))
    assert line.details["steered_fraction"] == pytest.approx(steered / sum(tokens))


# --- The command.


@pytest.fixture
def command(numbers, tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs the number model from disk in an empty folder, on the first problems of a file."""
    monkeypatch.chdir(tmp_path)
    numbers[0].save_pretrained("numbers")
    numbers[1].save_pretrained("numbers")
    torch.save({"vector": torch.ones(5, 32), "metadata": {}}, "v.pt")
    rows = [json.dumps({"question": p.question, "answer": f"Thus\n#### {p.gold}"}) for p in NUMBER_QUESTIONS]
    Path("asked.jsonl").write_text("\n".join(rows) + "\n")

    def run(*more: str) -> int:
        options = ["--generation_mode", "self_consistency", "--model_name_or_path", "numbers", "--dtype", "float32"]
        data = ["--dataset", "asked.jsonl", "--benchmark", "gsm8k", "--max_new_tokens", "6", "--prompts_to_run", "0"]
        return main.main([*options, *data, "--device", "cpu", *more])

    return run


def samples_on_disk(folder: Path) -> dict[int, Any]:
    [results] = folder.rglob("results.jsonl")
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    return {line["index"]: (line["samples"], line["votes"], line["answer"]) for line in lines}


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(command, tmp_path):
    assert command("--output_dir", "whole", "--batch_size", "12") == 0
    assert command("--output_dir", "parts", "--end_data_idx", "5") == 0
    assert command("--output_dir", "parts", "--resume", "--batch_size", "5") == 0
    whole, parts = samples_on_disk(tmp_path / "whole"), samples_on_disk(tmp_path / "parts")
    assert len(whole) == 12
    assert parts == whole
    assert {len(samples) for samples, _, _ in whole.values()} == {5}
    assert command("--output_dir", "other", "--seed", "7") == 0
    assert samples_on_disk(tmp_path / "other") != whole


def test_options_reach_the_samples(command, tmp_path):
    steered = ["--sc_steered", "--vector_name_template", "v.pt", "--similarity_threshold", "none"]
    runs = {}
    for name, options in {
        "plain": ["--temperature", "0.4"],
        "cold": ["--temperature", "1e-8"],  # two of the logits lie 8e-6 apart: at 0.001 either may be drawn
        "still": ["--temperature", "0.4", *steered, "--alpha", "0"],
        "moved": ["--temperature", "0.4", *steered, "--alpha", "2"],
    }.items():
        assert command("--output_dir", name, "--sc_k", "3", *options) == 0
        runs[name] = samples_on_disk(tmp_path / name)
        assert {len(samples) for samples, _, _ in runs[name].values()} == {3}
    assert runs["plain"] == runs["still"]
    assert runs["plain"] != runs["moved"]
    different = {
        name: max(len({sample["completion"] for sample in samples}) for samples, _, _ in run.values())
        for name, run in runs.items()
    }
    assert different["cold"] == 1 < different["plain"]
    [summary] = (tmp_path / "moved").rglob("summary.json")
    assert json.loads(summary.read_text())["steered_fraction"] == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--sc_k", "0"], "--sc_k"),
        (["--temperature", "0"], "--temperature"),
        (["--temperature", "-1"], "--temperature"),
        (["--sc_steered"], "--vector_name_template"),
        (["--sc_steered", "--generation_mode", "greedy_cot", "--vector_name_template", "v.pt"], "--sc_steered"),
    ],
)
def test_options_that_make_no_sense_are_refused(command, tmp_path, capsys, options, named):
    before = {path.name for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert command(*options) == 2
    assert named in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == before
