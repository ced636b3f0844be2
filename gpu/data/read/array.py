"""A JSON array to its elements, as they stand in the file, without reading more than one of them at a time.

An element ends where its brackets are closed; strings are stepped over. Nothing more is understood here: whether an
element is JSON is seen when it is read, so that one broken element is one bad row, as a broken line is. A line feed
ends a string in any case, since none is allowed in one: so a missing quote costs the line that it is missing in, as
long as the brackets still agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpu.data.read import source
from gpu.data.read.source import Record, Stop, too_long

_INSIDE = re.compile(rb'"(?:[^"\\\n]++|\\[^\n])*+(?P<end>"|\n|\\\n)?|[\[{]|(?P<close>[\]}])')
_STRING = rb'"(?:[^"\\\n]++|\\[^\n])*+"'
_SHALLOW = rb"[{\[](?:[^\"{}\[\]]++|" + _STRING + rb")*+[}\]]"
for _ in range(4):
    _SHALLOW = rb"[{\[](?:[^\"{}\[\]]++|" + _STRING + rb"|" + _SHALLOW + rb")*+[}\]]"
_WHOLE = re.compile(_SHALLOW)
"""An element of brackets within each other, five deep at most: nearly every one, and in one go."""

_BLANK = re.compile(rb"[ \t\r\n]*")
_SCALAR_END = re.compile(rb"[,\]\n]")
DEEPEST_SCANNED = 10_000
"""Lists and objects within each other; a row may have a hundred. A file of nothing but brackets would take minutes."""

TOO_DEEP = -1

_CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes of a character behind its first."""


class _Text:
    """What was read and not yet given away, and where in the file it begins."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.data = b""
        self.at = 0
        self.line, self.column = 1, 1

    def more(self) -> bool:
        """Read on, as much again as there is: a long element is not gone through once for each chunk."""
        wanted = max(source.CHUNK_BYTES, len(self.data) - self.at)
        pieces, length = [self.data[self.at :]], 0
        while length < wanted and (chunk := next(self._chunks, None)) is not None:
            pieces.append(chunk)
            length += len(chunk)
        self.data, self.at = b"".join(pieces), 0
        return length > 0

    def pass_to(self, end: int) -> bytes:
        """Go on to `end`, and give what lies before it."""
        passed = self.data[self.at : end]
        self.at = end
        lines = passed.count(b"\n")
        if lines:
            self.line, self.column = self.line + lines, 1
        last = passed[passed.rfind(b"\n") + 1 :] if lines else passed
        self.column += len(last) if last.isascii() else len(last.translate(None, _CONTINUATION))
        return passed

    def next_byte(self) -> bytes:
        """The one that follows, past white space; b"" at the end of the file."""
        while True:
            match = _BLANK.match(self.data, self.at)
            if match is not None and match.end() > self.at:
                self.pass_to(match.end())
            if self.at < len(self.data):
                return self.data[self.at : self.at + 1]
            if not self.more():
                return b""


def elements(chunks: Iterator[bytes]) -> Iterator[Record]:
    """The elements of the array that `chunks` are. Raises Stop where it is none any more."""
    text = _Text(chunks)
    text.next_byte()
    text.pass_to(text.at + 1)  # the bracket that told that this is an array
    found = text.next_byte()
    while found != b"]":
        if found in (b"", b","):
            raise _ended(text) if not found else _astray(text, "an element is missing before this comma")
        yield _element(text)
        found = text.next_byte()
        if found == b",":
            text.pass_to(text.at + 1)
            found = text.next_byte()
            if found == b"]":
                raise _astray(text, "there is a comma before the end of the array")
        elif not found:
            raise _ended(text)
        elif found != b"]":
            raise _astray(text, "a comma is missing between two elements")
    text.pass_to(text.at + 1)
    if text.next_byte():
        raise _astray(text, "something follows behind the end of the array")


def _element(text: _Text) -> Record:
    line, column = text.line, text.column
    while (end := _end(text.data, text.at)) is None:
        if len(text.data) - text.at > source.LONGEST_BYTES:
            raise too_long(line)
        if not text.more():
            what = f"the element that begins in line {line} goes on to the end of the file"
            advice = "The file is incomplete, or a quote or a bracket is missing there. Correct it, then add it again."
            raise Stop("truncated_file", None, what, advice)
    if end == TOO_DEEP:
        what = f"the element that begins in line {line} is nested more than {DEEPEST_SCANNED:,} deep"
        raise Stop("broken_array", line, what, "No row is nested so. Is it the file that you meant?", column)
    if end - text.at > source.LONGEST_BYTES:
        raise too_long(line)
    return Record(line, text.pass_to(end), column)


def _end(data: bytes, start: int) -> int | None:
    """Past the element that begins at `start`; None: that is further on; TOO_DEEP: it is nested beyond all measure."""
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
            if depth > DEEPEST_SCANNED:
                return TOO_DEEP
        elif match.lastgroup is None:
            return None
        if depth == 0:
            return match.end()
    return None


def _ended(text: _Text) -> Stop:
    what = f"the array is not closed: the file ends in line {text.line}, so it is incomplete"
    return Stop("truncated_file", None, what, "Copy or download it once more, then add it again.")


def _astray(text: _Text, what: str) -> Stop:
    advice = "A file that begins with [ is read as one JSON array of rows. Correct it at that place."
    return Stop("broken_array", text.line, what, advice, text.column)
