"""Backups: copies of checkpoints that share nothing with the original but its bytes. No torch.

`backups/<id>/` holds the checkpoint's directory as it was, and `backup.json`, which is written last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from events.values import BackupId, CheckpointId, VersionId
from gpu.artifacts.artifact import Artifact, CheckpointDirectory, Watch, copies
from gpu.artifacts.commit import Committed
from gpu.artifacts.manifest import UNDECODABLE, FileEntry, leaves_directory, names_below, read_hashed
from journal.durable import opened
from journal.storage import REAL, Storage


class BackupManifest(Struct, frozen=True, kw_only=True):
    """The content of `backup.json`."""

    format: Literal[1] = 1
    backup: BackupId
    reason: str
    version: VersionId | None
    """The version that the checkpoint was trained on; None: the origin."""
    checkpoint: CheckpointId
    checkpoint_sha256: str
    """The SHA-256 of the checkpoint's manifest."""
    files: dict[str, FileEntry]

    def encode(self) -> bytes:
        """Return the bytes of `backup.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


class BackupDirectory(Artifact[BackupManifest]):
    """A backup; it is intact if the checkpoint in it is."""

    manifest_name = "backup.json"

    def read(self, manifest_sha256: str | None = None) -> BackupManifest:
        data = read_hashed(self.path, self.manifest_name, manifest_sha256, storage=self.storage)
        try:
            manifest = msgspec.json.decode(data, type=BackupManifest)
        except UNDECODABLE as error:
            raise self.broken(f"{self.manifest_name} is damaged: {error}") from error
        if (name := leaves_directory((manifest.checkpoint, *manifest.files))) is not None:
            raise self.broken(f"{self.manifest_name} names a file outside of its directory, {name!r}")
        return manifest

    def verify(
        self, manifest_sha256: str | None = None, *, every_byte: bool = True, watch: Watch = lambda _: None
    ) -> BackupManifest:
        manifest = self.read(manifest_sha256)
        copy = CheckpointDirectory(self.path / manifest.checkpoint, self.storage)
        copy.verify(manifest.checkpoint_sha256, every_byte=every_byte, watch=watch)
        return manifest


def back_up(
    backups: Path,
    manifest: BackupManifest,
    checkpoint: Path,
    watch: Watch = lambda _: None,
    *,
    storage: Storage = REAL,
) -> Committed:
    """Copy the directory `checkpoint` to `backups`, and read the copy back from the disk.

    Raises StorageFailed; CheckpointBroken if the checkpoint, or its copy, is not what was committed.
    """
    CheckpointDirectory(checkpoint, storage).verify(manifest.checkpoint_sha256, every_byte=False)
    names = names_below(checkpoint, storage=storage)

    def complete_manifest(files: Mapping[str, FileEntry]) -> BackupManifest:
        return msgspec.structs.replace(manifest, files=dict(files))

    def prove(staging: Path) -> None:
        copy = CheckpointDirectory(staging / manifest.checkpoint, storage)
        for name in names:
            with opened(storage, copy.path / name, os.O_RDONLY) as fd:
                storage.drop_cache(fd)  # else the page cache would answer, not the disk
        copy.verify(manifest.checkpoint_sha256, watch=watch)

    contents = copies(checkpoint, names, storage)
    below = {f"{manifest.checkpoint}/{name}": content for name, content in contents.items()}
    return BackupDirectory(backups / manifest.backup, storage).write(below, complete_manifest, watch, prove)
