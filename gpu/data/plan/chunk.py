"""A stretch of a data file, raw, and what it becomes: the one place at which rows are read and encoded.

Whoever does it, the preparing process itself or a child of it (`gpu.data.encode.encoder`), calls `Look`; nothing that
it answers depends on how the file was cut into chunks, or on who did which.
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
from gpu.data.encode.fitting import Encoding
from gpu.data.encode.rows import Encoder
from gpu.data.examine import quality
from gpu.data.examine.examination import SKETCHED_ROWS, Fate, Outcome
from gpu.data.examine.quality import Identity
from gpu.data.format.example import BadRow, Problem, Row
from gpu.data.format.problems import weight_of
from gpu.data.read import rows
from gpu.data.read.source import Record, records
from journal.failpoints import failpoint

CHUNK_BYTES = 256 * 1024
"""A tenth of a second's work or so: what passes between two looks at the daemon's orders, and little enough that all
that is in flight takes no memory to speak of."""

PARQUET_ROW_BYTES = 1024
"""A Parquet row counts as so many: it has no text to measure."""

FATES: tuple[Fate, ...] = get_args(Fate)
CUT: frozenset[Fate] = frozenset({"truncated", "dropped"})
"""The fates of rows that lose tokens; those of one that is split stand in several pieces, some of them twice."""

BAD = len(FATES)
"""In the place of a fate: the row cannot be learned from."""


class Chunk(Struct, frozen=True, array_like=True):
    """Records of a file, one after the other."""

    records: list[Record]
    sketched: bool = True
    """Whether its rows are among those that nearly equal ones are looked for in."""

    @property
    def first(self) -> int:
        """The line of the first of them."""
        return self.records[0].line


class Chunks:
    """The records of a file, some at a time. Behind the last of them `problem` is what the file as a whole has."""

    def __init__(self, path: Path, settings: JobSettings, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._path = path
        self._plain_text = settings.data.format == "plain_text"
        self._chunk_bytes = chunk_bytes
        self.problem: Problem | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Raises OSError."""
        size, before, taken = 0, 0, list[Record]()
        for record in records(self._path, plain_text=self._plain_text):
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


class Looked(Struct, frozen=True, array_like=True):
    """What came of a chunk, in flat arrays, the least byte first: an entry for each row, then for each piece, end to
    end. A row may have become several pieces, or none.
    """

    lines: bytes
    """int64 for each row."""
    fates: bytes
    """A byte for each row: its place in FATES, or BAD."""
    pieces: bytes
    """int32 for each row: how many it became."""
    row_tokens: bytes
    """int32 for each row: its tokens, before anything was cut."""
    identities: bytes
    """3 × uint64 for each good row."""
    sketches: bytes
    """4 × SKETCH_NUMBERS bytes for each good row; b"" if nobody asks."""
    ids: bytes
    """int32 for each token."""
    trained: bytes
    """A byte for each token: 1 if it is learned. The first of a piece never is: nothing predicts it."""
    lengths: bytes
    """int32 for each piece: its tokens."""
    piece_lines: bytes
    """int64 for each piece: the line that it is of."""
    bad: list[BadRow]
    """The rows that are BAD, in their order."""
    warnings: list[Problem]
    """Of good rows, in their order."""

    @classmethod
    def of_pieces(
        cls,
        *,
        lines: array[int],
        pieces: array[int],
        ids: array[int],
        trained: bytearray,
        lengths: array[int],
        at: array[int],
    ) -> Looked:
        """Rows of which nothing is to be known but their pieces. `at`: the line of each piece."""
        return cls(
            lines=_little(lines),
            fates=bytes(len(lines)),
            pieces=_little(pieces),
            row_tokens=b"",
            identities=b"",
            sketches=b"",
            ids=_little(ids),
            trained=bytes(trained),
            lengths=_little(lengths),
            piece_lines=_little(at),
            bad=[],
            warnings=[],
        )

    def outcomes(self) -> Iterator[tuple[Outcome, int]]:
        """What is to be known of each row, and how many pieces it became."""
        bad, warnings = iter(self.bad), _by_line(self.warnings)
        identities = iter(np.frombuffer(self.identities, "<u8").reshape(-1, 3).tolist())
        width = 4 * quality.SKETCH_NUMBERS
        sketches = (self.sketches[at : at + width] for at in range(0, len(self.sketches), width))
        columns = zip(*map(_whole, (self.lines, self.pieces, self.row_tokens), ("<i8", "<i4", "<i4")), strict=True)
        lengths = iter(_whole(self.lengths, "<i4"))
        for fate, (line, pieces, tokens) in zip(self.fates, columns, strict=True):
            kept = sum(islice(lengths, pieces))
            if fate == BAD:
                row = next(bad)
                yield Outcome(line, problems=row.problems, raw=row.raw), pieces
            else:
                identity, sketch = Identity(*next(identities)), next(sketches, b"")
                warned = tuple(warnings.get(line, ()))
                lost = tokens - kept if FATES[fate] in CUT else 0
                yield Outcome(line, (), b"", warned, identity, sketch, tokens, FATES[fate], lost), pieces

    def without(self, left_out: list[int]) -> Looked:
        """The same, without the pieces of the rows (by their places in the chunk) that are left out after all."""
        if not left_out:
            return self
        per_row = np.frombuffer(self.pieces, "<i4")
        keeps_row = np.ones(len(per_row), dtype=bool)
        keeps_row[left_out] = False
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


