"""What the base model is, byte by byte: what was learned belongs to these weights and to no others.

The SHA-256 is that of the lines that `sha256sum config.json model.safetensors` prints (whichever files the model has,
in the order of their names), so that anybody can check it without keepstep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from gpu.errors import ModelUnusable
from gpu.manifest import describe, leads_out
from journal.durable import read_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

_known: dict[tuple[Path, int, int], str] = {}
"""SHA-256 of each file by (path, size, time of its last change): a warm worker reads a base once."""


def base_sha256(directory: Path, watch: Callable[[bytes], None] = lambda _: None) -> str:
    """The SHA-256 of the model in `directory`; `watch` sees each chunk that has to be read. Raises OSError."""
    return combined({name: _file_sha256(directory / name, watch) for name in base_files(directory)})


def combined(files: Mapping[str, str]) -> str:
    """One SHA-256 for the files of a model, from that of each."""
    lines = [f"{sha256}  {name}\n" for name, sha256 in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_location(path: str, home: Path) -> str:
    """Where the model named `path` in the settings is: a directory (relative ones start at the home), or a hub id."""
    directory = home / Path(path).expanduser()
    if directory.exists():
        return str(directory.resolve())
    if path.startswith(("/", ".", "~")):
        raise ModelUnusable(
            f"there is no model at {directory}. Correct [model] path in keepstep.toml, or put the model there."
        )
    return path


def base_directory(path: str, home: Path, *, fetch: bool = True) -> Path:
    """The directory with the files of the model named `path`; for a hub id that of its cache, filled only if `fetch`.

    Raises ModelUnusable, OSError.
    """
    from transformers.utils import cached_file  # most commands never ask

    return Path(cached_file(model_location(path, home), CONFIG, local_files_only=not fetch)).parent


def base_files(directory: Path) -> list[str]:
    """The config and the weights that transformers would load; not whatever else was put beside them."""
    index = {INDEX} if not (directory / WEIGHTS).exists() and (directory / INDEX).exists() else set()
    config = {CONFIG} if (directory / CONFIG).exists() else set()
    return sorted({*weights_files(directory), *index, *config})


def weights_files(directory: Path) -> list[str]:
    """The files of weights that transformers would load."""
    if (directory / WEIGHTS).exists():
        return [WEIGHTS]
    if (directory / INDEX).exists():
        try:
            index = msgspec.json.decode(read_file((directory / INDEX).resolve()), type=_Index)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ModelUnusable(f"{directory / INDEX} is damaged: {error}. Download the model once more.") from error
        if (name := leads_out(index.weight_map.values())) is not None:
            raise ModelUnusable(f"{directory / INDEX} names a file outside of its directory, {name!r}.")
        return sorted(set(index.weight_map.values()))
    return sorted(path.name for path in directory.glob("*.safetensors"))


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _file_sha256(path: Path, watch: Callable[[bytes], None]) -> str:
    found = path.stat()
    key = (path.resolve(), found.st_size, found.st_mtime_ns)
    if key not in _known:
        _known[key] = describe(key[0], watch).sha256  # a hub cache is made of links
    return _known[key]
