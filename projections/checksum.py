"""A checksum at the end of a view: a reader detects any change of its bytes and ignores the view.

Records of the journal have their own checksums. Views need one too: the next start believes a snapshot, and uses
the position in a view as proof of how far the journal reached.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import msgspec

from journal import durable
from journal.storage import Storage

UNREADABLE = (OSError, msgspec.MsgspecError, UnicodeError, RecursionError)
"""Errors of reading a JSON file of unknown origin: it is missing, not JSON, not text, or nested too deep."""

View = TypeVar("View")

_END = re.compile(rb',\s*"check": ?"([0-9a-f]{8})"\s*\}\s*\Z')
_END_BYTES = 64
"""Only the end of the data is searched; the checksum takes less than this."""


def with_checksum(view: bytes) -> bytes:
    """The JSON object `view` with one more field at its end, `check`: the CRC-32 of all bytes before that field."""
    body = view.rstrip().removesuffix(b"}").rstrip()
    return b'%s,\n  "check": "%08x"\n}' % (body, crc32(body))


def has_checksum(data: bytes) -> bool:
    """True if these are exactly the bytes that `with_checksum` made."""
    end = _END.search(data, max(0, len(data) - _END_BYTES))
    return end is not None and end[1] == b"%08x" % crc32(memoryview(data)[: end.start()])


def read_checked(path: Path, decoder: msgspec.json.Decoder[View], storage: Storage) -> View | None:
    """The view in a file; None if the file is missing, damaged or of another shape."""
    try:
        data = durable.read_file(path, storage=storage)
        return decoder.decode(data) if has_checksum(data) else None
    except UNREADABLE:
        return None
