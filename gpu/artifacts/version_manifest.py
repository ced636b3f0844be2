"""The manifest of a version, `keepstep.json`, and its model card. No torch: the shell reads manifests too."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec
from msgspec import Struct, field

from events.settings import FullSettings
from events.trained import TrainedFile
from events.values import VersionId
from gpu.artifacts.artifact import Artifact, Watch
from gpu.artifacts.manifest import UNDECODABLE, FileEntry, Manifest, decoded, describe, leaves_directory, read_hashed
from gpu.model.base import base_files, base_sha256, combine_sha256
from journal.durable import read_file
from journal.storage import REAL, Storage

VERSION_MANIFEST = "keepstep.json"
"""Name of the manifest of a version: everything that the model was made from, and all files."""

TRAINED = "learned"
"""Directory in a version with the trained weights as they were trained: a directory for each merged checkpoint."""


class VersionManifest(Struct, frozen=True, kw_only=True):
    """The content of `keepstep.json`."""

    format: Literal[1] = 1
    version: VersionId | None = None
    """None: the model was exported."""
    parent: VersionId | None = None
    """The version that the checkpoint was trained on; None: the origin."""
    description: str = ""
    origin_sha256: str = ""
    """SHA-256 of the first base's config and weights; see `gpu.model.base`."""
    checkpoint: Manifest
    """The manifest of the last checkpoint that was merged."""
    trained: tuple[str, ...] = field(default=(), name=TRAINED)
    """The directories below `TRAINED`, the oldest first: the weights are the origin plus the sum of these."""
    data: tuple[TrainedFile, ...] = ()
    applied: float | None
    in_place: float | None = None
    files: dict[str, FileEntry]

    def encode(self) -> bytes:
        """Return the bytes of `keepstep.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


def read_version_manifest(directory: Path, *, storage: Storage = REAL) -> VersionManifest:
    """Return the manifest of the model in `directory`. Raises OSError, ValueError."""
    try:
        manifest = decoded(read_file(directory / VERSION_MANIFEST, storage=storage), VersionManifest)
    except RecursionError as error:
        raise ValueError(f"{VERSION_MANIFEST} is nested too deep") from error
    if (name := leaves_directory((*manifest.files, *manifest.trained))) is not None:
        raise ValueError(f"{VERSION_MANIFEST} names a file outside of its directory, {name!r}")
    return manifest


def version_directory(home: Path, version: VersionId) -> Path:
    """Return the directory of a version."""
    return home / "versions" / version


def training_base(home: Path, version: VersionId) -> Path:
    """Return the directory of the weights that training on a version starts from.

    These are the version's own, or, with `full`, the float32 weights that they were rounded from. Raises OSError,
    ValueError.
    """
    directory = version_directory(home, version)
    manifest = read_version_manifest(directory)
    if isinstance(manifest.checkpoint.lineage.settings.method, FullSettings):
        return directory / TRAINED / manifest.trained[-1]
    return directory


def find_base_problem(version: Path, base: Path, watch: Watch = lambda _: None) -> str | None:
    """Return why `base`, which training loads from the directory `version`, is not what was published; None if it is.

    Reads every byte of the base once. Raises OSError, ValueError.
    """
    manifest = read_version_manifest(version)
    below = base.relative_to(version).as_posix()
    prefix = "" if below == "." else f"{below}/"
    names = base_files(base)
    if missing := [name for name in manifest.files if name.startswith(prefix) and not (version / name).exists()]:
        return f"{missing[0]} is missing"
    published = {name: manifest.files[prefix + name].sha256 for name in names if prefix + name in manifest.files}
    if base_sha256(base, watch) == combine_sha256(published):
        return None
    return "its config or its weights do not have the SHA-256 that they were published with"


class VersionDirectory(Artifact[VersionManifest]):
    """A version, or an exported model."""

    manifest_name = VERSION_MANIFEST

    def read(self, manifest_sha256: str | None = None) -> VersionManifest:
        data = read_hashed(self.path, VERSION_MANIFEST, manifest_sha256, storage=self.storage)
        try:
            return decoded(data, VersionManifest)
        except UNDECODABLE as error:
            raise self.broken(f"{VERSION_MANIFEST} is damaged: {error}") from error

    def verify(
        self, manifest_sha256: str | None = None, *, every_byte: bool = True, watch: Watch = lambda _: None
    ) -> VersionManifest:
        """See `Artifact.verify`. Files that the manifest does not name are allowed. Raises ArtifactBroken."""
        manifest = self.read(manifest_sha256)
        if (name := leaves_directory((*manifest.files, *manifest.trained))) is not None:
            raise self.broken(f"{VERSION_MANIFEST} names a file outside of its directory, {name!r}")
        for name, expected in manifest.files.items():
            path = self.path / name
            try:
                if (link := self._link_above(name)) is not None:
                    raise self.broken(f"{link} is not a directory")
                found = self.storage.stat(path)
                if not stat.S_ISREG(found.st_mode):
                    raise self.broken(f"{name} is not a file")
                if found.st_size != expected.size_bytes:
                    raise self.broken(
                        f"{name} has {found.st_size} bytes, {VERSION_MANIFEST} says {expected.size_bytes}"
                    )
                if every_byte and describe(path, watch, storage=self.storage) != expected:
                    raise self.broken(f"{name} does not have the SHA-256 of {VERSION_MANIFEST}")
            except FileNotFoundError as error:
                raise self.broken(f"{name} is missing") from error
            except OSError as error:
                reason = error.strerror or os.strerror(error.errno or 0)
                raise self.broken(f"{name} cannot be read: {reason}") from error
        return manifest

    def _link_above(self, name: str) -> str | None:
        """Return the first parent of the file `name` that is not a directory, so that it may lead elsewhere.

        None if all are directories. Raises OSError.
        """
        above = [str(parent) for parent in reversed(PurePosixPath(name).parents[:-1])]
        return next((part for part in above if not stat.S_ISDIR(self.storage.stat(self.path / part).st_mode)), None)


def card(manifest: VersionManifest, stored_as: str) -> str:
    """Return the model card: https://huggingface.co/docs/hub/model-cards."""
    settings, cursor = manifest.checkpoint.lineage.settings, manifest.checkpoint.cursor
    method = msgspec.to_builtins(settings.method)
    kind, shape = method.pop("kind"), ", ".join(f"{name} = {value}" for name, value in method.items())
    title = manifest.version or manifest.checkpoint.checkpoint
    said = f"\n{manifest.description}\n" if manifest.description else ""
    at = f" at commit `{settings.model.revision}`" if settings.model.revision else ""
    return f"""---
base_model: {msgspec.json.encode(settings.model.path).decode()}
library_name: transformers
pipeline_tag: text-generation
---

# {title}
{said}
Trained by keepstep from `{settings.model.path}`{at} up to step {cursor.global_step}, and merged into weights that are
stored as {stored_as}.

- method: {kind}{f" ({shape})" if shape else ""}
- trained on: {manifest.parent or "the origin"}
- last data file: SHA-256 `{cursor.job}`, {cursor.step} of its {cursor.steps_total} steps
- origin: SHA-256 `{manifest.origin_sha256 or manifest.checkpoint.lineage.base_sha256}`

{_table(manifest.data)}`{VERSION_MANIFEST}` has the settings, the libraries, and the SHA-256 of every file.
"""


def _table(data: Sequence[TrainedFile]) -> str:
    if not data:
        return ""
    rows = [
        f"| {_cell(file.name)} | {file.rows} | {file.epochs} | {file.steps[0]}-{file.steps[1]} | `{file.sha256}` |"
        for file in data
    ]
    head = ["| trained on | rows | epochs | steps | SHA-256 |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n\n"


def _cell(text: str) -> str:
    """Return a file's name without the characters that would break a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
