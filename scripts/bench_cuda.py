"""What steering costs on a GPU, and how far decoding is from the memory's bandwidth, on models of real shapes.

    python scripts/bench_cuda.py --output bench_cuda.json
    python scripts/bench_cuda.py --shapes tiny --device cpu --batches 1 4        # does it run?

The weights are random, so nothing is downloaded. A step of decoding reads all weights and all of the cache once: that
many bytes over the bandwidth of a copy is about the least it can take. Every ratio is of paired runs, one after the
other, on the same prompts, of several lengths, and equally many tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench import versions

from als.engines.memory import cache_bytes
from als.engines.transformers_engine import TransformersEngine
from als.generation.json_gate import JsonGate
from als.prompts.solver import FREE_TEXT_KEY
from als.steering import Steering

ROOT = Path(__file__).resolve().parents[1]
QWEN = {"num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False}
LLAMA = {"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2.5-7b": (
        "Qwen2Config", {**QWEN, "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28},
    ),
    "llama-3.1-8b": (
        "LlamaConfig", {**LLAMA, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
    ),
    "tiny": (
        "LlamaConfig", {**LLAMA, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8}
        | {"intermediate_size": 96},
    ),
}  # fmt: skip


def build(shape: str, device: str, tokenizer_path: str) -> tuple[Any, Any]:
    """(model with random weights in bfloat16, tokenizer)"""
    import transformers

    name, arguments = SHAPES[shape]
    config = getattr(transformers, name)(**arguments)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_path, padding_side="left")
    model.get_output_embeddings().weight[len(tokenizer) :] = 0  # never chosen: the gate is to read text
    return model, tokenizer


def synchronised(device: str) -> None:
    """Wait for the GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a copy within the device's memory reads and writes."""
    source = torch.ones(2**30 if device != "cpu" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = []
    for _ in range(10):
        synchronised(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronised(device)
        took.append(time.perf_counter() - started)
    return 2 * source.numel() / statistics.median(took)


def step_bytes(model: Any, batch: int, tokens: float) -> float:
    """What one step reads: every weight but the embeddings of tokens that are not there, and the whole cache."""
    embeddings: torch.Tensor = model.get_input_embeddings().weight
    weights = sum(parameter.nbytes for parameter in model.parameters()) - embeddings.nbytes
    fixed, per_token = cache_bytes(model)
    return float(weights + batch * (fixed + per_token * tokens))


def measure(model: Any, tokenizer: Any, batch: int, options: argparse.Namespace, bandwidth: float) -> dict[str, Any]:
    """Milliseconds a step of plain decoding, its floor, and what each addition costs beside it."""
    engine = TransformersEngine(model, tokenizer, batch_size=batch)
    engine.ends = []  # nothing ends an answer: equally many tokens on both sides
    longest = max(2, options.prompt_tokens // 9)
    prompts = ["What is 23 + 45? " * (longest - i % (longest // 2)) for i in range(batch)]
    length = statistics.mean(map(len, engine.encode(prompts)))
    width = model.config.hidden_size
    steering = Steering(torch.ones(width), alpha=0.0, similarity_threshold=None)

    def decode(new_tokens: int, **more: Any) -> float:
        synchronised(options.device)
        started = time.perf_counter()
        assert len(list(engine.generate(prompts, max_new_tokens=new_tokens, **more))) == batch
        synchronised(options.device)
        if engine.batch_size < batch:
            raise torch.OutOfMemoryError(f"{batch} answers do not fit into memory together")
        return time.perf_counter() - started

    def step(**more: Any) -> float:
        """Seconds a step, the prompt's left out."""
        return (decode(options.new_tokens, **more) - decode(1, **more)) / float(options.new_tokens - 1)

    sides: dict[str, Callable[[], float]] = {
        "greedy": step,
        "als": lambda: step(steering=steering),
        "capture": lambda: step(capture_states=True),
        "als_gated": lambda: step(steering=steering, gates=lambda: JsonGate(FREE_TEXT_KEY)),
    }
    for side in sides.values():
        side()  # warms up
    rounds = [{name: side() for name, side in sides.items()} for _ in range(options.repeats)]

    def ratio(ours: str, theirs: str) -> float:
        return float(statistics.median(took[ours] / took[theirs] for took in rounds))

    greedy = statistics.median(took["greedy"] for took in rounds)
    floor = step_bytes(model, batch, length + options.new_tokens // 2) / bandwidth
    return {
        "batch": batch,
        "step_ms": 1000 * greedy,
        "floor_ms": 1000 * floor,
        "tokens_per_second": batch / greedy,
        "step_over_floor": greedy / floor,
        "als_over_greedy": ratio("als", "greedy"),
        "capture_over_greedy": ratio("capture", "greedy"),
        "als_gated_over_als": ratio("als_gated", "als"),
    }


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["qwen2.5-7b", "llama-3.1-8b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt_tokens", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, default=129, help="the loop looks who has ended every 8 steps")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokenizer", default=str(ROOT / ".cache" / "SmolLM2-135M-Instruct"))
    parser.add_argument("--output", type=Path, help="also write the results as JSON")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("bench_cuda: there is no CUDA device here; --device cpu --shapes tiny tries it out", file=sys.stderr)
        return 2
    if ":" in options.device:
        torch.cuda.set_device(options.device)
    name = "cpu" if options.device == "cpu" else torch.cuda.get_device_name()
    bandwidth = copy_bandwidth(options.device)
    print(f"{name}: a copy moves {bandwidth / 1e9:.0f} GB/s")
    results = []
    print("| model | batch | ms a step | floor, ms | of floor | tokens/s | als | capture | als_gated |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for shape in options.shapes:
        model, tokenizer = build(shape, options.device, options.tokenizer)
        for batch in options.batches:
            try:
                row = measure(model, tokenizer, batch, options, bandwidth)
            except torch.OutOfMemoryError as error:
                print(f"| {shape} | {batch} | {str(error).splitlines()[0]} | | | | | | |", flush=True)
                continue
            results.append({"shape": shape, **row})
            if options.output:
                written = {"device": name, "bandwidth": bandwidth, **versions(), "rows": results}
                options.output.write_text(json.dumps(written, indent=2) + "\n")
            times = f"{row['step_ms']:.2f} | {row['floor_ms']:.2f} | {row['step_over_floor']:.2f} x"
            ratios = [f"{row[name]:.3f} x" for name in ("als_over_greedy", "capture_over_greedy", "als_gated_over_als")]
            print(
                f"| {shape} | {batch} | {times} | {row['tokens_per_second']:.0f} | {' | '.join(ratios)} |", flush=True
            )
        del model
    return 0


if __name__ == "__main__":
    sys.exit(main())
