"""What the tests of vLLM share: both engines on the real model, in float32. Without vLLM none of them is collected.

scripts/test_vllm.sh runs them in an environment that has vLLM. Its engine runs in this process, which saves half
of its start; test_vllm_cli.py runs the commands as they are, with vLLM in processes of its own.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vllm_bench import PROMPTS, Bench

# This folder, seen from its parent, is an empty package of that name, and such have no origin.
_found = importlib.util.find_spec("vllm")
collect_ignore_glob = [] if _found and _found.origin else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def kept_engines() -> Iterator[None]:
    """Engines live as long as the process: the first to go would take the process groups away that all of them use."""
    from als.engines import vllm_engine

    engines = []
    start = vllm_engine._start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_engine, "_start", lambda *arguments: engines.append(start(*arguments)) or engines[-1])
        yield


@pytest.fixture(scope="session")
def start_vllm(smollm2_path) -> Callable[..., Any]:
    """Starts vLLM in this process, with a small cache; the options are those of `VllmEngine.load`."""
    from als.engines.vllm_engine import VllmEngine

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

    def start(model: Any = smollm2_path, *, options: dict[str, Any] | None = None, **more: Any) -> Any:
        small = {"kv_cache_memory_bytes": 2**28, "max_model_len": 1024}
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)  # it would count before the number of bytes
            return VllmEngine.load(
                model, **{"dtype": "float32", "batch_size": PROMPTS, "options": small | (options or {}), **more}
            )

    return start


@pytest.fixture(scope="session")
def vllm_engine(start_vllm):
    return start_vllm()


@pytest.fixture(scope="session")
def arithmetic_prompts() -> list[str]:
    from als.benchmarks.arithmetic import generate

    turns = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [turns.format(question) for question, _ in generate("test")[:PROMPTS]]


@pytest.fixture(scope="session")
def bench(smollm2, vllm_engine, arithmetic_prompts) -> Bench:
    """The vector is half as long as the states; a fifth of their mean is mixed in, so that tau cuts in the middle."""
    import torch
    from torch.nn.functional import normalize

    from als.engines.transformers_engine import TransformersEngine
    from oracle import block_outputs, llama_blocks

    model, tokenizer = smollm2
    last = []
    for prompt in arithmetic_prompts[:4]:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
        streams = block_outputs(model, llama_blocks(model), **inputs, use_cache=False)
        last.append(torch.stack([stream[0, -1] for stream in streams]))
    states = torch.stack(last)  # [4, L, D]
    norms = states.norm(dim=-1).mean(dim=0)
    mean = normalize(states.mean(dim=0), dim=-1)
    chance = normalize(torch.randn(mean.shape, generator=torch.Generator().manual_seed(1)), dim=-1)
    vector = normalize(0.2 * mean + chance, dim=-1) * norms[:, None] / 2
    engine = TransformersEngine(model, tokenizer, batch_size=PROMPTS)
    return Bench(engine, vllm_engine, arithmetic_prompts, vector, norms)
