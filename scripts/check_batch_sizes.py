"""How many answers depend on what else was in the batch: greedy decoding at several batch sizes, compared text by text.

    python scripts/check_batch_sizes.py --dtype bfloat16 --batch_sizes 4 8 32 128

In float32 the shares should be zero; in bfloat16 sums of another shape round otherwise, and now and then another token
wins.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from als.engines.transformers_engine import TransformersEngine
from als.generation.greedy_cot import run
from als.generation.settings import Settings
from als.models import load_model
from als.stats import markdown_table

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print a row a batch size: how many texts and how many verdicts differ from those of the first."""
    from als.benchmarks import load_problems

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / ".cache" / "SmolLM2-135M-Instruct"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--problems", type=int, default=96)
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[4, 8, 32, 128])
    options = parser.parse_args()
    loaded = load_model(options.model, dtype=options.dtype, device="auto")
    problems = load_problems("arithmetic", split="test", benchmark=None)[: options.problems]
    settings = Settings(benchmark="arithmetic", max_new_tokens=options.max_new_tokens)
    first, rows = None, []
    for size in options.batch_sizes:
        lines = sorted(
            run(TransformersEngine(*loaded, batch_size=size), problems, settings), key=lambda line: line.index
        )
        first = first or lines
        pairs = list(zip(lines, first, strict=True))
        texts = sum(a.completion != b.completion for a, b in pairs)
        verdicts = sum(a.correct != b.correct for a, b in pairs)
        right = sum(line.correct for line in lines)
        rows.append([str(size), *(f"{n} of {len(pairs)}" for n in (texts, verdicts, right))])
    against = f"than at {options.batch_sizes[0]}"
    print(f"{options.dtype}, at most {options.max_new_tokens} tokens\n")
    print(markdown_table(("batch size", f"other text {against}", f"other verdict {against}", "right"), rows))


if __name__ == "__main__":
    main()
