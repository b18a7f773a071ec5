"""Benchmarks: finding one, reading it in every form, and the sentences for what cannot be read."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from als.benchmarks import BENCHMARKS, find_benchmark, load_problems, math_500
from als.errors import UserError

DATA = Path(os.environ.get("ALS_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set ALS_DATA")

GSM8K_ROWS = [
    {"question": "Two and 998 {more}?", "answer": "2+998=<<2+998=1000>>1000\n#### 1,000"},
    {"question": "Ten less 12?", "answer": "10-12 = -2\n#### -2"},
]
MATH_ROWS = [
    {"problem": "Half of $x$?", "solution": r"It is \boxed{\frac{x}{2}}.", "answer": r"\frac{x}{2}"},
    {"problem": "Half of $y$?", "solution": r"It is \boxed{\frac{y}{2}}.", "answer": r"\frac{y}{2}"},
]


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refusal(dataset: Path | str, split: str = "test", benchmark: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_problems(str(dataset), split=split, benchmark=benchmark)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ which benchmark


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("openai/gsm8k", "gsm8k"),
        ("GSM8K", "gsm8k"),
        ("/x/y/gsm8k/test.jsonl", "gsm8k"),
        ("./data/gsm8k_train.jsonl", "gsm8k"),
        ("someone/gsm8k", "gsm8k"),
        ("/gsm8k/aime_2024/", "aime_2024"),
        ("MATH-500", "math-500"),
        ("math_500", "math-500"),
        ("HuggingFaceH4/MATH-500", "math-500"),
        ("AIME_2024", "aime_2024"),
        ("Maxwell-Jia/AIME_2024", "aime_2024"),
        ("arithmetic", "arithmetic"),
    ],
)
def test_find_benchmark_from_name_or_path(dataset: str, name: str) -> None:
    assert find_benchmark(dataset).name == name


def test_explicit_benchmark_wins() -> None:
    assert find_benchmark("openai/gsm8k", "MATH_500").name == "math-500"


@pytest.mark.parametrize("dataset", ["svamp", "someone/gsm8k-platinum", "", "/x/mathematics/test.jsonl"])
def test_unknown_benchmark_names_value_choices_and_flag(dataset: str) -> None:
    with pytest.raises(UserError) as caught:
        find_benchmark(dataset)
    assert all(word in str(caught.value) for word in (repr(dataset), "--benchmark", *BENCHMARKS))


def test_unknown_benchmark_flag() -> None:
    with pytest.raises(UserError, match=r"--benchmark 'gsm' is not known: .*arithmetic"):
        find_benchmark("openai/gsm8k", "gsm")


# ------------------------------------------------------------------------------------------ arithmetic


def test_arithmetic_is_pinned() -> None:
    train = load_problems("arithmetic", split="train")
    test = load_problems("Arithmetic", split="test")
    assert [(p.index, p.question, p.gold) for p in train[:3]] == [
        (0, "What is 41 - 12?", "29"),
        (1, "What is 44 + 30?", "74"),
        (2, "What is 60 + 44?", "104"),
    ]
    assert [(p.index, p.question, p.gold) for p in test[:3]] == [
        (0, "What is 25 + 7?", "32"),
        (1, "What is 46 - 23?", "23"),
        (2, "What is 28 + 28?", "56"),
    ]
    text = "\n".join(f"{p.question} {p.gold}" for p in train + test)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "0aa158571fae4ae7"


def test_arithmetic_splits_share_nothing_and_are_right() -> None:
    splits = {split: load_problems("arithmetic", split=split) for split in ("train", "test")}
    assert {split: len(problems) for split, problems in splits.items()} == {"train": 1560, "test": 800}
    hashes = [p.problem_hash for problems in splits.values() for p in problems]
    assert len(set(hashes)) == 2360
    pairs = set()
    for problem in splits["train"] + splits["test"]:
        a, sign, b = problem.question.removeprefix("What is ").removesuffix("?").split()
        result = int(a) + int(b) if sign == "+" else int(a) - int(b)
        assert problem.gold == str(result)
        assert result >= 0
        assert 2 <= min(int(a), int(b)) <= max(int(a), int(b)) <= 60
        pairs.add((sign, *sorted((a, b))))
    assert len(pairs) == 2360  # not even 23 + 45 beside 45 + 23
    assert sum(pair[0] == "+" for pair in pairs) == 1770


def test_arithmetic_leaves_the_global_generator_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    load_problems("arithmetic", split="test")
    assert random.random() == expected


def test_arithmetic_from_a_file(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "arithmetic" / "test.jsonl", [{"question": "What is 1 + 1?", "answer": 2}])
    assert load_problems(str(path), split="test")[0].gold == "2"


# ------------------------------------------------------------------------------------------ local forms


def check_gsm8k(dataset: Path | str, split: str = "test") -> None:
    problems = load_problems(str(dataset), split=split, benchmark="gsm8k")
    assert [(p.index, p.question, p.gold) for p in problems] == [
        (0, "Two and 998 {more}?", "1000"),
        (1, "Ten less 12?", "-2"),
    ]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_folder_and_file_of_every_format(tmp_path: Path, ending: str) -> None:
    import pandas

    folder = tmp_path / "data"
    folder.mkdir()
    frame, path = pandas.DataFrame(GSM8K_ROWS), folder / f"test.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=ending == "jsonl")
    check_gsm8k(folder)
    check_gsm8k(path)
    assert "has: test" in refusal(folder, "train", "gsm8k")


def test_json_lines_under_the_name_json(tmp_path: Path) -> None:
    check_gsm8k(write_lines(tmp_path / "test.json", GSM8K_ROWS))


def test_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    lines = [json.dumps(row) for row in GSM8K_ROWS]
    path.write_text("\n" + lines[0] + "\n\n" + lines[1], encoding="utf-8-sig")
    check_gsm8k(path)


def test_saved_data_sets(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list(GSM8K_ROWS)
    DatasetDict({"test": rows}).save_to_disk(tmp_path / "several")
    rows.save_to_disk(tmp_path / "one")
    Dataset.from_list(GSM8K_ROWS, split="train").save_to_disk(tmp_path / "named")
    check_gsm8k(tmp_path / "several")
    check_gsm8k(tmp_path / "one")
    check_gsm8k(tmp_path / "named", "train")
    assert "which has: test" in refusal(tmp_path / "several", "train", "gsm8k")
    assert "which has: train" in refusal(tmp_path / "named", "test", "gsm8k")
    (tmp_path / "several" / "test" / "state.json").write_text("{")
    assert "cannot be read" in refusal(tmp_path / "several", "test", "gsm8k")


@pytest.mark.parametrize("dataset", ["openai/gsm8k", "gsm8k"])
def test_a_folder_of_the_ids_name_serves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    write_lines(tmp_path / "openai" / "gsm8k" / "test.jsonl", GSM8K_ROWS)
    monkeypatch.chdir(tmp_path)
    check_gsm8k(dataset)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "gsm8k" / "test.parquet"
    path.parent.mkdir()
    for answer in ("1", "2"):
        pandas.DataFrame([{"question": "Which?", "answer": f"#### {answer}"}]).to_parquet(path)
        assert load_problems(str(path), split="test")[0].gold == answer


def test_csv_gold_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "math-500" / "test.csv"
    path.parent.mkdir()
    path.write_text('problem,answer\n"Which, {exactly}?",007\nHow much?,1.50\n', encoding="utf-8")
    assert [p.gold for p in load_problems(str(path), split="test")] == ["007", "1.50"]


def test_aime_in_both_spellings_and_split_names(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [{"ID": "2024-I-1", "Problem": "Find $m+n$.", "Solution": "", "Answer": 33}]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(tmp_path / "aime_2024")
    path = write_lines(tmp_path / "aime.jsonl", [{"problem": "Find $m+n$.", "answer": "033"}])
    for dataset, benchmark in ((tmp_path / "aime_2024", None), (path, "aime-2024")):
        (problem,) = load_problems(str(dataset), split="test", benchmark=benchmark)
        assert (problem.question, problem.gold) == ("Find $m+n$.", "33")


# ------------------------------------------------------------------------------------------ copies of hub data sets


def write_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    import pandas

    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(rows).to_parquet(path)
    return path


OTHER_ROWS: list[dict[str, object]] = [{"question": "Another?", "answer": "#### 5"}]
SHARD = "00000-of-00001.parquet"


@pytest.mark.parametrize(
    ("test", "train"),
    [
        (f"main/test-{SHARD}", f"main/train-{SHARD}"),
        (f"data/test-{SHARD}", f"data/train-{SHARD}"),
        (f"test-{SHARD}", f"train-{SHARD}"),
        ("data/test-00000-of-00001-a09b74b3ef9c3b56.parquet", "data/train-00000-of-00001-0123456789abcdef.parquet"),
        ("main/test/0000.parquet", "main/train/0000.parquet"),
    ],
)
def test_a_copy_of_a_hub_data_set(tmp_path: Path, test: str, train: str) -> None:
    folder = tmp_path / "gsm8k"
    test_file, train_file = write_parquet(folder / test, GSM8K_ROWS), write_parquet(folder / train, OTHER_ROWS)
    (folder / ".cache" / "huggingface" / "download").mkdir(parents=True)  # what the download tool leaves beside it
    (folder / ".cache" / "huggingface" / "download" / f"{test_file.name}.metadata").write_text("abc\n")
    check_gsm8k(folder)
    assert [p.question for p in load_problems(str(folder), split="train")] == ["Another?"]
    assert "which has: test, train" in refusal(folder, "dev")
    train_file.unlink()
    sentence = refusal(folder, "train")
    assert "--split 'train'" in sentence
    assert "which has: test" in sentence


def test_a_file_of_a_copy_is_held_against_its_split(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "gsm8k" / "main" / f"test-{SHARD}", GSM8K_ROWS)
    check_gsm8k(path)
    assert "'test' split, but --split is 'train'" in refusal(path, "train")


def test_the_configuration_that_the_hub_id_means(tmp_path: Path) -> None:
    """GSM8K's hub repository has two; its page names them, and a copy may lack the page."""
    folder = tmp_path / "gsm8k"
    write_parquet(folder / "main" / f"test-{SHARD}", GSM8K_ROWS)
    write_parquet(folder / "socratic" / f"test-{SHARD}", OTHER_ROWS)
    check_gsm8k(folder)
    configs = [
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test-*\n"
        for name in ("main", "socratic")
    ]
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    check_gsm8k(folder)
    assert [p.question for p in load_problems(str(folder / "socratic"), split="test", benchmark="gsm8k")] == [
        "Another?"
    ]
    for name in ("main", "socratic"):  # the same configurations, found by the page alone
        (folder / name).rename(folder / f"of_{name}")
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("path: ", "path: of_"))
    check_gsm8k(folder)


