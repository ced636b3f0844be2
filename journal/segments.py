"""The segments of a journal as a chain: which files belong to it, in which order, and how much of each counts.

The newest segment is the authority. Its header names the segment before it and how many bytes of that one are valid,
and so on back to the first. That makes one rename the commit point of everything that is more than an append:
rotation, the recovery of a torn tail, and a repair that gives whole segments up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from journal.durable import COPY_CHUNK_BYTES, is_temporary, opened, write_atomically
from journal.errors import FormatUnknown, JournalMissing, JournalReadFailed
from journal.format import (
    NO_CRC,
    TRAILER_BYTES,
    Header,
    Position,
    Predecessor,
    UnknownFormat,
    decode_header,
    encode_header,
    seed_of,
    segment_name,
    segment_number,
)
from journal.storage import Storage

KEPT = "torn"
"""The directory, inside the journal's, of bytes that no longer count. Nothing in it is ever read or deleted here."""
_HEADER_BYTES_MAX = 4096  # a header is about 350 bytes; this is one page


class Segment(NamedTuple):
    """One file of the chain."""

    path: Path
    header: Header
    header_length: int
    size: int
    end: int
    """How many bytes count: what the next segment states, or in the last segment all there are."""

    @property
    def number(self) -> int:
        return self.header.segment

    @property
    def start(self) -> Position:
        """Behind the header, before the first record."""
        before = self.header.predecessor
        seq, crc = (before.last_seq, before.last_crc) if before else (self.header.first_seq - 1, NO_CRC)
        return Position(seq, crc, self.number, self.header_length)


class Chain(NamedTuple):
    """The segments that count, first to last."""

    segments: tuple[Segment, ...]
    broken: Path | None
    """The segment behind them that should be there, whole, and is not."""

    @property
    def id(self) -> str:
        return self.segments[-1].header.journal

    @property
    def seed(self) -> int:
        return seed_of(self.id)

    def gave_up(self, seq: int) -> bool:
        """Whether a repair gave this record up. Its number is never used again."""
        return any(segment.start.seq < seq < segment.header.first_seq for segment in self.segments)


def new_id(storage: Storage) -> str:
    """An id for a new journal."""
    return "".join(storage.random_name() for _ in range(4))


@contextmanager
def reading(path: Path, offset: int = 0) -> Iterator[None]:
    """Names a failed read for what it is."""
    try:
        yield
    except OSError as error:
        raise JournalReadFailed(path, offset, error) from error


