"""Load a model with its tokenizer, and find its decoder blocks.

Knows transformers; knows no steering, no prompt and no data set. From Python:

    model, tokenizer = load_model("HuggingFaceTB/SmolLM2-135M-Instruct", dtype="float32", device="cpu")
    blocks = decoder_blocks(model)  # blocks[-2] is the block whose output enters the last block
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als.errors import UserError, is_out_of_memory
from als.hub import first_line, hub_trouble
from als.launch import local_gpu

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = "a local folder, a .gguf file or a hub id such as 'Qwen/Qwen2.5-7B-Instruct'"


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a decoder-only language model, ready to generate in left-padded batches.

    Weights are read from safetensors or GGUF, and no code of the repository is run, unless asked for.

    Args:
        name_or_path: hub id, local folder, or .gguf file.
        dtype: one of DTYPES; `auto` is bfloat16 on CUDA and on CPUs that compute it natively, else float32.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.
        device_map: handed to transformers; `auto` lets accelerate spread the blocks over the GPUs.
        attn_implementation: handed to transformers, e.g. `sdpa` or `eager`.
        allow_pickle: also read weights from pytorch_model.bin, which can run code as it is read.
        trust_remote_code: run the modelling code that comes with the model.

    Raises:
        UserError: nothing loadable at that name, a device that is not there, no chat template.
    """
    place = resolve_device(device)
    source = _source(name_or_path) | {"trust_remote_code": trust_remote_code}
    tokenizer = _load_tokenizer(name_or_path, source)
    options: dict[str, Any] = {"dtype": resolve_dtype(dtype, place), "use_safetensors": None if allow_pickle else True}
    # Each tensor goes straight to its device: processes that load together hold no copies in CPU memory.
    options["device_map"] = device_map or {"": place}
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    model, report = _from_pretrained(
        "AutoModelForCausalLM", name_or_path, source | options | {"output_loading_info": True}
    )
    if missing := sorted(report["missing_keys"]):
        # transformers fills them with random numbers and goes on.
        raise UserError(
            f"model {str(name_or_path)!r} lacks {len(missing)} of its weights, the first is {missing[0]!r}; "
            "get its files again"
        )
    return model.eval().requires_grad_(False), tokenizer


