"""The files that say what to install agree with each other, and only the package is packaged."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def conda_requirements() -> list[str]:
    """The pip requirements of environment.yml; the file is a plain list, so no YAML library is needed."""
    lines = (ROOT / "environment.yml").read_text().splitlines()
    inside = lines[lines.index("  - pip:") + 1 :]
    return [line.strip().removeprefix("- ") for line in inside]


def test_conda_and_pyproject_ask_for_the_same() -> None:
    assert sorted(conda_requirements()) == sorted([*PYPROJECT["project"]["dependencies"], "-e ."])
    assert "  - python=3.11" in (ROOT / "environment.yml").read_text()


def test_every_dependency_is_pinned_and_has_a_reason() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins["torch"] == "2.13.0"
    wanted = PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["dev"]
    source = (ROOT / "pyproject.toml").read_text()
    for requirement in wanted:
        assert re.split("[<>=]", requirement)[0].lower().replace("_", "-") in {
            name.lower().replace("_", "-") for name in pins
        }
        assert re.search(rf'"{re.escape(requirement)}",  # \S+', source), requirement


@pytest.mark.parametrize(
    ("script", "target"),
    [
        ("als-collect-states", "collect_states"),
        ("als-compute-vector", "compute_steering_vector"),
        ("als-run", "main"),
        ("als-create-subsets", "create_subsets"),
        ("als-create-chart", "create_chart"),
        ("als-compare", "compare_runs"),
        ("als-null-test", "null_test"),
        ("als-sweep", "sweep"),
    ],
)
def test_console_scripts(script: str, target: str) -> None:
    assert PYPROJECT["project"]["scripts"][script] == f"als.cli.{target}:main"
    wrapper = (ROOT / "src" / f"{target}.py").read_text()
    assert f"from als.cli.{target} import main" in wrapper


def test_old_command_names_are_links() -> None:
    for name in ("create_subsets.py", "create_chart.py"):
        assert (ROOT / name).is_symlink()
        assert (ROOT / name).resolve() == ROOT / "src" / name
