"""The writer: appends transactions at the end of the journal."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from journal.durable import write_all
from journal.errors import JournalReadFailed, NoSpace, StorageFailed
from journal.format import Position, frame, seed_of, segment_name
from journal.segments import begin_segment
from journal.storage import Storage

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors that mean that the disk is full, not broken."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise StorageFailed, or NoSpace, for an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise (NoSpace if error.errno in FULL else StorageFailed)(path, error) from error


class Writer:
    """Appends transactions at `position`, which must be the durable end. The caller holds the append lock.

    `trouble` is set from before the first byte of an append until all of it is on disk. So a failed call, or a signal,
    leaves the writer poisoned.
    """

    def __init__(
        self,
        storage: Storage,
        directory: Path,
        journal_id: str,
        position: Position,
        next_seq: int,
        has_records: bool,
        segment_bytes: int,
    ) -> None:
        self._storage, self._directory, self._segment_bytes = storage, directory, segment_bytes
        self._id, self._seed = journal_id, seed_of(journal_id)
        self._fd = -1
        self.trouble: StorageFailed | None = None
        self.next_seq = next_seq
        self._has_records = has_records
        self._attach(position)

    def _attach(self, position: Position) -> None:
        path = self._directory / segment_name(position.segment)
        fd = self._storage.open(path, os.O_RDWR | os.O_APPEND)  # if this fails, nothing has changed
        self.close()
        self._fd, self._path, self.position = fd, path, position
        self._next_path = os.fspath(self._directory / segment_name(position.segment + 1))
        self._interrupted = StorageFailed(self._path, None)

    def close(self) -> None:
        if self._fd >= 0:
            self._storage.close(self._fd)
            self._fd = -1

    def is_at_end(self) -> bool:
        """True if no other process has appended anything after `position`. Raises JournalReadFailed."""
        try:
            size = self._storage.size(self._fd)
        except OSError as error:
            raise JournalReadFailed(self._path, self.position.offset, error) from error
        return size == self.position.offset and not self._storage.exists(self._next_path)

    def frame(self, events: Sequence[bytes], at: str) -> tuple[list[bytes], str]:
        """Return the lines of `events` as one transaction, without line feeds, and its CRC. Raises ValueError."""
        end = self.position
        return frame(events, at=at, first_seq=self.next_seq, durable=end.seq, prev=end.crc, seed=self._seed)

    def append(self, lines: Sequence[bytes], last_crc: str) -> None:
        """Write one transaction. It is on disk when this returns.

        Raises NoSpace if the disk is full: then nothing has changed. Raises StorageFailed for any other failure.
        """
        data = b"\n".join(lines) + b"\n"
        if self.position.offset + len(data) > self._segment_bytes and self._has_records:
            self._rotate()
        self.trouble = self._interrupted
        try:
            write_all(self._storage, self._fd, data)
            self._storage.fdatasync(self._fd)
        except OSError as error:
            self.trouble = StorageFailed(self._path, error)
            if error.errno not in FULL:
                raise self.trouble from error
            self._undo_append()
            raise NoSpace(self._path, error) from error
        _, _, segment, offset = self.position
        self.next_seq += len(lines)
        self._has_records = True
        self.position = Position(self.next_seq - 1, last_crc, segment, offset + len(data))
        self.trouble = None

    def _undo_append(self) -> None:
        try:
            self._storage.truncate(self._fd, self.position.offset)
            self._storage.fsync(self._fd)
        except OSError as error:
            self.trouble = StorageFailed(self._path, error)
            raise self.trouble from error
        self.trouble = None

    def _rotate(self) -> None:
        end = self.position
        try:
            begun = begin_segment(
                self._storage, self._directory, self._id, end.segment + 1, end, first_seq=self.next_seq
            )
            self._attach(begun)
            self._has_records = False
        except OSError as error:
            if error.errno in FULL:  # the old segment is unchanged; if the new one exists, the next catch-up finds it
                raise NoSpace(self._path, error) from error
            self.trouble = StorageFailed(self._path, error)
            raise self.trouble from error