def test_parts_of_a_split_are_joined_in_order_and_none_may_be_missing(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    for part, row in enumerate(GSM8K_ROWS):
        write_parquet(folder / "data" / f"test-0000{part}-of-00002.parquet", [row])
    check_gsm8k(folder)
    (folder / "data" / "test-00000-of-00002.parquet").unlink()
    sentence = refusal(folder)
    assert "1 of 2" in sentence
    assert "'test'" in sentence


def test_files_of_a_split_that_do_not_belong_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "gsm8k" / "easy" / f"test-{SHARD}", GSM8K_ROWS)
    write_parquet(tmp_path / "gsm8k" / "hard" / f"test-{SHARD}", OTHER_ROWS)
    monkeypatch.chdir(tmp_path)
    sentence = refusal("./gsm8k")
    assert f"easy/test-{SHARD}" in sentence
    assert f"hard/test-{SHARD}" in sentence


def test_copies_of_the_other_data_sets(tmp_path: Path) -> None:
    """As they lie on the hub: AIME 2024 is one file that names no split, MATH-500 a plain test.jsonl."""
    rows: list[dict[str, object]] = [{"ID": "2024-I-1", "Problem": "Find $m+n$.", "Solution": "", "Answer": 33}]
    write_parquet(tmp_path / "AIME_2024" / "aime_2024_problems.parquet", rows)
    assert [p.gold for p in load_problems(str(tmp_path / "AIME_2024"), split="test")] == ["33"]
    write_lines(tmp_path / "MATH-500" / "test.jsonl", MATH_ROWS)
    assert len(load_problems(str(tmp_path / "MATH-500"), split="test")) == 2


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "test.jsonl",
            '{"question": "Q", "answer": "#### 1"}\n\n{"question": "Q"}\n',
            ["line 3", "'answer'"],
        ),
        ("test.jsonl", '{"frage": "Q", "answer": "#### 1"}\n', ["line 1", "'question'", "'frage', 'answer'"]),
        ("test.jsonl", '{"question": "Q", "answer": "no mark"}\n', ["line 1", "####"]),
        ("test.jsonl", '{"question": "Q", "answer": null}\n', ["line 1", "None", "'answer'"]),
        ("test.jsonl", '{"question": " ", "answer": "#### 1"}\n', ["line 1", "nothing", "'question'"]),
        ("test.jsonl", '{"question": "Q", "answer": "#### 1"\n', ["line 1", "not JSON"]),
        ("test.jsonl", "[1]\n", ["line 1", "list"]),
        ("test.json", '[{"question": "Q", "answer": "#### 1"}, 7]', ["row 1", "int"]),
        ("test.json", "[7", ["not JSON"]),
        ("test.json", "[" * 100_000, ["not JSON", "nest"]),
        ("test.jsonl", '{"question": ' + "[" * 100_000, ["line 1", "not JSON", "nest"]),
        ("test.csv", "question,answer\nA,1\nB,#### 1,000\n", ["line 3", "more fields"]),
        ("test.csv", "question,answer\nA\n", ["line 2", "'answer'"]),
        ("test.csv", 'question,answer\n"A,1\n', ["not CSV"]),
        ("test.parquet", "text", ["parquet"]),
        ("test.txt", "text", [".jsonl", ".parquet", "save_to_disk"]),
        ("test.jsonl", "", ["no usable rows"]),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    path = tmp_path / "gsm8k" / name
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    sentence = refusal(path)
    assert all(word in sentence for word in [str(path), *expected]), sentence


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    path.write_bytes(b'{"question": "caf\xe9"}\n')
    assert "not UTF-8" in refusal(path)


