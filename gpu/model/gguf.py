"""A GGUF file as a model directory: `python -P -m gpu.model.gguf GGUF TARGET`.

The weights are written as float32 safetensors, beside config and tokenizer: what training starts from. TARGET is
there whole or not at all, and once it is there, it is left alone: a second call does nothing.
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

from gpu.model.config import edited
from gpu.model.files import CONFIG
from gpu.runtime.streams import prepare_streams
from gpu.worker import ENVIRONMENT
from journal.durable import fsync_tree, rename_durably

STAGING = ".staging-"

STRAY = {
    "config.json": ("_model_name_or_path",),
    "generation_config.json": ("_from_model_config",),
    "tokenizer_config.json": ("is_local", "local_files_only"),
}
"""What transformers notes about where it read a model from. It is untrue of what is written."""


def main() -> None:
    """Unpack the file on the command line."""
    prepare_streams()
    parser = argparse.ArgumentParser(prog="gpu.model.gguf", description="Write a GGUF file out as a model directory.")
    parser.add_argument("source", type=Path, metavar="GGUF")
    parser.add_argument("target", type=Path, metavar="TARGET")
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT, HF_HUB_OFFLINE="1")
    try:
        unpack(arguments.source, arguments.target)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:  # in one line: the last is shown
        sys.exit(f"{arguments.source} cannot be unpacked: {' '.join(str(error).split())}")


def unpack(source: Path, target: Path) -> None:
    """Write the model in the GGUF file `source` to the directory `target`.

    Raises OSError, ValueError, RuntimeError, ImportError, KeyError: whatever the libraries say of a file that they
    cannot read.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _staging(target) as staging:
        _convert(source, staging)
        _clean(staging)
        fsync_tree(staging)
        try:
            rename_durably(staging, target)
        except OSError:
            if not target.exists():
                raise  # else another process was quicker, and its result is as good


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A directory beside `target` for the time of a block. What a killed process left there before is removed."""
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
    """Whether `directory` is ours for the time of the block; if a living process holds it, that one works there."""
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
    import torch  # seconds; not before it is known that there is something to do
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),  # 4 bits a weight cannot be trained
        dtype=torch.float32,
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(directory)
    use_old_names(directory)


def use_old_names(directory: Path) -> None:
    """Let transformers 4, too, load what transformers 5 saved: every version that is trained from it keeps these files.

    Raises OSError, ValueError.
    """
    config = directory / CONFIG
    config.write_bytes(edited(config.read_bytes(), dtype="float32"))
    tokenizer = directory / "tokenizer_config.json"
    said: dict[str, Any] = json.loads(tokenizer.read_bytes())
    if said.get("tokenizer_class") == "TokenizersBackend":  # the new name of the same class
        said["tokenizer_class"] = "PreTrainedTokenizerFast"
    tokenizer.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _clean(directory: Path) -> None:
    for name, keys in STRAY.items():
        path = directory / name
        if not path.exists():
            continue
        config: dict[str, Any] = json.loads(path.read_bytes())
        kept = {key: value for key, value in config.items() if key not in keys}
        path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
