"""The bytes of a data file to the records in it, whatever it is packed in.

What a file is, is seen from its first bytes and never from its name, since every accepted file is kept as
`data/<sha256>.jsonl`:

    1f 8b                    gzip; what is inside is looked at in the same way
    28 b5 2f fd, 5? 2a 4d 18 zstd; the same
    PAR1                     Parquet: a record is a row of it
    [                        one JSON array: a record is an element of it
    a header                 CSV or TSV: a record is a row
    anything else            JSON Lines: a record is a line

`gpu.data.read.container` has what is refused whole. Or plain text, if the settings say so: then a record is a
paragraph. Nothing here reads JSON, and memory is bounded by the longest record. What is wrong with the file as a whole
is yielded as the last thing, for it cannot be read on.
"""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from msgspec.structs import replace

from events.settings import DataSettings
from gpu.data.format.example import Problem
from gpu.data.read.container import BOM, DELIMITERS, csv_delimiter, foreign, is_array, is_prose
from journal.durable import open_to_read

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LONGEST_BYTES = 64 * 2**20
"""Of one record. A million token ids, or the longest book, are a tenth of it; and a small archive of one endless line
(a bomb: gzip packs a thousand to one, zstd more) is seen through before it has cost memory."""

SWELLS_MAX = 500
"""Times that packed data may grow: rows of text grow some ten times, the most repetitive ones a hundred times. What
grows more is a bomb, or rows that teach nothing."""

SWELLS_LEAST_BYTES = 64 * 2**20
"""But so much is always unpacked: it costs little."""

CHUNK_BYTES = 2**18
"""Read at once: large enough that the calls cost nothing, small enough to stay in a processor's cache."""

HEAD_BYTES = 64
"""Enough to tell what a file is packed in."""

BEGINNING_BYTES = 2**14
"""Enough to tell what is inside: a header and some rows of a table, the first line of a list."""

_REFETCH = "Copy or download it once more, then add it again."


class Record(NamedTuple):
    """One row, as it stands in the file."""

    line: int
    """Where it begins, from 1; of Parquet the number of the row."""
    raw: bytes
    """Without the line feed; b"" of Parquet."""
    column: int = 1
    """Where in that line it begins, in characters."""
    whole: bool = True
    """False of a last line without an end: more may have been meant to follow."""
    fields: dict[str, Any] | None = None
    """Of Parquet and CSV: the row, read already."""


class Stream(Protocol):
    """What bytes are taken from; a call gives some, or b"" at the end."""

    def read1(self, size: int, /) -> bytes: ...


class Stop(Exception):
    """The file cannot be read on. Data: `problem`."""

    def __init__(self, name: str, line: int | None, what: str, advice: str, column: int | None = None) -> None:
        self.problem = Problem(name, line, what, "", advice, column)
        super().__init__(self.problem.message)


def records(path: Path, *, plain_text: bool = False) -> Iterator[Record | Problem]:
    """The records of the file at `path`; a Problem, if there is one, comes last. Raises OSError."""
    with open_to_read(path) as file:
        try:
            yield from _records(file, plain_text)
        except Stop as stopped:
            yield stopped.problem


def container_of(path: Path, *, plain_text: bool = False) -> str:
    """What the file at `path` is, in words: "JSON Lines", "JSON array in gzip", … Raises OSError."""
    with open_to_read(path) as file:
        head = _head(file)
        if head.startswith(b"PAR1"):
            return "Parquet"
        stream = _stream(file, head)
        size_bytes = os.fstat(file.fileno()).st_size
        packed = "" if stream is file else " in zstd" if _is_zstd(head) else " in gzip"
        inside, rest = _beginning(_unpacked(stream, size_bytes))
        try:
            next(rest, b"")
        except Stop:
            return f"damaged data{packed}"
        return _words(inside, plain_text=plain_text, packed=bool(packed)) + packed


def holds_prose(path: Path) -> bool:
    """Whether the file at `path` can be plain text: no rows, no table, no other container. Raises OSError."""
    with open_to_read(path) as file:
        inside, _ = _beginning(_unpacked(_stream(file, _head(file)), os.fstat(file.fileno()).st_size))
        return is_prose(inside)


def own_format(path: Path, settings: DataSettings) -> DataSettings:
    """`settings` for a file that was accepted earlier, or a validation set: whether the job at hand is plain text says
    nothing about it. Raises OSError."""
    if settings.prompt is not None or settings.format not in {"auto", "plain_text"}:
        return settings
    return replace(settings, format="plain_text" if holds_prose(path) else "auto")


def _words(inside: bytes, *, plain_text: bool, packed: bool) -> str:
    if foreign(inside, packed=packed, plain_text=plain_text) is not None:
        return "another kind of file"
    if plain_text:
        return "plain text"
    delimiter = csv_delimiter(inside)
    return DELIMITERS[delimiter] if delimiter is not None else "JSON array" if is_array(inside) else "JSON Lines"


