"""What a checkpoint says about itself, and the check that it is so. No torch: the daemon reads manifests too.

`manifest.json` is written last, so a directory without one was never finished. It names every other file with its
size and SHA-256; a directory that holds less, more or other bytes than that is not the checkpoint it claims to be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from events.settings import JobSettings
from events.values import CheckpointId, JobId
from gpu.errors import CheckpointBroken

MANIFEST = "manifest.json"

CHUNK_BYTES = 8 * 1024 * 1024
"""Hashed at a time: large enough to be quick, small enough to report progress."""


class FileEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the directory."""

    size_bytes: int
    sha256: str


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
    settings: JobSettings


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `manifest.json`."""

    format: Literal[1] = 1
    checkpoint: CheckpointId
    cursor: Cursor
    lineage: Lineage
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    """What is trained, in the model's order: names as in the weights file, and shapes."""
    optimizer: str
    environment: dict[str, str]
    files: dict[str, FileEntry]

    def encode(self) -> bytes:
        """The bytes of `manifest.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


_decoder = msgspec.json.Decoder(Manifest)


def describe(path: Path, watch: Callable[[bytes], None] = lambda _: None) -> FileEntry:
    """Size and SHA-256 of the file at `path`; `watch` sees each chunk. Raises OSError."""
    digest = hashlib.sha256()
    size_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
            watch(chunk)
    return FileEntry(size_bytes=size_bytes, sha256=digest.hexdigest())


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the checkpoint in `directory`, its files not looked at yet. Raises CheckpointBroken."""
    name = directory.name
    try:
        manifest = _decoder.decode((directory / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointBroken(name, f"{MANIFEST} is missing") from error
    except OSError as error:
        raise CheckpointBroken(name, f"{MANIFEST} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CheckpointBroken(name, f"{MANIFEST} is damaged: {error}") from error
    if manifest.checkpoint != name:
        raise CheckpointBroken(name, f"{MANIFEST} is that of {manifest.checkpoint}")
    return manifest


def verify(directory: Path, watch: Callable[[bytes], None] = lambda _: None) -> Manifest:
    """The manifest of the checkpoint in `directory`, every byte that it names checked. Raises CheckpointBroken."""
    manifest = read_manifest(directory)
    for extra in sorted({path.name for path in directory.iterdir()} - manifest.files.keys() - {MANIFEST}):
        raise CheckpointBroken(directory.name, f"{extra} is not in the manifest")
    for name, expected in manifest.files.items():
        try:
            found = describe(directory / name, watch)
        except FileNotFoundError as error:
            raise CheckpointBroken(directory.name, f"{name} is missing") from error
        except OSError as error:
            raise CheckpointBroken(directory.name, f"{name} cannot be read: {error.strerror}") from error
        if found.size_bytes != expected.size_bytes:
            raise CheckpointBroken(
                directory.name, f"{name} has {found.size_bytes} bytes, the manifest says {expected.size_bytes}"
            )
        if found.sha256 != expected.sha256:
            raise CheckpointBroken(directory.name, f"{name} does not have the SHA-256 of the manifest")
    return manifest
