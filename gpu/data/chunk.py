"""A stretch of a data file, raw, and what it becomes: the one place at which rows are read and encoded.

Whoever encodes, the preparing process itself or a child of it (`gpu.encoder`), calls `encode_chunk`; nothing that it
answers depends on how the file was cut into chunks, or on who did which.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from events.settings import DataSettings
from gpu.crashpoints import reached
from gpu.data.rows import parse, recognised
from gpu.data.tokens import Encoder
from gpu.errors import RowRejected

CHUNK_BYTES = 256 * 1024
"""A tenth of a second's work or so: what passes between two looks at the daemon's orders, and little enough that all
that is in flight takes no memory to speak of."""


class Chunk(Struct, frozen=True, array_like=True):
    """Lines of a file, one after the other."""

    first: int
    """The number of the first of them, from 1."""
    lines: list[bytes]


class BadLine(Struct, frozen=True):
    """A row that cannot be learned from."""

    line: int
    raw: bytes
    """As it stands in the file."""
    problem: str
    """That scripts can match."""
    message: str
    """In the words that a person reads."""


class EncodedChunk(Struct, frozen=True, array_like=True):
    """What came of a chunk: pieces, end to end in flat arrays, the least byte first.

    A row may have become several pieces, or none.
    """

    rows: int
    """Of the chunk, good and bad."""
    ids: bytes
    """int32 for each token."""
    learned: bytes
    """A byte for each token: 1 if it is learned. The first of a piece never is: nothing predicts it."""
    lengths: bytes
    """int32 for each piece: its tokens."""
    lines: bytes
    """int64 for each piece: the line that it is of."""
    truncated: int
    """Rows that were cut at the end."""
    dropped: int
    """Rows that were left out for their length."""
    split: int
    """Rows that were cut into several pieces."""
    bad: list[BadLine]


Encode = Callable[[Iterable[Chunk]], Iterator[EncodedChunk]]
"""Chunks to what comes of each, in their order; it asks for the next one only when it has room for it."""


def chunks_of(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The lines of the file at `path`. Raises OSError."""
    first, size, lines = 1, 0, list[bytes]()
    with path.open("rb") as file:
        for line in file:
            lines.append(line)
            size += len(line)
            if size >= chunk_bytes:
                yield Chunk(first, lines)
                first, size, lines = first + len(lines), 0, []
    if lines:
        yield Chunk(first, lines)


def format_of(path: Path, settings: DataSettings) -> str:
    """The format of all rows of the file at `path`: that of its first, or of the first that has one where bad rows are
    skipped. Raises RowRejected, OSError."""
    bad: RowRejected | None = None
    for chunk in chunks_of(path, 1):
        try:
            found = recognised(chunk.first, chunk.lines[0], settings)
        except RowRejected as error:
            if settings.bad_rows == "refuse":
                raise
            bad = bad or error
            continue
        if found is not None:
            return found
    raise bad or RowRejected(
        "empty_file", None, "The file has no rows. Put one JSON object on each line, then add it again."
    )


def encode_chunk(chunk: Chunk, chosen: str, settings: DataSettings, encoder: Encoder) -> EncodedChunk:
    """The pieces of a chunk's rows, all of the format `chosen`, and the rows that are bad.

    Where a bad row refuses its file, what follows it is not looked at.
    """
    ids, learned, lengths, lines = array("i"), bytearray(), array("i"), array("q")
    rows = truncated = 0
    bad: list[BadLine] = []
    for number, raw in enumerate(chunk.lines, start=chunk.first):
        try:
            row = parse(number, raw, chosen, settings)
            if row is None:
                continue
            encoded = encoder.encode(row)
        except RowRejected as error:
            rows += 1
            bad.append(BadLine(number, raw, error.problem, error.message))
            if settings.bad_rows == "refuse":
                break
            continue
        rows += 1
        ids.extend(encoded.ids)
        learned += bytes([0, *encoded.learned[1:]])
        lengths.append(len(encoded.ids))
        lines.append(number)
        truncated += encoded.truncated
        reached("row_prepared")
    flat = (_little(ids), bytes(learned), _little(lengths), _little(lines))
    return EncodedChunk(rows, *flat, truncated, 0, 0, bad)


def _little(values: array[int]) -> bytes:
    """As it is written: the least byte first."""
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
