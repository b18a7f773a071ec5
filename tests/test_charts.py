"""Charts: logs are checked, means are right, names and labels say what is drawn, files come out the same."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from als.charts import RunLog, default_name, draw_accuracy, labels, read_log, rolling_mean, title
from als.errors import UserError

GSM8K_RUN = "output/Meta-Llama-3.1-8B-Instruct-openai/gsm8k/als_eval/prompt_0/logistics.pt"


def write_log(path: Path, results: list[bool], content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = {"results_history": results, "time_history": [0.5] * len(results)}
    torch.save(log if content is None else content, path)
    return path


def log_at(path: str, results: tuple[bool, ...] = (True, False)) -> RunLog:
    from als.charts import _describe

    return RunLog(Path(path), results, (1.0,) * len(results), *_describe(Path(path)))


def test_rolling_mean() -> None:
    results = [True, False, True, True]
    assert rolling_mean(results, 2) == [1.0, 0.5, 0.5, 1.0]
    assert rolling_mean(results, 1) == [1.0, 0.0, 1.0, 1.0]
    assert rolling_mean(results, 9) == [1.0, 0.5, 2 / 3, 0.75]
    assert rolling_mean([], 3) == []
    with pytest.raises(UserError, match="--window 0"):
        rolling_mean(results, 0)


def test_read_log(tmp_path: Path) -> None:
    log = read_log(write_log(tmp_path / GSM8K_RUN, [True, False, False, True, True]))
    assert log.results == (True, False, False, True, True)
    assert log.seconds == (0.5,) * 5
    assert log.accuracy == 0.6
    assert (log.model, log.data, log.run) == ("Meta-Llama-3.1-8B-Instruct", "openai/gsm8k", "als prompt_0")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "o/Qwen2.5-7B-MATH-500/als_gated_eval/prompt_1/a.pt",
            ("Qwen2.5-7B", "MATH-500", "als_gated prompt_1"),
        ),
        ("o/Q-HuggingFaceH4/MATH-500/als_eval/p/a/b.pt", ("Q", "HuggingFaceH4/MATH-500", "als p a")),
        ("o/Q-arithmetic/als_eval/prompt_0/logistics.pt", ("Q", "arithmetic", "als prompt_0")),
        ("o/Some-model-mydata/als_eval/prompt_0/logistics.pt", ("Some-model-mydata", "", "als prompt_0")),
        ("o/myrun/logistics.pt", ("", "", "myrun")),
        ("o/myrun/mine.pt", ("", "", "mine")),
    ],
)
def test_what_a_path_says(path: str, expected: tuple[str, str, str]) -> None:
    log = log_at(path)
    assert (log.model, log.data, log.run) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([True], "list"),
        ({"time_history": [1.0]}, "results_history"),
        ({"results_history": [1, 0], "time_history": [1.0, 1.0]}, "results_history"),
        ({"results_history": [True], "time_history": ["1"]}, "time_history"),
        ({"results_history": [True], "time_history": [float("nan")]}, "time_history"),
        ({"results_history": [True], "time_history": []}, "1 results but 0 times"),
        ({"results_history": [], "time_history": []}, "no results yet"),
        ({"results_history": [True], "time_history": [Path("code")]}, "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, words: str) -> None:
    path = write_log(tmp_path / "logistics.pt", [], content)
    with pytest.raises(UserError) as caught:
        read_log(path)
    assert words in str(caught.value)
    assert repr(str(path)) in str(caught.value)


def test_files_that_are_no_logs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        read_log(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is not a file"):
        read_log(tmp_path)
    (tmp_path / "text.pt").write_text("results")
    with pytest.raises(UserError, match="cannot be read"):
        read_log(tmp_path / "text.pt")


def test_title_and_labels_split_what_is_shared_from_what_differs() -> None:
    one = log_at("o/A-openai/gsm8k/als_eval/prompt_0/logistics.pt")
    other_mode = log_at("o/A-openai/gsm8k/greedy_cot_eval/prompt_0/logistics.pt")
    other_model = log_at("o/B-openai/gsm8k/als_eval/prompt_0/logistics.pt")
    other_data = log_at("o/A-MATH-500/als_eval/prompt_0/logistics.pt")
    same_but_place = log_at("p/A-openai/gsm8k/als_eval/prompt_0/logistics.pt")
    assert title([one]) == "A on openai/gsm8k"
    assert labels([one, other_mode]) == ["als prompt_0", "greedy_cot prompt_0"]
    assert (title([one, other_model]), labels([one, other_model])) == (
        "openai/gsm8k",
        ["als prompt_0, A", "als prompt_0, B"],
    )
    assert (title([one, other_data]), labels([one, other_data])) == (
        "A",
        ["als prompt_0, openai/gsm8k", "als prompt_0, MATH-500"],
    )
    assert title([other_model, other_data]) == "Accuracy"
    assert len(set(labels([one, same_but_place]))) == 2


def test_default_name_is_a_plain_and_short_file_name() -> None:
    log = log_at("o/A-openai/gsm8k/als_eval/prompt_0/logistics.pt")
    assert default_name([log], "accuracy", "window50") == "accuracy_A-on-openai-gsm8k_als-prompt_0_window50"
    many = [log_at(f"o/A-openai/gsm8k/als_eval/prompt_0/run{i}/logistics.pt") for i in range(20)]
    assert len(default_name(many, "accuracy", "window50")) <= 120
    assert default_name(many, "accuracy", "window50") != default_name(many[:-1], "accuracy", "window50")


def test_draw_one_and_several(tmp_path: Path) -> None:
    first = read_log(write_log(tmp_path / GSM8K_RUN, [True, False] * 30))
    other = GSM8K_RUN.replace("als_eval", "greedy_cot_eval")
    second = read_log(write_log(tmp_path / other, [False]))
    paths = draw_accuracy([first], window=10, output_dir=tmp_path / "charts")
    assert [path.suffix for path in paths] == [".png", ".svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    both = draw_accuracy([first, second], window=10, output_dir=tmp_path / "charts", name="both")
    assert [path.name for path in both] == ["both.png", "both.svg"]
    assert len(list((tmp_path / "charts").iterdir())) == 4


def test_the_same_logs_give_the_same_bytes_in_silence(tmp_path: Path) -> None:
    log = log_at("o/A-openai/gsm8k/als_eval/prompt_0/logistics.pt")
    before = [path.read_bytes() for path in draw_accuracy([log], window=2, output_dir=tmp_path)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = [path.read_bytes() for path in draw_accuracy([log], window=2, output_dir=tmp_path)]
    assert before == after
    with pytest.warns(UserWarning, match="held another chart"):
        draw_accuracy([log_at(str(log.path), (True, True))], window=2, output_dir=tmp_path)


def test_mistakes_of_drawing(tmp_path: Path) -> None:
    log = log_at("o/A-openai/gsm8k/als_eval/prompt_0/logistics.pt")
    with pytest.raises(UserError, match="--log_file"):
        draw_accuracy([], window=2, output_dir=tmp_path)
    with pytest.raises(UserError, match="--window -1"):
        draw_accuracy([log], window=-1, output_dir=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output_dir"):
        draw_accuracy([log], window=2, output_dir=tmp_path / "file")


def test_heavy_libraries_wait_until_they_are_needed() -> None:
    code = (
        "import sys, als.charts, als.subsets, als.benchmarks, als.prompts.solver as s;"
        "als.benchmarks.load_problems('arithmetic', split='test');"
        "print({'torch', 'matplotlib', 'datasets', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
