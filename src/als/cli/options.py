"""From a dataclass to a command line, and the options that several commands share.

A command's Config is a frozen dataclass; each field made with `option` becomes the flag of its name. Light
on purpose: torch and transformers are imported by `run`, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from als.errors import UserError

C = TypeVar("C")


def option(help: str, default: Any = dataclasses.MISSING, **argparse_options: Any) -> Any:
    """A Config field and its flag.

    Args:
        help: one sentence for --help and for the reader of the class.
        default: without one the flag is required.
        argparse_options: what add_argument takes beyond that: choices, type, metavar.
    """
    return dataclasses.field(default=default, metadata={"help": help, **argparse_options})


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of printing the usage of thirty options."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}; --help lists the options\n")
        sys.exit(2)


def parse(config: type[C], argv: Sequence[str] | None, *, prog: str, description: str) -> C:
    """Read the command line into a Config.

    Raises:
        UserError: from the Config's own checks.
        SystemExit: an unknown flag or an unreadable value (2), or --help (0).
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    annotations = typing.get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        _add_flag(parser, field, annotations[field.name])
    return config(**vars(parser.parse_args(argv)))


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], annotation: Any) -> None:
    options: dict[str, Any] = {key: value for key, value in field.metadata.items() if value is not None}
    options["required"] = field.default is dataclasses.MISSING
    if annotation is bool:
        options["action"] = "store_true"
    else:
        inner, many = _value_type(annotation)
        options.setdefault("type", inner)
        if many:
            options |= {"nargs": "+", "action": _AsTuple}
    if not options["required"]:
        options["default"] = field.default
        if annotation is not bool and field.default is not None and field.default != ():
            options["help"] += f" (default: {_shown(field.default)})"
    parser.add_argument(f"--{field.name}", **options)


class _AsTuple(argparse.Action):
    """Several values as a tuple, which a frozen Config can hold."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _flag: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _value_type(annotation: Any) -> tuple[Any, bool]:
    """The type of one value, and whether the flag takes several: int | None -> int; tuple[int, ...] -> int, many."""
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True
    return annotation, False


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def number_or_none(text: str) -> float | None:
    """A number, or the word none."""
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'none'") from None


def check(condition: bool, flag: str, value: object, allowed: str) -> None:
    """Raise a UserError that names the flag, its value and what is allowed, unless the condition holds."""
    if not condition:
        raise UserError(f"--{flag} {value!r}: expected {allowed}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which problems."""

    dataset: str = option(
        "Data set: openai/gsm8k, MATH-500, AIME_2024, arithmetic (built in), another hub id, or a local folder or file."
    )
    split: str = option("Split of the data set.", "test")
    benchmark: str | None = option(
        "How to read and judge it: gsm8k, math-500, aime_2024 or arithmetic; otherwise told from the data set's name.",
        None,
    )
    start_data_idx: int = option("First index of the range.", 0)
    end_data_idx: int | None = option("End of the range, exclusive; otherwise the end of the split.", None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model, where and how it runs."""

    model_name_or_path: str = option("Hub id, local folder, or .gguf file of an instruction-tuned model.")
    dtype: str = option(
        "Floating-point type; auto is bfloat16 on CUDA and on CPUs that compute it natively, else float32.",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = option("auto, cpu, cuda, or cuda:<number>.", "auto")
    device_map: str | None = option("auto spreads the model over all GPUs (accelerate).", None)
    attn_implementation: str | None = option("Attention of transformers: sdpa, eager, flash_attention_2.", None)
    batch_size: int = option("Problems in flight together.", 32)
    max_new_tokens: int = option("Generated tokens an answer may have.", 1024)
    seed: int = option("Seed of everything that is drawn.", 42)

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        check(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        if self.device_map is not None and self.device != "auto":
            raise UserError(
                f"--device {self.device} and --device_map {self.device_map} contradict each other; leave out one"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """Where it is written."""

    output_dir: str = option("Folder of all runs.", "./output")
    run_name: str | None = option("Name that sets this run's folder apart; otherwise told from the options.", None)
    resume: bool = option("Go on where an interrupted run stopped.", False)
    overwrite: bool = option("Move earlier results aside, to <folder>.<n>, and start anew.", False)
    verbose: bool = option("Print every answer.", False)

    def check_folder(self) -> None:
        """Raise a UserError where the options contradict each other."""
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite contradict each other; leave out one")
        name = self.run_name
        check(name is None or (bool(name) and "/" not in name), "run_name", name, "a name without a slash")


def run_command(
    config: type[C], run: Callable[[C], int], argv: Sequence[str] | None, *, prog: str, description: str
) -> int:
    """Parse, run, and turn what the person can put right into one sentence on stderr.

    Returns:
        The exit code: 0, 2 for a UserError or exhausted memory, 130 after Ctrl-C.
    """
    import warnings

    warnings.showwarning = _show_warning
    try:
        return run(parse(config, argv, prog=prog, description=description))
    except UserError as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted; what was finished is on disk, --resume goes on from there\n")
        return 130
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        sys.stderr.write(
            f"{prog}: out of memory; lower --batch_size (or --max_new_tokens), or take --dtype bfloat16. "
            "What was finished is on disk, --resume goes on from there\n"
        )
        return 2


def _is_out_of_memory(error: Exception) -> bool:
    """torch.OutOfMemoryError on a GPU, MemoryError, or the plain RuntimeError of torch's CPU allocator."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Our own warnings as a plain line; those of libraries keep their category as a prefix."""
    prefix = "note" if category is UserWarning else category.__name__
    sys.stderr.write(f"{prefix}: {message}\n")
