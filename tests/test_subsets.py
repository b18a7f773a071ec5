"""Subsets: draws that stay the same, files that say what is wrong with them, ranges by index."""

from pathlib import Path

import pytest

from als.errors import UserError
from als.records import Problem
from als.subsets import draw, read_subset, select, subset_name, write_subset

SUBSETS = Path(__file__).parents[1] / "subsets"


@pytest.mark.parametrize(
    ("name", "size"), [("openai-gsm8k_test_200.txt", 1319), ("HuggingFaceH4-MATH-500_test200.txt", 500)]
)
def test_the_committed_subsets_are_redrawn(name: str, size: int, tmp_path: Path) -> None:
    drawn = draw(size, 200, seed=42)
    assert read_subset(SUBSETS / name, allowed=range(size)) == drawn
    write_subset(tmp_path / name, drawn)
    assert (tmp_path / name).read_bytes() == (SUBSETS / name).read_bytes()


def test_draw_is_sorted_without_repetition_and_seeded() -> None:
    drawn = draw(1000, 300, seed=7)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 300
    assert drawn == draw(range(1000), 300, seed=7)
    assert drawn != draw(1000, 300, seed=8)
    assert draw(5, 5, seed=1) == [0, 1, 2, 3, 4]


def test_draw_from_indices_with_gaps() -> None:
    indices = [9, 2, 40, 17]
    assert set(draw(indices, 3, seed=1)) < set(indices)
    assert indices == [9, 2, 40, 17]


def test_draw_reaches_every_index_about_equally() -> None:
    counts = [0] * 10
    for seed in range(2000):
        for index in draw(10, 3, seed):
            counts[index] += 1
    assert all(500 < count < 700 for count in counts), counts


@pytest.mark.parametrize("n_samples", [0, -1, 6])
def test_draw_too_many_or_none(n_samples: int) -> None:
    with pytest.raises(UserError, match=rf"--n_samples {n_samples} .*from 1 to 5"):
        draw(5, n_samples, seed=1)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("openai/gsm8k", "openai-gsm8k_test_200.txt"),
        ("MATH-500", "MATH-500_test_200.txt"),
        ("./data/gsm8k/", "data-gsm8k_test_200.txt"),
        ("/data/gsm8k", "data-gsm8k_test_200.txt"),
    ],
)
def test_subset_name(dataset: str, name: str) -> None:
    assert subset_name(dataset, "test", 200) == name


def test_write_and_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "subset.txt"
    write_subset(path, [3, 5, 8])
    write_subset(path, [3, 5, 8])
    assert path.read_text() == "3\n5\n8\n"
    assert read_subset(path, allowed=range(9)) == [3, 5, 8]
    assert [entry.name for entry in path.parent.iterdir()] == ["subset.txt"]


def test_another_subset_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "subset.txt"
    write_subset(path, [1])
    with pytest.raises(UserError, match="holds other indices"):
        write_subset(path, [2])
    assert path.read_text() == "1\n"


def test_write_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_subset(tmp_path / "file" / "subset.txt", [1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1\ntwo\n", "line 2: 'two' is not a row number"),
        ("1\n2.0\n", "line 2: '2.0' is not a row number"),
        ("-1\n", "line 1: '-1' is not a row number"),
        ("１\n", "line 1: '１' is not a row number"),
        ("1\n\n9\n", "line 3: index 9 is not in the split, which has 5 problems, from 0 to 4"),
        ("1\n2\n1\n", "line 3: index 1 stands on line 1 already"),
        ("\n \n", "is empty"),
    ],
)
def test_bad_subsets_are_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "subset.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_subset(path, allowed=range(5))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_subset_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--fixed_subset_path"):
        read_subset(tmp_path / "none.txt", allowed=range(5))
    with pytest.raises(UserError, match="cannot be read"):
        read_subset(tmp_path, allowed=range(5))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(UserError, match="is not text"):
        read_subset(tmp_path / "binary.txt", allowed=range(5))


def problems(*indices: int) -> list[Problem]:
    return [Problem(index, f"Q{index}", str(index)) for index in indices]


@pytest.mark.parametrize(
    ("start", "end", "indices", "chosen"),
    [
        (0, None, None, [0, 2, 3, 7]),
        (0, 1000, None, [0, 2, 3, 7]),
        (1, 7, None, [2, 3]),
        (0, None, [7, 0], [0, 7]),
        (1, None, [7, 0], [7]),
    ],
)
def test_select(start: int, end: int | None, indices: list[int] | None, chosen: list[int]) -> None:
    selected = select(problems(0, 2, 3, 7), start=start, end=end, indices=indices)
    assert [problem.index for problem in selected] == chosen


@pytest.mark.parametrize(("start", "end", "indices"), [(3, 3, None), (8, None, None), (-1, 5, None), (3, 9, [0])])
def test_select_nothing(start: int, end: int | None, indices: list[int] | None) -> None:
    with pytest.raises(UserError, match=rf"--start_data_idx {start} and --end_data_idx {end}"):
        select(problems(0, 2, 3, 7), start=start, end=end, indices=indices)


def test_select_an_index_that_is_not_there() -> None:
    with pytest.raises(UserError, match="index 1 is not in the split"):
        select(problems(0, 2), start=0, end=None, indices=[0, 1])
