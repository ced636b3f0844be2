"""How a checkpoint gets onto the disk: the order of this file is the protocol.

Every file is written and synced under a staging name, the manifest last; the directory is synced, gets its final name,
and that is synced too. Only after that is it reported, and it counts only once the daemon has journaled it. A crash at
any point leaves debris that nothing names, never half a checkpoint that something believes.

No torch, and no way to the disk but the port: so that every place in it can be made to fail.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from gpu.artifacts.manifest import MANIFEST, FileEntry, Manifest, describe
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
"""What a directory is called before it is whole: STAGING and the checkpoint's id."""


def staging_of(final: Path) -> Path:
    """Where it stands until it is whole: beside its final place."""
    return final.with_name(f"{STAGING}{final.name}")


FILE_MODE = 0o640
"""Of every file of what is published, before the mask of the home."""

Content = bytes | Callable[[Path], None]
"""What a file is to hold, or what writes it at a path (safetensors insists on that) and raises OSError."""


class Committed(NamedTuple):
    """A directory that stands under its final name."""

    size_bytes: int
    """Of all its files, the manifest's own included."""
    manifest_sha256: str


def commit(
    checkpoints: Path,
    manifest: Manifest,
    contents: Mapping[str, Content],
    watch: Callable[[bytes], None] = lambda _: None,
    *,
    storage: Storage = REAL,
) -> Committed:
    """Put a directory with `contents` and the manifest (its `files` filled in here) below `checkpoints`.

    `watch` sees every chunk once it is on disk. Raises StorageFailed; what stands under the final name, if anything,
    is then whole, but nobody was told of it.
    """

    def seal(files: Mapping[str, FileEntry]) -> tuple[str, bytes]:
        return MANIFEST, msgspec.structs.replace(manifest, files=dict(files)).encode()

    return publish(checkpoints / manifest.checkpoint, contents, seal, watch, storage=storage)


def publish(
    final: Path,
    contents: Mapping[str, Content],
    seal: Callable[[Mapping[str, FileEntry]], tuple[str, bytes]],
    watch: Callable[[bytes], None] = lambda _: None,
    prove: Callable[[Path], None] = lambda _: None,
    *,
    passed: Callable[[str], None] | None = None,
    storage: Storage = REAL,
) -> Committed:
    """Put a directory with `contents` (their names may have directories in them) at `final`, and with them, written
    last, the file that `seal` makes of them.

    What is whole and not yet named is shown to `prove`, which raises what it finds wrong. `passed` hears of every point
    on the way, in the place of `journal.failpoints.failpoint`. Raises as `commit`.
    """
    staging = staging_of(final)
    passed = passed or failpoint
    try:
        if not storage.exists(final.parent):
            make_directory(final.parent, storage=storage)
        if storage.exists(final):
            # Either the journal names it, and then it must not be touched, or it is debris, and then the daemon sweeps
            # it when this attempt has failed. Whoever writes cannot know which; the next attempt uses another name.
            raise FileExistsError(errno.EEXIST, f"{final.name} stands there already")
        if storage.exists(staging):
            remove_tree(staging, storage=storage)  # of a writer that was killed
        storage.mkdir(staging)
        below = sorted({str(parent) for name in contents for parent in Path(name).parents} - {"."})
        for directory in below:
            storage.mkdir(staging / directory)
        files = {}
        for name, content in sorted(contents.items()):
            files[name] = _put(staging / name, content, watch, storage)
            passed("file_written")
        name, data = seal(files)
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
    """Write and sync one file; what the manifest says of it."""
    if callable(content):
        content(path)
        with opened(storage, path, os.O_RDONLY) as fd:
            storage.set_mode(fd, FILE_MODE)  # libraries have modes of their own, and follow the umask at best
            storage.fsync(fd)
        return describe(path, watch, storage=storage)
    with opened(storage, path, os.O_WRONLY | os.O_CREAT) as fd:
        write_all(storage, fd, content)
        storage.fsync(fd)
    watch(content)
    return FileEntry(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
