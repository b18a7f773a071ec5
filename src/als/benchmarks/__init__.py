"""The benchmarks: which one a --dataset means, and its problems.

    problems = load_problems("openai/gsm8k", split="test")
    find_benchmark("openai/gsm8k").family        # "number"

One file a data set, each with a real row on top; `sources` reads rows from files, saved folders and the hub.
This module knows which data sets there are and nothing of prompts, models or runs.
"""

import warnings
from pathlib import Path

from als.benchmarks import aime_2024, arithmetic, gsm8k, math_500
from als.benchmarks.base import SPLIT_LABELS, Benchmark, HubSource, Located, normalise, problems_of
from als.benchmarks.sources import READERS, is_path, read_local, read_rows
from als.errors import UserError
from als.records import Problem

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "HubSource",
    "benchmark_named",
    "dataset_label",
    "find_benchmark",
    "load_problems",
]

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK for module in (gsm8k, math_500, aime_2024, arithmetic)
}


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of that name; letter case and '-' or '_' make no difference."""
    for benchmark in BENCHMARKS.values():
        if normalise(name) == normalise(benchmark.name):
            return benchmark
    raise UserError(f"--benchmark {name!r} is not known: choose one of {', '.join(BENCHMARKS)}")


def find_benchmark(dataset: str, benchmark: str | None = None) -> Benchmark:
    """The benchmark that `benchmark` names, or else the one that the data set's name or path speaks of.

    Of a path every part counts, the last first: /x/gsm8k/test.jsonl and gsm8k_test.jsonl are both gsm8k.
    """
    if benchmark is not None:
        return benchmark_named(benchmark)
    for part in reversed(Path(dataset).parts):
        for known in BENCHMARKS.values():
            if _bare(part) in {normalise(name) for name in known.ids}:
                return known
    raise UserError(
        f"--dataset {dataset!r} does not say which benchmark it is: add --benchmark with one of {', '.join(BENCHMARKS)}"
    )


def _bare(part: str) -> str:
    """A part of a path without a file's ending and without a split's name at its end."""
    name = normalise(part)
    for ending in (".jsonl", ".json", ".parquet", ".csv"):
        name = name.removesuffix(ending)
    head, _, tail = name.rpartition("_")
    return head if head and tail in SPLIT_LABELS else name


def dataset_label(dataset: str) -> str:
    """What a data set is called in folder names: its id with the slash, a path by its last part.

    A file named for its split alone (gsm8k/test.jsonl) is called by its folder.
    """
    path = Path(dataset.rstrip("/"))
    if not is_path(dataset):
        return str(path)
    if path.suffix.casefold() in READERS:
        path = path.parent if path.stem in SPLIT_LABELS else path.with_suffix("")
    return path.name or path.resolve().name


def load_problems(dataset: str, *, split: str, benchmark: str | None = None) -> list[Problem]:
    """All problems of a split; a problem's index is the number of its row.

    The train split of MATH-500 is the MATH training set without what MATH-500 holds; the rows left keep
    their numbers, so there the indices may have gaps.

    Args:
        dataset: `arithmetic`, or a hub id, or a local file or folder, which wins over an id of the same name.
        split: "train" or "test"; with a single file only a check against its name.
        benchmark: its name, where the data set's name or path does not say it.
    """
    if not dataset.strip():
        raise UserError(f"--dataset {dataset!r} is empty: give a data set, for instance 'openai/gsm8k'")
    known = find_benchmark(dataset, benchmark)
    if known.generate is not None and known.is_meant_by(dataset):
        known.check_split(split)
        return [Problem(i, question, gold) for i, (question, gold) in enumerate(known.generate(split))]
    problems = problems_of(known, read_rows(known, dataset, split))
    if not problems:
        raise UserError(f"--dataset {dataset!r} has no usable rows in --split {split!r}: check the file or the split")
    if known.train_comes_from_elsewhere and split == "train":
        problems = _without_test_problems(known, dataset, problems)
    return problems


def _without_test_problems(known: Benchmark, dataset: str, problems: list[Problem]) -> list[Problem]:
    """Take out of a train split what the test split holds too; warn where no test split can be had."""
    try:
        held_out = problems_of(known, _test_rows_beside(known, dataset))
    except UserError as error:
        warnings.warn(
            f"whether the train split of {dataset!r} shares problems with {known.name}'s test split was not "
            f"checked, because that split cannot be had: {error}",
            stacklevel=3,
        )
        return problems
    hashes = {problem.problem_hash for problem in held_out}
    return [problem for problem in problems if problem.problem_hash not in hashes]


def _test_rows_beside(known: Benchmark, dataset: str) -> list[Located]:
    """The rows of the test split that belongs to a train split: from the same folder, or the same hub id."""
    path = Path(dataset).expanduser()
    if not path.exists():
        return read_rows(known, dataset, "test")
    return read_local(path.parent if path.is_file() else path, ("test",), known.config_of_split("test"))
