"""Artifacts: the directories that the journal names, each with the SHA-256 of its manifest. No torch.

checkpoint   checkpoints/<id>/   manifest.json    a training step
version      versions/<id>/      keepstep.json    a merged model; also written by an export
backup       backups/<id>/       backup.json      the copy of a checkpoint's directory
"""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from gpu.artifacts import tensors
from gpu.artifacts.commit import Committed, Content, publish
from gpu.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    describe,
    leaves_directory,
    names_below,
    read_hashed,
    read_manifest,
)
from gpu.errors import ArtifactBroken, CheckpointBroken
from journal.durable import copy_durably
from journal.storage import REAL, Storage

Watch = Callable[[bytes], None]
"""Receives each chunk that is read or written, to report progress."""


class AnyManifest(Protocol):
    """The content of a manifest."""

    @property
    def files(self) -> dict[str, FileEntry]: ...

    def encode(self) -> bytes:
        """Return the bytes of the manifest's file."""


M = TypeVar("M", bound=AnyManifest)


class Artifact(ABC, Generic[M]):
    """A directory and its manifest, which is written last and names every other file with its size and SHA-256.

    The surface is this small on purpose. `write` is the only way onto the disk, `verify` the only reason to trust its
    content, and `restore` the only way to replace a lost artifact. So each rule stands once, and the fault tests try
    each call. The state machine decides which artifacts are needed, kept or deleted, without a look at the disk.
    """

    manifest_name: str

    def __init__(self, path: Path, storage: Storage = REAL) -> None:
        self.path = path
        self.storage = storage

    def write(
        self,
        contents: Mapping[str, Content],
        complete_manifest: Callable[[Mapping[str, FileEntry]], M],
        watch: Watch = lambda _: None,
        prove: Callable[[Path], None] = lambda _: None,
        *,
        passed: Callable[[str], None] | None = None,
    ) -> Committed:
        """Write `contents` and the manifest that `complete_manifest` makes of their sizes and SHA-256s.

        `watch`, `prove` and `passed` are those of `publish`. Raises StorageFailed, and what `prove` raises.
        """

        def manifest(files: Mapping[str, FileEntry]) -> tuple[str, bytes]:
            return self.manifest_name, complete_manifest(files).encode()

        return publish(self.path, contents, manifest, watch, prove, passed=passed, storage=self.storage)

    @abstractmethod
    def read(self, manifest_sha256: str | None = None) -> M:
        """Return the manifest; its SHA-256 must be `manifest_sha256`, if given. Raises ArtifactBroken."""

    @abstractmethod
    def verify(
        self, manifest_sha256: str | None = None, *, every_byte: bool = True, watch: Watch = lambda _: None
    ) -> M:
        """Return the manifest if the directory holds what it says.

        Names and sizes are always compared; with `every_byte` the SHA-256 of each file too. Raises ArtifactBroken.
        """

    def broken(self, problem: str) -> ArtifactBroken:
        """Return the error for this `problem`."""
        return ArtifactBroken(problem)

    def restore(self, source: Path, manifest_sha256: str) -> Committed:
        """Copy the same artifact from `source`, if its manifest has this SHA-256. Raises StorageFailed, ArtifactBroken.

        The manifest is written as it was, so the copy is the artifact that the journal names.
        """
        try:
            manifest = read_hashed(source, self.manifest_name, manifest_sha256, storage=self.storage)
        except ArtifactBroken as error:
            raise self.broken(error.problem) from error
        names = [name for name in names_below(source, storage=self.storage) if name != self.manifest_name]

        def prove(staging: Path) -> None:
            problem = _find_difference(staging, msgspec.json.decode(manifest, type=_Files).files, self.storage)
            if problem is not None:
                raise self.broken(problem)

        contents = copies(source, names, self.storage)
        return publish(self.path, contents, lambda _: (self.manifest_name, manifest), prove=prove, storage=self.storage)


