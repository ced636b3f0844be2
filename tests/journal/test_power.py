"""The journal on a disk that forgets what was not synced, each sector on its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from journal import Journal, Line, NoSpace, StorageFailed, Verdict, read_line
from journal.durable import read_file
from journal.segments import TORN_DIRECTORY
from tests.harness.fake_disk import Disk, Killed, Process
from tests.journal.helpers import AT, event

DIRECTORY = Path("/journal")
CUTS = range(60)
"""What a power cut leaves is chance: each of these seeds is another."""


def at_each_cut(test: Callable[[int], None]) -> Callable[[], None]:
    """One test, whatever the power cut leaves."""

    def whatever_is_left() -> None:
        for seed in CUTS:
            test(seed)

    whatever_is_left.__doc__ = test.__doc__
    return whatever_is_left


def made(seed: int) -> Disk:
    """A disk with a journal of one record."""
    disk = Disk(Random(seed))
    Journal.create(DIRECTORY, at=AT, first=[event(0)], storage=disk.process("creator"))
    return disk


def opened(disk: Disk, **options: int) -> Journal[Line]:
    return Journal.open(DIRECTORY, decode=read_line, storage=disk.process("opener"), **options)


def append(journal: Journal[Line], number: int) -> None:
    with journal.transaction() as transaction:
        transaction.append([event(number)], at=AT)


def read(journal: Journal[Line]) -> list[bytes]:
    return [record.event for batch in journal.read() for record in batch]


def at_call(disk: Disk, call: str, what: Callable[[Process], None], *, path: str = "", times: int = 1) -> None:
    """Do something instead of the next calls of this name (on paths that end so)."""
    left = times

    def before(process: Process, name: str, at: str) -> None:
        nonlocal left
        if left and name == call and at.endswith(path):
            left -= 1
            what(process)

    disk.before_call = before


def killed(process: Process) -> None:
    process.die()
    raise Killed


def io_error(_: Process) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def no_space(_: Process) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@at_each_cut
def test_a_journal_that_was_made_is_there(seed: int) -> None:
    """Its name too."""
    disk = made(seed)
    disk.cut_power()
    assert read(opened(disk)) == [event(0)]


@at_each_cut
def test_a_record_that_was_written_and_not_synced_proves_nothing_lost(seed: int) -> None:
    """Its writer was killed before the fdatasync. The next one's record says up to where everything is on disk: that
    must be so before it is written, or a power cut in the middle would look like damage."""
    disk = made(seed)
    first = opened(disk)
    at_call(disk, "fsync", killed, path="00000001.jsonl")
    with pytest.raises(Killed):
        append(first, 1)
    second = opened(disk)
    at_call(disk, "fsync", killed, path="00000001.jsonl")
    with pytest.raises(Killed):
        append(second, 2)
    disk.cut_power()
    found = read(opened(disk))
    assert found in ([event(0), event(1)], [event(0), event(1), event(2)])


@at_each_cut
def test_what_a_failed_fsync_forgot_is_not_built_upon(seed: int) -> None:
    """The cache still shows the record; the disk does not have it, and never will."""
    disk = made(seed)
    first = opened(disk)
    at_call(disk, "fsync", io_error, path="00000001.jsonl")
    with pytest.raises(StorageFailed):
        append(first, 1)
    second = opened(disk)
    append(second, 2)
    disk.cut_power()
    assert read(opened(disk))[-1] == event(2)


@at_each_cut
def test_a_segment_whose_maker_was_killed_keeps_its_name(seed: int) -> None:
    """Renamed into place, its directory not synced: the next process that appends to it syncs that first."""
    disk = made(seed)
    first = opened(disk, segment_bytes=300)
    at_call(disk, "fsync", killed, path="/journal")
    with pytest.raises(Killed):
        append(first, 1)
    second = opened(disk)
    append(second, 2)
    disk.cut_power()
    assert read(opened(disk)) == [event(0), event(2)]


@at_each_cut
def test_what_was_taken_back_does_not_come_back(seed: int) -> None:
    """A full disk: the caller was told that nothing was kept."""
    disk = made(seed)
    journal = opened(disk)
    at_call(disk, "write", no_space, path="00000001.jsonl", times=2)  # again after the reserve is freed
    with pytest.raises(NoSpace):
        append(journal, 1)
    disk.before_call = lambda *_: None
    disk.cut_power()
    assert read(opened(disk)) == [event(0)]


@at_each_cut
def test_a_record_whose_sync_found_no_room_does_not_come_back(seed: int) -> None:
    """It was in the cache whole; the truncation is synced before the caller is told."""
    disk = made(seed)
    journal = opened(disk)
    syncs = 0

    def before(process: Process, name: str, at: str) -> None:
        nonlocal syncs
        if name == "fsync" and at.endswith("00000001.jsonl"):
            syncs += 1
            if syncs in (1, 3):  # those of each attempt; between and after them, those of the truncation
                process.fds[max(process.fds)].node.sync()
                no_space(process)

    disk.before_call = before
    with pytest.raises(NoSpace):
        append(journal, 1)
    disk.before_call = lambda *_: None
    disk.cut_power()
    assert read(opened(disk)) == [event(0)]


@at_each_cut
def test_bytes_that_are_kept_aside_are_kept(seed: int) -> None:
    """Before the segment that makes them count no more is there."""
    disk = made(seed)
    process = disk.process("half an append")
    if seed % 2:  # after a cleanup it must be created again
        process.rmdir(DIRECTORY / TORN_DIRECTORY)
    fd = process.open(DIRECTORY / "00000001.jsonl", os.O_RDWR | os.O_APPEND)
    process.write(fd, b'{"seq":2,"at":')
    process.fsync(fd)
    disk.sync_directory(disk.find(str(DIRECTORY)))
    journal = opened(disk)
    assert read(journal) == [event(0)]
    assert journal.verdict is Verdict.TORN
    disk.cut_power()
    left = disk.process("afterwards")
    (kept,) = left.names(DIRECTORY / TORN_DIRECTORY)
    assert read_file(DIRECTORY / TORN_DIRECTORY / kept, storage=left) == b'{"seq":2,"at":'
    assert read(opened(disk)) == [event(0)]
