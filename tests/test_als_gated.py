"""Gated steering: against an oracle without cache whose gate is json.loads, and on a model whose answers are known.

The oracle computes the whole sequence again for every token, one prompt at a time. Whether a position is steered
it finds out by ending the text so far in a marked way and looking where json.loads finds the mark.

The known model is a chain: each token has one successor, and another one where its state is steered. So every
expected text and share below is worked out by hand, and steering at a wrong place shows in the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from als.cli import main
from als.engines.transformers_engine import TransformersEngine
from als.generation import als_gated
from als.generation.json_gate import JsonGate
from als.generation.settings import Settings
from als.records import Problem
from als.steering import Steering
from oracle import ENDS, TINY_PROMPTS

MARK = "qzq"


def in_free_text(text: str) -> bool:
    """Whether letters written behind `text`, and the shortest way out, end the first object's free text."""
    start = text.find("{")
    if start < 0:
        return False
    try:
        value, _ = json.JSONDecoder().raw_decode(text + MARK + '"}', start)
    except json.JSONDecodeError:
        return False
    free_text = value.get("thought process")
    return isinstance(free_text, str) and free_text.endswith(MARK)


@torch.no_grad()
def gated_oracle(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    steering: Steering,
    may_steer: Callable[[str], bool],
    max_new_tokens: int,
    eos: Sequence[int],
    guess: Sequence[int] = (),
) -> tuple[list[int], list[bool], list[bool]]:
    """Tokens, and for every emitting position whether the gate was open and whether it was steered.

    `may_steer` gets the whole text so far. `guess` saves time and nothing else: a pass over prompt and guess
    says which of its tokens would have been chosen, and the first one that would not is replaced.
    """
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer, sure = list(guess), 0
    while True:
        chosen, allowed, steered = _choices(model, tokenizer, ids, answer[: max_new_tokens - 1], steering, may_steer)
        while sure < len(answer) and sure < len(chosen) and answer[sure] == chosen[sure]:
            if answer[sure] in eos:
                break
            sure += 1
        if sure < len(chosen):
            answer[sure : sure + 1] = [chosen[sure]]
            sure += 1
        if answer[sure - 1] in eos or sure == max_new_tokens:
            return answer[:sure], allowed[:sure], steered[:sure]


def _choices(
    model: Any,
    tokenizer: Any,
    ids: Sequence[int],
    answer: Sequence[int],
    steering: Steering,
    may_steer: Callable[[str], bool],
) -> tuple[list[int], list[bool], list[bool]]:
    """One pass without cache: what each emitting position chooses, whether its gate is open, if it is steered."""
    allowed = [may_steer(tokenizer.decode(answer[:i], skip_special_tokens=True)) for i in range(len(answer) + 1)]
    steered: list[bool] = []

    def hook(_block: Any, _args: Any, output: Any) -> Any:
        stream = (output[0] if isinstance(output, tuple) else output).clone()  # [1, T, D]
        for i, may in enumerate(allowed):
            h, v, tau = stream[0, len(ids) - 1 + i].clone(), steering.vector, steering.similarity_threshold
            steered.append(may and (tau is None or float(h @ v / h.norm() / v.norm()) < tau))
            if steered[-1]:
                s = h.norm() / v.norm() if steering.alpha_scale == "residual" else 1.0
                stream[0, len(ids) - 1 + i] = h + steering.alpha * s * v
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = model.model.layers[steering.layer_idx].register_forward_hook(hook)
    try:
        logits = model(torch.tensor([[*ids, *answer]]), use_cache=False, logits_to_keep=len(allowed)).logits[0]
    finally:
        handle.remove()
    return logits.argmax(dim=-1).tolist(), allowed, steered


def in_order(outputs: Any) -> list[Any]:
    return [output for _, output in sorted(outputs, key=lambda pair: pair[0])]


# --- The real model: it goes on with JSON where the prompt does, also with the keys swapped, with escapes, with
# JSON that lacks its colons, and with none.

SMOLLM2_PROMPTS = [
    'Q: 2+2\nA: {"thought process": "2+2 is 4", "final answer": "4"}\nQ: 5+1\nA:',
    'Q: 2+2\nA: {"final answer": "4", "thought process": "2+2 is 4"}\nQ: 5+3\nA:',
    'Q: red\nA: {"thought process": "say \\"red\\"", "final answer": "red"}\nQ: blue\nA:',
    'Q: 7-2\nA: {"thought process" "7-2 is 5", "final answer" "5"}\nQ: 9-1\nA:',
    "Q: 7-2\nA: It is 5.\nQ: 9-1\nA:",
]
NEW = 20


