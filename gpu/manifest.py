"""What a checkpoint says about itself, and the check that it is so. No torch: the daemon reads manifests too.

`manifest.json` is written last, so a directory without one was never finished. It names every other file with its
size and SHA-256; a directory that holds less, more or other bytes than that is not the checkpoint it claims to be.
And its parameters are exactly what the file of weights holds, their moments exactly what the optimizer's holds.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec
from msgspec import Struct

from events.settings import JobSettings
from events.values import CheckpointId, JobId
from gpu import tensors
from gpu.errors import CheckpointBroken, SealBroken
from journal.durable import chunks, is_directory, opened, read_file
from journal.storage import REAL, Storage

MANIFEST = "manifest.json"

WEIGHTS_FILES = ("adapter_model.safetensors", "model.safetensors")
"""What peft and transformers look for: a checkpoint holds one of them, and in it exactly the trained parameters."""

OPTIMIZER_FILE = "optimizer.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")

UNDECODABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What decoding a manifest raises: no JSON or other types, no text, nested too deep."""

CHUNK_BYTES = 8 * 1024 * 1024
"""Hashed at a time: large enough to be quick, small enough to report progress."""


class FileEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the directory."""

    size_bytes: int
    sha256: str


Parameters = tuple[tuple[str, tuple[int, ...]], ...]
"""What is trained, in the model's order: names as in the weights file, and shapes."""


Buffers = tuple[tuple[str, tuple[int, ...], str], ...]
"""The model's persistent buffers, which are part of it and are not trained: names, shapes, and the kind of number as a
safetensors file names it."""


