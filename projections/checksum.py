"""A checksum at the end of a view that is read back: a flipped bit makes it unreadable, and never a wrong answer.

The journal guards its own records. What is folded from them is written down too, and is then believed at the next
start, or as a witness of how far the journal had been: so it must be able to tell that it is not what was written.
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
"""What reading JSON of unknown origin raises: nothing there, no JSON, no text, nested too deep."""

View = TypeVar("View")

_END = re.compile(rb',\s*"check": ?"([0-9a-f]{8})"\s*\}\s*\Z')
_END_BYTES = 64
"""More than the seal takes: the megabytes before it are not searched for it."""


def with_checksum(view: bytes) -> bytes:
    """The JSON object `view` with a last field more, `check`: the CRC-32 of all that stands before it."""
    body = view.rstrip().removesuffix(b"}").rstrip()
    return b'%s,\n  "check": "%08x"\n}' % (body, crc32(body))


def has_checksum(data: bytes) -> bool:
    """Whether this is, byte for byte, what `with_checksum` made."""
    end = _END.search(data, max(0, len(data) - _END_BYTES))
    return end is not None and end[1] == b"%08x" % crc32(memoryview(data)[: end.start()])


def read_checked(path: Path, decoder: msgspec.json.Decoder[View], storage: Storage) -> View | None:
    """What was written there. Gone, spoiled or of another shape is the same as never written: None."""
    try:
        data = durable.read_file(path, storage=storage)
        return decoder.decode(data) if has_checksum(data) else None
    except UNREADABLE:
        return None
