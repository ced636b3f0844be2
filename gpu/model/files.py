"""The small files of a model's directory: those of the tokenizer, and a safe way to read them. No torch.

Checkpoints, versions and exports hold the tokenizer files of the base byte for byte. A library that saved them again
would use the names of the installed version, and other versions could not load them.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from gpu.errors import ModelUnusable
from journal.durable import read_file
from journal.storage import NotAFile

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATES = "additional_chat_templates"
"""The subdirectory with the named chat templates of a tokenizer that has several."""

TOKENIZER_FILES = (
    "tokenizer*.json",  # also tokenizer_config.json, and tokenizer.4.0.0.json for older libraries
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.json",
    "vocab*.txt",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
    "chat_template*.jinja",
    "chat_template*.json",
    "*processor_config.json",  # of images, audio and video, with the tokenizer's own processor
)
"""The files that transformers, vLLM and llama.cpp look for. A tokenizer class may name more."""


SMALL_BYTES_MAX = 1 << 30
"""The largest vocabularies take some 50 MB."""


def read_model_file(directory: Path, name: str) -> bytes:
    """Return the content of the file `name` in a model's directory.

    A link that leads out of the directory is refused: a checkpoint or an export would contain a file that is not the
    model's. In a hub cache all files are links, which are followed. Raises ModelUnusable, FileNotFoundError, OSError.
    """
    path = directory / name
    target = path.resolve(strict=True)
    if not target.is_relative_to(directory.resolve()) and not _is_made_of_links(directory):
        raise ModelUnusable(
            f"{path} is a link to {target}, outside of the model's directory, so it is not copied. "
            f"Replace the link with the file: cp --remove-destination {target} {path}"
        )
    try:
        return read_file(target, bytes_max=SMALL_BYTES_MAX)
    except NotAFile as error:
        raise ModelUnusable(f"{path} is not a file. Put the model's {name} in its place.") from error


def tokenizer_files(directory: Path, more: Iterable[str] = ()) -> dict[str, bytes]:
    """Return the files of the tokenizer in a model's directory by name. `more`: names to include if they exist.

    Raises ModelUnusable, OSError.
    """
    return {name: read_model_file(directory, name) for name in tokenizer_names(directory, more)}


def tokenizer_names(directory: Path, more: Iterable[str] = ()) -> list[str]:
    """Return the names of the files that `tokenizer_files` reads, sorted. Raises OSError."""
    names = {name for name in more if (directory / name).exists()}
    existing = {path.name for path in directory.iterdir()}
    names |= {name for name in existing if any(fnmatchcase(name, pattern) for pattern in TOKENIZER_FILES)}
    templates = directory / CHAT_TEMPLATES
    if templates.is_dir():
        names |= {f"{CHAT_TEMPLATES}/{path.name}" for path in templates.glob("*.jinja")}
    return sorted(name for name in names if not (directory / name).is_dir())


def _is_made_of_links(directory: Path) -> bool:
    """True for a snapshot in the hub's cache: all its files, the config too, are links to shared copies."""
    return (directory / CONFIG).is_symlink()
