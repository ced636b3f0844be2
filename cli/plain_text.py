"""Files whose name says that they are plain text: `notes.txt`, `README.md.gz`.

A file is kept under its hash, so the name is gone when it is read. What it says is therefore decided when a job
is begun, and journaled with its settings: then every later reader of the file (lineage, a rerun) reads it alike.
"""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from events.settings import JobSettings
from gpu.data.source import holds_prose

SUFFIXES = (".txt", ".text", ".md", ".markdown")
PACKED = (".gz", ".zst", ".zstd")


def with_format_of(settings: JobSettings, name: str, path: Path) -> JobSettings:
    """The settings for the file at `path`, which a person called `name`: plain text if its name says so.

    Settings that name a format or fields win. So does what is in the file: rows, a table or a page is never plain text.
    Raises OSError.
    """
    if not may_be_plain_text(settings, name) or not holds_prose(path):
        return settings
    return replace(settings, data=replace(settings.data, format="plain_text"))


def may_be_plain_text(settings: JobSettings, name: str) -> bool:
    """Whether a file of this name is plain text unless there are rows in it."""
    data = settings.data
    return data.format == "auto" and data.prompt is None and data.completion is None and says_plain_text(name)


def says_plain_text(name: str) -> bool:
    """Whether a name is one of plain text.

    >>> [says_plain_text(name) for name in ("notes.TXT", "README.md.gz", "a.jsonl")]
    [True, True, False]
    """
    name = name.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return name.endswith(SUFFIXES)
