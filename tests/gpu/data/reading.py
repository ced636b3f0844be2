"""Rows as tests want them: one record by itself, or a file that must be good."""

from __future__ import annotations

import gzip
from collections.abc import Container
from pathlib import Path

from events.settings import DataSettings
from gpu.data.format.example import BadRow, Problem, Row
from gpu.data.format.problems import WARNED
from gpu.data.read.rows import _judge, examine, read
from gpu.data.read.source import Record


def parse(record: Record, form: str | None, settings: DataSettings, tolerated: Container[str] = WARNED) -> Row | BadRow:
    """The row that a record is, as `read` gives it."""
    row, problems = examine(record, form, settings)
    return _judge(record, row, problems, tolerated)


def good_rows(path: Path, settings: DataSettings) -> list[Row]:
    """The rows of a file of which none is bad."""
    rows = list(read(path, settings))
    assert not [row for row in rows if isinstance(row, BadRow | Problem)]
    return rows  # type: ignore[return-value]


def gzipped(data: bytes) -> bytes:
    """Without the time of day, which would be in the name of the test."""
    return gzip.compress(data, mtime=0)
