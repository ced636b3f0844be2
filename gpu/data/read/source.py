"""Read the records of a data file, whatever container it is in.

The first bytes decide what a file is, never its name, since every accepted file is kept as `data/<sha256>.jsonl`:

    1f 8b                    gzip; the content is recognised in the same way
    28 b5 2f fd, 5? 2a 4d 18 zstd; the same
    PAR1                     Parquet: a record is a row
    [                        one JSON array: a record is an element
    a header                 CSV or TSV: a record is a row
    anything else            JSON Lines: a record is a line

If the settings say plain text, a record is a paragraph. `gpu.data.read.container` refuses all other files. Nothing here
parses JSON, and the longest record bounds the memory. A problem of the file as a whole is yielded last, because nothing
after it can be read.
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
from typing import Any, Protocol

from msgspec.structs import replace

from events.settings import DataSettings
from gpu.data.problems import Problem
from gpu.data.read import record
from gpu.data.read.array import read_array
from gpu.data.read.container import BOM, DELIMITERS, csv_delimiter, find_unsupported, is_array, is_plain_text
from gpu.data.read.csv_rows import read_csv
from gpu.data.read.parquet import read_parquet
from gpu.data.read.record import Record, UnreadableFile, decompression_bomb, split_lines, too_long
from journal.durable import open_to_read

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEAD_BYTES = 64
"""Bytes that show the compression."""

BEGINNING_BYTES = 2**14
"""Bytes that show the content: a header and some rows of a table, or the first line of a list."""

_DOWNLOAD_AGAIN = "Copy or download it again, then add it again."


class Stream(Protocol):
    """A source of bytes; each call returns some, or b"" at the end."""

    def read1(self, size: int, /) -> bytes: ...


def read_records(path: Path, *, plain_text: bool = False) -> Iterator[Record | Problem]:
    """Yield the records of the file at `path`; a Problem, if there is one, comes last. Raises OSError."""
    with open_to_read(path) as file:
        try:
            yield from _read(file, plain_text)
        except UnreadableFile as unreadable:
            yield unreadable.problem


def describe_container(path: Path, *, plain_text: bool = False) -> str:
    """Return what the file at `path` is, in words: "JSON Lines", "JSON array in gzip", …. Raises OSError."""
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
        except UnreadableFile:
            return f"damaged data{packed}"
        return _describe(inside, plain_text=plain_text, packed=bool(packed)) + packed


def holds_plain_text(path: Path) -> bool:
    """True if the file at `path` can be plain text: no rows, no table, no other container. Raises OSError."""
    with open_to_read(path) as file:
        inside, _ = _beginning(_unpacked(_stream(file, _head(file)), os.fstat(file.fileno()).st_size))
        return is_plain_text(inside)


def with_own_format(path: Path, settings: DataSettings) -> DataSettings:
    """Return `settings` for an earlier file or a validation set, which need not be plain text because the current job
    is. Raises OSError."""
    if settings.prompt is not None or settings.format not in {"auto", "plain_text"}:
        return settings
    return replace(settings, format="plain_text" if holds_plain_text(path) else "auto")


def _describe(inside: bytes, *, plain_text: bool, packed: bool) -> str:
    if find_unsupported(inside, packed=packed, plain_text=plain_text) is not None:
        return "another kind of file"
    if plain_text:
        return "plain text"
    delimiter = csv_delimiter(inside)
    return DELIMITERS[delimiter] if delimiter is not None else "JSON array" if is_array(inside) else "JSON Lines"


def _read(file: BufferedReader, plain_text: bool) -> Iterator[Record]:
    head = _head(file)
    if head.startswith(b"PAR1"):
        if plain_text:
            advice = 'Set [data] format = "auto" in keepstep.toml, then add the file again.'
            raise UnreadableFile("unknown_container", None, "the file is a Parquet file, not plain text", advice)
        yield from read_parquet(file)
        return
    stream = _stream(file, head)
    chunks = _chunks(stream) if stream is file else _unpacked(stream, os.fstat(file.fileno()).st_size)
    first, rest = _beginning(chunks)
    unsupported = find_unsupported(first, packed=stream is not file, plain_text=plain_text)
    if unsupported is not None:
        raise UnreadableFile(unsupported.name, None, unsupported.what, unsupported.advice)
    yield from _reader(first, plain_text)(chain([first.removeprefix(BOM)], rest))


def _head(file: BufferedReader) -> bytes:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def _beginning(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes, and the chunks that follow. Those raise the error of damage in the first bytes."""
    first = b""
    try:
        for chunk in chunks:
            first += chunk
            if len(first) >= BEGINNING_BYTES:
                break
    except UnreadableFile as unreadable:
        return first, _raising(unreadable)
    return first, chunks


