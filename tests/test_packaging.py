"""The files that say what to install agree with each other, and only the package is packaged."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALL_FILES = ("pyproject.toml", "environment.yml", "constraints.txt", "constraints-vllm.txt")


def requirement_name(requirement: str) -> str:
    return re.split("[<>=]", requirement)[0].lower().replace("_", "-")


def imported_modules() -> set[str]:
    """Top-level names of all modules that the package imports, anywhere in its files, without the standard library."""
    found = set()
    for path in (ROOT / "src" / "als").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                names = [str(node.module)]
            found |= {name.partition(".")[0] for name in names}
    return found - sys.stdlib_module_names - {"als"}


def test_conda_has_no_second_list_of_dependencies() -> None:
    text = (ROOT / "environment.yml").read_text()
    entries = [line.strip().removeprefix("- ") for line in text.partition("dependencies:")[2].split("\n")]
    assert [entry for entry in entries if entry] == ["python=3.11", "pip", "pip:", "-e ."]


def test_what_is_imported_is_declared() -> None:
    project = PYPROJECT["project"]
    declared = {requirement_name(each) for each in project["dependencies"] + project["optional-dependencies"]["vllm"]}
    providers = packages_distributions()
    modules = imported_modules()
    assert {"torch", "numpy", "sklearn", "vllm"} <= modules
    undeclared = {
        module
        for module in modules
        if not declared & {requirement_name(name) for name in providers.get(module, [module])}
    }
    assert undeclared == set()


def test_statsmodels_is_not_installed_for_two_functions() -> None:
    assert not any("statsmodels" in (ROOT / name).read_text() for name in INSTALL_FILES)


def test_the_parser_of_answers_is_declared_and_its_user_is_bounded() -> None:
    """Accuracies may change with math-verify, so a new minor version is taken by hand."""
    dependencies = PYPROJECT["project"]["dependencies"]
    assert "math-verify>=0.9,<0.10" in dependencies
    assert "latex2sympy2_extended" in {re.split("[<>=]", each)[0] for each in dependencies}


def test_every_dependency_is_pinned_and_has_a_reason() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins["torch"] == "2.13.0"
    wanted = PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["dev"]
    source = (ROOT / "pyproject.toml").read_text()
    for requirement in wanted:
        assert requirement_name(requirement) in {requirement_name(name) for name in pins}
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
