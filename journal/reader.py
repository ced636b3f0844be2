"""Read segments, and the chain of segments, and verify every record."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar
from zlib import crc32

from journal.durable import opened
from journal.errors import JournalDamaged, PositionLost
from journal.format import (
    START,
    TRAILER_BYTES,
    Decoded,
    Line,
    Position,
    Witness,
    find_records,
    is_whole,
    read_line,
    segment_name,
)
from journal.segments import Chain, Segment, contains_position, load_chain, reading, segment_numbers
from journal.storage import REAL, Storage
from journal.verdicts import Facts, Finding, Verdict, judge

R = TypeVar("R", bound=Decoded)

CHUNK_BYTES = 128 * 1024  # fits a core's second-level cache together with the decoded records; larger chunks are slower
_ANY_SEGMENT = 10**8  # above every segment number: only the newest segment is read


class Scan(Generic[R]):
    """One pass over a segment, from `position` to its end.

    `position` is the end of the last transaction that `batches` has yielded. When `batches` is done, the bytes between
    it and the end of the segment are not valid.
    """

    def __init__(
        self, storage: Storage, fd: int, segment: Segment, seed: int, position: Position, decode: Callable[[bytes], R]
    ) -> None:
        self._storage, self._fd, self._segment, self._seed, self._decode = storage, fd, segment, seed, decode
        self.position = position
        self.next_seq = max(position.seq + 1, segment.header.first_seq)

    def batches(self) -> Iterator[list[R]]:
        """Yield whole transactions in batches of about CHUNK_BYTES.

        Raises JournalReadFailed, and what `decode` raises for a valid record.
        """
        records: list[R] = []  # an unfinished transaction stays here for the next chunk
        unfinished_bytes = 0
        carry = b""
        offset = self.position.offset
        seq, prev = self.next_seq, self.position.crc
        whole = True
        while whole and offset < self._segment.end:
            with reading(self._segment.path, offset):
                data = self._storage.read(self._fd, min(CHUNK_BYTES, self._segment.end - offset), offset)
            if not data:
                return
            offset += len(data)
            lines = (carry + data).split(b"\n")
            carry = lines.pop()
            already = len(records)
            seq, prev, whole = self._decode_lines(lines, records, seq, prev)
            good = lines if whole else lines[: len(records) - already]
            good_bytes = sum(map(len, good)) + len(good)

            ended = len(records)
            while ended > already and records[ended - 1].more:
                ended -= 1
            if ended == already:  # no transaction ended in this chunk
                unfinished_bytes += good_bytes
                continue
            unfinished = records[ended:]
            del records[ended:]
            unfinished_after = sum(len(line) + 1 for line in good[len(good) - len(unfinished) :])
            last = records[-1]
            self.position = Position(
                last.seq,
                last.crc,
                self._segment.number,
                self.position.offset + unfinished_bytes + good_bytes - unfinished_after,
            )
            self.next_seq = last.seq + 1
            unfinished_bytes = unfinished_after
            yield records
            records = unfinished

    def _decode_lines(self, lines: list[bytes], records: list[R], seq: int, prev: str) -> tuple[int, str, bool]:
        """Append the records in `lines` to `records`, up to the first line that is not the next record.

        Return the next seq, the last CRC, and True if all lines were records. This loop decides the speed of a replay:
        the typed decoder gives all fields at once, and the exact format is checked only after a mismatch.
        """
        decode, seed, append = self._decode, self._seed, records.append
        line = b""
        try:
            for line in lines:
                record = decode(line)
                crc = record.crc
                if (
                    crc != crc32(line[:-TRAILER_BYTES], seed).to_bytes(4, "big").hex()
                    or record.prev != prev
                    or record.seq != seq
                ):
                    return seq, prev, False
                append(record)
                prev = crc
                seq += 1
        except Exception:
            if is_whole(line, seed):
                raise  # the writer wrote this line, but the caller's decoder does not know it
            return seq, prev, False
        return seq, prev, True


class Replay(Generic[R]):
    """One pass over the chain from `position`, which must be part of it. It judges the end of each segment.

    `position` is the end of what `batches` has yielded. When `batches` is done, `finding` says why it ended there.
    """

    def __init__(
        self,
        storage: Storage,
        chain: Chain,
        position: Position,
        decode: Callable[[bytes], R],
        witnesses: Sequence[Witness] = (),
    ) -> None:
        self._storage, self._chain, self._decode = storage, chain, decode
        self._witnesses = [w for w in witnesses if w.seq > position.seq]
        self._contradicted: list[Witness] = [w for w in witnesses if w.seq == position.seq and w.crc != position.crc]
        self.position = position
        self.finding: Finding | None = None

    def batches(self) -> Iterator[list[R]]:
        """Yield whole transactions. Raises JournalDamaged, JournalReadFailed, and what `decode` raises."""
        segments = self._chain.segments
        if not segments:
            self._conclude(Path(), None, b"")
        first = next((i for i, segment in enumerate(segments) if segment.number == self.position.segment), 0)
        for segment, successor in zip(segments[first:], (*segments[first + 1 :], None), strict=True):
            if segment.number != self.position.segment:
                self.position = segment.start
            with reading(segment.path), opened(self._storage, segment.path, os.O_RDONLY) as fd:
                scan = Scan(self._storage, fd, segment, self._chain.seed, self.position, self._decode)
                for batch in scan.batches():
                    self.position = scan.position
                    self._check_witnesses(batch)
                    yield batch
                start = scan.position.offset
                rest = self._storage.read(fd, segment.end - start, start) if start < segment.end else b""
            self._conclude(segment.path, successor, rest, scan.next_seq)

    def _check_witnesses(self, batch: list[R]) -> None:
        first, last = batch[0].seq, batch[-1].seq
        for witness in self._witnesses:
            if first <= witness.seq <= last and batch[witness.seq - first].crc != witness.crc:
                self._contradicted.append(witness)

    def _conclude(self, path: Path, successor: Segment | None, rest: bytes, lost: int = 1) -> None:
        """Judge the end of a segment: record `lost` is missing, and the bytes `rest` follow."""
        position = self.position
        later = [line for _, line in find_records(rest, self._chain.seed)] if rest else []
        stated = successor.header.predecessor if successor else None
        broken = None if successor else self._chain.broken
        denied = []
        if successor is None:
            denied = [*self._contradicted, *(w for w in self._witnesses if w.seq > position.seq)]
        case = judge(
            Facts(
                readable=True,
                headers=broken is None,
                rest=bool(rest),
                covered=any(line.durable >= lost for line in later),
                promised=stated is not None
                and (stated.valid_length, stated.last_seq, stated.last_crc)
                != (position.offset, position.seq, position.crc),
                witnessed=bool(denied),
            )
        )
        self.finding = Finding(case, path, position.offset, lost, lost - 1)
        if case.verdict is Verdict.DAMAGED:
            seqs = [w.seq for w in denied] + [max(line.seq, line.durable) for line in later]
            seqs += [stated.last_seq] if stated else []
            self.finding = Finding(
                case,
                path if broken is None else broken,
                position.offset if broken is None else 0,
                min([lost, *(w.seq for w in denied)]),
                max([lost - 1, *seqs]),
                tuple(denied),
            )
            raise JournalDamaged(self.finding)


def follow(
    directory: Path, decode: Callable[[bytes], R], after: Position = START, *, storage: Storage = REAL
) -> tuple[list[R], Position]:
    """Return the whole transactions after `after`, and the position after them.

    Takes no lock and changes nothing; an append in progress is not seen. The cost depends on the new records alone. May
    return a transaction shortly before it is on disk. Raises PositionLost if `after` is not part of the journal (any
    more), JournalMissing, JournalDamaged, JournalReadFailed, and what `decode` raises.
    """
    records: list[R] = []
    position = after
    for batch, position in follow_in_batches(directory, decode, after, storage=storage):  # noqa: B007 - the last stays
        records += batch
    return records, position


def follow_in_batches(
    directory: Path, decode: Callable[[bytes], R], after: Position = START, *, storage: Storage = REAL
) -> Iterator[tuple[list[R], Position]]:
    """Yield what `follow` returns in batches, each with the position after it: for many records with little memory."""
    chain = load_chain(storage, directory, since=after.segment)
    if not contains_position(storage, chain, after):
        raise PositionLost(after.seq, after.crc)
    replay = Replay(storage, chain, after, decode)
    for batch in replay.batches():
        yield batch, replay.position
    yield [], replay.position


def history(directory: Path, decode: Callable[[bytes], R], *, storage: Storage = REAL) -> Iterator[R]:
    """Yield every record, with little memory for any number of them. Otherwise as `follow` from the start."""
    for batch in Replay(storage, load_chain(storage, directory), START, decode).batches():
        yield from batch


def last_position(directory: Path, *, storage: Storage = REAL) -> Position:
    """Return the position after the last whole transaction, read from the end. Checks only the CRC of its last record.

    Raises JournalMissing, JournalReadFailed, and JournalDamaged if the newest segment has no whole header.
    """
    chain = load_chain(storage, directory, since=_ANY_SEGMENT)
    if chain.broken is not None or not chain.segments:
        list(Replay(storage, chain, START, read_line).batches())
    segment = chain.segments[-1]
    window = CHUNK_BYTES // 4
    with reading(segment.path), opened(storage, segment.path, os.O_RDONLY) as fd:
        while True:
            start = max(segment.header_length, segment.end - window)
            data = storage.read(fd, segment.end - start, start)
            for offset, line in reversed(list(find_records(data, chain.seed))):
                if not line.more:
                    end = data.index(b"\n", offset) + 1
                    return Position(line.seq, line.crc, segment.number, start + end)
            if start == segment.header_length:
                return segment.start
            window *= 16


class RawLine(NamedTuple):
    """A line of a segment, valid or not."""

    path: Path
    offset: int
    data: bytes
    """Without its line feed."""
    record: Line | None
    """None for a header or an invalid line. Neither CRC nor chain is checked."""


def lines(directory: Path, *, storage: Storage = REAL) -> Iterator[RawLine]:
    """Yield every line of every segment, valid or not. One segment is in memory at a time.

    Raises JournalMissing, JournalReadFailed.
    """
    for number in segment_numbers(storage, directory):
        path = directory / segment_name(number)
        with reading(path), opened(storage, path, os.O_RDONLY) as fd:
            data = storage.read(fd, storage.size(fd), 0)
        offset = 0
        for line in data.split(b"\n"):
            if line:
                yield RawLine(path, offset, line, _record_or_none(line))
            offset += len(line) + 1


def _record_or_none(line: bytes) -> Line | None:
    try:
        return read_line(line)
    except ValueError:
        return None
