"""What steering costs on a GPU, and how far decoding is from the memory's bandwidth, on models of real shapes.

    python scripts/bench_cuda.py --output bench_cuda.json
    python scripts/bench_cuda.py --shapes tiny --device cpu --batches 1 4 --new_tokens 9      # does it run?

The weights are random, so nothing is downloaded. The rows are those of bench.py, but for those that no GPU is needed
for, and those about answers of different lengths: such models write on until they are cut off. A step of decoding reads
all weights and all of the cache once: that many bytes over the bandwidth of a copy is about the least it can take.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import traceback
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bench import ROOT, ROWS, Bench, Sizes, report, run_row, seconds, unmeasured, versions
from safetensors.torch import save_file

from als.engines.memory import cache_bytes
from als.hub import first_line
from als.records import Problem

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
        "LlamaConfig", {**LLAMA, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8}
        | {"intermediate_size": 96},
    ),
}  # fmt: skip
BATCHES = ("als", "capture", "gates", "samples", "continuous")
ONE_PROBLEM = ("cache", "latentseek")
VLLM = ("vllm_als", "vllm", "transformers_vllm")
"""The last, and at all batch sizes one after the other: vLLM holds on to the memory that it once took."""


class RandomBench(Bench):
    """A model of a real one's shape with random weights in bfloat16, and problems of several lengths.

    Attributes:
        sizes: those of the batch that is being measured.
    """

    def __init__(self, folder: Path, loaded: tuple[Any, Any], options: argparse.Namespace) -> None:
        super().__init__(str(folder), "bfloat16", Sizes())
        self.loaded = loaded
        self.max_num_seqs = max(options.batches)
        self.long_runs = False
        self._options = options

    def take(self, batch: int) -> None:
        """Measure with so many answers together from here on, which is also how many a whole run has."""
        new = self._options.new_tokens
        self.sizes = Sizes(self._options.repeats, batch, new_tokens=new, problems=batch, limit=new)

    def close(self) -> None:
        """End vLLM's processes, which hold memory of the GPU."""
        started = vars(self)  # what was not asked for is not there
        if "vllm_engine" in started:
            self.vllm_engine.llm.engine_core.shutdown()
        if "plain_vllm" in started:
            self.plain_vllm.llm_engine.engine_core.shutdown()

    @property
    def problems(self) -> list[Problem]:
        """A question of ten tokens, half as often to as often as it takes."""
        longest = max(2, self._options.prompt_tokens // 10)
        repeated = [longest - i % (longest // 2) for i in range(self.sizes.problems)]
        return [Problem(i, "What is 23 + 45? " * times, "68") for i, times in enumerate(repeated)]

    @property
    def vllm_options(self) -> dict[str, Any]:
        """vLLM makes weights of its own up."""
        room = {"gpu_memory_utilization": 0.3} if torch.cuda.is_available() else super().vllm_options
        return room | {"load_format": "dummy"}


def build(shape: str, device: str, tokenizer_path: str, folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer); the folder gets what vLLM wants to see of a model without its weights."""
    import transformers

    name, arguments = SHAPES[shape]
    config = getattr(transformers, name)(**arguments)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_path, padding_side="left")
    model.get_output_embeddings().weight[len(tokenizer) :] = 0  # never chosen: the gate is to read text
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file({}, folder / "model.safetensors")
    return model, tokenizer


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a copy within the device's memory reads and writes."""
    source = torch.ones(2**30 if device != "cpu" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = [seconds(lambda: target.copy_(source)) for _ in range(10)]
    return 2 * source.numel() / statistics.median(took)


def step_bytes(model: Any, batch: int, tokens: float) -> float:
    """What one step reads: every weight but the embeddings of tokens that are not there, and the whole cache."""
    embeddings: torch.Tensor = model.get_input_embeddings().weight
    weights = sum(parameter.nbytes for parameter in model.parameters()) - embeddings.nbytes
    fixed, per_token = cache_bytes(model)
    return float(weights + batch * (fixed + per_token * tokens))


def step_and_floor(bench: Bench, bandwidth: float) -> dict[str, float]:
    """Milliseconds a step of plain decoding, and the least that it can take; tokens a second."""
    batch, new_tokens = bench.sizes.batch, bench.sizes.new_tokens
    engine, prompts = bench.engine(endless=True), bench.prompts(batch)

    def decode(tokens: int) -> float:
        return seconds(lambda: list(engine.generate(prompts, max_new_tokens=tokens)))

    decode(new_tokens)  # warms up
    took = [(decode(new_tokens) - decode(1)) / (new_tokens - 1) for _ in range(bench.sizes.repeats)]
    step, width = statistics.median(took), statistics.mean(map(len, engine.encode(prompts))) + new_tokens / 2
    least = step_bytes(bench.loaded[0], batch, width) / bandwidth
    return {"step_ms": 1000 * step, "floor_ms": 1000 * least, "tokens_per_second": batch / step}


@contextmanager
def whole_batches() -> Iterator[None]:
    """The engine goes on with half a batch where a whole one does not fit; that is not what is to be measured.

    Raises:
        torch.OutOfMemoryError: it did.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "out of memory")
        try:
            yield
        except UserWarning as warning:
            raise torch.OutOfMemoryError(str(warning)) from warning


class Record:
    """What was measured, printed and written as it comes: on a GPU that is lent, half of it is worth something."""

    def __init__(self, path: Path | None, **about: Any) -> None:
        self._path = path
        self._written: dict[str, Any] = {**about, "steps": [], "rows": []}
        print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Results as bench.py makes them."""
        rows: list[dict[str, Any]] = self._written["rows"]
        return rows

    def add(self, kind: str, result: dict[str, Any], text: str) -> None:
        """Keep a result of a kind, steps or rows."""
        self._written[kind].append(result)
        print(text, flush=True)
        if self._path is not None:
            self._path.write_text(json.dumps(self._written, indent=2) + "\n")


def measure(about: str, bench: Bench, names: Collection[str], record: Record) -> None:
    """Rows by name, one after the other, whatever becomes of each."""
    for row in ROWS:
        if row.name not in names:
            continue
        try:
            with whole_batches():
                result = run_row(row, bench)
        except Exception as error:  # the next row may well run
            traceback.print_exc()
            result = unmeasured(row, bench, first_line(error))
            torch.cuda.empty_cache()
        result |= {"about": about, "batch": bench.sizes.batch, "what": f"{about}: {result['what']}"}
        record.add("rows", result, report([result]).splitlines()[-1])


def measure_step(about: str, bench: Bench, bandwidth: float, record: Record) -> None:
    """A step of plain decoding beside its floor."""
    try:
        with whole_batches():
            result: dict[str, Any] = step_and_floor(bench, bandwidth)
        times = f"{result['step_ms']:.2f} ms a step, floor {result['floor_ms']:.2f} ms"
        text = f"{times}, {result['tokens_per_second']:.0f} tokens/s"
    except torch.OutOfMemoryError as error:
        text = first_line(error)
        result = {"note": text}
    record.add("steps", {"about": about, "batch": bench.sizes.batch, **result}, f"{about}: {text}")


def measure_shape(shape: str, options: argparse.Namespace, bandwidth: float, record: Record) -> None:
    """Everything about one model."""
    with tempfile.TemporaryDirectory() as folder:
        bench = RandomBench(Path(folder), build(shape, options.device, options.tokenizer, Path(folder)), options)
        try:
            for batch in options.batches:
                bench.take(batch)
                measure_step(f"{shape}, {batch} together", bench, bandwidth, record)
                measure(f"{shape}, {batch} together", bench, set(BATCHES).intersection(options.rows), record)
            bench.take(8)  # LatentSeek's verifiers
            measure(shape, bench, set(ONE_PROBLEM).intersection(options.rows), record)
            torch.cuda.empty_cache()  # vLLM asks the device how much is free
            for batch in options.batches:
                bench.take(batch)
                measure(f"{shape}, {batch} together", bench, set(VLLM).intersection(options.rows), record)
        finally:
            bench.close()
    del bench
    gc.collect()
    torch.cuda.empty_cache()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["qwen2.5-7b", "llama-3.1-8b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64, 256])
    rows = [*BATCHES, *ONE_PROBLEM, *VLLM]
    parser.add_argument("--rows", nargs="*", choices=rows, default=rows, help="beside steps and their floor")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt_tokens", type=int, default=128, help="of the longest question")
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
    sys.path.insert(0, str(ROOT / "tests"))  # the oracles that keep no cache
    name = "cpu" if options.device == "cpu" else torch.cuda.get_device_name()
    bandwidth = copy_bandwidth(options.device)
    record = Record(options.output, device=name, gigabytes_per_second=bandwidth / 1e9, **versions())
    for shape in options.shapes:
        measure_shape(shape, options, bandwidth, record)
    print(f"\n{report(record.rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