LookThrough = Callable[[Iterable[Chunk]], Iterator[Looked]]
"""Chunks to what comes of each, in their order; it asks for the next one only when it has room for it."""


class _Seen(NamedTuple):
    """A row, read."""

    record: Record
    row: Row | None
    problems: tuple[Problem, ...]
    """Why it is bad."""
    warnings: tuple[Problem, ...]


class Look:
    """Reads and encodes chunks of one file."""

    def __init__(self, encoder: Encoder, settings: JobSettings, form: str | None) -> None:
        """`form`: the format of all rows; None: there is no good one among them."""
        self._encoder, self._settings, self._form = encoder, settings, form
        self._sketches = settings.checks.near_duplicates != "off"

    def __call__(self, chunk: Chunk) -> Looked:
        """What its rows are, whether they can be learned from, and their tokens."""
        seen = [self._read(record) for record in chunk.records]
        good = [each.row for each in seen if each.row is not None and not each.problems]
        encodings = iter(self._encoder.encode_many(good))
        made = _Columns(self._sketches and chunk.sketched)
        for each in seen:
            encoding = next(encodings) if each.row is not None and not each.problems else Encoding()
            refused, warned = self._weighed(encoding.warnings)
            problems = (encoding.problem,) if encoding.problem is not None else (*each.problems, *refused)
            if problems or each.row is None:
                made.add_bad(each.record, problems)
            else:
                made.add(each.row, encoding)
                made.warnings += (*each.warnings, *warned)
            failpoint("row_prepared")
        return made.looked()

    def _read(self, record: Record) -> _Seen:
        row, problems = rows.examine(record, self._form, self._settings.data)
        special = self._encoder.special_token_problem(row) if row is not None else None
        refused, warned = self._weighed((*problems, *([special] if special else ())))
        if row is None and not refused:  # by their names they are harmless, and yet there is no row
            refused, warned = [*problems], []
        return _Seen(record, row, tuple(refused), tuple(warned))

    def _weighed(self, problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
        """Those that make a row bad by `[checks] rows`, and those that are only told."""
        refused: list[Problem] = []
        warned: list[Problem] = []
        for problem in problems:
            weight = weight_of(problem.name, self._settings.checks.rows)
            if weight != "off":
                (refused if weight == "refuse" else warned).append(problem)
        return refused, warned


class _Columns:
    """A `Looked` as it grows."""

    def __init__(self, sketches: bool) -> None:
        self._wants_sketches = sketches
        self._lines, self._piece_lines = array("q"), array("q")
        self._pieces, self._row_tokens, self._ids, self._lengths = array("i"), array("i"), array("i"), array("i")
        self._identities = array("Q")
        self._fates, self._trained, self._sketches = bytearray(), bytearray(), bytearray()
        self._bad: list[BadRow] = []
        self.warnings: list[Problem] = []

    def add(self, row: Row, encoding: Encoding) -> None:
        self._add(row.line, FATES.index(encoding.long or "whole"), len(encoding.pieces), encoding.tokens)
        self._identities.extend(quality.identity(row))
        if self._wants_sketches:
            self._sketches += quality.sketch(row)
        for piece in encoding.pieces:
            self._ids.extend(piece.ids)
            self._trained += bytes([0, *piece.trained[1:]])
            self._lengths.append(len(piece.ids))
            self._piece_lines.append(row.line)

    def add_bad(self, record: Record, problems: tuple[Problem, ...]) -> None:
        self._add(record.line, BAD, 0, 0)
        self._bad.append(BadRow(record.line, rows.as_line(record), problems))

    def _add(self, line: int, fate: int, pieces: int, tokens: int) -> None:
        self._lines.append(line)
        self._fates.append(fate)
        self._pieces.append(pieces)
        self._row_tokens.append(tokens)

    def looked(self) -> Looked:
        """All of it."""
        return Looked(
            lines=_little(self._lines),
            fates=bytes(self._fates),
            pieces=_little(self._pieces),
            row_tokens=_little(self._row_tokens),
            identities=_little(self._identities),
            sketches=bytes(self._sketches),
            ids=_little(self._ids),
            trained=bytes(self._trained),
            lengths=_little(self._lengths),
            piece_lines=_little(self._piece_lines),
            bad=self._bad,
            warnings=self.warnings,
        )


def _whole(data: bytes, dtype: str) -> list[int]:
    numbers: list[int] = np.frombuffer(data, dtype).tolist()
    return numbers


def _by_line(problems: list[Problem]) -> dict[int | None, list[Problem]]:
    found: dict[int | None, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.line, []).append(problem)
    return found


def _little(values: array[int]) -> bytes:
    """As it is written: the least byte first."""
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
