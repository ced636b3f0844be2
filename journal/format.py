"""The format of a journal's lines, shared by writer and reader.

`docs/reference/journal-format.md` describes it, with its downsides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol
from zlib import crc32

FORMAT = 1
NO_CRC = "00000000"
"""The `prev` of the first record."""
TRAILER_BYTES = len(b',"crc":"00000000"}')
"""Bytes at the end of a line, without its line feed, that its CRC-32 does not cover."""

_TIME = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z")
_RECORD = re.compile(
    rb'\{"seq":([1-9][0-9]{0,17}),"at":"(' + _TIME.pattern + rb')",'
    rb'"durable":(0|[1-9][0-9]{0,17}),"prev":"([0-9a-f]{8})",("more":true,)?'
    rb'"event":(\{[^\n]*\}),"crc":"([0-9a-f]{8})"\}'
)
_RECORD_START = re.compile(rb'\{"seq":')
_HEADER = re.compile(rb'\{"journal":"([0-9a-f]{32})","format":([1-9][0-9]{0,8}),[^\n]*,"crc":"([0-9a-f]{8})"\}')
_SEGMENT_NAME = re.compile(r"([0-9]{8})\.jsonl")


class Decoded(Protocol):
    """The result of a `decode` function: at least these fields, with the values in the line."""

    @property
    def seq(self) -> int: ...
    @property
    def at(self) -> str: ...
    @property
    def durable(self) -> int: ...
    @property
    def prev(self) -> str: ...
    @property
    def more(self) -> bool: ...
    @property
    def crc(self) -> str: ...


class Position(NamedTuple):
    """The end of record `seq`: byte `offset` of segment number `segment`."""

    seq: int
    crc: str
    segment: int
    offset: int


START = Position(seq=0, crc=NO_CRC, segment=0, offset=0)
"""The position before the first record."""


class Witness(NamedTuple):
    """A file outside of the journal (`name`, for messages) that has seen record `seq` with this `crc`."""

    name: str
    seq: int
    crc: str


class Line(NamedTuple):
    """A record; the event stays bytes."""

    seq: int
    at: str
    durable: int
    prev: str
    more: bool
    event: bytes
    crc: str


class Predecessor(NamedTuple):
    """The statement of a segment about the one that it continues, which was on disk before."""

    segment: int
    last_seq: int
    last_crc: str
    valid_length: int
    """Bytes. What follows in the file was never acknowledged, or a repair abandoned it."""
    sha256: str


class Header(NamedTuple):
    """The first line of a segment."""

    journal: str
    """The journal's id, 32 hexadecimal digits."""
    segment: int
    first_seq: int
    """One more than the predecessor's `last_seq`; more if a repair abandoned the records between."""
    created: str
    predecessor: Predecessor | None


class UnknownFormat(ValueError):
    """A valid header of another format version (`args[0]`)."""


def seed_of(journal_id: str) -> int:
    """Return the initial value of each CRC-32, so that lines of another journal are invalid here."""
    return crc32(journal_id.encode())


def segment_name(number: int) -> str:
    return f"{number:08d}.jsonl"


def segment_number(name: str) -> int | None:
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1]) if match else None


def frame(
    events: Sequence[bytes], *, at: str, first_seq: int, durable: int, prev: str, seed: int
) -> tuple[list[bytes], str]:
    """Return the lines of one transaction, without line feeds, and the CRC of the last one.

    Raises ValueError for an event or a time that would not read back.
    """
    lines = []
    last = len(events) - 1
    stamp = at.encode()
    if _TIME.fullmatch(stamp) is None:
        raise ValueError(f"not a time in UTC: {at!r}")
    for index, event in enumerate(events):
        if event[:1] != b"{" or event[-1:] != b"}" or b"\n" in event:
            raise ValueError(f"not a JSON object on one line: {event[:200]!r}")
        more = b"" if index == last else b'"more":true,'
        body = b'{"seq":%d,"at":"%s","durable":%d,"prev":"%s",%s"event":%s' % (
            first_seq + index,
            stamp,
            durable,
            prev.encode(),
            more,
            event,
        )
        prev = crc32(body, seed).to_bytes(4, "big").hex()
        lines.append(b'%s,"crc":"%s"}' % (body, prev.encode()))
    return lines, prev


def read_line(line: bytes) -> Line:
    """Parse a line strictly. Raises ValueError. Does not check CRC or chain."""
    match = _RECORD.fullmatch(line)
    if match is None:
        raise ValueError("not a journal record")
    return _line(match)


def is_whole(line: bytes, seed: int) -> bool:
    """True if the line is a record of this journal with a valid CRC."""
    match = _RECORD.fullmatch(line)
    return match is not None and _crc_holds(line, seed)


def find_records(data: bytes, seed: int) -> Iterator[tuple[int, Line]]:
    """Yield every valid record in damaged bytes, with its offset.

    Not line by line: after a damaged line feed, a record begins in the middle of a line, and it may be the one that
    proves a loss.
    """
    for start in _RECORD_START.finditer(data):
        match = _RECORD.match(data, start.start())
        if match and data[match.end() : match.end() + 1] == b"\n" and _crc_holds(match[0], seed):
            yield match.start(), _line(match)


def encode_header(header: Header) -> bytes:
    """Return the first line of a segment, with its line feed."""
    fields = {
        "journal": header.journal,
        "format": FORMAT,
        "segment": header.segment,
        "first_seq": header.first_seq,
        "created": header.created,
        "predecessor": header.predecessor and header.predecessor._asdict(),
    }
    body = json.dumps(fields, separators=(",", ":")).encode()[:-1]
    return b'%s,"crc":"%08x"}\n' % (body, crc32(body, seed_of(header.journal)))


def decode_header(line: bytes) -> Header | None:
    """Return the header in a line (without its line feed); None if it is not one. Raises UnknownFormat."""
    match = _HEADER.fullmatch(line)
    if match is None or not _crc_holds(line, seed_of(match[1].decode())):
        return None
    fields = json.loads(line)
    if fields["format"] != FORMAT:
        raise UnknownFormat(fields["format"])
    predecessor = fields["predecessor"]
    return Header(
        journal=fields["journal"],
        segment=fields["segment"],
        first_seq=fields["first_seq"],
        created=fields["created"],
        predecessor=Predecessor(**predecessor) if predecessor else None,
    )


def _crc_holds(line: bytes, seed: int) -> bool:
    return line[-10:-2] == b"%08x" % crc32(line[:-TRAILER_BYTES], seed)


def _line(match: re.Match[bytes]) -> Line:
    seq, at, durable, prev, more, event, crc = match.groups()
    return Line(int(seq), at.decode(), int(durable), prev.decode(), more is not None, event, crc.decode())
