"""The chain of segments: the files of a journal, their order, and the valid length of each.

The newest segment is the authority. Its header names the segment before it and the valid bytes of that one, and so on
back to the first. So one rename commits everything that is more than an append: a rotation, the recovery of a torn
tail, and a repair that abandons segments.
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

TORN_DIRECTORY = "torn"
"""Directory in the journal for bytes that are no longer valid. The journal never reads or deletes them."""
_HEADER_BYTES_MAX = 4096  # a header is about 350 bytes; this is one page


class Segment(NamedTuple):
    """A file of the chain."""

    path: Path
    header: Header
    header_length: int
    size: int
    end: int
    """Number of valid bytes: the length that the next segment states; in the last segment all bytes."""

    @property
    def number(self) -> int:
        return self.header.segment

    @property
    def start(self) -> Position:
        """The position after the header, before the first record."""
        before = self.header.predecessor
        seq, crc = (before.last_seq, before.last_crc) if before else (self.header.first_seq - 1, NO_CRC)
        return Position(seq, crc, self.number, self.header_length)


class Chain(NamedTuple):
    """The valid segments, first to last."""

    segments: tuple[Segment, ...]
    broken: Path | None
    """The segment after them that is missing or has no valid header; None if there is none."""

    @property
    def id(self) -> str:
        return self.segments[-1].header.journal

    @property
    def seed(self) -> int:
        return seed_of(self.id)

    def is_abandoned(self, seq: int) -> bool:
        """True if a repair abandoned this record. Its number is never used again."""
        return any(segment.start.seq < seq < segment.header.first_seq for segment in self.segments)


def new_id(storage: Storage) -> str:
    """Return an id for a new journal: 32 hexadecimal digits."""
    return "".join(storage.random_name() for _ in range(4))


@contextmanager
def reading(path: Path, offset: int = 0) -> Iterator[None]:
    """Raise JournalReadFailed for an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise JournalReadFailed(path, offset, error) from error


def segment_numbers(storage: Storage, directory: Path) -> list[int]:
    """Return the numbers of all segment files, sorted. Raises JournalMissing, JournalReadFailed."""
    try:
        names = storage.names(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JournalMissing(directory) from error
    except OSError as error:
        raise JournalReadFailed(directory, 0, error) from error
    return sorted(number for name in names if (number := segment_number(name)) is not None)


def read_header(storage: Storage, path: Path) -> tuple[Header, int, int] | None:
    """Return a segment's header, its length and the size of the file; None if it has no valid header.

    Raises JournalReadFailed, FormatUnknown.
    """
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
    """Read the headers from the newest segment back; at most to number `since` if that is part of the chain.

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
            chain.clear()  # what follows a broken link is not connected
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


def contains_position(storage: Storage, chain: Chain, position: Position) -> bool:
    """True if the chain contains this position, with this CRC."""
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
    """Return the SHA-256 of the first `length` bytes."""
    from hashlib import sha256  # only rotations and surveys hash; reading the tail must not load OpenSSL

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
    """Create segment `number`, which continues at `after`, and return its start. Its rename is the commit.

    Raises OSError.
    """
    before = None
    if after.segment:
        hashed = digest(storage, directory / segment_name(after.segment), after.offset)
        before = Predecessor(after.segment, after.seq, after.crc, after.offset, hashed)
    created = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    header = encode_header(Header(journal_id, number, first_seq, created, before))
    write_atomically(directory / segment_name(number), header + records, sync=True, storage=storage)
    return Position(after.seq, after.crc, number, len(header))


def save_torn_bytes(storage: Storage, segment: Path, offset: int) -> Path | None:
    """Copy the bytes of a segment from `offset` on to `torn/`. Idempotent. Raises OSError."""
    with reading(segment, offset), opened(storage, segment, os.O_RDONLY) as fd:
        data = storage.read(fd, storage.size(fd) - offset, offset)
    if not data:
        return None
    make_torn_directory(storage, segment.parent)
    kept = segment.parent / TORN_DIRECTORY / f"{segment.stem}-{offset}-{len(data)}.bytes"
    write_atomically(kept, data, sync=True, storage=storage)
    return kept


def make_torn_directory(storage: Storage, directory: Path) -> None:
    """Create `torn/`. Its name is synced together with the next segment, in the same directory."""
    if not storage.exists(directory / TORN_DIRECTORY):
        storage.mkdir(directory / TORN_DIRECTORY)


def sweep(storage: Storage, directory: Path, chain: Chain) -> None:
    """Remove unfinished temporary files, and move abandoned segments to `torn/`. The caller holds the lock.

    Not durable: what reappears after a power cut is swept again.
    """
    for name in storage.names(directory):
        if is_temporary(name):
            storage.unlink(directory / name)
    if chain.broken is not None:
        return
    counted = {segment.number for segment in chain.segments}
    for number in segment_numbers(storage, directory):
        if number not in counted:
            make_torn_directory(storage, directory)
            storage.rename(directory / segment_name(number), directory / TORN_DIRECTORY / segment_name(number))
