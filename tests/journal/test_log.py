"""A journal over its life: appended by several, cut by kills and full disks, and opened again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from journal import (
    Journal,
    JournalExists,
    JournalMissing,
    JournalPoisoned,
    LockBusy,
    Verdict,
    last_position,
    read_line,
    survey,
)
from tests.journal.helpers import (
    AT,
    Guarded,
    Unsynced,
    append,
    event,
    events,
    open_journal,
    records,
    snapshot,
)

APPENDER = """
import sys
from pathlib import Path
from journal import Journal, read_line
journal = Journal.open(Path(sys.argv[1]), decode=read_line, segment_bytes=2000)
count = 0
for _ in journal.read(): pass
while count != int(sys.argv[2]):
    with journal.transaction() as transaction:
        transaction.append([b'{"from":"%s","n":%d}' % (sys.argv[3].encode(), count)] * 2, at="2026-11-22T03:00:00Z")
    count += 1
    print(journal.position.seq, flush=True)
"""


def appender(home: Path, count: int, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPENDER, str(home), str(count), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_was_appended_is_read_again(home: Path) -> None:
    """In order, and with the position to continue from."""
    journal = open_journal(home)
    assert [record.event for record in append(journal, 1, 2)] == [event(1), event(2)]
    append(journal, 3)
    assert events(home) == [event(n) for n in range(4)]
    assert last_position(home) == journal.position == survey(home).position


def test_creating_over_something_is_refused(home: Path) -> None:
    """A journal is never overwritten."""
    with pytest.raises(JournalExists):
        Journal.create(home, at=AT, first=[event(0)])
    with pytest.raises(JournalMissing):
        open_journal(home / "nothing")


def test_a_transaction_is_believed_whole_or_not_at_all(home: Path) -> None:
    """Cut anywhere inside a transaction of three, all three are gone; the two before stay."""
    journal = open_journal(home)
    append(journal, 1)
    start = journal.position.offset
    append(journal, 2, 3, 4)
    path = home / "00000001.jsonl"
    whole = path.read_bytes()
    for length in range(start, len(whole)):
        path.write_bytes(whole[:length])
        surveyed = survey(home)
        assert surveyed.records == 2
        assert surveyed.verdict is (Verdict.CLEAN if length == start else Verdict.TORN)


def test_a_torn_tail_is_kept_aside_and_its_segment_never_edited(home: Path) -> None:
    """Invalid bytes are kept for a later look."""
    path = home / "00000001.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b'{"seq":2,"half')
    journal = open_journal(home)
    assert journal.verdict is Verdict.TORN
    append(journal, 1)
    assert path.read_bytes() == before + b'{"seq":2,"half'
    assert [kept.read_bytes() for kept in (home / "torn").iterdir()] == [b'{"seq":2,"half']
    assert events(home) == [event(0), event(1)]
    assert open_journal(home).verdict is Verdict.CLEAN
    assert survey(home).verdict is Verdict.CLEAN


def test_segments_rotate_and_none_outgrows_the_limit(home: Path) -> None:
    """And a transaction larger than a segment still gets one."""
    journal = open_journal(home, segment_bytes=1000)
    for number in range(1, 30):
        append(journal, number)
    append(journal, *range(30, 50))
    sizes = [path.stat().st_size for path in sorted(home.glob("*.jsonl"))]
    assert len(sizes) > 5
    assert max(sizes[:-1]) <= 1000 < sizes[-1]
    assert events(home) == [event(n) for n in range(50)]


def test_two_journals_in_turn_see_each_others_records(home: Path) -> None:
    """Catching up, across rotations too, before deciding."""
    one, two = open_journal(home, segment_bytes=800), open_journal(home, segment_bytes=800)
    assert sum(len(batch) for batch in one.read()) == sum(len(batch) for batch in two.read()) == 1
    for number in range(1, 20, 2):
        append(one, number)
        with two.transaction() as transaction:
            assert [record.event for record in transaction.others] == [event(number)]
            transaction.append([event(number + 1)], at=AT)
        with one.transaction() as transaction:
            assert [record.event for record in transaction.others] == [event(number + 1)]
    assert one.position == two.position


def test_the_tail_of_a_dead_writer_is_recovered_in_the_next_transaction(home: Path) -> None:
    """A command that was killed does not stop the daemon."""
    journal = open_journal(home)
    with (home / "00000001.jsonl").open("ab") as file:
        file.write(b'{"seq":2,')
    append(journal, 1)
    assert journal.segment == 2
    assert events(home) == [event(0), event(1)]


def test_two_processes_append_and_both_end_with_the_same_records(home: Path) -> None:
    """Real processes, real locks: every acknowledged record is there once, in one order."""
    both = [appender(home, 40, name) for name in "ab"]
    acknowledged = [int(seq) for process in both for seq in process.communicate(timeout=60)[0].split()]
    assert sorted(acknowledged) == [1 + 2 * n for n in range(1, 81)]
    found = [record.event for record in records(home)][1:]
    for name in (b"a", b"b"):
        mine = [event for event in found if b'"%s"' % name in event]
        assert mine == [b'{"from":"%s","n":%d}' % (name, n) for n in range(40) for _ in range(2)]
    assert survey(home).verdict is Verdict.CLEAN


def test_kill_9_loses_nothing_that_was_acknowledged(home: Path) -> None:
    """Again and again over the same journal."""
    for round_number in range(4):
        process = appender(home, -1, str(round_number))
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(15 + 7 * round_number)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        found = records(home)
        assert [record.seq for record in found] == list(range(1, len(found) + 1))
        assert len(found) >= max(acknowledged)
        assert len(found) % 2 == 1  # one, and pairs
        assert survey(home).verdict is Verdict.CLEAN


def test_what_read_was_not_asked_for_comes_with_the_next_transaction(home: Path) -> None:
    """No record can be passed over by not reading."""
    append(open_journal(home), 1)
    with open_journal(home).transaction() as transaction:
        assert [record.event for record in transaction.others] == [event(0), event(1)]


def test_a_long_journal_is_streamed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening reads ahead only so far; the rest comes, and is judged, while it is read."""
    append(open_journal(home), *range(1, 3000))
    for number in range(3000, 3100):
        append(open_journal(home), number)
    with (home / "00000001.jsonl").open("ab") as file:
        file.write(b"half")
    monkeypatch.setattr("journal.log.EAGER_RECORDS", 1)
    monkeypatch.setattr("journal.reader.CHUNK_BYTES", 5000)
    journal = open_journal(home)
    assert journal.verdict is Verdict.CLEAN
    assert [record.event for batch in journal.read() for record in batch] == [event(n) for n in range(3100)]
    assert journal.verdict is Verdict.TORN  # type: ignore[comparison-overlap]