def _raising(unreadable: UnreadableFile) -> Iterator[bytes]:
    raise unreadable
    yield b""


def _stream(file: BufferedReader, head: bytes) -> Any:
    """Return `file`, or a stream that decompresses it."""
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if _is_zstd(head):
        return zstd.ZstdFile(file)
    return file


def _is_zstd(head: bytes) -> bool:
    """True for zstd, also if it begins with a skippable frame, as some packers write it."""
    return head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50)


def _chunks(stream: Stream) -> Iterator[bytes]:
    while chunk := stream.read1(record.CHUNK_BYTES):
        yield chunk


def _unpacked(stream: Stream, packed_bytes: int) -> Iterator[bytes]:
    """Yield decompressed chunks, all that precede the damage first. Raises UnreadableFile, also for a bomb."""
    length, lines = 0, 1
    try:
        for chunk in _chunks(stream):
            length += len(chunk)
            lines += chunk.count(b"\n")
            if length > max(record.UNPACKED_FREE_BYTES, record.GROWTH_MAX * packed_bytes):
                raise decompression_bomb(packed_bytes, length)
            yield chunk
    except EOFError as error:
        what = f"the compressed data ends in the middle, in line {lines}: the file is incomplete"
        raise UnreadableFile("truncated_file", None, what, _DOWNLOAD_AGAIN) from error
    except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        if "too much memory" in str(error):
            what = "the file is compressed with a window of more than 128 MiB (`zstd --long`)"
            advice = "Unpack it: `zstd -d --long=31 FILE -o NEW`, then add NEW."
            raise UnreadableFile("unknown_container", None, what, advice) from error
        what = f"the compressed data is damaged after byte {length:,}, in line {lines} ({error})"
        raise UnreadableFile("broken_compression", None, what, _DOWNLOAD_AGAIN) from error


def _reader(head: bytes, plain_text: bool) -> Callable[[Iterator[bytes]], Iterator[Record]]:
    if plain_text:
        return _read_paragraphs
    if is_array(head):
        return read_array
    if (delimiter := csv_delimiter(head)) is not None:
        return partial(read_csv, delimiter=delimiter)
    return _read_lines


def _read_lines(chunks: Iterator[bytes]) -> Iterator[Record]:
    """Yield each line that is not blank."""
    for number, (raw, ended) in enumerate(split_lines(chunks), start=1):
        if raw and not raw.isspace():
            yield Record(number, raw, whole=ended)


def _read_paragraphs(chunks: Iterator[bytes]) -> Iterator[Record]:
    """Yield the runs of lines between blank lines."""
    first, length = 0, 0
    paragraph: list[bytes] = []
    for line in _read_lines(chunks):
        if paragraph and line.line != first + len(paragraph):
            yield Record(first, b"\n".join(paragraph))
            paragraph = []
        if not paragraph:
            first, length = line.line, 0
        paragraph.append(line.raw)
        length += len(line.raw) + 1
        if length > record.RECORD_MAX_BYTES:
            raise too_long(first)
    if paragraph:
        yield Record(first, b"\n".join(paragraph))
