"""The commit protocol on a disk that fails at every single call."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from gpu.artifacts.artifact import CheckpointDirectory, find_problem
from gpu.artifacts.commit import Committed
from gpu.artifacts.manifest import MANIFEST
from gpu.errors import StorageFailed
from journal.storage import Storage
from tests.gpu.helpers import CONTENTS, NAME, commit, manifest
from tests.journal.helpers import Faulty, Killed


class EveryCall(Faulty):
    """Names appear and go away, and files are closed, by calls that can fail too."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._count("open")
        return super().open(path, flags, mode)

    def close(self, fd: int) -> None:
        super().close(fd)  # as Linux does even where it reports an error
        self._count("close")

    def rmdir(self, path: Path) -> None:
        self._count("rmdir")
        super().rmdir(path)


def committed(checkpoints: Path, storage: Storage) -> Committed:
    return commit(checkpoints, manifest(), CONTENTS, storage=storage)


def final_names(checkpoints: Path) -> list[Path]:
    return [path for path in checkpoints.glob("*") if not path.name.startswith(".staging-")]


def test_the_order_of_the_protocol(tmp_path: Path) -> None:
    """Each file is synced before the next is begun, the manifest last, then its directory; then the name, and it."""
    disk = Faulty()
    committed(tmp_path, disk)
    files = ["write", "fsync"] * 3
    assert disk.names_called == ["mkdir", *files, "fsync", "rename", "fsync"]


def test_what_is_committed_is_what_was_meant_and_what_is_reported(tmp_path: Path) -> None:
    done = committed(tmp_path / "new" / "checkpoints", Storage())
    directory = tmp_path / "new" / "checkpoints" / NAME
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.name != MANIFEST} == CONTENTS
    assert done.manifest_sha256 == hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
    assert done.size_bytes == sum(path.stat().st_size for path in directory.iterdir())
    assert set(CheckpointDirectory(directory).verify().files) == set(CONTENTS)
    assert find_problem(CheckpointDirectory(directory), done.manifest_sha256, every_byte=True) is None


@pytest.mark.parametrize("fault", ["kill", "EIO", "ENOSPC", "short"])
@pytest.mark.parametrize("leftover_files", [False, True])
def test_no_fault_at_any_call_leaves_a_final_name_that_is_not_whole(
    tmp_path: Path, fault: str, leftover_files: bool
) -> None:
    """The next writer, under the same name or another, is not disturbed by the leftover files."""
    at = 0
    while True:
        at += 1
        checkpoints = tmp_path / str(at)
        checkpoints.mkdir()
        if leftover_files:
            (checkpoints / f".staging-{NAME}").mkdir()
            (checkpoints / f".staging-{NAME}" / "half").write_bytes(b"half")
        disk = EveryCall(at, fault)
        try:
            committed(checkpoints, disk)
        except StorageFailed as failed:
            assert failed.errno == getattr(errno, fault)  # noqa: PT017 - not every call fails
        except Killed:
            assert fault == "kill"
        else:
            assert disk.calls < at or fault == "short"
        for path in final_names(checkpoints):
            CheckpointDirectory(path).verify()
        if not final_names(checkpoints):
            committed(checkpoints, Storage())
            CheckpointDirectory(checkpoints / NAME).verify()
        if disk.calls < at:
            break
    assert at > len(CONTENTS) * 4


def test_a_content_function_that_fails_is_a_storage_failure(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageFailed, match="No space left"):
        commit(tmp_path, manifest(), {"weights": full})
    assert final_names(tmp_path) == []


def test_what_stands_under_the_name_already_is_not_touched(tmp_path: Path) -> None:
    """It may be a committed checkpoint; a writer cannot know."""
    (tmp_path / NAME).mkdir()
    disk = Faulty()
    with pytest.raises(StorageFailed, match="exists already"):
        committed(tmp_path, disk)
    assert disk.names_called == []
    assert list((tmp_path / NAME).iterdir()) == []


def test_progress_is_reported_in_bytes_on_disk(tmp_path: Path) -> None:
    seen: list[bytes] = []
    done = commit(tmp_path, manifest(), {**CONTENTS, "w": lambda path: path.write_bytes(b"x" * 50)}, seen.append)  # type: ignore[dict-item]
    assert sum(map(len, seen)) == done.size_bytes


class Synced(Storage):
    """Remembers what was synced."""

    def __init__(self) -> None:
        self.names: list[str] = []  # type: ignore[assignment]

    def fsync(self, fd: int) -> None:
        self.names.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        super().fsync(fd)


def test_a_file_that_a_library_writes_is_synced_too(tmp_path: Path) -> None:
    """safetensors opens, writes and closes its own."""
    disk = Synced()

    def write(path: Path) -> None:
        path.write_bytes(b"z")

    commit(tmp_path, manifest(), {**CONTENTS, "z": write}, storage=disk)
    assert "z" in disk.names
