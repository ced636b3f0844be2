"""What is said of a data file: the same report from `keepstep data check` and from the daemon.

A report is a view: it is made again whenever the file is looked at again.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

PLACES = 5
"""Of each kind of problem so many are shown: enough to see what it is."""


class Place(Struct, frozen=True, kw_only=True):
    """One row that something was found in."""

    line: int
    column: int | None = None
    what: str
    seen: str = ""


class Finding(Struct, frozen=True, kw_only=True):
    """One kind of problem."""

    name: str
    """For scripts; docs/reference/data-formats.md has all of them."""
    severity: Literal["refuse", "skip", "warn"]
    """The file is refused for it; such rows are left out; or it is only said."""
    count: int
    """Rows."""
    share: float
    """Of all rows."""
    message: str
    advice: str = ""
    places: tuple[Place, ...] = ()
    """The first of them."""


class Bucket(Struct, frozen=True):
    """Rows by their length in tokens."""

    up_to: int
    """Tokens, inclusive; from the one before."""
    rows: int


class Report(Struct, frozen=True, kw_only=True):
    """The content of a report."""

    format: Literal[1] = 1
    file: str
    verdict: Literal["good", "refused"]
    sha256: str
    size_bytes: int
    kind: str
    """What the file is: "jsonl", "jsonl, gzip", "json array", "parquet", …"""
    rows_are: str | None
    """What its rows are: "messages", "prompt_completion", …; None if that could not be told."""
    rows: int
    """All that stand in the file."""
    trained: int
    """What will be trained on: a row that was split is several."""
    replayed: int = 0
    """And rows of earlier files that are mixed in."""
    bad_rows: int
    dropped_rows: int
    """Left out because they are too long."""
    truncated_rows: int
    split_rows: int
    held_out_rows: int
    """Left out because they are in the validation set, or held out."""
    cut_tokens: int = 0
    """Of rows that are too long: left out, with what was cut off or with the whole row."""
    tokens: int
    """Of what is learned."""
    trained_tokens: int
    longest_tokens: int
    """Of one row, before anything was cut."""
    lengths: tuple[Bucket, ...] = ()
    findings: tuple[Finding, ...] = ()

    def encode(self) -> bytes:
        """As a file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @property
    def refusal(self) -> Finding | None:
        """Why it is refused: the first reason; None if it is not."""
        return next((finding for finding in self.findings if finding.severity == "refuse"), None)
