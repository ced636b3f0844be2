"""The journal alone, on disks that are full or dying: neither more nor less than what was acknowledged."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from journal import Journal, Line, read_line
from journal.errors import NoSpace, StorageFailed
from tests.crash.on_disk import (
    needs_real_disks,
)
from tests.crash.real_disks import Disk, ThinDisk, mortal_disk, small_disk, thin_disk

pytestmark = needs_real_disks


def event(number: int) -> bytes:
    """Some hundred bytes: a block is full after a few dozen."""
    return b'{"kind":"test","number":%d,"padding":"%s"}' % (number, b"." * 300)


def make_journal(disk: Disk) -> Journal[Line]:
    """A journal at the top of the disk, read to its end."""
    if not (disk.root / "journal").exists():
        Journal.create(disk.root / "journal", at="2026-01-01T00:00:00Z", first=[event(0)])
    return open_journal(disk)


def open_journal(disk: Disk) -> Journal[Line]:
    return Journal.open(disk.root / "journal", decode=read_line)


def numbers(disk: Disk) -> list[int]:
    """What the journal holds, opened again."""
    with closing(open_journal(disk)) as journal:
        return [json.loads(record.event)["number"] for batch in journal.read() for record in batch]


def append_until_failure(journal: Journal[Line], first: int, *, most: int = 200) -> tuple[int, Exception]:
    """How many were acknowledged up to the first failure, and that failure."""
    for number in range(first, first + most):
        try:
            with journal.transaction() as transaction:
                transaction.append([event(number)], at="2026-01-01T00:00:00Z")
        except StorageFailed as error:
            return number, error
    raise AssertionError(f"{most} appends, and no failure")


@pytest.mark.parametrize("kind", ["full", "thin"])
def test_a_journal_without_room_keeps_what_it_acknowledged_and_continues(kind: str) -> None:
    """Neither more nor less than what was acknowledged, whether the write or only the sync finds no room."""
    with small_disk() if kind == "full" else thin_disk() as disk:
        with closing(make_journal(disk)) as journal:
            list(journal.read())
            with journal.transaction() as transaction:
                transaction.append([event(1)], at="2026-01-01T00:00:00Z")
            disk.exhaust() if isinstance(disk, ThinDisk) else disk.fill()
            first = 2
            while kind == "full" and not journal.reserve_is_spent:
                with journal.transaction() as transaction:
                    transaction.append([event(first)], at="2026-01-01T00:00:00Z")
                first += 1
            if kind == "full":
                disk.fill()  # the room that the reserve gave is taken by somebody else
            after, error = append_until_failure(journal, first)
            assert isinstance(error, NoSpace)
            again, _ = append_until_failure(journal, after, most=1)
            assert again == after
            disk.extend() if isinstance(disk, ThinDisk) else disk.free()
            with journal.transaction() as transaction:
                transaction.append([event(after)], at="2026-01-01T00:00:00Z")
        disk.unmount()
        disk.check()
        disk.mount()
        assert numbers(disk) == list(range(after + 1))


@pytest.mark.parametrize("fault", ["stop_writing", "lose_the_end"])
def test_a_journal_on_a_dying_device_is_poisoned_and_whole_on_the_next(fault: str) -> None:
    """A failed sync is never tried again; on the new device, everything acknowledged is there."""
    with mortal_disk() as disk:
        with closing(make_journal(disk)) as journal:
            list(journal.read())
            for number in range(1, 30):
                with journal.transaction() as transaction:
                    transaction.append([event(number)], at="2026-01-01T00:00:00Z")
            getattr(disk, fault)()
            after, error = append_until_failure(journal, 30)
            assert not isinstance(error, NoSpace)
            with pytest.raises(StorageFailed), journal.transaction():
                pass
        disk.replace_device()
        found = numbers(disk)
        assert found[:after] == list(range(after))
        assert found[after:] in ([], [after])  # what was not acknowledged may be there