class Cursor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where in the data the checkpoint stands."""

    job: JobId
    global_step: int
    step: int
    steps_total: int
    epoch: int


class Lineage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the checkpoint comes from."""

    attempt: int
    parent: CheckpointId | None
    data_sha256: str
    batches_sha256: str
    tokenizer_sha256: str
    base_sha256: str = ""
    """Of the base model's config and weights; "" in checkpoints of before it was written down."""
    settings: JobSettings


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `manifest.json`."""

    format: Literal[1] = 1
    checkpoint: CheckpointId
    cursor: Cursor
    lineage: Lineage
    parameters: Parameters
    buffers: Buffers = ()
    """Of a model that was trained whole; () for adapters, and in checkpoints of before buffers were saved."""
    optimizer: str
    environment: dict[str, str]
    files: dict[str, FileEntry]

    def encode(self) -> bytes:
        """The bytes of `manifest.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    def shapes_by_file(self) -> dict[str, tensors.Kinds]:
        """Each tensor that a file must hold, with its shape and the kind of its numbers; {} if nothing is trained."""
        if not self.parameters:
            return {}
        weights = [name for name in WEIGHTS_FILES if name in self.files] or [WEIGHTS_FILES[0]]
        held = {name: (shape, "F32") for name, shape in self.parameters}
        held.update({name: (shape, kind) for name, shape, kind in self.buffers})
        moments = {f"{name}.{moment}": (shape, "F32") for name, shape in self.parameters for moment in MOMENTS}
        step = {"step": ((len(self.parameters),), "F32")}
        return {**{name: held for name in weights}, OPTIMIZER_FILE: {**moments, **step}}  # noqa: C420  # one mapping


_decoder = msgspec.json.Decoder(Manifest)


def describe(path: Path, watch: Callable[[bytes], None] = lambda _: None, *, storage: Storage = REAL) -> FileEntry:
    """Size and SHA-256 of the file at `path`; `watch` sees each chunk. Raises OSError."""
    with opened(storage, path, os.O_RDONLY) as fd:
        return describe_open(fd, watch, storage=storage)


def describe_open(fd: int, watch: Callable[[bytes], None] = lambda _: None, *, storage: Storage = REAL) -> FileEntry:
    """As `describe`, of an open file."""
    digest = hashlib.sha256()
    size_bytes = 0
    for chunk in chunks(storage, fd, CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        watch(chunk)
    return FileEntry(size_bytes=size_bytes, sha256=digest.hexdigest())


def leads_out(names: Iterable[str]) -> str | None:
    """The first of these names of files that would lead out of the directory which lists them; None if none does."""
    parts = ((name, PurePosixPath(name)) for name in names)
    return next((name for name, path in parts if path.is_absolute() or ".." in path.parts or "\0" in name), None)


def read_seal(directory: Path, name: str, sha256: str, *, storage: Storage = REAL) -> bytes:
    """The file `name` that seals `directory`, if it is the one of this SHA-256. Raises SealBroken."""
    try:
        data = read_file(directory / name, storage=storage)
    except FileNotFoundError as error:
        missing = name if storage.exists(directory) else "its directory"
        raise SealBroken(f"{missing} is missing") from error
    except OSError as error:
        raise SealBroken(f"{name} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SealBroken(f"{name} is not the one that was written: it has another SHA-256")
    return data


def read_manifest(directory: Path, *, storage: Storage = REAL) -> Manifest:
    """The manifest of the checkpoint in `directory`, its files not looked at yet. Raises CheckpointBroken."""
    return _read(directory, None, storage)


def verify(directory: Path, watch: Callable[[bytes], None] = lambda _: None, *, storage: Storage = REAL) -> Manifest:
    """The manifest of the checkpoint in `directory`, every byte that it names checked. Raises CheckpointBroken."""
    manifest = _read(directory, None, storage)
    _check_files(directory, manifest, storage)
    _check_bytes(directory, manifest, watch, storage)
    return manifest


def problem_of(
    directory: Path,
    manifest_sha256: str,
    *,
    every_byte: bool,
    watch: Callable[[bytes], None] = lambda _: None,
    storage: Storage = REAL,
) -> str | None:
    """Why the checkpoint in `directory` is not the one that was committed with this manifest; None if it is.

    Names and sizes are looked at in every case; with `every_byte` the SHA-256 of each file too, and what the tensors
    are. `watch` then sees each chunk.
    """
    try:
        manifest = _read(directory, manifest_sha256, storage)
        _check_files(directory, manifest, storage)
        if every_byte:
            _check_bytes(directory, manifest, watch, storage)
    except CheckpointBroken as error:
        return error.problem
    return None


def _read(directory: Path, manifest_sha256: str | None, storage: Storage) -> Manifest:
    name = directory.name
    try:
        data = read_file(directory / MANIFEST, storage=storage)
    except FileNotFoundError as error:
        missing = MANIFEST if storage.exists(directory) else "its directory"
        raise CheckpointBroken(name, f"{missing} is missing") from error
    except OSError as error:
        raise _unreadable(name, MANIFEST, error) from error
    try:
        manifest = _decoder.decode(data)
    except UNDECODABLE as error:
        raise CheckpointBroken(name, f"{MANIFEST} is damaged: {error}") from error
    if (out := leads_out(manifest.files)) is not None:
        raise CheckpointBroken(name, f"{MANIFEST} names a file outside of its directory, {out!r}")
    if manifest.checkpoint != name:
        raise CheckpointBroken(name, f"{MANIFEST} is that of {manifest.checkpoint}")
    if manifest_sha256 is not None and hashlib.sha256(data).hexdigest() != manifest_sha256:
        raise CheckpointBroken(name, f"{MANIFEST} is not the one that was committed: it has another SHA-256")
    return manifest


def names_below(directory: Path, known: Collection[str] = (), *, storage: Storage = REAL) -> list[str]:
    """The files in `directory` and in its subdirectories, as `sub/name`, sorted.

    A subdirectory without files is listed under its own name, so that nothing stays unseen. A link is listed and never
    followed. `known` names are taken for files without a look at each. Raises OSError.
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


def _check_files(directory: Path, manifest: Manifest, storage: Storage) -> None:
    """The directory holds what the manifest names, in the sizes that it says, and nothing else."""
    name = directory.name
    try:
        there = set(names_below(directory, {*manifest.files, MANIFEST}, storage=storage)) - {MANIFEST}
    except OSError as error:
        raise _unreadable(name, "its directory", error) from error
    for missing in sorted((manifest.files.keys() | manifest.shapes_by_file().keys()) - there):
        raise CheckpointBroken(name, f"{missing} is missing")
    for extra in sorted(there - manifest.files.keys()):
        raise CheckpointBroken(name, f"{extra} is not in the manifest")
    for file, expected in manifest.files.items():
        try:
            found = storage.stat(directory / file)
        except OSError as error:
            raise _unreadable(name, file, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointBroken(name, f"{file} is not a file")
        if found.st_size != expected.size_bytes:
            raise CheckpointBroken(name, f"{file} has {found.st_size} bytes, the manifest says {expected.size_bytes}")


def _check_bytes(directory: Path, manifest: Manifest, watch: Callable[[bytes], None], storage: Storage) -> None:
    """The bytes of each file are those of the manifest, and the tensors in them are those that it lists."""
    name, shapes = directory.name, manifest.shapes_by_file()
    for file, expected in manifest.files.items():
        problem = None
        try:
            if describe(directory / file, watch, storage=storage) != expected:
                problem = f"{file} does not have the SHA-256 of the manifest"
            elif file in shapes:
                problem = tensors.problem_of(directory / file, shapes[file], storage=storage)
        except OSError as error:
            raise _unreadable(name, file, error) from error
        if problem is not None:
            raise CheckpointBroken(name, problem)


def _unreadable(checkpoint: CheckpointId, what: str, error: OSError) -> CheckpointBroken:
    if isinstance(error, FileNotFoundError):
        return CheckpointBroken(checkpoint, f"{what} is missing")
    return CheckpointBroken(checkpoint, f"{what} cannot be read: {error.strerror or error}")