def test_an_error_of_the_decoder_for_a_whole_record_stops_the_opening(home: Path) -> None:
    """A record of a newer schema is no damage: refuse, and change nothing."""

    class TooNew(Exception):
        pass

    def decode(line: bytes) -> object:
        raise TooNew

    before = snapshot(home)
    with pytest.raises(TooNew):
        Journal.open(home, decode=decode, storage=Unsynced())  # type: ignore[type-var]
    assert {**before, "reserve": b""} == {**snapshot(home), "reserve": b""}


def test_a_failed_decode_before_the_write_writes_nothing(home: Path) -> None:
    """Nothing that cannot be read back is appended."""
    journal = open_journal(home)
    before = snapshot(home)
    with journal.transaction() as transaction, pytest.raises(ValueError, match="JSON object"):
        transaction.append([b"{}", b"\n"], at=AT)
    assert snapshot(home) == before
    append(journal, 1)


@pytest.mark.parametrize("change", [{"seq": 7}, {"crc": "00000000"}])
def test_what_would_read_back_as_another_record_is_not_written(home: Path, change: dict[str, Any]) -> None:
    """Neither its number nor its bytes may be other than what was framed."""
    changes: dict[str, Any] = {}
    journal = Journal.open(home, decode=lambda line: read_line(line)._replace(**changes), storage=Unsynced())
    before = snapshot(home)
    changes.update(change)
    with pytest.raises(ValueError, match="does not read back what was framed"):
        append(journal, 1)
    assert snapshot(home) == before


def test_the_reserve_is_made_again_under_the_lock(home: Path) -> None:
    """Or another process could spend it while it is made."""
    first, second = open_journal(home), open_journal(home, lock_timeout_s=0.01)
    with first.transaction(), pytest.raises(LockBusy):
        second.restore_reserve()


def test_a_second_append_in_a_transaction_is_refused(home: Path) -> None:
    """One decision, one write."""
    with open_journal(home).transaction() as transaction:
        assert transaction.append([], at=AT) == []
        transaction.append([event(1)], at=AT)
        with pytest.raises(RuntimeError, match="appends once"):
            transaction.append([event(2)], at=AT)


def test_a_closed_journal_does_not_write(home: Path) -> None:
    """Closing is final."""
    journal = open_journal(home)
    journal.close()
    with pytest.raises(JournalPoisoned):
        append(journal, 1)


def test_a_busy_lock_times_out_with_advice(home: Path) -> None:
    """It does not wait forever for a stuck process."""
    one, two = open_journal(home), open_journal(home, lock_timeout_s=0.05)
    with one.transaction(), pytest.raises(LockBusy, match="fuser"):
        append(two, 1)
    append(two, 1)


def test_nothing_is_changed_without_the_lock(home: Path) -> None:
    """Neither leftover files swept nor a torn tail moved aside on opening; nor an append."""
    (home / ".debris.tmp").write_bytes(b"x")
    with (home / "00000001.jsonl").open("ab") as file:
        file.write(b"half")
    storage = Guarded()
    journal = open_journal(home, storage=storage)
    assert journal.segment == 2
    assert not (home / ".debris.tmp").exists()
    append(journal, 1)
    assert storage.unguarded == []


def test_the_lock_does_not_outlive_its_holder_in_a_child(home: Path) -> None:
    """Close-on-exec: a worker that the daemon starts never holds the journal."""
    journal = open_journal(home)
    mine = [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and str(home) in str(fd.readlink())]
    ours = [int(fd.name) for fd in mine]
    assert len(ours) == 2
    assert not any(os.get_inheritable(fd) for fd in ours)
    journal.close()
