"""How a file becomes a job on a disk that forgets what was not synced, and with two processes at it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

import pytest

from cli.commands.init import lay_out
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import (
    accept_copy,
    file_sha256,
    finish_arrivals,
    move_to_rejected,
)
from core.commands import Skip
from events.kinds import FileDuplicate
from journal.durable import fsync_directory, fsync_file, opened, read_file
from tests.cli.taking import take_from_inbox
from tests.harness.fake_disk import Disk, PowerCut, Process
from tests.harness.fake_disk import Killed as Dead


@pytest.fixture
def disk() -> Disk:
    """A home on it, made by the real `init`."""
    return disk_of(3)


def disk_of(seed: int) -> Disk:
    made = Disk(Random(seed))
    process = made.process("init")
    process.mkdir(Path("/home"))
    made.sync_directory(made.root)
    lay_out(Home(Path("/home"), storage=process), b"")
    return made


def opened_on(disk: Disk) -> tuple[Home, EventStore]:
    home = Home(Path("/home"), storage=disk.process("shell"))
    return home, EventStore.open(home)


def write(home: Home, path: Path, data: bytes) -> None:
    with opened(home.storage, path, os.O_WRONLY | os.O_CREAT) as fd:
        home.storage.write(fd, data)


def fail_once(disk: Disk, call: str, path: str) -> None:
    """The next such call on such a path fails."""

    def fail(_process: Process, name: str, at: str) -> None:
        if name == call and at.endswith(path):
            disk.before_call = lambda *_: None
            raise OSError(errno.EIO, os.strerror(errno.EIO), at)

    disk.before_call = fail


def test_a_file_is_known_by_what_is_on_disk_and_not_by_what_the_cache_shows(disk: Disk) -> None:
    """Its fsync failed once; after that the cache holds bytes that the next power cut takes."""
    home, store = opened_on(disk)
    path = home.inbox / "a.jsonl"
    write(home, path, b"row\n" * 2000)
    fail_once(disk, "fsync", "a.jsonl")
    with pytest.raises(OSError, match="Input/output"):
        take_from_inbox(store, path, "normal")
    finish_arrivals(store)
    disk.cut_power()
    home, store = opened_on(disk)
    (job,) = [waiting.id for waiting in store.state.queue]
    assert file_sha256(home.data_file(job), storage=home.storage) == job


def test_a_rejected_file_that_was_moved_and_not_synced_does_not_come_back() -> None:
    """Done already is the same as done only if it is also on disk."""
    for seed in range(20):
        disk = disk_of(seed)
        home, store = opened_on(disk)
        write(home, home.inbox / "a.jsonl", b"row\n")
        take_from_inbox(store, home.inbox / "a.jsonl", "normal")
        (job,) = [waiting.id for waiting in store.state.queue]
        fail_once(disk, "fsync", "/home/data")
        with pytest.raises(OSError, match="Input/output"):
            move_to_rejected(home, home.data_file(job), "a.jsonl", {})
        move_to_rejected(home, home.data_file(job), "a.jsonl", {})
        disk.cut_power()
        left = disk.process("afterwards")
        assert left.exists(home.rejected / "a.jsonl")
        assert not left.exists(home.data_file(job))


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(disk: Disk) -> None:
    """Its writer was slow; the name that it gets must be that of its bytes."""
    ticks = count(1_800_000_000)
    disk.now = lambda: next(ticks)
    home, store = opened_on(disk)
    path = home.inbox / "a.jsonl"
    write(home, path, b"first\n")
    reads = 0

    def change(_process: Process, name: str, at: str) -> None:
        nonlocal reads
        reads += name == "read" and at.endswith("/a.jsonl")
        if reads == 2:  # its end was just reached
            disk.before_call = lambda *_: None
            write(home, Path(at), b"other\n")

    disk.before_call = change
    take_from_inbox(store, path, "normal")
    (job,) = [waiting.id for waiting in store.state.queue]
    assert read_file(home.data_file(job), storage=home.storage) == b"other\n"
    assert file_sha256(home.data_file(job), storage=home.storage) == job


def test_a_file_that_was_moved_on_and_not_synced_is_not_lost_with_its_directory() -> None:
    """Killed between the rename into data/ and its sync: the next start finds the arriving directory empty, and what
    removes that must not reach the disk before what emptied it."""
    for seed in range(40):
        disk = disk_of(seed)
        home, store = opened_on(disk)
        path = home.inbox / "a.jsonl"
        write(home, path, b"row\n")

        def kill(process: Process, name: str, at: str, disk: Disk = disk) -> None:
            if name == "fsync" and at == "/home/data" and not disk.process("").exists(Path("/home/inbox/a.jsonl")):
                disk.before_call = lambda *_: None
                process.die()
                raise Dead

        disk.before_call = kill
        with pytest.raises(Dead):
            take_from_inbox(store, path, "normal")
        home, store = opened_on(disk)
        finish_arrivals(store)
        disk.cut_power()
        home, store = opened_on(disk)
        finish_arrivals(store)
        (job,) = [waiting.id for waiting in store.state.queue]
        assert file_sha256(home.data_file(job), storage=home.storage) == job


def test_no_place_that_a_file_stands_in_is_ever_unsynced(disk: Disk) -> None:
    """From the inbox's lanes to data/: whatever the power cut takes of the names above it, the file is not among it."""
    home, store = opened_on(disk)
    for lane in ("", "high", "low"):
        write(home, home.inbox / lane / f"a{lane}.jsonl", f"row {lane}\n".encode())
        fsync_file(home.inbox / lane / f"a{lane}.jsonl", storage=home.storage)
        fsync_directory(home.inbox / lane, storage=home.storage)
    disk.cut_power()
    home, store = opened_on(disk)
    assert all(home.storage.exists(home.inbox / lane / f"a{lane}.jsonl") for lane in ("", "high", "low"))
    take_from_inbox(store, home.inbox / "a.jsonl", "normal")
    disk.cut_power()
    home, store = opened_on(disk)
    (job,) = [waiting.id for waiting in store.state.queue]
    assert home.storage.exists(home.data_file(job))


