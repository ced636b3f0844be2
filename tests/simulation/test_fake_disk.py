"""The simulated disk is as bad as real ones, and no worse."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random

import pytest

from journal.durable import fsync_directory, read_file, rename_durably, write_atomically
from tests.harness.fake_disk import Disk, Killed, PowerCut, Process

HOME = Path("/home")


def disk(seed: int) -> tuple[Disk, Process]:
    """With one directory that is on the platter."""
    made = Disk(Random(seed))
    process = made.process("test")
    process.mkdir(HOME)
    made.sync_directory(made.root)
    return made, process


def put(process: Process, name: str, data: bytes, *, sync: bool = False) -> int:
    fd = process.open(HOME / name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    process.write(fd, data)
    if sync:
        process.fsync(fd)
        fsync_directory(HOME, storage=process)
    return fd


def after_a_power_cut(made: Disk, name: str) -> bytes | None:
    made.cut_power()
    process = made.process("afterwards")
    return read_file(HOME / name, storage=process) if process.exists(HOME / name) else None


def test_what_was_synced_survives() -> None:
    """File and name: always, whatever was written after it."""
    for seed in range(100):
        made, process = disk(seed)
        fd = put(process, "a", b"synced", sync=True)
        process.write(fd, b" and not")
        found = after_a_power_cut(made, "a")
        assert found is not None
        assert found[:6] == b"synced"


def test_what_was_not_synced_is_lost_torn_or_there() -> None:
    """Each of these happens: no name, an empty file, zeros, a hole, a part, all of it."""
    data = b"x" * 1024 + b"y" * 1024
    seen = set()
    for seed in range(400):
        made, process = disk(seed)
        put(process, "a", data)
        found = after_a_power_cut(made, "a")
        if found is None or found in (b"", data):
            seen.add(found)
        elif not found.strip(b"\0"):
            seen.add(b"zeros")
        else:
            seen.add(b"a part")
    assert seen == {None, b"", data, b"zeros", b"a part"}


def test_a_rename_is_whole_or_not_at_all() -> None:
    """In one directory: the old file, or the new one; both names never, neither never."""
    seen = set()
    for seed in range(100):
        made, process = disk(seed)
        put(process, "a", b"old", sync=True)
        put(process, "b", b"new", sync=True)
        process.rename(HOME / "b", HOME / "a")
        made.cut_power()
        left = made.process("afterwards")
        seen.add((read_file(HOME / "a", storage=left), left.exists(HOME / "b")))
    assert seen == {(b"old", True), (b"new", False)}


def test_a_file_that_moves_between_directories_is_never_lost() -> None:
    """It may stand in both."""
    seen = set()
    for seed in range(200):
        made, process = disk(seed)
        for name in ("from", "to"):
            process.mkdir(HOME / name)
        fsync_directory(HOME, storage=process)
        put(process, "from/a", b"data", sync=True)
        fsync_directory(HOME / "from", storage=process)
        process.rename(HOME / "from" / "a", HOME / "to" / "a")
        fsync_directory(HOME / ("to" if seed % 2 else "from"), storage=process)
        made.cut_power()
        left = made.process("afterwards")
        seen.add((left.exists(HOME / "from" / "a"), left.exists(HOME / "to" / "a")))
    assert seen == {(True, True), (False, True)}


def test_an_fsync_that_fails_forgets_what_it_did_not_write() -> None:
    """The cache still shows it, the next fsync succeeds, and the power cut takes it; dropping the cache tells."""
    made, process = disk(1)
    fd = put(process, "a", b"", sync=True)
    for _ in range(20):
        process.write(fd, b"z" * 512)

    def fail(at: Process, name: str, path: str) -> None:
        if name == "fsync":
            raise OSError(errno.EIO, "failed")

    made.before_call = fail
    with pytest.raises(OSError, match="failed"):
        process.fsync(fd)
    made.before_call = lambda *_: None
    process.fsync(fd)
    assert process.read(fd, 20 * 512, 0) == b"z" * 512 * 20
    process.drop_cache(fd)
    shown = process.read(fd, 20 * 512, 0)
    assert shown != b"z" * 512 * 20
    assert after_a_power_cut(made, "a") == shown


def test_a_full_disk_takes_what_fits() -> None:
    """And no more; a file that goes makes room again."""
    made, process = disk(1)
    made.capacity = 100
    fd = put(process, "a", b"x" * 90)
    assert process.write(fd, b"y" * 20) == 10
    with pytest.raises(OSError, match="No space"):
        process.write(fd, b"y")
    process.unlink(HOME / "a")
    put(process, "b", b"x" * 50)


def test_a_killed_process_holds_no_lock_and_does_nothing_more() -> None:
    """What it wrote stays seen: it is not the power that went."""
    made, process = disk(1)
    fd = put(process, "lock", b"seen")
    other = made.process("other")
    theirs = other.open(HOME / "lock", os.O_RDONLY)
    assert process.try_lock(fd)
    assert not other.try_lock(theirs)
    process.die()
    assert other.try_lock(theirs)
    assert other.read(theirs, 10, 0) == b"seen"
    with pytest.raises(Killed):
        process.stat(HOME / "lock")


def test_the_durable_operations_hold_on_it() -> None:
    """Written atomically and synced: the old or the new one at a power cut at any call, the new one after the last."""
    for at in range(1, 30):
        made, process = disk(at)
        write_atomically(HOME / "a", b"old", sync=True, storage=process)
        calls = 0

        def cut(_process: Process, _name: str, _path: str, at: int = at) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise PowerCut

        made.before_call = cut
        try:
            write_atomically(HOME / "a", b"newer", sync=True, storage=process)
            rename_durably(HOME / "a", HOME / "b", storage=process)
        except PowerCut:
            made.before_call = lambda *_: None
            made.cut_power()
            left = made.process("afterwards")
            names = [name for name in left.names(HOME) if not name.startswith(".")]
            assert names in (["a"], ["b"])
            assert read_file(HOME / names[0], storage=left) in (b"old", b"newer")
        else:
            return
    pytest.fail("never came to the end")
