"""What the base model is, byte by byte: what was learned belongs to these weights and to no others.

The SHA-256 is that of the lines that `sha256sum config.json model.safetensors` prints (whichever files the model has,
in the order of their names), so that anybody can check it without keepstep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpu.errors import ModelUnusable
from gpu.manifest import describe

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
        index = msgspec.json.decode((directory / INDEX).read_bytes(), type=_Index)
        return sorted(set(index.weight_map.values()))
    return sorted(path.name for path in directory.glob("*.safetensors"))


class Problem(NamedTuple):
    """Why a model cannot be used."""

    what: str
    """What is wrong; its subject is the directory."""
    advice: str
    """What to do, without a period."""


ADAPTER_CONFIG = "adapter_config.json"

MOVE_ADAPTER = "mkdir {adapter} && mv {model}/adapter_* {adapter}/"

MERGE_ADAPTER = (
    'python -c "from peft import PeftModel; from transformers import AutoModelForCausalLM, AutoTokenizer; '
    "base = AutoModelForCausalLM.from_pretrained('{model}', dtype='auto'); "
    "PeftModel.from_pretrained(base, '{adapter}').merge_and_unload().save_pretrained('{merged}'); "
    "AutoTokenizer.from_pretrained('{model}').save_pretrained('{merged}')\""
)
"""After MOVE_ADAPTER: makes a model of the base and the adapter that lay in its directory."""


def problem_of_files(directory: Path, *, fetched: bool = True) -> Problem | None:
    """Why the model in `directory` cannot be trained and merged, by its config and the names of its files; None if
    nothing is wrong with those. `fetched`: false of a hub's model whose weights are not here yet. Raises OSError,
    msgspec.MsgspecError."""
    config = msgspec.json.decode((directory / CONFIG).read_bytes())
    if config.get("quantization_config"):
        return Problem(
            "is quantised on disk, and what is trained with it could never become a version",
            "Use its 16-bit or 32-bit original in [model] path",
        )
    if (directory / ADAPTER_CONFIG).exists():
        return Problem(
            f"holds an adapter too ({ADAPTER_CONFIG}): transformers would load the base with that adapter on it, and "
            "keepstep trains the base alone",
            _how_to_part(directory),
        )
    if (name := config.get("transformers_weights")) not in {None, WEIGHTS, INDEX}:
        return Problem(
            f"has a config that names {name} as its weights (transformers_weights), and keepstep reads {WEIGHTS} or "
            f"{INDEX}",
            f"Rename the file to {WEIGHTS} and remove transformers_weights from {CONFIG}",
        )
    return _problem_of_names(directory) if fetched else None


def _how_to_part(directory: Path) -> str:
    names = {
        "model": directory,
        "adapter": directory.with_name(f"{directory.name}-adapter"),
        "merged": directory.with_name(f"{directory.name}-merged"),
    }
    return (
        f"To train the base alone, move the adapter out: `{MOVE_ADAPTER.format(**names)}`. To train on from the "
        f"adapter, move it out, make one model of both, and set [model] path to {names['merged']}: "
        f"`{MERGE_ADAPTER.format(**names)}`"
    )


def _problem_of_names(directory: Path) -> Problem | None:
    if (directory / WEIGHTS).exists():
        return None
    if (directory / INDEX).exists():
        missing = [name for name in weights_files(directory) if not (directory / name).exists()]
        if missing:
            return Problem(f"lacks {missing[0]}, which {INDEX} names", "Bring that file back, or fetch the model anew")
        return None
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    if others:
        return Problem(
            f"has no {WEIGHTS} and no {INDEX}, only {', '.join(others[:3])}, and transformers loads no other name",
            f"If {others[0]} holds the whole model, rename it to {WEIGHTS}; else fetch the model anew",
        )
    return Problem(
        "has no weights as safetensors, and keepstep loads nothing else",
        "Fetch its safetensors files, or convert it: load it with transformers and `save_pretrained` it",
    )


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _file_sha256(path: Path, watch: Callable[[bytes], None]) -> str:
    found = path.stat()
    key = (path.resolve(), found.st_size, found.st_mtime_ns)
    if key not in _known:
        _known[key] = describe(path, watch).sha256
    return _known[key]
