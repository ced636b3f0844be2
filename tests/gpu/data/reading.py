"""Helpers that read rows: one record, or a file that must be good."""

from __future__ import annotations

import gzip
from collections.abc import Container
from pathlib import Path

from events.settings import DataSettings
from gpu.data.format.example import BadRow, Row
from gpu.data.format.rows import _judge, parse_record, read_rows
from gpu.data.problems import TOLERATED, Problem
from gpu.data.read.record import Record


def parse(
    record: Record, form: str | None, settings: DataSettings, tolerated: Container[str] = TOLERATED
) -> Row | BadRow:
    """Return the row of a record, as `read_rows` returns it."""
    row, problems = parse_record(record, form, settings)
    return _judge(record, row, problems, tolerated)


def good_rows(path: Path, settings: DataSettings) -> list[Row]:
    """Return the rows of a file, none of which may be bad."""
    rows = list(read_rows(path, settings))
    assert not [row for row in rows if isinstance(row, BadRow | Problem)]
    return rows  # type: ignore[return-value]


def gzipped(data: bytes) -> bytes:
    """Compress without a timestamp, which would be in the name of the test."""
    return gzip.compress(data, mtime=0)
