"""Files whose name says that they are plain text: `notes.txt`, `README.md.gz`.

A file is kept under its hash, so the name is gone when it is read. What it says is therefore decided when a job
is begun, and journaled with its settings: then every later reader of the file (lineage, a rerun) reads it alike.
"""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from events.settings import JobSettings
from gpu.data.read.source import holds_plain_text

SUFFIXES = (".txt", ".text", ".md", ".markdown")
PACKED = (".gz", ".zst", ".zstd")


def with_format_of(settings: JobSettings, name: str, path: Path) -> JobSettings:
    """The settings for the file at `path`, which a person called `name`: plain text if its name says so.

    Settings that name a format or fields win. So does what is in the file: rows, a table or a page is never plain text.
    Raises OSError.
    """
    data = settings.data
    if data.format != "auto" or data.prompt is not None or data.completion is not None or not is_plain_text(name):
        return settings
    return replace(settings, data=replace(data, format="plain_text")) if holds_plain_text(path) else settings


def is_plain_text(name: str) -> bool:
    """Whether a name is one of plain text.

    >>> [says_plain_text(name) for name in ("notes.TXT", "README.md.gz", "a.jsonl")]
    [True, True, False]
    """
    name = name.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return name.endswith(SUFFIXES)
