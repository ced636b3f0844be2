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

    line: int
    column: int | None = None
    what: str
    seen: str = ""


class Finding(Struct, frozen=True, kw_only=True):
    """One kind of problem, and the rows that have it."""

    name: str
    """For scripts; `docs/reference/data-formats.md` lists all names."""
    severity: Literal["refuse", "skip", "warn"]
    """refuse: the file is refused. skip: these rows are skipped. warn: keepstep only reports it."""
    count: int
    """Number of rows."""
    share: float
    """Share of all rows."""
    message: str
    advice: str = ""
    places: tuple[Occurrence, ...] = ()
    """The first rows."""


class Bucket(Struct, frozen=True):
    """Number of rows with a length in a range of tokens."""

    up_to: int
    """Longest length, inclusive; the bucket begins after that of the bucket before."""
    rows: int


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
    lengths: tuple[Bucket, ...] = ()
    findings: tuple[Finding, ...] = ()

    def encode(self) -> bytes:
        """Return the bytes of the report file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @property
    def refusal(self) -> Finding | None:
        """The first finding that refuses the file; None if it is good."""
        return next((finding for finding in self.findings if finding.severity == "refuse"), None)
