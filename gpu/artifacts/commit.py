"""The commit protocol: how a directory gets onto the disk. The order of the statements in `publish` is the protocol.

Every file is written and synced under a staging name, the manifest last. The directory is synced and renamed, and its
parent is synced. Only then is it reported, and it counts only once the daemon has journaled it. A crash at any point
leaves files that no record names, never a half-written directory that something trusts.

All disk access goes through the `Storage` port, so that tests can make each call fail. No torch.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from gpu.artifacts.manifest import FileEntry, describe
from gpu.errors import StorageFailed
from journal.durable import (
    fsync_directory,
    make_directory,
    opened,
    remove_tree,
    rename_durably,
    write_all,
)
from journal.failpoints import failpoint
from journal.storage import REAL, Storage

STAGING = ".staging-"
"""Prefix of a directory's name until it is complete."""


def staging_of(final: Path) -> Path:
    """Return the staging directory of `final`: next to it, so that a rename suffices."""
    return final.with_name(f"{STAGING}{final.name}")


FILE_MODE = 0o640
"""Mode of every published file, before the mask of the home is applied."""

Content = bytes | Callable[[Path], None]
"""The bytes of a file, or a function that writes it to a path (as safetensors must) and raises OSError."""


class Committed(NamedTuple):
    """A directory that has its final name."""

    size_bytes: int
    """Bytes of all its files, the manifest included."""
    manifest_sha256: str


def publish(
    final: Path,
    contents: Mapping[str, Content],
    manifest: Callable[[Mapping[str, FileEntry]], tuple[str, bytes]],
    watch: Callable[[bytes], None] = lambda _: None,
    prove: Callable[[Path], None] = lambda _: None,
    *,
    passed: Callable[[str], None] | None = None,
    storage: Storage = REAL,
) -> Committed:
    """Write a directory with `contents` to `final`, and last the manifest: a function from files to (name, bytes).

    The names in `contents` may contain directories. `watch` receives every chunk once it is on disk. `prove` receives
    the complete staging directory and raises what it finds wrong. `passed` replaces `journal.failpoints.failpoint` at
    each point. Raises StorageFailed; a directory that has the final name then is complete, but is not reported.
    """
    staging = staging_of(final)
    passed = passed or failpoint
    try:
        if not storage.exists(final.parent):
            make_directory(final.parent, storage=storage)
        if storage.exists(final):
            # If the journal names it, it must not be touched; if not, the daemon sweeps it after this attempt. The
            # writer cannot know which. The next attempt uses another name.
            raise FileExistsError(errno.EEXIST, f"{final.name} exists already")
        if storage.exists(staging):
            remove_tree(staging, storage=storage)  # left by a writer that was killed
        storage.mkdir(staging)
        below = sorted({str(parent) for name in contents for parent in Path(name).parents} - {"."})
        for directory in below:
            storage.mkdir(staging / directory)
        files = {}
        for name, content in sorted(contents.items()):
            files[name] = _put(staging / name, content, watch, storage)
            passed("file_written")
        name, data = manifest(files)
        passed("before_manifest")
        _put(staging / name, data, watch, storage)
        passed("staging_written")
        for directory in (*reversed(below), "."):
            fsync_directory(staging / directory, storage=storage)
        passed("staging_fsynced")
        prove(staging)
        rename_durably(staging, final, storage=storage)
    except OSError as error:
        raise StorageFailed(staging, error) from error
    passed("renamed")
    size_bytes = sum(entry.size_bytes for entry in files.values()) + len(data)
    return Committed(size_bytes, hashlib.sha256(data).hexdigest())


def _put(path: Path, content: Content, watch: Callable[[bytes], None], storage: Storage) -> FileEntry:
    """Write and sync one file. Return its entry in the manifest."""
    if callable(content):
        content(path)
        with opened(storage, path, os.O_RDONLY) as fd:
            storage.set_mode(fd, FILE_MODE)  # libraries choose their own modes, or follow the umask
            storage.fsync(fd)
        return describe(path, watch, storage=storage)
    with opened(storage, path, os.O_WRONLY | os.O_CREAT) as fd:
        write_all(storage, fd, content)
        storage.fsync(fd)
    watch(content)
    return FileEntry(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
