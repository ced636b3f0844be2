"""Chunks of a data file, and the one place at which their rows are parsed and encoded.

The preparing process and its encoder processes (`gpu.data.processes.encoder_process`) all use `ChunkEncoder`. Its
result depends neither on how the file was cut into chunks nor on which process encoded a chunk.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from events.settings import JobSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.encode.fitting import EncodedRow
from gpu.data.examine import quality
from gpu.data.examine.examination import SKETCHED_ROWS, LengthTreatment, RowResult
from gpu.data.examine.quality import RowHashes
from gpu.data.format import rows
from gpu.data.format.example import BadRow, Row
from gpu.data.problems import Problem, severity_of
from gpu.data.read.record import Record
from gpu.data.read.source import read_records
from journal.failpoints import failpoint

CHUNK_BYTES = 256 * 1024
"""About a tenth of a second of work. The worker looks for orders of the daemon between two chunks, and all chunks in
flight together take little memory."""

PARQUET_ROW_BYTES = 1024
"""Assumed bytes of a Parquet row, which has no text to measure."""

TREATMENTS: tuple[LengthTreatment, ...] = get_args(LengthTreatment)
CUT: frozenset[LengthTreatment] = frozenset({"truncated", "dropped"})
"""Treatments that lose tokens. A split row loses none: its tokens stand in several pieces, some of them twice."""

BAD = len(TREATMENTS)
"""Stands for a treatment if the row cannot be trained."""


class Chunk(Struct, frozen=True, array_like=True):
    """Consecutive records of a file."""

    records: list[Record]
    sketched: bool = True
    """True if the search for near-duplicates covers its rows."""

    @property
    def first(self) -> int:
        """Line of the first record."""
        return self.records[0].line


class Chunks:
    """Iterates over the records of a file in chunks. After the last one, `problem` is that of the file as a whole."""

    def __init__(self, path: Path, settings: JobSettings, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._path = path
        self._plain_text = settings.data.format == "plain_text"
        self._chunk_bytes = chunk_bytes
        self.problem: Problem | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Raises OSError."""
        size, before, taken = 0, 0, list[Record]()
        for record in read_records(self._path, plain_text=self._plain_text):
            if isinstance(record, Problem):
                self.problem = record
                break
            taken.append(record)
            size += len(record.raw) or PARQUET_ROW_BYTES
            if size >= self._chunk_bytes:
                yield Chunk(taken, before < SKETCHED_ROWS)
                size, before, taken = 0, before + len(taken), []
        if taken:
            yield Chunk(taken, before < SKETCHED_ROWS)


class EncodedChunk(Struct, frozen=True, array_like=True):
    """An encoded chunk as flat little-endian arrays, with an entry for each row, piece or token.

    A row may have several pieces, or none.
    """

    lines: bytes
    """int64 for each row."""
    treatments: bytes
    """uint8 for each row: its index in TREATMENTS, or BAD."""
    pieces: bytes
    """int32 for each row: its number of pieces."""
    row_tokens: bytes
    """int32 for each row: its tokens before anything was cut."""
    identities: bytes
    """3 × uint64 for each good row."""
    sketches: bytes
    """4 × SKETCH_NUMBERS bytes for each good row; b"" if near-duplicates are not searched."""
    ids: bytes
    """int32 for each token."""
    trained: bytes
    """uint8 for each token: 1 if it is trained. The first of a piece never is: nothing predicts it."""
    lengths: bytes
    """int32 for each piece: its tokens."""
    piece_lines: bytes
    """int64 for each piece: the line of its row."""
    bad: list[BadRow]
    """The BAD rows, in order."""
    warnings: list[Problem]
    """Warnings of the good rows, in order."""

    def row_results(self) -> Iterator[tuple[RowResult, int]]:
        """Yield the result of each row, and its number of pieces."""
        bad, warnings = iter(self.bad), _by_line(self.warnings)
        identities = iter(np.frombuffer(self.identities, "<u8").reshape(-1, 3).tolist())
        width = 4 * quality.SKETCH_NUMBERS
        sketches = (self.sketches[at : at + width] for at in range(0, len(self.sketches), width))
        columns = zip(*map(_numbers, (self.lines, self.pieces, self.row_tokens), ("<i8", "<i4", "<i4")), strict=True)
        lengths = iter(_numbers(self.lengths, "<i4"))
        for treatment, (line, pieces, tokens) in zip(self.treatments, columns, strict=True):
            kept = sum(islice(lengths, pieces))
            if treatment == BAD:
                row = next(bad)
                yield RowResult(line, problems=row.problems, raw=row.raw), pieces
            else:
                identity, sketch = RowHashes(*next(identities)), next(sketches, b"")
                warned = tuple(warnings.get(line, ()))
                lost = tokens - kept if TREATMENTS[treatment] in CUT else 0
                yield RowResult(line, (), b"", warned, identity, sketch, tokens, TREATMENTS[treatment], lost), pieces

    def without(self, rows: list[int]) -> EncodedChunk:
        """Return the chunk without the pieces of these rows, given by their indices in the chunk."""
        if not rows:
            return self
        per_row = np.frombuffer(self.pieces, "<i4")
        keeps_row = np.ones(len(per_row), dtype=bool)
        keeps_row[rows] = False
        keeps = np.repeat(keeps_row, per_row)
        lengths = np.frombuffer(self.lengths, "<i4")
        of_token = np.repeat(keeps, lengths)
        return replace(
            self,
            pieces=np.where(keeps_row, per_row, 0).astype("<i4").tobytes(),
            ids=np.frombuffer(self.ids, "<i4")[of_token].tobytes(),
            trained=np.frombuffer(self.trained, "u1")[of_token].tobytes(),
            lengths=lengths[keeps].tobytes(),
            piece_lines=np.frombuffer(self.piece_lines, "<i8")[keeps].tobytes(),
        )