def _records(file: BufferedReader, plain_text: bool) -> Iterator[Record]:
    head = _head(file)
    if head.startswith(b"PAR1"):
        if plain_text:
            advice = 'Set [data] format = "auto" in keepstep.toml, then add the file again.'
            raise Stop("unknown_container", None, "the file is a Parquet file, not plain text", advice)
        from gpu.data.read.parquet import parquet_records  # pyarrow is an extra, and slow to load

        yield from parquet_records(file)
        return
    stream = _stream(file, head)
    chunks = _chunks(stream) if stream is file else _unpacked(stream, os.fstat(file.fileno()).st_size)
    first, rest = _beginning(chunks)
    other = foreign(first, packed=stream is not file, plain_text=plain_text)
    if other is not None:
        raise Stop(other.name, None, other.what, other.advice)
    yield from _splitter(first, plain_text)(chain([first.removeprefix(BOM)], rest))


def _head(file: BufferedReader) -> bytes:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def _beginning(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first chunks, and those that follow. Damage in the first ones is raised by those that follow."""
    first = b""
    try:
        for chunk in chunks:
            first += chunk
            if len(first) >= BEGINNING_BYTES:
                break
    except Stop as stopped:
        return first, _stopping(stopped)
    return first, chunks


def _stopping(stopped: Stop) -> Iterator[bytes]:
    raise stopped
    yield b""


def _stream(file: BufferedReader, head: bytes) -> Any:
    """`file` itself, or what unpacks it."""
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if _is_zstd(head):
        return zstd.ZstdFile(file)
    return file


def _is_zstd(head: bytes) -> bool:
    """Or a skippable frame, which some packers begin with."""
    return head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50)


def _chunks(stream: Stream) -> Iterator[bytes]:
    while chunk := stream.read1(CHUNK_BYTES):
        yield chunk


def _unpacked(stream: Stream, packed_bytes: int) -> Iterator[bytes]:
    """As `_chunks`; all that came before damage has been yielded when the damage is told. Stops at a bomb."""
    length, lines = 0, 1
    try:
        for chunk in _chunks(stream):
            length += len(chunk)
            lines += chunk.count(b"\n")
            if length > max(SWELLS_LEAST_BYTES, SWELLS_MAX * packed_bytes):
                raise swollen(packed_bytes, length)
            yield chunk
    except EOFError as error:
        what = f"the compressed data ends in the middle, in line {lines}: the file is incomplete"
        raise Stop("truncated_file", None, what, _REFETCH) from error
    except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        if "too much memory" in str(error):
            what = "the file is compressed with a window of more than 128 MiB (`zstd --long`)"
            advice = "Unpack it: `zstd -d --long=31 FILE -o NEW`, then add the new file."
            raise Stop("unknown_container", None, what, advice) from error
        what = f"the compressed data is damaged behind byte {length:,}, in line {lines} ({error})"
        raise Stop("broken_compression", None, what, _REFETCH) from error


def _splitter(head: bytes, plain_text: bool) -> Callable[[Iterator[bytes]], Iterator[Record]]:
    if plain_text:
        return _paragraphs
    if is_array(head):
        from gpu.data.read.array import elements  # the two know each other; this one is read first

        return elements
    if (delimiter := csv_delimiter(head)) is not None:
        from gpu.data.read.csv_rows import csv_records  # as above

        return partial(csv_records, delimiter=delimiter)
    return _lines


def _lines(chunks: Iterator[bytes]) -> Iterator[Record]:
    """Each line but the blank ones."""
    line = 1
    begun: list[bytes] = []
    length = 0
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        begun.append(pieces[0])
        length += len(pieces[0])
        if length > LONGEST_BYTES:
            raise too_long(line)
        if len(pieces) == 1:
            continue
        pieces[0] = b"".join(begun)
        rest = pieces.pop()
        for number, raw in enumerate(pieces, start=line):
            if raw and not raw.isspace():
                yield Record(number, raw)
        line += len(pieces)
        begun, length = [rest], len(rest)
    raw = b"".join(begun)
    if raw and not raw.isspace():
        yield Record(line, raw, whole=False)


def _paragraphs(chunks: Iterator[bytes]) -> Iterator[Record]:
    """Runs of lines with blank ones between them."""
    first, length = 0, 0
    paragraph: list[bytes] = []
    for record in _lines(chunks):
        if paragraph and record.line != first + len(paragraph):
            yield Record(first, b"\n".join(paragraph))
            paragraph = []
        if not paragraph:
            first, length = record.line, 0
        paragraph.append(record.raw)
        length += len(record.raw) + 1
        if length > LONGEST_BYTES:
            raise too_long(first)
    if paragraph:
        yield Record(first, b"\n".join(paragraph))


def swollen(packed_bytes: int, unpacked_bytes: int) -> Stop:
    """The end of reading at data that unpacks to far more than data does."""
    what = f"{packed_bytes:,} bytes of compressed data stand for more than {unpacked_bytes:,}: no rows are that alike"
    return Stop("swollen_file", None, what, "Unpack it and look at it; add the unpacked file if it is what you meant.")


def too_long(line: int) -> Stop:
    """The end of reading at a record that does not end."""
    what = f"more than {LONGEST_BYTES // 2**20} MiB without an end: no row is that long"
    return Stop("row_too_long", line, what, "Is it JSON Lines, one row on each line? Split the row, then add it again.")
