"""The report on a data file: the same from `keepstep data check` and from the daemon.

A report is a view: each preparation writes it again.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct, field

OCCURRENCES_MAX = 5
"""Rows that a finding shows: enough to see what the problem is."""


class Occurrence(Struct, frozen=True, kw_only=True):
    """One row that has a problem."""

    row: int = 0
    """Number of the row in the file, from 1, as `keepstep data check --row` takes it. 0: the problem is not that of a
    row, or an older keepstep wrote the report."""
    line: int
    """Line of the problem, from 1; in a Parquet file the number of the row."""
    column: int | None = None
    what: str
    seen: str = ""

    @property
    def where(self) -> str:
        """The place in words: "row 13 (line 15, column 17)". Line and column are left out if they add nothing."""
        column = f", column {self.column}" if self.column else ""
        if not self.row:
            return f"line {self.line}{column}"
        return f"row {self.row}" + (f" (line {self.line}{column})" if column or self.line != self.row else "")


class Finding(Struct, frozen=True, kw_only=True):
    """One kind of problem, and the rows that have it."""

    name: str
    """For scripts; `docs/reference/data-formats.md` lists all names."""
    severity: Literal["refuse", "skip", "warn"]
    """refuse: the file is refused. skip: these rows are skipped. warn: keepstep only reports it."""
    count: int
    """Number of rows with the problem, each counted once; 0 if it is not a problem of rows."""
    share: float
    """Share of all rows of the file."""
    message: str
    advice: str = ""
    places: tuple[Occurrence, ...] = ()
    """The first rows."""


class Bucket(Struct, frozen=True):
    """Number of rows with a length in a range of tokens."""

    up_to: int
    """Longest length, inclusive; the bucket begins after that of the bucket before."""
    rows: int


class LengthQuantiles(Struct, frozen=True, kw_only=True):
    """Tokens of the good rows before anything is cut: exact quantiles by nearest rank."""

    min: int
    p50: int
    p90: int
    p99: int
    max: int


class Report(Struct, frozen=True, kw_only=True):
    """The report on one data file."""

    format: Literal[1] = 1
    file: str
    verdict: Literal["good", "refused"]
    sha256: str
    size_bytes: int
    kind: str
    """Container of the file: "JSON Lines", "JSON array in gzip", "Parquet", …."""
    rows_are: str | None
    """Format of the rows: "messages", "prompt_completion", …; None if no row is good."""
    rows: int
    """Number of rows in the file."""
    trained: int = field(name="learned")
    """Pieces that are trained; a row that was split has several."""
    replayed: int = 0
    """Pieces of earlier files that are mixed in, in addition."""
    bad_rows: int
    dropped_rows: int
    """Rows that are dropped because they are too long."""
    truncated_rows: int
    split_rows: int
    held_out_rows: int
    """Rows that are in the validation set, or held out; they are not trained."""
    cut_tokens: int = 0
    """Tokens that are lost because rows are too long: cut off, or dropped with the row."""
    tokens: int
    """Tokens of all pieces."""
    trained_tokens: int
    longest_tokens: int
    """Tokens of the longest row, before anything was cut."""
    quantiles: LengthQuantiles | None = None
    """None if no row is good."""
    max_length: int = 0
    """Tokens that a row may have: `[data] max_length`, or the positions of the model if those are fewer."""
    lengths: tuple[Bucket, ...] = ()
    findings: tuple[Finding, ...] = ()

    def encode(self) -> bytes:
        """Return the bytes of the report file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @property
    def refusal(self) -> Finding | None:
        """The first finding that refuses the file; None if it is good."""
        return next((finding for finding in self.findings if finding.severity == "refuse"), None)


# -- preview --------------------------------------------------------------------------------------------------------


class PreviewPart(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Consecutive text of one kind."""

    text: str = ""
    """As the tokenizer decodes it, special tokens included. "" for a gap."""
    trained: bool = False
    special: bool = False
    """True if it consists of special tokens."""
    omitted_characters: int = 0
    """Characters that are left out here because the row is long."""
    omitted_trained_characters: int = 0
    """Those of them that are trained."""


class PreviewPiece(Struct, frozen=True, kw_only=True):
    """One example as the model sees it."""

    parts: tuple[PreviewPart, ...]
    tokens: int
    trained_tokens: int


class Reason(Struct, frozen=True, kw_only=True):
    """A problem of a row."""

    name: str
    message: str
    advice: str = ""


RowVerdict = Literal["trained", "rejected", "held_out", "dropped"]
"""rejected: the row is bad. dropped: it is too long."""


class PreviewRow(Struct, frozen=True, kw_only=True):
    """One row as the model sees it, or as it stands in the file if it is not trained."""

    row: int
    """Number of the row in the file, from 1."""
    line: int
    """Line on which it begins; in a Parquet file the number of the row."""
    verdict: RowVerdict
    tokens: int = 0
    """Tokens before anything is cut; 0 if it is rejected."""
    cut_tokens: int = 0
    """Those that are cut off."""
    reasons: tuple[Reason, ...] = ()
    """Why it is rejected."""
    warnings: tuple[Reason, ...] = ()
    pieces: tuple[PreviewPiece, ...] = ()
    omitted_pieces: int = 0
    """Further pieces that are not shown."""
    source: tuple[PreviewPart, ...] = ()
    """The row as it stands in the file, if it has no pieces."""