def test_unknown_splits_name_what_there_is(tmp_path: Path) -> None:
    assert "--split 'dev' is not in arithmetic, which has: train, test" in refusal("arithmetic", "dev")
    assert "--split 'dev' is not in gsm8k, which has: train, test" in refusal("openai/gsm8k", "dev")
    assert "--split 'dev' is not in math-500, which has: train, test" in refusal("MATH-500", "dev")
    assert "--split 'train' is not in aime_2024, which has: test" in refusal("AIME_2024", "train")
    write_lines(tmp_path / "train.jsonl", GSM8K_ROWS)
    assert "which has: train" in refusal(tmp_path, "dev", "gsm8k")


def test_a_file_named_after_another_split(tmp_path: Path) -> None:
    for name in ("train.jsonl", "gsm8k_train.jsonl"):
        path = write_lines(tmp_path / name, GSM8K_ROWS)
        assert "'train' split, but --split is 'test'" in refusal(path, "test", "gsm8k")
    check_gsm8k(write_lines(tmp_path / "mine.jsonl", GSM8K_ROWS), "train")


def test_two_files_for_one_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl", GSM8K_ROWS)
    write_lines(tmp_path / "test.json", GSM8K_ROWS)
    assert "test.json, test.jsonl" in refusal(tmp_path, "test", "gsm8k")


