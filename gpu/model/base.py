"""The base model: its directory, its files, and its SHA-256, which ties trained weights to their base.

The SHA-256 is that of the output of `sha256sum config.json model.safetensors` (all files of the model, sorted by name),
so that it can be checked without keepstep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

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
"""SHA-256 by (path, size, modification time): a worker reads a base only once."""


def base_sha256(directory: Path, watch: Callable[[bytes], None] = lambda _: None) -> str:
    """Return the SHA-256 of the model in `directory`; `watch` receives each chunk that is read. Raises OSError."""
    return combine_sha256({name: _file_sha256(directory / name, watch) for name in base_files(directory)})


def combine_sha256(files: Mapping[str, str]) -> str:
    """Return the SHA-256 of a model from those of its files."""
    lines = [f"{sha256}  {name}\n" for name, sha256 in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_location(path: str, home: Path) -> str:
    """Return the directory of the model `path` of the settings (relative to the home), or `path` if it is a hub id.

    Raises ModelUnusable.
    """
    directory = home / Path(path).expanduser()
    if directory.exists():
        return str(directory.resolve())
    if is_missing_directory(path, home):
        raise ModelUnusable(
            f"there is no model at {directory}. Correct [model] path in keepstep.toml, or put the model there."
        )
    return path


def is_missing_directory(path: str, parent: Path) -> bool:
    """True if `path`, which does not exist below `parent`, is not a hub id.

    It then starts with `/`, `.` or `~`, is not written as a hub id, or lies in a directory that exists: `models/mine`.
    """
    if path.startswith(("/", ".", "~")) or not hub.is_id(path):
        return True
    above, slash, _ = path.partition("/")
    return bool(slash) and (parent / above).is_dir() and not hub.snapshots(path)


def is_hub_id(path: str, home: Path) -> bool:
    """True if the model `path` of the settings is a hub id, not a directory. Raises ModelUnusable."""
    return not Path(model_location(path, home)).is_absolute()


def base_directory(path: str, home: Path, *, revision: str = "", fetch: bool = True, weights: bool = True) -> Path:
    """Return the directory of the model `path`; for a hub id, a snapshot in the cache.

    `revision` is the commit of a hub id. Without one, the cache decides: the snapshot that this home trained on, else
    that of the main branch. With `fetch`, missing files are downloaded; `weights`: those of the weights too. Raises
    ModelUnusable, OSError, ValueError, RuntimeError.
    """
    if not is_hub_id(path, home):
        directory = Path(model_location(path, home))
        hub.refuse_revision_of_directory(revision, directory)
        return directory
    found = hub.snapshot(path, revision) if revision else _unpinned(path, home)
    if found is not None and _is_complete(found, weights=weights):
        return found
    if fetch and not hub.is_offline():
        commit = hub.commit_of(found) if found is not None else ""
        return hub.fetch(path, revision or commit or hub.MAIN, weights=weights)
    if found is not None:
        return found  # the code that needs a missing file names it
    at = f" at revision {revision}" if revision else ""
    how = f" --revision {revision}" if revision else ""
    raise ModelUnusable(
        f"the cache has no {path}{at}. To download it, run: hf download {path}{how}. If it is not a model of the hub, "
        "correct [model] path in keepstep.toml."
    )


def is_downloaded(directory: Path) -> bool:
    """True unless `directory` is a snapshot of the hub's cache that lacks files. Raises ModelUnusable, OSError."""
    return not hub.commit_of(directory) or _is_complete(directory, weights=True)


def _is_complete(directory: Path, *, weights: bool) -> bool:
    """True if a snapshot has the needed files. They are links, which may be broken."""
    wanted = weights_files(directory) if weights else tokenizer_names(directory)[:1]
    return bool(wanted) and all((directory / name).exists() for name in (CONFIG, *wanted))


def _unpinned(path: str, home: Path) -> Path | None:
    """Return the cached snapshot that a hub id without a revision means in this home; None if there is none.

    If the cache has several, the main branch may have moved since this home trained. Then the SHA-256 in its
    checkpoints and versions decides. Names are compared here; the loaded files are hashed before training.
    """
    cached = hub.snapshots(path)
    found = [each for each in cached if (each / CONFIG).exists()] or cached
    trained_on = _fingerprints(home) if len(found) > 1 else frozenset()
    if trained_on:
        for each in found:
            if _is_complete(each, weights=True) and _named_sha256(each) in trained_on:
                return each
    return found[0] if found else None


def _named_sha256(snapshot: Path) -> str:
    """Return the SHA-256 of a snapshot by the names of its blobs: a large file is named by its SHA-256."""
    blobs = {name: (snapshot / name).resolve() for name in base_files(snapshot)}
    return combine_sha256(
        {
            name: blob.name if hub.SHA256.fullmatch(blob.name) else _file_sha256(blob, lambda _: None)
            for name, blob in blobs.items()
        }
    )


def _fingerprints(home: Path) -> frozenset[str]:
    """Return the SHA-256 of each base that this home has trained on."""
    manifests = [*home.glob(f"checkpoints/*/{MANIFEST}"), *home.glob("versions/*/keepstep.json")]
    found = set()
    for path in manifests:
        try:
            manifest = msgspec.json.decode(read_file(path), type=_AnyManifest)
        except (OSError, msgspec.MsgspecError):
            continue  # the code that loads it reports the problem
        found |= {manifest.origin_sha256, manifest.lineage.base_sha256}
    return frozenset(found - {""})


class _Lineage(msgspec.Struct, frozen=True):
    base_sha256: str = ""


class _AnyManifest(msgspec.Struct):
    """The fields that are read from the manifests of checkpoints and versions."""

    origin_sha256: str = ""
    lineage: _Lineage = _Lineage()


def pin_revision(model: ModelSettings, home: Path) -> ModelSettings:
    """Return the settings with the commit that a hub id without a revision means in this home.

    Several processes then load the same files without a search. Raises as `base_directory`.
    """
    if model.revision or not is_hub_id(model.path, home):
        return model
    return replace(model, revision=hub.commit_of(base_directory(model.path, home, weights=False)))


def base_files(directory: Path) -> list[str]:
    """Return the config and the files of weights that transformers would load, sorted."""
    index = {INDEX} if not (directory / WEIGHTS).exists() and (directory / INDEX).exists() else set()
    config = {CONFIG} if (directory / CONFIG).exists() else set()
    return sorted({*weights_files(directory), *index, *config})


def weights_files(directory: Path) -> list[str]:
    """Return the files of weights that transformers would load. Raises ModelUnusable, OSError."""
    if (directory / WEIGHTS).exists():
        return [WEIGHTS]
    if (directory / INDEX).exists():
        try:
            index = msgspec.json.decode(read_file((directory / INDEX).resolve()), type=_Index)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ModelUnusable(f"{directory / INDEX} is damaged: {error}. Download the model again.") from error
        if (name := leaves_directory(index.weight_map.values())) is not None:
            raise ModelUnusable(f"{directory / INDEX} names a file outside of its directory, {name!r}.")
        return sorted(set(index.weight_map.values()))
    return sorted(path.name for path in directory.glob("*.safetensors"))


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _file_sha256(path: Path, watch: Callable[[bytes], None]) -> str:
    found = path.stat()
    key = (path.resolve(), found.st_size, found.st_mtime_ns)
    if key not in _known:
        _known[key] = describe(key[0], watch).sha256  # the files of a hub cache are links
    return _known[key]