def find_problem(
    artifact: Artifact[Any], manifest_sha256: str, *, every_byte: bool, watch: Watch = lambda _: None
) -> str | None:
    """Return why `artifact` is not the one that was written with this manifest; None if it is. Checks as `verify`."""
    try:
        artifact.verify(manifest_sha256, every_byte=every_byte, watch=watch)
    except ArtifactBroken as error:
        return error.problem
    return None


def copies(source: Path, names: Iterable[str], storage: Storage) -> dict[str, Content]:
    """Return contents for `write` that copy the files `names` from the directory `source`."""

    def copy(name: str) -> Callable[[Path], None]:
        return lambda path: copy_durably(source / name, path, storage=storage)

    return {name: copy(name) for name in names}


class CheckpointDirectory(Artifact[Manifest]):
    """A checkpoint. Its manifest also lists the tensors that the files of weights and moments must hold."""

    manifest_name = MANIFEST

    def read(self, manifest_sha256: str | None = None) -> Manifest:
        return read_manifest(self.path, manifest_sha256, storage=self.storage)

    def verify(
        self, manifest_sha256: str | None = None, *, every_byte: bool = True, watch: Watch = lambda _: None
    ) -> Manifest:
        """See `Artifact.verify`; with `every_byte` the names, shapes and kinds of the tensors are compared too.

        Raises CheckpointBroken.
        """
        manifest = self.read(manifest_sha256)
        self._check_files(manifest)
        if every_byte:
            self._check_bytes(manifest, watch)
        return manifest

    def broken(self, problem: str) -> CheckpointBroken:
        return CheckpointBroken(self.path.name, problem)

    def _check_files(self, manifest: Manifest) -> None:
        """Raise unless the directory holds what the manifest names, in the sizes that it says, and nothing else."""
        try:
            found_names = set(names_below(self.path, {*manifest.files, MANIFEST}, storage=self.storage)) - {MANIFEST}
        except OSError as error:
            raise self._unreadable("its directory", error) from error
        for missing in sorted((manifest.files.keys() | manifest.shapes_by_file().keys()) - found_names):
            raise self.broken(f"{missing} is missing")
        for extra in sorted(found_names - manifest.files.keys()):
            raise self.broken(f"{extra} is not in the manifest")
        for name, expected in manifest.files.items():
            try:
                found = self.storage.stat(self.path / name)
            except OSError as error:
                raise self._unreadable(name, error) from error
            if not stat.S_ISREG(found.st_mode):
                raise self.broken(f"{name} is not a file")
            if found.st_size != expected.size_bytes:
                raise self.broken(f"{name} has {found.st_size} bytes, the manifest says {expected.size_bytes}")

    def _check_bytes(self, manifest: Manifest, watch: Watch) -> None:
        """Raise unless the bytes of each file, and the tensors in them, are those of the manifest."""
        shapes = manifest.shapes_by_file()
        for name, expected in manifest.files.items():
            path, problem = self.path / name, None
            try:
                if describe(path, watch, storage=self.storage) != expected:
                    problem = f"{name} does not have the SHA-256 of the manifest"
                elif name in shapes:
                    problem = tensors.find_mismatch(path, shapes[name], storage=self.storage)
            except OSError as error:
                raise self._unreadable(name, error) from error
            if problem is not None:
                raise self.broken(problem)

    def _unreadable(self, what: str, error: OSError) -> CheckpointBroken:
        missing = isinstance(error, FileNotFoundError)
        return self.broken(f"{what} is missing" if missing else f"{what} cannot be read: {error.strerror or error}")


class _Files(Struct):
    """The field that the manifests of all artifacts have."""

    files: dict[str, FileEntry]


def _find_difference(directory: Path, files: Mapping[str, FileEntry], storage: Storage) -> str | None:
    """Return why the files of a copy are not those of its manifest; None if they are.

    `verify` cannot check a copy that is still under its staging name.
    """
    if (name := leaves_directory(files)) is not None:
        return f"the manifest names a file outside of its directory, {name!r}"
    for name, expected in files.items():
        if describe(directory / name, storage=storage) != expected:
            return f"{name} does not have the SHA-256 of the manifest"
    return None