@pytest.mark.parametrize("dataset", ["./gsm8k", "/nowhere/gsm8k", "gsm8k/test.jsonl", "data/x/gsm8k"])
def test_a_path_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{dataset!r} does not exist" in refusal(dataset)


def test_empty_data_set_name() -> None:
    assert "is empty" in refusal("", benchmark="gsm8k")


# ------------------------------------------------------------------------------------------ MATH


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"First \boxed{1}, then \boxed{\frac{a}{\sqrt{b}}}.", r"\frac{a}{\sqrt{b}}"),
        (r"So \boxed{\{1, 2\}}.", r"\{1, 2\}"),
        (r"So $\boxed 9$.", "9"),
        (r"So \fbox{ x } it is.", "x"),
        (r"So \boxed{}.", ""),
        (r"So \boxed{1", None),
        ("So nothing.", None),
    ],
)
def test_last_boxed(solution: str, answer: str | None) -> None:
    assert math_500.last_boxed(solution) == answer


def test_math_gold_from_the_solution(tmp_path: Path) -> None:
    rows = [{"problem": row["problem"], "solution": row["solution"]} for row in MATH_ROWS]
    path = write_lines(tmp_path / "math-500" / "test.jsonl", rows)
    assert [p.gold for p in load_problems(str(path), split="test")] == [r"\frac{x}{2}", r"\frac{y}{2}"]
    write_lines(path, [{"problem": "P", "solution": "no box"}])
    assert "line 1" in refusal(path)


