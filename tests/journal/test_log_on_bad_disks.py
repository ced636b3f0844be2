"""A journal on a disk that is full or fails, or whose process is killed, at any call."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from journal import (
    Journal,
    JournalPoisoned,
    NoSpace,
    StorageFailed,
    Verdict,
    read_line,
    survey,
)
from tests.journal.helpers import (
    AT,
    Faulty,
    Killed,
    Unsynced,
    append,
    create,
    event,
    events,
    open_journal,
)


def test_a_reserve_that_cannot_be_given_back_poisons(home: Path) -> None:
    """The disk is not only full: nothing more is written, also when there is room again."""
    storage = Faulty()
    journal = open_journal(home, storage=storage)

    def fail(code: int) -> Callable[..., int]:
        def raising(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        return raising

    storage.write, storage.unlink = fail(errno.ENOSPC), fail(errno.EIO)  # type: ignore[assignment]
    with pytest.raises(StorageFailed):
        append(journal, 1)
    del storage.write, storage.unlink
    with pytest.raises(JournalPoisoned):
        append(journal, 2)
    assert events(home) == [event(0)]


@pytest.mark.parametrize("fault", ["EIO", "EROFS"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_failed_write_or_fsync_poisons(home: Path, fault: str, call: int) -> None:
    """No retry, no acknowledgement; only a new opening finds out what is there."""
    storage = Faulty()
    journal = open_journal(home, storage=storage)
    storage.calls, storage.at, storage.fault = 0, call, fault
    with pytest.raises(StorageFailed) as caught:
        append(journal, 1)
    assert not isinstance(caught.value, NoSpace)
    storage.at = 0
    with pytest.raises(JournalPoisoned):
        append(journal, 2)
    assert events(home) in ([event(0)], [event(0), event(1)])


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_failed_rotation_poisons(home: Path, call: int) -> None:
    """At its write, its fsync, its rename and the fsync of the directory: whether there is a new segment is unknown."""
    storage = Faulty()
    journal = open_journal(home, storage=storage, segment_bytes=500)
    append(journal, 1)
    storage.calls, storage.at, storage.fault = 0, call, "EIO"
    with pytest.raises(StorageFailed):
        append(journal, 2)
    storage.at = 0
    with pytest.raises(JournalPoisoned):
        append(journal, 3)
    assert events(home) == [event(0), event(1)]


def test_an_interrupted_append_poisons(home: Path) -> None:
    """A signal handler that raises in the middle of a write is as bad as a failed write."""
    storage = Faulty()
    journal = open_journal(home, storage=storage)
    storage.calls, storage.at = 0, 1
    with pytest.raises(Killed):
        append(journal, 1)
    with pytest.raises(JournalPoisoned):
        append(journal, 2)


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_full_disk_takes_the_append_back_and_the_journal_stays_usable(home: Path, call: str) -> None:
    """From the write or from the fdatasync, and the reserve did not help: back to the durable end."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    storage = Faulty()
    journal = open_journal(home, storage=storage)
    before = (home / "00000001.jsonl").read_bytes()
    setattr(storage, call, full)
    with pytest.raises(NoSpace):
        append(journal, 1)
    assert (home / "00000001.jsonl").read_bytes() == before
    delattr(storage, call)
    append(journal, 2)
    assert events(home) == [event(0), event(2)]


@pytest.mark.parametrize("call", [1, 2])
def test_an_append_that_finds_the_disk_full_is_written_from_the_reserve(home: Path, call: int) -> None:
    """So that what has to be said about a full disk can be said; the caller is told that the reserve is gone."""
    storage = Faulty()
    journal = open_journal(home, storage=storage)
    storage.calls, storage.at, storage.fault = 0, call, "ENOSPC"
    append(journal, 1)
    assert journal.reserve_is_spent
    assert not (home / "reserve").exists()
    assert events(home) == [event(0), event(1)]
    assert journal.restore_reserve()
    assert not journal.reserve_is_spent
    assert (home / "reserve").exists()


