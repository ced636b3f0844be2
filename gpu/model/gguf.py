"""Convert a GGUF file to a model directory: `python -P -m gpu.model.gguf GGUF TARGET`.

The directory gets float32 safetensors, config and tokenizer, ready for training. TARGET appears only when it is
complete. If it exists, nothing is done.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu.model.config import edit_config
from gpu.model.files import CONFIG
from gpu.runtime.streams import prepare_streams
from gpu.worker import ENVIRONMENT
from journal.durable import fsync_tree, rename_durably

STAGING = ".staging-"

FIELDS_TO_REMOVE = {
    "config.json": ("_model_name_or_path",),
    "generation_config.json": ("_from_model_config",),
    "tokenizer_config.json": ("is_local", "local_files_only"),
}
"""Fields in which transformers records where it read the model. They do not describe the new directory."""


def main() -> None:
    """Convert the file on the command line."""
    prepare_streams()
    parser = argparse.ArgumentParser(prog="gpu.model.gguf", description="Write a GGUF file out as a model directory.")
    parser.add_argument("source", type=Path, metavar="GGUF")
    parser.add_argument("target", type=Path, metavar="TARGET")
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT, HF_HUB_OFFLINE="1")
    try:
        unpack(arguments.source, arguments.target)
    except (
        OSError,
        ValueError,
        RuntimeError,
        ImportError,
        KeyError,
    ) as error:  # one line: the caller shows the last one
        sys.exit(f"{arguments.source} cannot be unpacked: {' '.join(str(error).split())}")


def unpack(source: Path, target: Path) -> None:
    """Write the model in the GGUF file `source` to the directory `target`.

    Raises the errors of the libraries: OSError, ValueError, RuntimeError, ImportError, KeyError.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _staging(target) as staging:
        _convert(source, staging)
        _remove_fields(staging)
        fsync_tree(staging)
        try:
            rename_durably(staging, target)
        except OSError:
            if not target.exists():
                raise  # else another process was faster, and wrote the same


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Yield a directory next to `target`. Remove those of killed processes."""
    prefix = f"{STAGING}{target.name}-"
    for leftover in target.parent.glob(f"{prefix}*"):
        with _held(leftover) as ours:
            if ours:
                shutil.rmtree(leftover)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    with _held(staging):
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _held(directory: Path) -> Iterator[bool]:
    """Lock `directory` for the block. Yield False if another process has locked it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _convert(source: Path, directory: Path) -> None:
    import torch  # seconds, so only when there is something to do
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),  # 4-bit weights cannot be trained
        dtype=torch.float32,
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(directory)
    use_old_names(directory)


def use_old_names(directory: Path) -> None:
    """Add old names to the files, so that transformers 4 loads them too: versions keep these files.

    Raises OSError, ValueError.
    """
    config = directory / CONFIG
    config.write_bytes(edit_config(config.read_bytes(), dtype="float32"))
    tokenizer = directory / "tokenizer_config.json"
    config_of_tokenizer: dict[str, Any] = json.loads(tokenizer.read_bytes())
    if config_of_tokenizer.get("tokenizer_class") == "TokenizersBackend":  # the new name of the same class
        config_of_tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    tokenizer.write_text(json.dumps(config_of_tokenizer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _remove_fields(directory: Path) -> None:
    for name, keys in FIELDS_TO_REMOVE.items():
        path = directory / name
        if not path.exists():
            continue
        config: dict[str, Any] = json.loads(path.read_bytes())
        kept = {key: value for key, value in config.items() if key not in keys}
        path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
