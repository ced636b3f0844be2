"""Text that came from a path, as JSON can carry it.

Python decodes a path byte that is not UTF-8 to a lone surrogate (PEP 383). JSON cannot carry one. `visible` writes the
byte as \\xNN instead, for text that only people read: events, views, messages. Text that names a file to open must not
change: `gpu.ipc.protocol.encode_request` carries it.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

Message = TypeVar("Message", bound=Struct)

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF
"""What PEP 383 makes of the bytes 0x80 to 0xFF."""


def visible(text: str) -> str:
    r"""`text` with each lone surrogate written out.

    >>> visible("caf\udce9")
    'caf\\xe9'
    """
    return text if text.isascii() else _SURROGATE.sub(_written_out, text)


def carried(message: Message) -> Message:
    """`message`, or a copy with every text in it `visible` if JSON cannot carry it as it is."""
    try:
        msgspec.json.encode(message)
    except UnicodeError:
        return msgspec.convert(in_all_texts(msgspec.to_builtins(message)), type(message))
    return message


def in_all_texts(value: Any) -> Any:
    """Apply `visible` to every text in a value made of dicts, lists and scalars."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {in_all_texts(key): in_all_texts(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [in_all_texts(part) for part in value]
    return value


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if _FIRST_BYTE <= code <= _LAST_BYTE else f"\\u{code:04x}"
