"""The SHA-256 of an arrival is that of the bytes on the disk, in one state of the file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cli.inbox.staging import stable_sha256
from journal.storage import Storage


def overwrite(fd: int, data: bytes) -> None:
    """Replace the beginning of an open file, later than its last change."""
    path = Path(f"/proc/self/fd/{fd}").readlink()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, (9.0, 9.0))


class LyingDisk(Storage):
    """The disk has other bytes than the page cache shows."""

    def drop_cache(self, fd: int, offset: int = 0) -> None:
        overwrite(fd, b"disk")


class Written(Storage):
    """Another process writes to the file once, after its first bytes were read."""

    is_done = False

    def read(self, fd: int, length: int, offset: int) -> bytes:
        found = super().read(fd, length, offset)
        if not self.is_done:
            self.is_done = True
            overwrite(fd, b"late")
        return found


def test_the_bytes_are_those_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"cache")
    assert stable_sha256(path, storage=LyingDisk()) == hashlib.sha256(b"diske").hexdigest()


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"early")
    assert stable_sha256(path, storage=Written()) == hashlib.sha256(b"latey").hexdigest()
