"""The manifest of a checkpoint, and what all manifests are made of. No torch: the daemon reads manifests too.

`manifest.json` is written last, so a directory without one was never finished. It names every other file with its
size and SHA-256, and every tensor in the files of weights and moments with its shape.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from events.settings import JobSettings
from events.upcasters import with_present_settings
from events.values import CheckpointId, JobId
from gpu.artifacts import tensors
from gpu.errors import ArtifactBroken, CheckpointBroken
from journal.durable import chunks, is_directory, opened, read_file
from journal.storage import REAL, Storage

MANIFEST = "manifest.json"

WEIGHTS_FILES = ("adapter_model.safetensors", "model.safetensors")
"""The names that peft and transformers look for. A checkpoint has one of them, with exactly the trained parameters."""

OPTIMIZER_FILE = "optimizer.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")

UNDECODABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What decoding a manifest raises: no JSON or other types, no text, nested too deep."""

CHUNK_BYTES = 8 * 1024 * 1024
"""Bytes hashed at a time: large enough to be fast, small enough to report progress."""


class FileEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the directory."""

    size_bytes: int
    sha256: str


Parameters = tuple[tuple[str, tuple[int, ...]], ...]
"""The trained parameters in the model's order: name as in the weights file, and shape."""


Buffers = tuple[tuple[str, tuple[int, ...], str], ...]
"""The model's persistent buffers, which are not trained: name, shape, and dtype as safetensors names it (`F32`)."""


class Cursor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The position of the checkpoint in the training data."""

    job: JobId
    global_step: int
    step: int
    steps_total: int
    epoch: int


class Lineage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the checkpoint was made from."""

    attempt: int
    parent: CheckpointId | None
    data_sha256: str
    batches_sha256: str
    tokenizer_sha256: str
    base_sha256: str = ""
    """SHA-256 of the base model's config and weights; "" in checkpoints of earlier keepsteps."""
    settings: JobSettings


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `manifest.json`."""

    format: Literal[1] = 1
    checkpoint: CheckpointId
    cursor: Cursor
    lineage: Lineage
    parameters: Parameters
    buffers: Buffers = ()
    """() for adapters, and in checkpoints of earlier keepsteps, which did not save buffers."""
    optimizer: str
    environment: dict[str, str]
    files: dict[str, FileEntry]

    def encode(self) -> bytes:
        """Return the bytes of `manifest.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    def with_files(self, files: Mapping[str, FileEntry]) -> Manifest:
        """Return this manifest with these files."""
        return msgspec.structs.replace(self, files=dict(files))

    def shapes_by_file(self) -> dict[str, tensors.Kinds]:
        """Return by file the tensors that it must hold, with shape and dtype; {} if nothing is trained."""
        if not self.parameters:
            return {}
        weights = [name for name in WEIGHTS_FILES if name in self.files] or [WEIGHTS_FILES[0]]
        held = {name: (shape, "F32") for name, shape in self.parameters}
        held.update({name: (shape, kind) for name, shape, kind in self.buffers})
        moments = {f"{name}.{moment}": (shape, "F32") for name, shape in self.parameters for moment in MOMENTS}
        step = {"step": ((len(self.parameters),), "F32")}
        return {**{name: held for name in weights}, OPTIMIZER_FILE: {**moments, **step}}  # noqa: C420  # one mapping


Stored = TypeVar("Stored")


def decoded(data: bytes, kind: type[Stored]) -> Stored:
    """Decode a manifest; an earlier keepstep wrote some settings under other names. Raises MsgspecError,
    UnicodeError."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        return msgspec.convert(_with_present_settings(msgspec.json.decode(data)), kind)


def _with_present_settings(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    present = {key: _with_present_settings(each) for key, each in value.items()}
    settings = present.get("settings")
    return {**present, "settings": with_present_settings(settings)} if isinstance(settings, dict) else present


def describe(path: Path, watch: Callable[[bytes], None] = lambda _: None, *, storage: Storage = REAL) -> FileEntry:
    """Return size and SHA-256 of the file at `path`; `watch` receives each chunk. Raises OSError."""
    with opened(storage, path, os.O_RDONLY) as fd:
        return describe_open(fd, watch, storage=storage)


def describe_open(fd: int, watch: Callable[[bytes], None] = lambda _: None, *, storage: Storage = REAL) -> FileEntry:
    """Return size and SHA-256 of an open file. See `describe`."""
    digest = hashlib.sha256()
    size_bytes = 0
    for chunk in chunks(storage, fd, CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        watch(chunk)
    return FileEntry(size_bytes=size_bytes, sha256=digest.hexdigest())


def leaves_directory(names: Iterable[str]) -> str | None:
    """Return the first of these file names that leads out of the directory that lists them; None if none does."""
    parts = ((name, PurePosixPath(name)) for name in names)
    return next((name for name, path in parts if path.is_absolute() or ".." in path.parts or "\0" in name), None)


def read_hashed(directory: Path, name: str, sha256: str | None, *, storage: Storage = REAL) -> bytes:
    """Return the bytes of the manifest `name` in `directory`; their SHA-256 must be `sha256`, if given.

    Raises ArtifactBroken.
    """
    try:
        data = read_file(directory / name, storage=storage)
    except FileNotFoundError as error:
        missing = name if storage.exists(directory) else "its directory"
        raise ArtifactBroken(f"{missing} is missing") from error
    except OSError as error:
        raise ArtifactBroken(f"{name} cannot be read: {error.strerror or error}") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise ArtifactBroken(f"{name} is not the one that was written: it has another SHA-256")
    return data


def read_manifest(directory: Path, manifest_sha256: str | None = None, *, storage: Storage = REAL) -> Manifest:
    """Return the manifest of the checkpoint in `directory`, without a look at the other files.

    Its SHA-256 must be `manifest_sha256`, if given. Raises CheckpointBroken.
    """
    name = directory.name
    try:
        data = read_hashed(directory, MANIFEST, None, storage=storage)
    except ArtifactBroken as error:
        raise CheckpointBroken(name, error.problem) from error
    try:
        manifest = decoded(data, Manifest)
    except UNDECODABLE as error:
        raise CheckpointBroken(name, f"{MANIFEST} is damaged: {error}") from error
    if (out := leaves_directory(manifest.files)) is not None:
        raise CheckpointBroken(name, f"{MANIFEST} names a file outside of its directory, {out!r}")
    if manifest.checkpoint != name:
        raise CheckpointBroken(name, f"{MANIFEST} is that of {manifest.checkpoint}")
    if manifest_sha256 is not None and hashlib.sha256(data).hexdigest() != manifest_sha256:
        raise CheckpointBroken(name, f"{MANIFEST} is not the one that was committed: it has another SHA-256")
    return manifest


def names_below(directory: Path, known: Collection[str] = (), *, storage: Storage = REAL) -> list[str]:
    """Return the names of all files in `directory` and below it, as `sub/name`, sorted.

    An empty subdirectory is listed under its own name, so that nothing stays unseen. A link is listed and never
    followed. Names in `known` are taken for files without a stat call. Raises OSError.
    """
    found = []
    for name in storage.names(directory):
        if name in known or not is_directory(directory / name, storage=storage):
            found.append(name)
            continue
        inner = f"{name}/"
        below = {each.removeprefix(inner) for each in known if each.startswith(inner)} if known else ()
        found += [inner + each for each in names_below(directory / name, below, storage=storage)] or [name]
    return sorted(found)