def segment_numbers(storage: Storage, directory: Path) -> list[int]:
    """The segments there are files of, in order. Raises JournalMissing, JournalReadFailed."""
    try:
        names = storage.names(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JournalMissing(directory) from error
    except OSError as error:
        raise JournalReadFailed(directory, 0, error) from error
    return sorted(number for name in names if (number := segment_number(name)) is not None)


def read_header(storage: Storage, path: Path) -> tuple[Header, int, int] | None:
    """A segment's header, its length and the size of the file; None if there is no whole header there."""
    with reading(path):
        try:
            with opened(storage, path, os.O_RDONLY) as fd:
                size = storage.size(fd)
                line, feed, _ = storage.read(fd, _HEADER_BYTES_MAX, 0).partition(b"\n")
        except FileNotFoundError:
            return None
    try:
        header = decode_header(line) if feed else None
    except UnknownFormat as error:
        raise FormatUnknown(path, error.args[0]) from error
    if header is None or path.name != segment_name(header.segment):
        return None
    return header, len(line) + 1, size


def load_chain(storage: Storage, directory: Path, since: int = 0) -> Chain:
    """Walks back from the newest segment; no further than to number `since` if that is part of the chain.

    Raises JournalMissing, JournalReadFailed, FormatUnknown.
    """
    numbers = segment_numbers(storage, directory)
    if not numbers:
        return Chain((), directory / segment_name(1))
    chain: list[Segment] = []
    broken: Path | None = None
    number = numbers[-1]
    while number > 0:
        path = directory / segment_name(number)
        found = read_header(storage, path)
        if found is None or (chain and found[0].journal != chain[-1].header.journal):
            chain.clear()  # what follows a broken link hangs in the air
            broken = path
            number -= 1
            continue
        header, length, size = found
        before = header.predecessor
        end = chain[-1].header.predecessor.valid_length if chain and chain[-1].header.predecessor else size
        chain.append(Segment(path, header, length, size, end))
        if number <= since or before is None:
            break
        number = before.segment
    return Chain(tuple(reversed(chain)), broken)


def stands_at(storage: Storage, chain: Chain, position: Position) -> bool:
    """Whether the chain has this very position in it."""
    segment = next((s for s in chain.segments if s.number == position.segment), None)
    if segment is None:
        return position.segment == 0
    if position.offset == segment.header_length:
        return position == segment.start
    if not segment.header_length < position.offset <= min(segment.end, segment.size):
        return False
    trailer = b',"crc":"%s"}\n' % position.crc.encode()
    with reading(segment.path, position.offset), opened(storage, segment.path, os.O_RDONLY) as fd:
        return storage.read(fd, TRAILER_BYTES + 1, position.offset - len(trailer)) == trailer


def digest(storage: Storage, path: Path, length: int) -> str:
    """The SHA-256 of the first `length` bytes."""
    from hashlib import sha256  # only a rotation or a survey hashes; a look at the tail need not load OpenSSL

    hashed = sha256()
    with reading(path), opened(storage, path, os.O_RDONLY) as fd:
        offset = 0
        while chunk := storage.read(fd, min(COPY_CHUNK_BYTES, length - offset), offset):
            hashed.update(chunk)
            offset += len(chunk)
    return hashed.hexdigest()


def begin_segment(
    storage: Storage,
    directory: Path,
    journal_id: str,
    number: int,
    after: Position,
    *,
    first_seq: int,
    records: bytes = b"",
) -> Position:
    """Makes segment `number` as the one that follows `after`. The rename in here is the commit. Raises OSError."""
    before = None
    if after.segment:
        hashed = digest(storage, directory / segment_name(after.segment), after.offset)
        before = Predecessor(after.segment, after.seq, after.crc, after.offset, hashed)
    created = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    header = encode_header(Header(journal_id, number, first_seq, created, before))
    write_atomically(directory / segment_name(number), header + records, sync=True, storage=storage)
    return Position(after.seq, after.crc, number, len(header))


def keep_aside(storage: Storage, segment: Path, offset: int) -> Path | None:
    """Copies what stands in a segment from `offset` on into `torn/`; doing it again changes nothing. Raises OSError."""
    with reading(segment, offset), opened(storage, segment, os.O_RDONLY) as fd:
        data = storage.read(fd, storage.size(fd) - offset, offset)
    if not data:
        return None
    make_kept_directory(storage, segment.parent)
    kept = segment.parent / KEPT / f"{segment.stem}-{offset}-{len(data)}.bytes"
    write_atomically(kept, data, sync=True, storage=storage)
    return kept


def make_kept_directory(storage: Storage, directory: Path) -> None:
    """Its name is synced with whatever makes the bytes in it count no more: the next segment, in the same directory."""
    if not storage.exists(directory / KEPT):
        storage.mkdir(directory / KEPT)


def sweep(storage: Storage, directory: Path, chain: Chain) -> None:
    """Removes unfinished temporary files, and moves segments that a repair gave up into `torn/`. Under the lock only.

    Not durable by itself, and it need not be: what comes back after a power cut is swept again.
    """
    for name in storage.names(directory):
        if is_temporary(name):
            storage.unlink(directory / name)
    if chain.broken is not None:
        return
    counted = {segment.number for segment in chain.segments}
    for number in segment_numbers(storage, directory):
        if number not in counted:
            make_kept_directory(storage, directory)
            storage.rename(directory / segment_name(number), directory / KEPT / segment_name(number))
