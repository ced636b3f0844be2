"""A record, the limits of reading, and the error that ends it; every reader of a container uses them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gpu.data.problems import Problem

RECORD_MAX_BYTES = 64 * 2**20
"""A million token ids, or the longest book, take a tenth of it. A small archive of one endless line (a decompression
bomb: gzip packs a thousand to one, zstd more) is refused before it costs memory."""

GROWTH_MAX = 500
"""Factor by which data may grow when it is unpacked. Rows of text grow some ten times, the most repetitive ones
a hundred times. More than that is a decompression bomb, or rows that teach nothing."""

UNPACKED_FREE_BYTES = 64 * 2**20
"""GROWTH_MAX applies beyond this size; unpacking so much costs little."""

CHUNK_BYTES = 2**18
"""Bytes of one read: large enough that the calls cost nothing, small enough to stay in a processor's cache."""


class Record(NamedTuple):
    """One row, as it stands in the file."""

    line: int
    """Line on which the record begins, from 1; in a Parquet file the number of the row."""
    raw: bytes
    """Bytes without the line feed; b"" for Parquet."""
    column: int = 1
    """Column in characters at which the record begins in that line."""
    whole: bool = True
    """False for a last line without a line feed: more may have been meant to follow."""
    fields: dict[str, Any] | None = None
    """The parsed row, for Parquet and CSV."""


class UnreadableFile(Exception):
    """The rest of the file cannot be read. Data: `problem`."""

    def __init__(self, name: str, line: int | None, what: str, advice: str, column: int | None = None) -> None:
        self.problem = Problem(name, line, what, "", advice, column)
        super().__init__(self.problem.message)


def split_lines(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each line without its line feed, and whether it has one. Raises UnreadableFile for a line too long."""
    line = 1
    begun: list[bytes] = []
    length = 0
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        begun.append(pieces[0])
        length += len(pieces[0])
        if length > RECORD_MAX_BYTES:
            raise too_long(line)
        if len(pieces) == 1:
            continue
        yield b"".join(begun), True
        for piece in pieces[1:-1]:
            yield piece, True
        line += len(pieces) - 1
        begun, length = [pieces[-1]], len(pieces[-1])
    if rest := b"".join(begun):
        yield rest, False


def too_long(line: int) -> UnreadableFile:
    """Return the error for a record that exceeds RECORD_MAX_BYTES."""
    what = f"the row is longer than {RECORD_MAX_BYTES // 2**20} MiB"
    advice = "Is the file JSON Lines, with one row on each line? Split the row, then add the file again."
    return UnreadableFile("row_too_long", line, what, advice)


def decompression_bomb(packed_bytes: int, unpacked_bytes: int) -> UnreadableFile:
    """Return the error for data that grows beyond GROWTH_MAX."""
    what = f"{packed_bytes:,} bytes of compressed data unpack to more than {unpacked_bytes:,}; real rows do not"
    advice = "Unpack the file and look at it. If it is what you meant, add the unpacked file."
    return UnreadableFile("swollen_file", None, what, advice)
