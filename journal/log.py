"""The journal as one process uses it: open, read, append."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic

from journal import lock
from journal.durable import fsync_directory, is_temporary, move_aside, opened, remove_tree, temporary_path
from journal.errors import (
    JournalDamaged,
    JournalExists,
    JournalMissing,
    JournalPoisoned,
    NoSpace,
    PositionLost,
    StorageFailed,
)
from journal.format import START, Position, Witness, frame, seed_of
from journal.reader import R, Replay
from journal.segments import (
    TORN_DIRECTORY,
    Chain,
    begin_segment,
    contains_position,
    load_chain,
    new_id,
    reading,
    save_torn_bytes,
    sweep,
)
from journal.storage import REAL, NotAFile, Storage
from journal.verdicts import Facts, Finding, Verdict, judge
from journal.writer import FULL, Writer, writing

SEGMENT_BYTES = (
    64 << 20
)  # about 180,000 records: few files over years, and a rotation hashes one in well under a second
RESERVE_BYTES = 1 << 20  # far more than the few records that explain why work stopped
EAGER_RECORDS = 16_384  # about 10 MB decoded; a start from a snapshot reads far fewer, and new memory costs time
NO_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""Errors of file systems that cannot reserve blocks. They work without a reserve."""
LOCK_NAME = "lock"
RESERVE_NAME = "reserve"