SMOLLM2_STEERING = Steering(
    torch.randn(576, generator=torch.Generator().manual_seed(7)),
    layer_idx=-2,
    alpha=0.8,
    alpha_scale="residual",
    similarity_threshold=0.0,
)
"""Strong enough to change the free text; some of its states are above tau and some are not."""


@pytest.fixture(scope="module")
def smollm2_outputs(smollm2):
    """batch size -> the engine's outputs."""
    done: dict[int, Any] = {}

    def run(batch_size: int) -> list[Any]:
        if batch_size not in done:
            engine = TransformersEngine(*smollm2, batch_size=batch_size)
            outputs = engine.generate(SMOLLM2_PROMPTS, max_new_tokens=NEW, steering=SMOLLM2_STEERING, gates=JsonGate)
            done[batch_size] = in_order(outputs)
        return done[batch_size]

    return run


def smollm2_oracle(smollm2: Any, prompt: str, *, guess: Sequence[int], max_new_tokens: int = NEW) -> Any:
    model, tokenizer = smollm2
    return gated_oracle(
        model,
        tokenizer,
        prompt,
        steering=SMOLLM2_STEERING,
        may_steer=in_free_text,
        max_new_tokens=max_new_tokens,
        eos=[tokenizer.eos_token_id],
        guess=guess,
    )


