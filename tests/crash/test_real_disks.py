"""The disks that are to be broken: each fault is what the table in `disks` says of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash import real_disks as disks
from tests.crash.on_disk import (
    INODES,
    ROOT,
    needs_real_disks,
)
from tests.crash.real_disks import mortal_disk, small_disk, thin_disk

pytestmark = needs_real_disks


def outcome(action: Callable[[], object]) -> str:
    """The name of the error, or "well"."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "well"


def appended(path: Path, *, syncs: int = 1) -> list[str]:
    """What a write of some blocks, and each sync after it, comes to."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        written = outcome(lambda: [os.write(fd, b"x" * 40_000) for _ in range(2)])
        return [written, *(outcome(lambda: os.fdatasync(fd)) for _ in range(syncs))]
    finally:
        os.close(fd)


def test_a_full_disk_refuses_writes_and_heals() -> None:
    """The plain case, and the only one in which the free space that is shown tells the truth."""
    with small_disk() as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.fill()
        assert os.statvfs(disk.root).f_bavail == 0
        assert appended(file)[0] == "ENOSPC"
        assert appended(disk.root / "other")[0] == "ENOSPC"
        disk.free()
        assert appended(file) == ["well", "well"]


def test_a_disk_without_inodes_takes_bytes_and_no_names() -> None:
    """Files that are there can grow; what is written under a temporary name first cannot begin."""
    with small_disk(inodes=INODES) as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.fill_inodes()
        assert appended(file) == ["well", "well"]
        assert outcome((disk.root / "other").touch) == "ENOSPC"
        assert os.statvfs(disk.root).f_bavail > 1000
        disk.free()
        assert outcome((disk.root / "other").touch) == "well"


def test_a_thin_disk_takes_the_write_and_loses_it_at_the_sync() -> None:
    """The second sync succeeds: who tries again believes that the data is there. And there seems to be room."""
    with thin_disk() as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.exhaust()
        assert appended(file, syncs=2) == ["well", "ENOSPC", "well"]
        assert os.statvfs(disk.root).f_bavail > 1000
        disk.extend()
        assert appended(disk.root / "other") == ["well", "well"]


def test_a_device_that_stops_writing_makes_the_file_system_read_only() -> None:
    """EIO at the sync, then EROFS for every change; what was synced is there on the next device."""
    with mortal_disk() as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.stop_writing()
        assert appended(file) == ["well", "EIO"]
        disk.become_read_only()
        assert outcome(lambda: file.open("ab").close()) == "EROFS"
        assert file.read_bytes()[:80_000] == b"x" * 80_000
        disk.replace_device()
        assert file.read_bytes()[:80_000] == b"x" * 80_000
        assert appended(file) == ["well", "well"]


def test_a_device_that_loses_a_region_says_so_once() -> None:
    """EIO at the first sync, success at the second, and no other sign of it."""
    with mortal_disk() as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.lose_the_end()
        assert appended(file, syncs=2) == ["well", "EIO", "well"]
        assert outcome((disk.root / "other").touch) == "well"
        disk.replace_device()
        assert file.read_bytes()[:80_000] == b"x" * 80_000


def test_a_file_that_cannot_be_read_is_the_only_one() -> None:
    """Everything next to it can be read and written."""
    with mortal_disk() as disk:
        bad, good = disk.root / "bad", disk.root / "good"
        bad.write_bytes(b"b" * 150_000)
        good.write_bytes(b"g" * 150_000)
        disk.lose_file(bad)
        assert outcome(bad.read_bytes) == "EIO"
        assert good.read_bytes() == b"g" * 150_000
        assert appended(good) == ["well", "well"]
        disk.replace_device()
        assert bad.read_bytes() == b"b" * 150_000


def test_what_a_killed_run_left_mounted_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test run has to be tidied up by hand. Under a separate name: other tests clear what is left, too."""
    monkeypatch.setattr(disks, "PREFIX", "keepstep-killed-disk-")
    program = f"""
import os, signal
from tests.crash import real_disks as disks
disks.PREFIX = {disks.PREFIX!r}
with disks.small_disk() as disk:
    print(disk.root, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    left = Path(done.stdout.strip())
    assert done.returncode == -9, done.stderr
    assert left.is_mount()
    disks.clear_stale()
    assert not left.exists()
