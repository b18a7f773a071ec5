"""From a dataclass to a command line, and the options that several commands share.

A command's Config is a frozen dataclass; each field made with `option` becomes the flag of its name, or, with
positional=True, what is given without a flag. Light on purpose: torch and transformers are imported by `run`, so
that --help answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import signal
import sys
import threading
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from als.answers.judges import JUDGES
from als.errors import UserError, is_out_of_memory
from als.launch import launched

C = TypeVar("C")

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
"""What a disk, and not the program, does wrong."""


def option(help: str, default: Any = dataclasses.MISSING, **argparse_options: Any) -> Any:
    """A Config field and its flag.

    Args:
        help: one sentence for --help and for the reader of the class.
        default: without one the flag is required.
        argparse_options: what add_argument takes beyond that: choices, type, metavar; and positional=True, for a
            required field that is given without a flag.
    """
    return dataclasses.field(default=default, metadata={"help": help, **argparse_options})


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of printing the usage of thirty options."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}; --help lists the options\n")
        sys.exit(2)


def parse(config: type[C], argv: Sequence[str] | None, *, prog: str, description: str) -> C:
    """Read the command line into a Config.

    A Config may have a `later_defaults`: options as read -> other defaults for some of them, say from a file.

    Raises:
        UserError: from the Config's own checks.
        SystemExit: an unknown flag or an unreadable value (2), or --help (0).
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    annotations = typing.get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        _add_flag(parser, field, annotations[field.name])
    options = vars(parser.parse_args(argv))
    if later := getattr(config, "later_defaults", None):
        parser.set_defaults(**later(options))
        options = vars(parser.parse_args(argv))  # flags that were given win
    return config(**options)


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], annotation: Any) -> None:
    options: dict[str, Any] = {key: value for key, value in field.metadata.items() if value is not None}
    if options.pop("positional", False):
        name = field.name
    else:
        name = f"--{field.name}"
        options["required"] = field.default is dataclasses.MISSING
    if annotation is bool:
        options["action"] = "store_true"
    else:
        inner, many = _value_type(annotation)
        options.setdefault("type", inner)
        if many:
            options |= {"nargs": "+", "action": _AsTuple}
    if not options.get("required", True):
        options["default"] = field.default
        if annotation is not bool and field.default is not None and field.default != ():
            options["help"] += f" (default: {_shown(field.default)})"
    parser.add_argument(name, **options)


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


def number_or_auto(text: str) -> int | None:
    """A whole number, or the word auto, which is None."""
    if text.lower() == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor 'auto'") from None


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object such as '{{\"enable_thinking\": false}}'")
    return value


def shared(config: Any, other: type[Any]) -> dict[str, Any]:
    """The options of a command that another command has too, by name."""
    names = {field.name for field in dataclasses.fields(other)}
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name in names}


def check(condition: bool, flag: str, value: object, allowed: str) -> None:
    """Raise a UserError that names the flag, its value and what is allowed, unless the condition holds."""
    if not condition:
        raise UserError(f"--{flag} {value!r}: expected {allowed}")


JUDGE_HELP = (
    "How completions are judged. als: the toolkit's own judge. math_verify: plain math-verify on the whole completion. "
    "lm_eval: lm-evaluation-harness's rules, for GSM8K its flexible-extract (the last number), for MATH and AIME the "
    "last box compared as text; lm_eval_strict in each line is the verdict of its stricter rule."
)


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
    judge: str = option(JUDGE_HELP, "als", choices=JUDGES)
    start_data_idx: int = option("First index of the range.", 0)
    end_data_idx: int | None = option("End of the range, exclusive; otherwise the end of the split.", None)


