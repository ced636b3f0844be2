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
from msgspec.structs import replace

from events.settings import ModelSettings
from gpu.artifacts.manifest import MANIFEST, describe, leaves_directory
from gpu.errors import ModelUnusable
from gpu.model import hub
from gpu.model.files import CONFIG, tokenizer_names
from journal.durable import read_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

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
    """What the model named `path` in the settings is: a directory (relative ones start at the home), or a hub id.

    Raises ModelUnusable.
    """
    directory = home / Path(path).expanduser()
    if directory.exists():
        return str(directory.resolve())
    if path.startswith(("/", ".", "~")):
        raise ModelUnusable(
            f"there is no model at {directory}. Correct [model] path in keepstep.toml, or put the model there."
        )
    return path


def is_hub_id(path: str, home: Path) -> bool:
    """True if the model named `path` in the settings is one of the hub, not a directory. Raises ModelUnusable."""
    return not Path(model_location(path, home)).is_absolute()


def base_directory(path: str, home: Path, *, revision: str = "", fetch: bool = True, weights: bool = True) -> Path:
    """The directory with the files of the model named `path`; for a hub id, a snapshot in its cache.

    `revision` names the commit of a hub id. Without one, what the cache has is used: the snapshot that this home
    trained on, else that of the main branch. The hub is asked only for what the cache lacks, and only if `fetch`;
    `weights`: they are needed too. Raises ModelUnusable, OSError, ValueError, RuntimeError.
    """
    if not is_hub_id(path, home):
        directory = Path(model_location(path, home))
        hub.refuse_revision_of_directory(revision, directory)
        return directory
    found = hub.snapshot(path, revision) if revision else _unpinned(path, home)
    if found is not None and _is_there(found, weights=weights):
        return found
    if fetch and not hub.is_offline():
        commit = hub.commit_of(found) if found is not None else ""
        return hub.fetch(path, revision or commit or hub.MAIN, weights=weights)
    if found is not None:
        return found  # whoever needs what is missing says which file it is
    at = f" at revision {revision}" if revision else ""
    how = f" --revision {revision}" if revision else ""
    raise ModelUnusable(
        f"the cache has no {path}{at}. To fetch it, connect and run: hf download {path}{how}. If it is no model of the "
        "hub, correct [model] path in keepstep.toml."
    )


def _is_there(directory: Path, *, weights: bool) -> bool:
    """Whether a snapshot holds what is needed. Its files are links, and one may lead nowhere."""
    wanted = weights_files(directory) if weights else tokenizer_names(directory)[:1]
    return bool(wanted) and all((directory / name).exists() for name in (CONFIG, *wanted))


def _unpinned(path: str, home: Path) -> Path | None:
    """The cached snapshot that a hub id without a revision means in this home; None if there is none.

    Where the cache has several, the main branch may have moved since this home trained: the fingerprint of its
    checkpoints and versions decides. It is only looked up here; what is loaded is hashed in full before it is trained.
    """
    cached = hub.snapshots(path)
    found = [each for each in cached if (each / CONFIG).exists()] or cached
    trained_on = _fingerprints(home) if len(found) > 1 else frozenset()
    if trained_on:
        for each in found:
            if _is_there(each, weights=True) and _named_sha256(each) in trained_on:
                return each
    return found[0] if found else None


def _named_sha256(snapshot: Path) -> str:
    """The fingerprint of a snapshot by the names of its blobs: that of a large file is its SHA-256."""
    blobs = {name: (snapshot / name).resolve() for name in base_files(snapshot)}
    return combined(
        {
            name: blob.name if hub.SHA256.fullmatch(blob.name) else _file_sha256(blob, _unseen)
            for name, blob in blobs.items()
        }
    )


def _unseen(_: bytes) -> None:
    """Nobody waits for the bytes of a small file."""


def _fingerprints(home: Path) -> frozenset[str]:
    """The SHA-256 of each base that something in this home was trained on."""
    said = [*home.glob(f"checkpoints/*/{MANIFEST}"), *home.glob("versions/*/keepstep.json")]
    found = set()
    for path in said:
        try:
            seal = msgspec.json.decode(read_file(path), type=_Seal)
        except (OSError, msgspec.MsgspecError):
            continue  # whoever loads it says what is wrong with it
        found |= {seal.origin_sha256, seal.lineage.base_sha256}
    return frozenset(found - {""})


class _Lineage(msgspec.Struct, frozen=True):
    base_sha256: str = ""


class _Seal(msgspec.Struct):
    """What a manifest and a version have in common here."""

    origin_sha256: str = ""
    lineage: _Lineage = _Lineage()


def pinned(model: ModelSettings, home: Path) -> ModelSettings:
    """The settings with the commit that a hub id without a revision means in this home; others as they are.

    For processes that load the same model: each finds the same files without a search of its own. Raises as
    `base_directory`.
    """
    if model.revision or not is_hub_id(model.path, home):
        return model
    return replace(model, revision=hub.commit_of(base_directory(model.path, home, weights=False)))


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
        if (name := leaves_directory(index.weight_map.values())) is not None:
            raise ModelUnusable(f"{directory / INDEX} names a file outside of its directory, {name!r}.")
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


def problem_of_files(directory: Path) -> Problem | None:
    """Why the model in `directory` cannot be trained and merged, by its config and the names of its files; None if
    nothing is wrong with those. Raises OSError, msgspec.MsgspecError."""
    config = msgspec.json.decode(read_file((directory / CONFIG).resolve()))
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
    return _problem_of_names(directory)


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
        _known[key] = describe(key[0], watch).sha256  # a hub cache is made of links
    return _known[key]