def test_math_train_leaves_out_test_problems_and_keeps_indices(tmp_path: Path) -> None:
    folder = tmp_path / "math-500"
    same_but_for_case = {**MATH_ROWS[0], "problem": "half of  $X$?"}
    write_lines(folder / "test.jsonl", [same_but_for_case])
    write_lines(folder / "train.jsonl", MATH_ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dataset in (folder, folder / "train.jsonl"):
            assert [p.index for p in load_problems(str(dataset), split="train")] == [1]
    (folder / "test.jsonl").unlink()
    with pytest.warns(UserWarning, match="was not checked"):
        assert len(load_problems(str(folder), split="train")) == 2


def test_math_row_without_an_answer_is_left_out(tmp_path: Path) -> None:
    rows = [{**MATH_ROWS[0], "answer": ""}, MATH_ROWS[1]]
    path = write_lines(tmp_path / "math-500" / "test.jsonl", rows)
    with pytest.warns(UserWarning, match=r"answer is empty: 1, .*line 1"):
        assert [p.index for p in load_problems(str(path), split="test")] == [1]


# ------------------------------------------------------------------------------------------ the hub

SERVE_404 = """
import http.server, threading
class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *args): pass
hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
import os
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_address[1]}"
"""
LOAD = """
from als.benchmarks import load_problems
from als.errors import UserError
try:
    load_problems("openai/gsm8k", split="test")
except UserError as error:
    print(error)
"""


def run_apart(code: str, folder: Path, **variables: str) -> str:
    """Run code in a process of its own: the hub's address is read when its library is imported."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = inherited | {"HF_HOME": str(folder / "hub"), "NO_PROXY": "*"} | variables
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_hub_out_of_reach_names_the_ways_around(tmp_path: Path) -> None:
    start = time.monotonic()
    sentence = run_apart(LOAD, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - start < 40
    for words in ("'openai/gsm8k'", "out of reach", "save_to_disk", "test.jsonl", "./openai/gsm8k", "arithmetic"):
        assert words in sentence


def test_hub_without_that_data_set(tmp_path: Path) -> None:
    assert "no dataset of that id" in run_apart(SERVE_404 + LOAD, tmp_path)


def test_offline_mode_is_said(tmp_path: Path) -> None:
    assert "offline mode" in run_apart(LOAD, tmp_path, HF_HUB_OFFLINE="1")


# ------------------------------------------------------------------------------------------ real data


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "count", "first"),
    [
        ("gsm8k", "train", 7473, "72"),
        ("gsm8k", "test", 1319, "18"),
        ("math-500", "test", 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("aime_2024", "test", 30, "33"),
    ],
)
def test_real_data(name: str, split: str, count: int, first: str) -> None:
    problems = load_problems(str(DATA / name), split=split)
    assert (len(problems), problems[0].gold) == (count, first)
    assert all(problem.gold.strip() == problem.gold != "" for problem in problems)
    if find_benchmark(name).family == "number":
        assert all(float(problem.gold) is not None for problem in problems)


@needs_data
def test_real_math_train_agrees_with_its_boxes() -> None:
    with pytest.warns(UserWarning, match="answer is empty: 2"):
        problems = load_problems(str(DATA / "math-500"), split="train")
    assert len(problems) == 7498
    test_hashes = {p.problem_hash for p in load_problems(str(DATA / "math-500"), split="test")}
    assert not test_hashes & {p.problem_hash for p in problems}
    rows = [json.loads(line) for line in (DATA / "math-500" / "train.jsonl").read_text().splitlines()]
    assert all(math_500.last_boxed(row["solution"]) == row["answer"].strip() for row in rows)