ENGINE_OPTIONS = {
    "transformers": ("device_map", "attn_implementation"),
    "vllm": (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "distributed_executor_backend",
        "gpu_memory_utilization",
        "max_num_seqs",
    ),
}
"""What only that engine knows."""


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
    allow_pickle: bool = option("Also read weights from pytorch_model.bin, which can run code as it is read.", False)
    trust_remote_code: bool = option("Run the modelling code that comes with the model.", False)
    chat_template_kwargs: Mapping[str, Any] | None = option(
        "Variables of the model's chat template as a JSON object, for example '{\"enable_thinking\": false}'.",
        None,
        type=json_object,
    )
    engine: str = option(
        "transformers, or vllm, the faster one, which has to be installed: pip install -e '.[vllm]'.",
        "transformers",
        choices=("transformers", "vllm"),
    )
    tensor_parallel_size: int | None = option("vllm: devices over which each layer is spread.", None)
    pipeline_parallel_size: int | None = option("vllm: groups of devices over which the layers are dealt out.", None)
    distributed_executor_backend: str | None = option(
        "vllm: ray where the devices are those of several machines; otherwise processes of this one.",
        None,
        choices=("mp", "ray"),
    )
    gpu_memory_utilization: float | None = option("vllm: share of a device's memory that it may take.", None)
    max_num_seqs: int | None = option("vllm: answers in flight together; otherwise --batch_size.", None)
    batch_size: int | None = option(
        "Answers in flight together; auto: as many as fit into the free memory.", 32, type=number_or_auto
    )
    max_new_tokens: int = option("Generated tokens an answer may have.", 1024)
    seed: int = option("Seed of everything that is drawn.", 42)

    def __post_init__(self) -> None:
        check(self.batch_size is None or self.batch_size >= 1, "batch_size", self.batch_size, "at least 1, or auto")
        check(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        if self.device_map is not None and self.device != "auto":
            raise UserError(
                f"--device {self.device} and --device_map {self.device_map} contradict each other; leave out one"
            )
        self._check_engine()

    def _check_engine(self) -> None:
        """Values of vLLM's options, and options that only one of the engines knows."""
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "max_num_seqs"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "at least 1")
        share = self.gpu_memory_utilization
        check(share is None or 0 < share <= 1, "gpu_memory_utilization", share, "a share above 0, at most 1")
        processes = launched()[1]
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if processes > 1 and (value := getattr(self, name) or 1) > 1:
                raise UserError(
                    f"--{name} {value} under a launcher of {processes} processes: each of them starts a vLLM of its "
                    f"own on one GPU; leave out --{name}, or start one process, with --shard where several share a run"
                )
        other = "transformers" if self.engine == "vllm" else "vllm"
        for name in ENGINE_OPTIONS[other]:
            if (value := getattr(self, name)) is not None:
                raise UserError(f"--{name} {value} needs --engine {other}; this run's is --engine {self.engine}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How a problem is put to the model, beyond the choice of a solver prompt."""

    system_prompt: str | None = option(
        "System text in place of the solver prompt's own; an empty one leaves the system turn out.", None
    )
    prefill: str | None = option(
        "Beginning of the assistant's answer, which the model continues; an empty one is none. "
        'Otherwise {"thought process": " for prompt 1 and none for prompt 0.',
        None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """How long verdicts may be."""

    verifier_max_new_tokens: int | None = option(
        "Generated tokens a verifier may have; otherwise as many as --max_new_tokens.", None
    )

    def check_verifier(self) -> None:
        """Raise a UserError where the number is none."""
        value = self.verifier_max_new_tokens
        check(value is None or value >= 1, "verifier_max_new_tokens", value, "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """Where it is written."""

    output_dir: str = option("Folder of all runs.", "./output")
    run_name: str | None = option("Name that sets this run's folder apart; otherwise told from the options.", None)
    shard: str | None = option(
        "i/n, from 1/n to n/n: do every n-th problem only; n such processes share one run and its folder.", None
    )
    resume: bool = option("Go on where an interrupted run stopped.", False)
    overwrite: bool = option("Move earlier results aside, to <folder>.<n>, and start anew.", False)
    verbose: bool = option("Print every answer.", False)

    def check_folder(self) -> None:
        """Raise a UserError where the options contradict each other."""
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite contradict each other; leave out one")
        name = self.run_name
        check(name is None or (bool(name) and "/" not in name), "run_name", name, "a name without a slash")
        index, slash, count = (self.shard or "1/1").partition("/")
        well_formed = bool(slash) and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)
        check(well_formed, "shard", self.shard, "i/n with i from 1 to n, for example 3/16")
        if self.overwrite and self.processes > 1:
            raise UserError(
                "--overwrite is for one process alone: of several, none knows what the others have moved aside; "
                "move the folder aside yourself, or give --run_name"
            )

    @property
    def process(self) -> int:
        """Which of the processes that share the run this is, from 0: by --shard, or by what launched it."""
        return int(self.shard.partition("/")[0]) - 1 if self.shard else launched()[0]

    @property
    def processes(self) -> int:
        """How many processes share the run."""
        return int(self.shard.partition("/")[2]) if self.shard else launched()[1]


class Terminated(BaseException):
    """SIGTERM, made an exception so that files are closed on the way out, as with Ctrl-C."""


HOW_TO_RESUME = "what was finished is on disk, the same command with --resume goes on from there"
HOW_TO_REPEAT = "run the same command again"
"""For a command without --resume, which keeps nothing of an interrupted run."""


def run_command(
    config: type[C], run: Callable[[C], int], argv: Sequence[str] | None, *, prog: str, description: str
) -> int:
    """Parse, run, and turn what the person can put right into one sentence on stderr.

    Returns:
        The exit code: 0; 1 where the disk is full or read-only; 2 for a UserError or exhausted memory; 3 where
        single problems failed; 130 after Ctrl-C, 143 after SIGTERM.
    """
    warnings.showwarning = _show_warning
    flags = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    go_on = HOW_TO_RESUME if "resume" in flags else HOW_TO_REPEAT
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        return run(parse(config, argv, prog=prog, description=description))
    except UserError as error:
        return _say(prog, str(error), 2)
    except KeyboardInterrupt:
        return _say(prog, f"interrupted; {go_on}", 130)
    except Terminated:
        return _say(prog, f"terminated; {go_on}", 143)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        return _say(prog, f"cannot write {error.filename or ''}: {error.strerror}; {go_on}", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _say(prog, f"out of memory; {_memory_advice(flags)}; {go_on}", 2)


def _memory_advice(flags: set[str]) -> str:
    """What lowers the memory that a command with these flags takes."""
    if "batch_size" in flags:
        return "lower --batch_size (or --max_new_tokens), or take --dtype bfloat16"
    if "method" in flags:
        return "--method mean_diff takes the least, since it reads one state file at a time"
    return "end other programs, or use a machine with more"


def _say(prog: str, sentence: str, code: int) -> int:
    sys.stderr.write(f"{prog}: {sentence}\n")
    return code


def _terminate(_signal: int, _frame: object) -> None:
    raise Terminated


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Our own warnings as a plain line; those of libraries keep their category as a prefix."""
    prefix = "note" if category is UserWarning else category.__name__
    sys.stderr.write(f"{prefix}: {message}\n")