EncodeChunks = Callable[[Iterable[Chunk]], Iterator[EncodedChunk]]
"""Encodes chunks in their order; takes the next one only when it has room for it."""


class _ParsedRow(NamedTuple):
    """A record after parsing."""

    record: Record
    row: Row | None
    problems: tuple[Problem, ...]
    """The problems that make it bad; none if it is good."""
    warnings: tuple[Problem, ...]


class ChunkEncoder:
    """Parses and encodes the chunks of one file."""

    def __init__(self, encoder: Encoder, settings: JobSettings, format_name: str | None) -> None:
        """`format_name`: the format of all rows; None if no row is good."""
        self._encoder, self._settings, self._format = encoder, settings, format_name
        self._sketches = settings.checks.near_duplicates != "off"

    def __call__(self, chunk: Chunk) -> EncodedChunk:
        """Return the rows, their problems and their tokens."""
        parsed = [self._parse(record) for record in chunk.records]
        good = [each.row for each in parsed if each.row is not None and not each.problems]
        encoded_rows = iter(self._encoder.encode_many(good))
        columns = ChunkColumns(sketches=self._sketches and chunk.sketched)
        for each in parsed:
            encoded = next(encoded_rows) if each.row is not None and not each.problems else EncodedRow()
            refused, warned = self._sort_by_severity(encoded.warnings)
            problems = (encoded.problem,) if encoded.problem is not None else (*each.problems, *refused)
            if problems or each.row is None:
                columns.add_bad(each.record, problems)
            else:
                columns.add(each.row, encoded)
                columns.warnings += (*each.warnings, *warned)
            failpoint("row_prepared")
        return columns.chunk()

    def _parse(self, record: Record) -> _ParsedRow:
        row, problems = rows.parse_record(record, self._format, self._settings.data)
        special = self._encoder.special_token_problem(row) if row is not None else None
        refused, warned = self._sort_by_severity((*problems, *([special] if special else ())))
        if row is None and not refused:  # no row, though each problem by itself is tolerated
            refused, warned = [*problems], []
        return _ParsedRow(record, row, tuple(refused), tuple(warned))

    def _sort_by_severity(self, problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
        """Return the problems that make a row bad by `[checks] rows`, and those that are only reported."""
        refused: list[Problem] = []
        warned: list[Problem] = []
        for problem in problems:
            severity = severity_of(problem.name, self._settings.checks.rows)
            if severity != "off":
                (refused if severity == "refuse" else warned).append(problem)
        return refused, warned


class ChunkColumns:
    """Collects the columns of an `EncodedChunk`, with the MinHashes of rows if `sketches`."""

    def __init__(self, *, sketches: bool = False) -> None:
        self._wants_sketches = sketches
        self._lines, self._piece_lines = array("q"), array("q")
        self._pieces, self._row_tokens, self._ids, self._lengths = array("i"), array("i"), array("i"), array("i")
        self._identities = array("Q")
        self._treatments, self._trained, self._sketches = bytearray(), bytearray(), bytearray()
        self._bad: list[BadRow] = []
        self.warnings: list[Problem] = []

    def add(self, row: Row, encoded: EncodedRow) -> None:
        """Add a good row of the file."""
        self.add_pieces(row.line, encoded)
        self._identities.extend(quality.hash_row(row))
        if self._wants_sketches:
            self._sketches += quality.min_hash(row)

    def add_pieces(self, line: int, encoded: EncodedRow) -> None:
        """Add a row of another file, of which only the pieces are used."""
        self._add(line, TREATMENTS.index(encoded.long or "whole"), len(encoded.pieces), encoded.tokens)
        for piece in encoded.pieces:
            self._ids.extend(piece.ids)
            self._trained += bytes([0, *piece.trained[1:]])
            self._lengths.append(len(piece.ids))
            self._piece_lines.append(line)

    def add_bad(self, record: Record, problems: tuple[Problem, ...]) -> None:
        """Add a bad row of the file."""
        self._add(record.line, BAD, 0, 0)
        self._bad.append(BadRow(record.line, rows.record_as_line(record), problems))

    def _add(self, line: int, treatment: int, pieces: int, tokens: int) -> None:
        self._lines.append(line)
        self._treatments.append(treatment)
        self._pieces.append(pieces)
        self._row_tokens.append(tokens)

    def chunk(self) -> EncodedChunk:
        """Return the columns as one chunk."""
        return EncodedChunk(
            lines=_little_endian(self._lines),
            treatments=bytes(self._treatments),
            pieces=_little_endian(self._pieces),
            row_tokens=_little_endian(self._row_tokens),
            identities=_little_endian(self._identities),
            sketches=bytes(self._sketches),
            ids=_little_endian(self._ids),
            trained=bytes(self._trained),
            lengths=_little_endian(self._lengths),
            piece_lines=_little_endian(self._piece_lines),
            bad=self._bad,
            warnings=self.warnings,
        )


def _numbers(data: bytes, dtype: str) -> list[int]:
    numbers: list[int] = np.frombuffer(data, dtype).tolist()
    return numbers


def _by_line(problems: list[Problem]) -> dict[int | None, list[Problem]]:
    found: dict[int | None, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.line, []).append(problem)
    return found


def _little_endian(values: array[int]) -> bytes:
    """Return the bytes of `values`, the least significant byte first."""
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