class Journal(Generic[R]):
    """An open journal of one process.

    Lifecycle: `create` once for a home. Then `open`; `read` all records; and for each decision a `transaction`, which
    first returns the records that other processes appended. `close` at the end.

    A `Journal` whose write or fsync failed is poisoned: every later transaction raises JournalPoisoned. Only opening
    the journal again, in a new process, finds what is on disk.

    Not thread-safe. Several processes, and several `Journal`s, may open the same directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        decode: Callable[[bytes], R],
        storage: Storage = REAL,
        segment_bytes: int = SEGMENT_BYTES,
        lock_timeout_s: float = lock.TIMEOUT_S,
    ) -> None:
        """Use `Journal.open`."""
        self.directory = directory
        self.id = ""
        self.verdict = Verdict.CLEAN
        """CLEAN; TORN after opening or a transaction moved an unfinished tail aside."""
        self.position = START
        self.reserve_is_spent = False
        """True after an append of this process found the disk full and used the reserve."""
        self._decode, self._storage, self._segment_bytes = decode, storage, segment_bytes
        with reading(directory / LOCK_NAME):
            self._lock = lock.AppendLock(storage, directory / LOCK_NAME, lock_timeout_s)
        self._writer: Writer | None = None
        self._poison: StorageFailed | None = None
        self._unread: list[list[R]] = []
        self._remaining: Iterator[list[R]] = iter(())
        self._is_read = False

    @staticmethod
    def create(directory: Path, *, at: str, first: Sequence[bytes], storage: Storage = REAL) -> None:
        """Create a journal whose first transaction is `first`. It is complete and on disk when this returns.

        Raises JournalExists, StorageFailed.
        """
        if storage.exists(directory):
            raise JournalExists(directory)
        building = temporary_path(directory, storage=storage)
        journal_id = new_id(storage)
        lines, _ = frame(first, at=at, first_seq=1, durable=0, prev=START.crc, seed=seed_of(journal_id))
        records = b"".join(line + b"\n" for line in lines)
        try:
            for name in storage.names(directory.parent):
                if name.startswith(f".{directory.name}.") and is_temporary(name):
                    remove_tree(directory.parent / name, storage=storage)
            storage.mkdir(building)
            storage.mkdir(building / TORN_DIRECTORY)
            with opened(storage, building / LOCK_NAME, os.O_RDONLY | os.O_CREAT, lock.MODE):
                pass
            begin_segment(storage, building, journal_id, 1, START, first_seq=1, records=records)
            storage.rename(building, directory)
            fsync_directory(directory.parent, storage=storage)
        except OSError as error:
            with contextlib.suppress(OSError):
                remove_tree(building, storage=storage)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise JournalExists(directory) from error
            raise (NoSpace if error.errno in FULL else StorageFailed)(directory, error) from error

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        decode: Callable[[bytes], R],
        after: Position | None = None,
        witnesses: Sequence[Witness] = (),
        storage: Storage = REAL,
        segment_bytes: int = SEGMENT_BYTES,
        lock_timeout_s: float = lock.TIMEOUT_S,
    ) -> Journal[R]:
        """Open, verify and, if the table of verdicts allows it, recover the journal.

        With `after` (from a snapshot), only later records are read; for older segments, headers and sizes are checked.
        Up to EAGER_RECORDS records are read and verified before this returns, the rest by `read`.

        Raises JournalDamaged, JournalMissing, JournalReadFailed, FormatUnknown, StorageFailed, LockBusy; PositionLost
        if a repair abandoned the record of `after`; and what `decode` raises for a valid record.
        """
        if not storage.exists(directory):
            raise JournalMissing(directory)
        self = cls(
            directory, decode=decode, storage=storage, segment_bytes=segment_bytes, lock_timeout_s=lock_timeout_s
        )
        try:
            self._begin(after or START, witnesses)
            held = 0
            for batch in self._remaining:
                self._unread.append(batch)
                held += len(batch)
                if held >= EAGER_RECORDS:
                    break
        except BaseException:
            self.close()
            raise
        return self

    def read(self) -> Iterator[list[R]]:
        """Yield each batch of records after the position that was opened, once and in order; only whole
        transactions."""
        while self._unread:
            yield self._unread.pop(0)
        yield from self._remaining
        self._is_read = True

    def transaction(self) -> Transaction[R]:
        """Return a context manager that holds the append lock: `with journal.transaction() as tx:`.

        No other process can append between reading `tx.others` and calling `tx.append`. Entering raises
        JournalPoisoned, LockBusy, JournalDamaged, JournalReadFailed, StorageFailed.
        """
        return Transaction(self)

    def _enter(self, others: list[R]) -> None:
        self._check_poison()
        if not self._is_read:
            for batch in self.read():
                others += batch
        self._lock.__enter__()
        try:
            others += self._catch_up()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def _append(self, events: Sequence[bytes], at: str) -> list[R]:
        writer = self._writer
        assert writer is not None, "_enter has not run"
        lines, crc = writer.frame(events, at)
        records = [self._decode(line) for line in lines]
        if records[0].seq != writer.next_seq or records[-1].crc != crc:
            raise ValueError("the decoder does not read back what was framed")
        try:
            writer.append(lines, crc)
        except NoSpace:
            self._spend_reserve()
            writer.append(lines, crc)
        self.position = writer.position
        return records

    def _check_poison(self) -> None:
        trouble = self._poison or (self._writer.trouble if self._writer is not None else None)
        if trouble is not None:
            raise JournalPoisoned(self.directory, trouble.error) from trouble

    @property
    def segment(self) -> int:
        """The number of the segment that `position` is in."""
        return self.position.segment

    def _spend_reserve(self) -> None:
        """Free the reserved blocks, so that a few more records fit on a full disk."""
        self.reserve_is_spent = True
        with self._poison_on_failure(), contextlib.suppress(FileNotFoundError):
            self._storage.unlink(self.directory / RESERVE_NAME)

    def restore_reserve(self) -> bool:
        """Create the reserve again. Return False if the disk has no space for it."""
        with self._lock:
            self.reserve_is_spent = not self._make_reserve()
        return not self.reserve_is_spent

    def close(self) -> None:
        """Close the files. Everything that was appended is on disk already."""
        if self._writer is not None:
            self._writer.close()
        self._lock.close()
        self._poison = self._poison or StorageFailed(self.directory, None, "This journal is closed.")

    # Opening

    def _begin(self, after: Position, witnesses: Sequence[Witness]) -> None:
        with self._lock:
            chain = load_chain(self._storage, self.directory)
            with self._poison_on_failure():
                sweep(self._storage, self.directory, chain)
                self._make_reserve()
                self._sync(chain, after)
        if chain.segments:
            self.id = chain.id
            self._check_before(chain, after, witnesses)
        self._remaining = self._replay(Replay(self._storage, chain, after, self._decode, witnesses), witnesses)

    def _replay(self, replay: Replay[R], witnesses: Sequence[Witness]) -> Iterator[list[R]]:
        """Read to the end; then, under the lock, read what was appended meanwhile and recover the tail."""
        for batch in replay.batches():
            self.position = replay.position
            yield batch
        self.position = replay.position
        with self._lock:
            others = self._catch_up(witnesses)
        if others:
            yield others

    def _sync(self, chain: Chain, after: Position) -> None:
        """Make recovery read what a power cut would leave, not what the page cache shows.

        Only the last segment needs this: a segment is on disk before the next one begins.
        """
        if chain.segments:
            last = chain.segments[-1]
            with opened(self._storage, last.path, os.O_RDONLY) as fd:
                self._storage.fsync(fd)
                self._storage.drop_cache(fd, after.offset if after.segment == last.number else 0)
        fsync_directory(self.directory, storage=self._storage)

    def _check_before(self, chain: Chain, after: Position, witnesses: Sequence[Witness]) -> None:
        """Check everything up to `after` that can be checked without reading it."""
        if chain.is_abandoned(after.seq):
            raise PositionLost(after.seq, after.crc)
        for segment, successor in zip(chain.segments, chain.segments[1:], strict=False):
            if segment.number < after.segment and segment.size < segment.end:
                case = judge(Facts(True, True, rest=False, covered=False, promised=True, witnessed=False))
                last = successor.start.seq
                raise JournalDamaged(Finding(case, segment.path, segment.size, segment.header.first_seq, last))
        if not contains_position(self._storage, chain, after):
            here = next((s for s in chain.segments if s.number == after.segment), chain.segments[-1])
            case = judge(Facts(True, True, rest=False, covered=False, promised=False, witnessed=True))
            denied = (Witness("the position to read on from", after.seq, after.crc), *witnesses)
            raise JournalDamaged(
                Finding(case, here.path, min(after.offset, here.size), after.seq, max(w.seq for w in denied), denied)
            )

    def _make_reserve(self) -> bool:
        try:
            with opened(self._storage, self.directory / RESERVE_NAME, os.O_RDWR | os.O_CREAT) as fd:
                if self._storage.size(fd) < RESERVE_BYTES:
                    self._storage.allocate(fd, RESERVE_BYTES)
        except NotAFile as error:  # the reserve has no content, so a new one can replace it
            move_aside(Path(error.filename), storage=self._storage)
            return self._make_reserve()
        except OSError as error:
            return error.errno in NO_RESERVE
        return True

    def _catch_up(self, witnesses: Sequence[Witness] = ()) -> list[R]:
        """Return what other processes appended since `position`, and move `position` to the durable end.

        The caller holds the lock. On an error this object does not change, so no record is lost.
        """
        if self._writer is not None and self._writer.is_at_end():
            return []
        storage = self._storage
        chain = load_chain(storage, self.directory, since=self.position.segment)
        with self._poison_on_failure():
            self._sync(chain, self.position)  # its writer may have died before its own fdatasync
        if chain.segments:
            self._check_before(chain, self.position, ())
        replay = Replay(storage, chain, self.position, self._decode, witnesses)
        others = [record for batch in replay.batches() for record in batch]
        last, end = chain.segments[-1], replay.position
        next_seq = max(end.seq + 1, last.header.first_seq)
        has_records = end.offset > last.header_length
        if replay.finding is not None and replay.finding.verdict is Verdict.TORN:
            with self._poison_on_failure():
                save_torn_bytes(storage, last.path, end.offset)
                end = begin_segment(storage, self.directory, self.id, end.segment + 1, end, first_seq=next_seq)
            has_records = False
            self.verdict = Verdict.TORN
        with self._poison_on_failure():
            writer = Writer(storage, self.directory, self.id, end, next_seq, has_records, self._segment_bytes)
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        self.position = end
        return others

    @contextlib.contextmanager
    def _poison_on_failure(self) -> Iterator[None]:
        """Poison the journal if a write in the block fails, unless the disk is only full."""
        try:
            with writing(self.directory):
                yield
        except StorageFailed as failure:
            if not isinstance(failure, NoSpace):
                self._poison = failure
            raise


class Transaction(Generic[R]):
    """One transaction; see `Journal.transaction`."""

    __slots__ = ("_appended", "_journal", "others")

    def __init__(self, journal: Journal[R]) -> None:
        self._journal = journal
        self._appended = False
        self.others: list[R] = []
        """Records that were not delivered yet: those of other processes, and those that `read` did not yield."""

    def __enter__(self) -> Transaction[R]:
        self._journal._enter(self.others)
        return self

    def append(self, events: Sequence[bytes], *, at: str) -> list[R]:
        """Append `events` as one transaction, in one write. It is on disk when this returns its records.

        Each event is a JSON object without line feeds; `at` is the time in UTC, as RFC 3339 with a `Z`.

        Raises ValueError, or what `decode` raises, if a record would not read back: then nothing is written. Raises
        NoSpace if the disk is full: then nothing is kept and the journal stays usable. Raises StorageFailed otherwise:
        then the journal is poisoned.
        """
        if self._appended:
            raise RuntimeError("a transaction appends once: decide first, then append everything together")
        if not events:
            return []
        self._appended = True
        return self._journal._append(events, at)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal._lock.__exit__(kind, error, trace)