# -- two processes at once ------------------------------------------------------------------------------------------


def meanwhile(disk: Disk, call: str, path: str, what: Callable[[], None]) -> None:
    """Just before the next such call, somebody else does something."""

    def before(_process: Process, name: str, at: str) -> None:
        if name == call and path in at:
            disk.before_call = lambda *_: None
            what()

    disk.before_call = before


def test_a_copy_that_is_under_way_is_not_taken_by_another_process(disk: Disk) -> None:
    """It holds the directory that it works in; a daemon that starts just then leaves it alone."""
    home, store = opened_on(disk)
    source = Path("/mine.jsonl")
    write(home, source, b"row\n")
    theirs = opened_on(disk)[1]
    meanwhile(disk, "rename", "/.arriving/", lambda: finish_arrivals(theirs))
    accept_copy(store, source, "normal")
    assert [job.name for job in store.state.queue] == ["mine.jsonl"]
    assert not home.storage.names(home.data / ".arriving")


def test_two_copies_of_one_file_at_once_are_one_job(disk: Disk) -> None:
    """Whether its bytes are known is asked under the append lock: the other copy may be in and done by then."""
    home, store = opened_on(disk)
    source = Path("/mine.jsonl")
    write(home, source, b"row\n")
    theirs = opened_on(disk)[1]

    def be_quicker() -> None:
        accept_copy(theirs, source, "normal")
        theirs.execute(Skip(job=file_sha256(source, storage=home.storage)))

    meanwhile(disk, "lock", "/journal/lock", be_quicker)
    assert any(isinstance(event, FileDuplicate) for event in accept_copy(store, source, "normal"))
    assert not len(store.state.queue)
    assert home.storage.exists(home.rejected / "mine.jsonl")


def test_a_file_on_its_way_survives_whatever_the_power_cut_takes() -> None:
    """Out of the inbox, and not journaled yet: every name above it is on disk."""
    for seed in range(20):
        disk = disk_of(seed)
        home, store = opened_on(disk)
        path = home.inbox / "a.jsonl"
        write(home, path, b"row\n")
        fsync_file(path, storage=home.storage)
        fsync_directory(home.inbox, storage=home.storage)

        def cut() -> None:
            raise PowerCut

        meanwhile(disk, "lock", "/journal/lock", cut)
        with pytest.raises(PowerCut):
            take_from_inbox(store, path, "normal")
        disk.cut_power()
        home, store = opened_on(disk)
        finish_arrivals(store)
        assert len(store.state.queue) == 1


def test_what_a_dead_process_moved_is_on_disk_before_it_is_accepted() -> None:
    """Killed between the rename out of the inbox and its sync; accepted by the next, and then the power goes."""
    for seed in range(20):
        disk = disk_of(seed)
        home, store = opened_on(disk)
        path = home.inbox / "a.jsonl"
        write(home, path, b"row\n")

        def die() -> None:
            raise Dead

        meanwhile(disk, "fsync", "/.arriving/normal-", die)
        with pytest.raises(Dead):
            take_from_inbox(store, path, "normal")
        home.storage.die()  # type: ignore[attr-defined]
        home, store = opened_on(disk)

        def cut() -> None:
            raise PowerCut

        meanwhile(disk, "rename", "/home/data/", cut)
        with pytest.raises(PowerCut):
            finish_arrivals(store)
        disk.cut_power()
        left = disk.process("afterwards")
        (there,) = left.names(home.data / ".arriving")
        assert left.names(home.data / ".arriving" / there) == ["a.jsonl"]


def test_the_report_of_a_rejected_file_is_on_disk_with_it() -> None:
    """Whole, not a name without content."""
    for seed in range(20):
        disk = disk_of(seed)
        home, store = opened_on(disk)
        write(home, home.inbox / "a.jsonl", b"row\n")
        take_from_inbox(store, home.inbox / "a.jsonl", "normal")
        (job,) = [waiting.id for waiting in store.state.queue]
        move_to_rejected(home, home.data_file(job), "a.jsonl", {"problem": "broken_json"})
        disk.cut_power()
        report = read_file(home.rejected / "a.jsonl.report.json", storage=disk.process("afterwards"))
        assert json.loads(report)["problem"] == "broken_json"
