"""Detect plain text by the file name: `notes.txt`, `README.md.gz`.

`data/` names files by hash, so readers do not know the name. The format is therefore decided when a job starts, and
journaled with its settings, so that every later reader (lineage, a rerun) reads the file in the same way.
"""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from events.settings import JobSettings
from gpu.data.read.source import holds_plain_text

SUFFIXES = (".txt", ".text", ".md", ".markdown")
PACKED = (".gz", ".zst", ".zstd")


def with_format_of(settings: JobSettings, name: str, path: Path) -> JobSettings:
    """The settings for the file at `path` that arrived as `name`, with format `plain_text` if it is.

    Settings with a format or fields take precedence; so do contents that are rows, a table or a web page.
    Raises OSError.
    """
    if not may_be_plain_text(settings, name) or not holds_plain_text(path):
        return settings
    return replace(settings, data=replace(settings.data, format="plain_text"))


def may_be_plain_text(settings: JobSettings, name: str) -> bool:
    """True if a file of this name is plain text, unless it contains rows."""
    data = settings.data
    return data.format == "auto" and data.prompt is None and data.completion is None and is_plain_text(name)


def is_plain_text(name: str) -> bool:
    """True for the name of a plain-text file.

    >>> [is_plain_text(name) for name in ("notes.TXT", "README.md.gz", "a.jsonl")]
    [True, True, False]
    """
    name = name.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return name.endswith(SUFFIXES)
