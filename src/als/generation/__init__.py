"""The generation modes, one file each; every one is a function `run(engine, problems, settings)`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from als.records import ResultLine

MODES = ("als", "als_gated", "greedy_cot", "self_consistency", "latentseek")
STEERED_MODES = ("als", "als_gated")
TRANSFORMERS_MODES = ("als_gated", "latentseek")
"""Those that only the transformers engine can run."""


def mode_function(mode: str) -> Callable[..., Iterator[ResultLine]]:
    """The `run` of a mode; imported only now, so that listing the modes costs nothing."""
    run: Callable[..., Iterator[ResultLine]] = importlib.import_module(f"als.generation.{mode}").run
    return run