@pytest.fixture(scope="module")
def smollm2_reference(smollm2, smollm2_outputs):
    guesses = [smollm2[1](output.completion.text)["input_ids"] for output in smollm2_outputs(5)]
    return [
        smollm2_oracle(smollm2, prompt, guess=guess) for prompt, guess in zip(SMOLLM2_PROMPTS, guesses, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_smollm2_is_steered_where_json_loads_says(smollm2, smollm2_outputs, smollm2_reference, batch_size):
    for output, (tokens, _, steered) in zip(smollm2_outputs(batch_size), smollm2_reference, strict=True):
        assert output.completion.text == smollm2[1].decode(tokens, skip_special_tokens=True)
        assert output.completion.completion_tokens == len(tokens)
        assert output.steered_fraction == pytest.approx(sum(steered) / len(steered))


def test_the_guess_does_not_decide_the_oracles_answer(smollm2, smollm2_reference):
    tokens, allowed, steered = smollm2_reference[1]
    guess = [*tokens[:5], *smollm2[1](SMOLLM2_PROMPTS[4])["input_ids"]]
    again = smollm2_oracle(smollm2, SMOLLM2_PROMPTS[1], guess=guess, max_new_tokens=12)
    assert again == (tokens[:12], allowed[:12], steered[:12])


def test_smollm2_prompts_are_worth_asking(smollm2, smollm2_outputs, smollm2_reference):
    """Gates open and close, tau matters, and both steering and the gate change tokens."""
    opened = [sum(allowed) for _, allowed, _ in smollm2_reference]
    assert all(0 < count < NEW - 4 for count in opened[:3])
    assert opened[3:] == [0, 0]
    assert any(0 < sum(steered) < sum(allowed) for _, allowed, steered in smollm2_reference)
    gated = [output.completion.text for output in smollm2_outputs(5)]
    engine = TransformersEngine(*smollm2, batch_size=5)
    for steering, unlike in ((None, [True, False, False]), (SMOLLM2_STEERING, [True, True, True])):
        outputs = in_order(engine.generate(SMOLLM2_PROMPTS[2:], max_new_tokens=12, steering=steering))
        same_start = [text.startswith(o.completion.text) for text, o in zip(gated[2:], outputs, strict=True)]
        assert [not same for same in same_start] == unlike


# --- A gate of the test's own, on a random model: rows are gated each for itself.


class LastDigitGate:
    """Open behind an odd digit; before any digit as `at_first` says."""

    def __init__(self, at_first: bool) -> None:
        self.at_first = at_first
        self.text = ""

    def feed(self, text: str) -> None:
        self.text += text

    @property
    def steering(self) -> bool:
        digits = [char for char in self.text if char.isdigit()]
        return digits[-1] in "13579" if digits else self.at_first


FEW_PROMPTS = TINY_PROMPTS[:7]


@pytest.mark.parametrize("at_first", [True, False])
@pytest.mark.parametrize("tau", [None, 0.0])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_every_row_has_a_gate_of_its_own(llama, tiny_tokenizer, batch_size, tau, at_first):
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    steering = Steering(vector, layer_idx=-2, alpha=1.0, alpha_scale="residual", similarity_threshold=tau)

    def may_steer(text: str) -> bool:
        gate = LastDigitGate(at_first)
        gate.feed(text)
        return gate.steering

    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=batch_size)
    outputs = in_order(
        engine.generate(FEW_PROMPTS, max_new_tokens=20, steering=steering, gates=lambda: LastDigitGate(at_first))
    )
    expected = [
        gated_oracle(llama, tiny_tokenizer, prompt, steering=steering, may_steer=may_steer, max_new_tokens=20, eos=ENDS)
        for prompt in FEW_PROMPTS
    ]
    for output, (tokens, _, steered) in zip(outputs, expected, strict=True):
        assert output.completion.text == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
        assert output.completion.completion_tokens == len(tokens)
        assert output.steered_fraction == pytest.approx(sum(steered) / len(steered))
    gates_at_step_4 = {tuple(allowed[1:4]) for _, allowed, _ in expected if len(allowed) > 3}
    assert len(gates_at_step_4) > 1, "all rows' gates did the same"
    assert len({len(tokens) for tokens, _, _ in expected}) > 2


def test_a_gate_that_is_never_open_is_no_steering(llama, tiny_tokenizer):
    class Closed(LastDigitGate):
        steering = False

    engine = TransformersEngine(llama, tiny_tokenizer, batch_size=3)
    steering = Steering(torch.ones(32), alpha=50.0, similarity_threshold=None)
    closed = in_order(engine.generate(FEW_PROMPTS, max_new_tokens=8, steering=steering, gates=lambda: Closed(False)))
    plain = in_order(engine.generate(FEW_PROMPTS, max_new_tokens=8))
    assert [output.completion.text for output in closed] == [output.completion.text for output in plain]
    assert {output.steered_fraction for output in closed} == {0.0}


# --- The chain: token -> (its successor, its successor when steered). BAD shows steering where none may be.

STOP: dict[str, tuple[str, str | None]] = {"BAD": ("<end>", None), "<end>": ("<end>", None)}
CHAIN: dict[str, tuple[str, str | None]] = {
    # the object as the prompt asks for it
    "go": ('{"thought process": "', "BAD"),
    '{"thought process": "': ("one", "eins"),
    "one": (" two", " zwei"),
    "eins": (" two", " zwei"),
    " two": ('", "final answer": "', None),
    " zwei": ('", "final answer": "', None),
    '", "final answer": "': ("7", "BAD"),
    "7": ('"}', "BAD"),
    '"}': ("<end>", "BAD"),
    # fenced, the answer first, and what follows the object
    "swap": ("```json\n", "BAD"),
    "```json\n": ('{"final answer": "', "BAD"),
    '{"final answer": "': ("8", "BAD"),
    "8": ('", "thought process": "', "BAD"),
    '", "thought process": "': ("yes", "ja"),
    "yes": ('"}\n```', None),
    "ja": ('"}\n```', None),
    '"}\n```': ("<end>", "BAD"),
    # an escape: its backslash is free text still, what completes it is not
    "esc": ('{ "thought process": "', "BAD"),
    '{ "thought process": "': ("a", "A"),
    "a": ("\\", None),
    "A": ("\\", None),
    "\\": ("n", "BAD"),
    "n": ("b", "B"),
    "b": ('" }', None),
    "B": ('" }', None),
    '" }': ("<end>", "BAD"),
    # a second object behind the first: over is over
    "twice": ('{"thought process":"c', "BAD"),
    '{"thought process":"c': ('"} {"thought process":"', None),
    '"} {"thought process":"': ("d", "BAD"),
    "d": (' " }', "BAD"),
    ' " }': ("<end>", "BAD"),
    # that key inside another object is not the answer's free text
    "deep": ('{"x": {"thought process": "', "BAD"),
    '{"x": {"thought process": "': ("e", "BAD"),
    "e": ('"}}', "BAD"),
    '"}}': ("<end>", "BAD"),
    # what can no longer become valid is steered all the same
    "broken": ('{"final answer": 1 2, "thought process": "', "BAD"),
    '{"final answer": 1 2, "thought process": "': ("f", "F"),
    "f": (' "}', None),
    "F": (' "}', None),
    ' "}': ("<end>", "BAD"),
    # free text that never ends
    "endless": ('{"thought process" : "', "BAD"),
    '{"thought process" : "': ("g", "G"),
    "g": ("g", "G"),
    "G": ("G", None),
    # no object at all
    "prose": ("It", "BAD"),
    "It": (" is", "BAD"),
    " is": (" 7.", "BAD"),
    " 7.": ("<end>", "BAD"),
    **STOP,
}
LONGEST = 12  # more than any of them but the endless one
# question -> (text, steered positions, emitting positions, is it valid)
KNOWN: dict[str, tuple[str, int, int, bool]] = {
    "go": ('{"thought process": "eins zwei", "final answer": "7"}', 3, 7, True),
    "swap": ('```json\n{"final answer": "8", "thought process": "ja"}\n```', 2, 7, True),
    "esc": ('{ "thought process": "A\\nB" }', 4, 7, True),
    "twice": ('{"thought process":"c"} {"thought process":"d " }', 1, 5, True),
    "deep": ('{"x": {"thought process": "e"}}', 0, 4, True),
    "broken": ('{"final answer": 1 2, "thought process": "F "}', 2, 4, False),
    "endless": ('{"thought process" : "' + "G" * 11, 11, 12, False),
    "prose": ("It is 7.", 0, 4, False),
}


def build_chain(successors: Mapping[str, tuple[str, str | None]]) -> tuple[Any, Any, Steering]:
    """Model, tokenizer and steering. Blocks add nothing to the stream; the head reads the successor off it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(sorted(successors))}
    words = Tokenizer(models.WordLevel(ids, unk_token="BAD"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", pad_token="<end>", padding_side="left"
    )
    tokenizer.chat_template = "{{ messages[-1]['content'].split('\n')[0] }}"  # the question alone
    width = -(-len(ids) // 8) * 8
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=8,
        vocab_size=len(ids),
        bos_token_id=None,
        eos_token_id=ids["<end>"],
        pad_token_id=ids["<end>"],
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    vector = torch.zeros(width)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(torch.eye(len(ids), width))
        model.model.embed_tokens.weight.zero_()
        for token, (successor, other) in successors.items():
            model.model.embed_tokens.weight[ids[token], ids[successor]] = 1.0
            if other is not None:
                model.model.embed_tokens.weight[ids[token], ids[other]] = 0.6
                vector[ids[other]] = 1.0
    return model, tokenizer, Steering(vector, layer_idx=-2, alpha=0.5, similarity_threshold=None)


@pytest.fixture(scope="module")
def chain():
    return build_chain(CHAIN)


def problems(names: Sequence[str] = tuple(KNOWN)) -> list[Problem]:
    return [Problem(index, name, "7") for index, name in enumerate(names)]


def settings(steering: Steering) -> Settings:
    return Settings(benchmark="arithmetic", prompt_idx=1, max_new_tokens=LONGEST, steering=steering)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 8])
def test_known_answers(chain, batch_size):
    model, tokenizer, steering = chain
    engine = TransformersEngine(model, tokenizer, batch_size=batch_size)
    lines = {line.question: line.to_json() for line in als_gated.run(engine, problems(), settings(steering))}
    assert set(lines) == set(KNOWN)
    for question, (text, steered, emitting, valid) in KNOWN.items():
        line = lines[question]
        assert line["completion"] == text
        assert line["completion_tokens"] == emitting
        assert line["steered_fraction"] == pytest.approx(steered / emitting)
        assert line["json_valid"] is valid
    assert (lines["go"]["answer"], lines["go"]["correct"]) == ("7", True)
    assert (lines["swap"]["answer"], lines["swap"]["correct"]) == ("8", False)


def test_ungated_steering_would_break_all_of_them(chain):
    model, tokenizer, steering = chain
    outputs = TransformersEngine(model, tokenizer).generate(list(KNOWN), max_new_tokens=LONGEST, steering=steering)
    assert [output.completion.text for output in in_order(outputs)] == ["BAD"] * len(KNOWN)


def test_alpha_zero_leaves_the_text_alone(chain):
    model, tokenizer, steering = chain
    nothing = Steering(steering.vector, alpha=0.0, similarity_threshold=None)
    [line] = als_gated.run(TransformersEngine(model, tokenizer), problems(["go"]), settings(nothing))
    assert line.completion == '{"thought process": "one two", "final answer": "7"}'


COMPLETIONS = {
    '{"thought process": "x", "final answer": "1"}': True,
    '```json\n{"thought process": "x", "final answer": "1"}\n```': True,
    'Here it is:\n{"final answer": 1} I hope it helps.': True,
    '{"thought process": "a \\"b\\" {c}", "final answer": {"x": [1, 2]}}': True,
    '{"thought process": "x", "final answer": "1"': False,
    '{"thought process": "x': False,
    '{"thought process": "two\nlines", "final answer": "1"}': False,
    "{'thought process': 'x', 'final answer': '1'}": False,
    '{"thought process": "x" "final answer": "1"}': False,
    '{"thought process": "x", "final answer": "1",}': False,
    '{"thought process": "bad \\q escape"}': False,
    '"thought process": "x", "final answer": "1"}': False,
    '["thought process"]': False,
}


def test_valid_is_what_json_loads_says():
    """A chain again, whose tokens are whole answers."""
    steps = {f"q{i}": (completion, None) for i, completion in enumerate(COMPLETIONS)}
    model, tokenizer, _ = build_chain(steps | dict.fromkeys(COMPLETIONS, ("<end>", None)) | STOP)
    steering = Steering(torch.ones(model.config.hidden_size), alpha=0.0)
    lines = list(als_gated.run(TransformersEngine(model, tokenizer), problems(list(steps)), settings(steering)))
    assert {line.completion: line.details["json_valid"] for line in lines} == COMPLETIONS


# --- The command.


@pytest.fixture
def command(chain, tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs the chain on the known questions in an empty folder."""
    model, tokenizer, steering = chain
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("chain")
    tokenizer.save_pretrained("chain")
    torch.save({"vector": steering.vector.repeat(2, 1), "metadata": {}}, "v.pt")
    rows = [json.dumps({"question": name, "answer": "Thus\n#### 7"}) for name in KNOWN]
    (tmp_path / "asked.jsonl").write_text("\n".join(rows) + "\n")

    def run(*more: str) -> int:
        options = ("--generation_mode", "als_gated", "--model_name_or_path", "chain", "--dtype", "float32")
        data = ("--dataset", "asked.jsonl", "--benchmark", "gsm8k", "--max_new_tokens", str(LONGEST), "--prefill", "")
        strength = ("--alpha", "0.5", "--similarity_threshold", "none", "--vector_name_template", "v.pt")
        return main.main([*options, *data, *strength, "--device", "cpu", *more])

    return run


def test_command_writes_lines_and_the_valid_share(command, tmp_path):
    assert command("--prompts_to_run", "1", "--batch_size", "3") == 0
    [results] = tmp_path.rglob("results.jsonl")
    assert results.parent.parent.name == "als_gated_eval"
    lines = {line["question"]: line for line in map(json.loads, results.read_text().splitlines())}
    assert set(lines) == set(KNOWN)
    for question, (text, steered, emitting, valid) in KNOWN.items():
        line = lines[question]
        assert (line["completion"], line["json_valid"]) == (text, valid)
        assert line["steered_fraction"] == pytest.approx(steered / emitting)
    summary = json.loads((results.parent / "summary.json").read_text())
    assert summary["json_valid"] == pytest.approx(sum(known[3] for known in KNOWN.values()) / len(KNOWN))
    fractions = [steered / emitting for _, steered, emitting, _ in KNOWN.values()]
    assert summary["steered_fraction"] == pytest.approx(sum(fractions) / len(fractions))


@pytest.mark.parametrize("prompts", [["0"], ["0", "1"], None])
def test_command_refuses_the_prompt_without_json(command, tmp_path, capsys, prompts):
    """Also where the default, all prompts, is what asks for it."""
    before = {path.name for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert command(*(["--prompts_to_run", *prompts] if prompts else [])) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "als_gated" in said
    assert "--prompts_to_run" in said
    assert {path.name for path in tmp_path.iterdir()} == before