def load_skeleton(
    name_or_path: str | Path, *, dtype: torch.dtype, allow_pickle: bool = False, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model without its weights, for an engine that reads them itself, and the tokenizer.

    A .gguf file is converted to a safetensors folder once, in the user's cache folder.

    Returns:
        The model on the meta device (its name_or_path says where the weights are), and the tokenizer.

    Raises:
        UserError: nothing loadable at that name, no weights in a form that may be read, no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM

    source = _source(name_or_path)
    if "gguf_file" in source:
        name_or_path = converted_gguf(Path(name_or_path).expanduser())
        source = _source(name_or_path)
    folder = Path(source["pretrained_model_name_or_path"])
    if folder.is_dir() and not allow_pickle and not any(folder.glob("*.safetensors")):
        raise UserError(f"model {str(name_or_path)!r} has no safetensors weights; expected {WEIGHTS}")
    source |= {"trust_remote_code": trust_remote_code}
    tokenizer = _load_tokenizer(name_or_path, source)
    config = _from_pretrained("AutoConfig", name_or_path, source)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    model.name_or_path = source["pretrained_model_name_or_path"]
    model.generation_config = _generation_config(source, config)
    return model, tokenizer


def _generation_config(source: dict[str, Any], config: Any) -> Any:
    """The checkpoint's generation config; where it has no such file, what its configuration says."""
    from transformers import GenerationConfig

    where = {name: value for name, value in source.items() if name != "pretrained_model_name_or_path"}
    try:
        return GenerationConfig.from_pretrained(source["pretrained_model_name_or_path"], **where)
    except OSError:
        return GenerationConfig.from_model_config(config)


def resolve_device(device: str) -> torch.device:
    """The device a --device value names.

    Raises:
        UserError: CUDA, or that CUDA device, is not there.
    """
    import torch

    if device == "auto":
        device = f"cuda:{local_gpu()}" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise UserError(f"--device {device!r}: expected auto, cpu, cuda or cuda:<number>")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use; "
            "take --device cpu or --device auto"
        )
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a --dtype value on this device.

    Raises:
        UserError: not one of DTYPES.
    """
    import torch

    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)  # type: ignore[no-any-return]
    if device.type == "cuda":
        return torch.bfloat16
    # Emulated bfloat16 is several times slower than float32, so only arithmetic in silicon counts.
    # get_capabilities came with torch 2.10; before it, nothing public tells.
    native: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if native.get("avx512_bf16") or native.get("amx_bf16") else torch.float32


def decoder_blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder blocks of any decoder-only transformers model, first to last.

    They are found by structure and not by name: the shallowest list of modules that is as long as the
    configuration says there are layers, and, among several at one depth, the one with the most parameters
    (a vision tower's is smaller, lists of experts or of norms are smaller or lie deeper).

    Raises:
        UserError: the model has no such list.
    """
    import torch

    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    candidates = [
        (name.count("."), -sum(p.numel() for p in module.parameters()), module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == layers
    ]
    if not candidates:
        raise UserError(
            f"no list of {layers} decoder blocks in {type(model).__name__}: expected a decoder-only transformers model"
        )
    return min(candidates, key=lambda found: found[:2])[2]


def residual_stream(output: Any) -> torch.Tensor:
    """The [B, T, D] stream in what a decoder block returned, a tensor or a tuple that begins with it.

    Raises:
        UserError: the model keeps another kind of stream (several copies of it, say).
    """
    stream: torch.Tensor = output[0] if isinstance(output, tuple) else output
    if stream.ndim != 3:
        raise UserError(
            f"a decoder block of this model returns states of shape {list(stream.shape)}; expected [batch, tokens, "
            "hidden], so neither steering nor collecting states is defined for it"
        )
    return stream


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the residual stream."""
    return int(model.config.get_text_config(decoder=True).hidden_size)


def model_revision(model: PreTrainedModel) -> str | None:
    """The commit of a hub model; None for a local one."""
    return getattr(model.config, "_commit_hash", None)


def model_label(name_or_path: str) -> str:
    """What a model is called in folder names: the last part of its hub id or path, without `.gguf`."""
    name = Path(name_or_path).expanduser()
    return name.stem if name.suffix == ".gguf" else (name.name or name.resolve().name)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer: those of the generation config, and the tokenizer's."""
    declared = model.generation_config.eos_token_id if model.generation_config else None
    several = declared if isinstance(declared, list) else [declared]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts, which spell out their special tokens: the tokenizer adds none."""
    return [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a .gguf model as a plain float32 safetensors folder, which loads in a tenth of the time.

    The folder appears whole or not at all. save_pretrained refuses a model that was read from GGUF, hence
    the fresh model of the same configuration.
    """
    from transformers import AutoModelForCausalLM

    read, tokenizer = load_model(gguf, dtype="float32", device="cpu")
    config = type(read.config)(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    draft = folder.with_name(f"{folder.name}.part")
    plain.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(folder)


def converted_gguf(gguf: Path) -> Path:
    """The safetensors folder of a .gguf file, made at the first call; another file, or a changed one, has another."""
    import fcntl
    import hashlib
    import os

    state = gguf.resolve().stat()
    identity = hashlib.sha256(f"{gguf.resolve()}/{state.st_size}/{state.st_mtime_ns}".encode()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "als-steering"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{gguf.stem}-{identity}"
    with (root / f"{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of processes that start together one converts, the others wait
        if not folder.is_dir():
            convert_gguf(gguf, folder)
    return folder


def _source(name_or_path: str | Path) -> dict[str, Any]:
    """The arguments of from_pretrained that say where the files are; looks before anything is loaded."""
    path = Path(name_or_path).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model file {str(path)!r} does not exist; expected {WEIGHTS}")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model folder {str(path)!r} has no config.json; expected {WEIGHTS}")
        return {"pretrained_model_name_or_path": str(path), "local_files_only": True}
    name = str(name_or_path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"model {name!r} is not a folder here; expected {WEIGHTS}")
    trouble = hub_trouble(name, kind="model")
    if trouble and not _is_cached(name):
        raise UserError(f"model {name!r} is no path here, and {trouble}; expected {WEIGHTS}")
    return {"pretrained_model_name_or_path": name, "local_files_only": bool(trouble)}


def _is_cached(repo: str) -> bool:
    """Whether a snapshot of the model lies in the local hub cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repo, "config.json"), str)
    except HFValidationError:
        return False


def _from_pretrained(auto_class: str, name: str | Path, options: dict[str, Any]) -> Any:
    """Call an Auto class; what it says of unusable files becomes one sentence."""
    import transformers

    try:
        with warnings.catch_warnings():
            # PyTorch's note that the tensors of a memory-mapped file are read-only helps nobody here.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            return getattr(transformers, auto_class).from_pretrained(**options)
    except Exception as error:  # its kind depends on which of the folder's files is broken, and how
        if is_out_of_memory(error):
            raise
        raise UserError(f"model {str(name)!r} cannot be loaded: {first_line(error)}; expected {WEIGHTS}") from error


def _load_tokenizer(name_or_path: str | Path, source: dict[str, Any]) -> Any:
    """A tokenizer that pads on the left, with a pad token and a chat template."""
    tokenizer = _from_pretrained("AutoTokenizer", name_or_path, source)
    if not tokenizer.chat_template:
        raise UserError(
            f"model {str(name_or_path)!r} has no chat template: its tokenizer cannot tell instruction from answer; "
            "take the instruction-tuned version of the model"
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
