"""Read the elements of a JSON array, as they stand in the file, one at a time.

An element ends where its brackets close; strings are stepped over. Whether an element is JSON is decided when it is
parsed, so a broken element is one bad row, as a broken line is. A line feed ends a string in any case, because JSON
allows none in a string. So a missing quote costs only its own line, as long as the brackets still agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpu.data.read import record
from gpu.data.read.record import Record, UnreadableFile, too_long

_INSIDE = re.compile(rb'"(?:[^"\\\n]++|\\[^\n])*+(?P<end>"|\n|\\\n)?|[\[{]|(?P<close>[\]}])')
_STRING = rb'"(?:[^"\\\n]++|\\[^\n])*+"'
_SHALLOW = rb"[{\[](?:[^\"{}\[\]]++|" + _STRING + rb")*+[}\]]"
for _ in range(4):
    _SHALLOW = rb"[{\[](?:[^\"{}\[\]]++|" + _STRING + rb"|" + _SHALLOW + rb")*+[}\]]"
_WHOLE = re.compile(_SHALLOW)
"""Matches an element at most five brackets deep at once, as nearly every one is."""

_BLANK = re.compile(rb"[ \t\r\n]*")
_SCALAR_END = re.compile(rb"[,\]\n]")
SCAN_DEPTH_MAX = 10_000
"""Nested lists and objects; a row may have a hundred. A file of nothing but brackets would take minutes."""

TOO_DEEP = -1

_CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes of a UTF-8 character after its first."""


class _Buffer:
    """The bytes that were read and not yet consumed, and their place in the file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.data = b""
        self.at = 0
        self.line, self.column = 1, 1

    def read_more(self) -> bool:
        """Double the data, so that a long element is not scanned once for each chunk. False at the end of the file."""
        wanted = max(record.CHUNK_BYTES, len(self.data) - self.at)
        pieces, length = [self.data[self.at :]], 0
        while length < wanted and (chunk := next(self._chunks, None)) is not None:
            pieces.append(chunk)
            length += len(chunk)
        self.data, self.at = b"".join(pieces), 0
        return length > 0

    def consume(self, end: int) -> bytes:
        """Move to `end` and return the bytes before it."""
        passed = self.data[self.at : end]
        self.at = end
        lines = passed.count(b"\n")
        if lines:
            self.line, self.column = self.line + lines, 1
        last = passed[passed.rfind(b"\n") + 1 :] if lines else passed
        self.column += len(last) if last.isascii() else len(last.translate(None, _CONTINUATION))
        return passed

    def next_byte(self) -> bytes:
        """Skip white space and return the next byte; b"" at the end of the file."""
        while True:
            match = _BLANK.match(self.data, self.at)
            if match is not None and match.end() > self.at:
                self.consume(match.end())
            if self.at < len(self.data):
                return self.data[self.at : self.at + 1]
            if not self.read_more():
                return b""


def read_array(chunks: Iterator[bytes]) -> Iterator[Record]:
    """Yield the elements of the array in `chunks`. Raises UnreadableFile where its grammar breaks."""
    buffer = _Buffer(chunks)
    buffer.next_byte()
    buffer.consume(buffer.at + 1)  # the opening bracket
    found = buffer.next_byte()
    while found != b"]":
        if found in (b"", b","):
            raise _unclosed(buffer) if not found else _broken(buffer, "an element is missing before this comma")
        yield _read_element(buffer)
        found = buffer.next_byte()
        if found == b",":
            buffer.consume(buffer.at + 1)
            found = buffer.next_byte()
            if found == b"]":
                raise _broken(buffer, "there is a comma before the end of the array")
        elif not found:
            raise _unclosed(buffer)
        elif found != b"]":
            raise _broken(buffer, "a comma is missing between two elements")
    buffer.consume(buffer.at + 1)
    if buffer.next_byte():
        raise _broken(buffer, "the file continues after the end of the array")


def _read_element(buffer: _Buffer) -> Record:
    line, column = buffer.line, buffer.column
    while (end := _find_end(buffer.data, buffer.at)) is None:
        if len(buffer.data) - buffer.at > record.RECORD_MAX_BYTES:
            raise too_long(line)
        if not buffer.read_more():
            what = f"the element that begins in line {line} does not end before the end of the file"
            advice = "The file is incomplete, or a quote or a bracket is missing there. Correct it, then add it again."
            raise UnreadableFile("truncated_file", None, what, advice)
    if end == TOO_DEEP:
        what = f"the element is nested more than {SCAN_DEPTH_MAX:,} levels deep"
        raise UnreadableFile(
            "broken_array", line, what, "No row is nested so deep. Check that it is the right file.", column
        )
    if end - buffer.at > record.RECORD_MAX_BYTES:
        raise too_long(line)
    return Record(line, buffer.consume(end), column)


def _find_end(data: bytes, start: int) -> int | None:
    """Return where the element at `start` ends; None if that is not in `data`; TOO_DEEP if it is nested too deep."""
    if data[start : start + 1] not in (b"{", b"[", b'"'):
        ended = _SCALAR_END.search(data, start + 1)
        return ended.start() if ended else None
    whole = _WHOLE.match(data, start)
    if whole is not None:
        return whole.end()
    depth = 0
    for match in _INSIDE.finditer(data, start):
        if match.lastgroup == "close":
            depth -= 1
        elif match[0][:1] != b'"':
            depth += 1
            if depth > SCAN_DEPTH_MAX:
                return TOO_DEEP
        elif match.lastgroup is None:
            return None
        if depth == 0:
            return match.end()
    return None


def _unclosed(buffer: _Buffer) -> UnreadableFile:
    what = f"the array is not closed: the file ends in line {buffer.line}, so it is incomplete"
    return UnreadableFile("truncated_file", None, what, "Copy or download it again, then add it again.")


def _broken(buffer: _Buffer, what: str) -> UnreadableFile:
    advice = "A file that begins with [ is read as one JSON array of rows. Correct it there, then add it again."
    return UnreadableFile("broken_array", buffer.line, what, advice, buffer.column)