def test_a_new_segment_that_cannot_be_opened_leaves_the_old_one_open(home: Path) -> None:
    """The rotation is begun again by the next append; nothing is ever written to a descriptor that is closed."""
    storage = Unsynced()
    journal = open_journal(home, storage=storage, segment_bytes=300)
    append(journal, 1)

    def full(path: Path, flags: int, mode: int = 0o600) -> int:
        if path.name == "00000003.jsonl" and flags & os.O_APPEND:
            raise OSError(errno.ENOSPC, "No space left on device")
        return Unsynced.open(storage, path, flags, mode)

    storage.open = full
    with pytest.raises(NoSpace):
        append(journal, 2)
    del storage.open
    append(journal, 3)
    assert events(home) == [event(0), event(1), event(3)]


def test_a_full_disk_that_cannot_be_cut_back_poisons(home: Path) -> None:
    """Then nothing is known any more."""
    storage = Faulty()
    journal = open_journal(home, storage=storage)
    storage.calls, storage.at, storage.fault = 0, 1, "ENOSPC"
    storage.truncate = lambda fd, length: (_ for _ in ()).throw(OSError(5, "I/O error"))
    with pytest.raises(StorageFailed):
        append(journal, 1)
    with pytest.raises(JournalPoisoned):
        append(journal, 2)


def test_a_short_write_is_continued(home: Path) -> None:
    """The system may take less than it was given."""
    storage = Faulty()
    journal = open_journal(home, storage=storage)
    storage.calls, storage.at, storage.fault = 0, 1, "short"
    append(journal, 1)
    assert events(home) == [event(0), event(1)]


def test_the_reserve_is_real_and_comes_back(tmp_path: Path) -> None:
    """Blocks, not a hole; made again when there is room, and at the next start."""
    home = tmp_path / "journal"
    Journal.create(home, at=AT, first=[event(0)])
    reserve = home / "reserve"
    journal = Journal.open(home, decode=read_line)
    assert reserve.stat().st_blocks * 512 >= 1 << 20
    reserve.unlink()
    assert journal.restore_reserve()
    assert reserve.stat().st_blocks * 512 >= 1 << 20
    reserve.unlink()
    Journal.open(home, decode=read_line).close()
    assert reserve.exists()


def run_until_done_or_killed(home: Path, storage: Faulty) -> list[int]:
    """Opens and appends until the fault hits; the numbers that were acknowledged."""
    acknowledged = []
    try:
        journal = open_journal(home, storage=storage, segment_bytes=700)
        for number in range(100, 105):
            append(journal, number)
            acknowledged.append(number)
    except (Killed, StorageFailed):
        pass
    return acknowledged


@pytest.mark.parametrize("fault", ["kill", "EIO", "ENOSPC", "short"])
@pytest.mark.parametrize("torn", [b"", b'{"seq":2,"at":"2026', b"\0" * 100])
def test_killed_at_every_call_the_next_opening_finds_all_that_was_acknowledged(
    tmp_path: Path, torn: bytes, fault: str
) -> None:
    """Recovery, rotation, append: a crash in front of each call, then a healthy start, then another append."""
    for call in range(1, 1000):
        home = create(tmp_path / f"{call}")
        with (home / "00000001.jsonl").open("ab") as file:
            file.write(torn)
        storage = Faulty(call, fault)
        acknowledged = run_until_done_or_killed(home, storage)
        found = events(home)
        numbers = [event(0), *(event(n) for n in acknowledged)]
        assert found[: len(numbers)] == numbers, call
        assert len(found) <= len(numbers) + 1, call
        append(open_journal(home), 7)
        assert events(home) == [*found, event(7)], call
        assert survey(home).verdict is Verdict.CLEAN, call
        assert not list(home.glob(".*.tmp"))
        if storage.calls < call:
            return
    pytest.fail("never came to the end")


def test_killed_while_being_created_there_is_a_whole_journal_or_none(tmp_path: Path) -> None:
    """And creating it again then works, or is refused because it is there."""
    for call in range(1, 100):
        home = tmp_path / f"{call}" / "journal"
        home.parent.mkdir()
        storage = Faulty(call)
        try:
            Journal.create(home, at=AT, first=[event(0), event(1)], storage=storage)
        except Killed:
            if not home.exists():
                Journal.create(home, at=AT, first=[event(0), event(1)])
        assert events(home) == [event(0), event(1)]
        assert [path.name for path in home.parent.iterdir()] == ["journal"]
        if storage.calls < call:
            return
    pytest.fail("never came to the end")
