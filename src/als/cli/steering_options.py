"""The options of commands that steer: which vector, how much of it where, and the file that holds such settings."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from als.cli.options import check, number_or_none, option
from als.errors import UserError
from als.generation import STEERED_MODES

ALPHA_SCALES = ("raw", "unit", "residual")
"""Those of `als.steering`, which imports torch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorConfig:
    """Which vector, and on which problems."""

    fixed_subset_path: str | None = option("File with the indices to run, one a line; see create_subsets.", None)
    vector_name_template: str | None = option(
        "Vector file for the steered modes; {prompt_idx} stands for the prompt's index.", None
    )
    states_dir: str | None = option("For shuffled controls: the vector's hidden_states, where its file is wrong.", None)
    allow_leakage: bool = option("Evaluate also on problems that the vector was made from; config.json says so.", False)

    def check_vector(self) -> None:
        """Raise a UserError where the template of the vector's name is none."""
        if self.vector_name_template is not None:
            _check_template(self.vector_name_template)

    def vector_path(self, prompt_idx: int) -> Path:
        """The vector file of a prompt."""
        assert self.vector_name_template is not None, "a mode that does not steer has no vector"
        return Path(self.vector_name_template.format(prompt_idx=prompt_idx)).expanduser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnePromptConfig(VectorConfig):
    """The same for a command about one steered mode and one prompt."""

    vector_name_template: str = option("Vector file; {prompt_idx} stands for the prompt's index.")
    generation_mode: str = option("The mode that steers.", "als", choices=STEERED_MODES)
    solver_prompt_idx: int = option("Solver prompt: 0 asks for a boxed answer, 1 for JSON.", 0, choices=(0, 1))

    def check_vector(self) -> None:
        """Also raise one where the mode has no use for the prompt."""
        super().check_vector()
        check_prompts(self.generation_mode, [self.solver_prompt_idx], flag="solver_prompt_idx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrengthConfig:
    """How much of the vector is added, where and when."""

    alpha: float = option("Steering strength.", 0.3)
    alpha_scale: str = option(
        "raw: alpha*v; unit: alpha*v/|v|; residual: alpha*|h|*v/|v|.", "raw", choices=ALPHA_SCALES
    )
    layer_idx: int = option("Decoder block whose output is steered; negative counts from the end.", -2)
    similarity_threshold: float | None = option(
        "tau: steer where cos(h, v) is below it; none steers everywhere.", 0.1, type=number_or_none
    )
    settings: str | None = option(
        "JSON file, such as sweep's chosen.json, whose alpha, alpha_scale, layer_idx and similarity_threshold stand in "
        "for the defaults.",
        None,
    )

    @staticmethod
    def later_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
        """What the --settings file says."""
        return read_settings(options["settings"]) if options["settings"] is not None else {}


def read_settings(path: str) -> dict[str, Any]:
    """The steering options in a JSON file, by flag; other fields in it are passed over.

    Raises:
        UserError: no such file, none of the options, or a value that an option cannot have.
    """
    from als.runlog import read_json

    content = read_json(Path(path).expanduser())
    found = {name: content[name] for name in SETTINGS if name in content}
    if not found:
        raise UserError(f"--settings {path!r} has none of {', '.join(SETTINGS)}; give the chosen.json of a sweep")
    for name, value in found.items():
        check(SETTINGS[name](value), f"settings {path}: {name}", value, "what the flag of that name takes")
    return found


def check_prompts(mode: str, prompts: Sequence[int], *, flag: str) -> None:
    """Raise a UserError where a mode has no use for a prompt that the flag asks for."""
    if mode == "als_gated" and 0 in prompts:
        raise UserError(
            f"--generation_mode als_gated steers inside JSON answers, which prompt 0 does not ask for; give --{flag} 1"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SETTINGS: dict[str, Callable[[object], bool]] = {
    "alpha": _is_number,
    "alpha_scale": lambda value: value in ALPHA_SCALES,
    "layer_idx": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "similarity_threshold": lambda value: value is None or _is_number(value),
}
"""What a --settings file may set, and which values it may have."""


def _check_template(template: str) -> None:
    """A template may hold {prompt_idx} and nothing else in braces."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if names <= {"prompt_idx"}:
            template.format(prompt_idx=0)
            return
        problem = f"unknown placeholder {{{min(names - {'prompt_idx'})}}}"
    except (ValueError, KeyError) as error:
        problem = str(error)
    raise UserError(f"--vector_name_template {template!r}: {problem}; only {{prompt_idx}} may stand in braces")
