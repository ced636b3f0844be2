"""Backups: a copy of a checkpoint, that shares nothing with it but its bytes, and was read back.

`backups/<id>/` holds the checkpoint's directory as it was, and `backup.json`, written last. The protocol is that of all
commits: staging, sync, rename, sync; then the journal names it. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from events.values import BackupId, CheckpointId, VersionId
from gpu.commit import Committed, publish
from gpu.errors import CheckpointBroken, SealBroken
from gpu.manifest import MANIFEST, UNDECODABLE, FileEntry, describe, leads_out, names_below, read_seal
from gpu.manifest import problem_of as problem_of_checkpoint
from journal.durable import copy_durably, fsync_file, opened
from journal.storage import REAL, Storage

SEAL = "backup.json"


class Backup(Struct, frozen=True, kw_only=True):
    """The content of `backup.json`."""

    format: Literal[1] = 1
    backup: BackupId
    reason: str
    version: VersionId | None
    """What the checkpoint was trained beside; None: the origin."""
    checkpoint: CheckpointId
    checkpoint_sha256: str
    """Of its manifest."""
    files: dict[str, FileEntry]


def back_up(
    backups: Path,
    seal: Backup,
    checkpoint: Path,
    watch: Callable[[bytes], None] = lambda _: None,
    *,
    storage: Storage = REAL,
) -> Committed:
    """Copy `checkpoint` to `backups`, and read the copy back from the disk.

    Raises StorageFailed; CheckpointBroken if what is to be copied, or the copy, is not what was committed.
    """
    problem = problem_of_checkpoint(checkpoint, seal.checkpoint_sha256, every_byte=False, storage=storage)
    if problem is not None:
        raise CheckpointBroken(seal.checkpoint, problem)
    names = names_below(checkpoint, storage=storage)

    def copied(name: str) -> Callable[[Path], None]:
        return lambda path: copy_durably(checkpoint / name, path, storage=storage)

    def sealed(files: Mapping[str, FileEntry]) -> tuple[str, bytes]:
        said = msgspec.structs.replace(seal, files=dict(files))
        return SEAL, msgspec.json.format(msgspec.json.encode(said, order="sorted"), indent=2) + b"\n"

    def prove(staging: Path) -> None:
        for name in names:
            with opened(storage, staging / seal.checkpoint / name, os.O_RDONLY) as fd:
                storage.drop_cache(fd)  # so that the disk is asked, and not the memory that the copy came from
        problem = problem_of_checkpoint(
            staging / seal.checkpoint, seal.checkpoint_sha256, every_byte=True, watch=watch, storage=storage
        )
        if problem is not None:
            raise CheckpointBroken(seal.checkpoint, problem)

    contents = {f"{seal.checkpoint}/{name}": copied(name) for name in names}
    return publish(backups / seal.backup, contents, sealed, watch, prove, storage=storage)


def problem_of(
    directory: Path,
    manifest_sha256: str,
    *,
    every_byte: bool,
    watch: Callable[[bytes], None] = lambda _: None,
    storage: Storage = REAL,
) -> str | None:
    """Why the backup in `directory` is not the one that was made; None if it is."""
    try:
        seal = msgspec.json.decode(read_seal(directory, SEAL, manifest_sha256, storage=storage), type=Backup)
    except SealBroken as error:
        return error.problem
    except UNDECODABLE as error:
        return f"{SEAL} is damaged: {error}"
    if (name := leads_out(seal.files)) is not None:
        return f"{SEAL} names a file outside of its directory, {name!r}"
    return problem_of_checkpoint(
        directory / seal.checkpoint, seal.checkpoint_sha256, every_byte=every_byte, watch=watch, storage=storage
    )


def bring_back(directory: Path, checkpoint: Path, manifest_sha256: str, *, storage: Storage = REAL) -> Committed:
    """Copy what the backup in `directory` holds to where the checkpoint stood, if it is the one that was committed with
    this manifest.

    Raises StorageFailed, CheckpointBroken.
    """
    source = directory / checkpoint.name
    try:
        manifest = read_seal(source, MANIFEST, manifest_sha256, storage=storage)
    except SealBroken as error:
        raise CheckpointBroken(checkpoint.name, error.problem) from error
    names = [name for name in names_below(source, storage=storage) if name != MANIFEST]

    def copied(name: str) -> Callable[[Path], None]:
        return lambda path: copy_durably(source / name, path, storage=storage)

    def prove(staging: Path) -> None:
        for name in names:
            fsync_file(staging / name, storage=storage)
        problem = _problem_of_staged(staging, manifest, storage)
        if problem is not None:
            raise CheckpointBroken(checkpoint.name, problem)

    return publish(
        checkpoint, {name: copied(name) for name in names}, lambda _: (MANIFEST, manifest), prove=prove, storage=storage
    )


def _problem_of_staged(staging: Path, manifest: bytes, storage: Storage) -> str | None:
    """What is wrong with a copied checkpoint; `problem_of_checkpoint` would miss its name."""
    files = msgspec.json.decode(manifest, type=_Files).files
    if (name := leads_out(files)) is not None:
        return f"the manifest names a file outside of its directory, {name!r}"
    for name, expected in files.items():
        if describe(staging / name, storage=storage) != expected:
            return f"{name} does not have the SHA-256 of the manifest"
    return None


class _Files(Struct):
    files: dict[str, FileEntry]
