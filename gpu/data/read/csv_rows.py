"""The rows of a table in CSV or TSV, whose first line names the fields (`gpu.data.read.container` recognises it).

The header names the fields, and every value is a string: a number or `true` stays what is written there. A row with
another number of fields, or a quote that does not close, ends the reading: past it nothing is certain.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from gpu.data.read import source
from gpu.data.read.source import Record, Stop, too_long

csv.field_size_limit(source.LONGEST_BYTES)


def csv_records(chunks: Iterator[bytes], delimiter: str) -> Iterator[Record]:
    """The rows of the table that `chunks` are, from its header on. Raises Stop where it is none any more."""
    lines = _Lines(chunks)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        first = lines.count + 1
        lines.begin()
        try:
            values = next(reader, None)
        except csv.Error as error:
            what = f"the quoting of the row that begins in line {first} is broken ({error})"
            raise Stop("broken_csv", first, what, _CORRECT) from error
        if values is None:
            return
        if not values:  # a blank line
            continue
        if not header:
            header = [name.strip() for name in values]
        elif len(values) != len(header):
            what = f"the row in line {first} has {len(values)} fields, and the header names {len(header)}"
            raise Stop("broken_csv", first, what, _CORRECT)
        else:
            yield Record(first, lines.raw.removesuffix(b"\n"), fields=dict(zip(header, values, strict=True)))


_CORRECT = 'Correct it: a field with a delimiter, a quote or a line end in it stands in quotes, with "" for each quote.'


class _Lines:
    """The lines of a file, with their ends, as csv wants them."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._lines = _split(chunks)
        self.count = 0
        self.raw = b""
        """Of the row at hand, as it stands in the file."""

    def begin(self) -> None:
        """A new row."""
        self.raw = b""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        self.raw += line
        if len(self.raw) > source.LONGEST_BYTES:
            raise too_long(self.count)
        if b"\0" in line:
            raise Stop("broken_csv", self.count, "there are NUL bytes in it", "Restore the file, then add it again.")
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            what = f"byte {error.start + 1} of line {self.count} (0x{line[error.start]:02x}) is not UTF-8"
            advice = "Convert the file (`iconv -f WINDOWS-1252 -t UTF-8`?), then add it again."
            raise Stop("wrong_encoding", self.count, what, advice) from error


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    begun: list[bytes] = []
    length = 0
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        begun.append(pieces[0])
        length += len(pieces[0])
        if len(pieces) == 1:
            if length > source.LONGEST_BYTES:
                yield b"".join(begun)
                return
            continue
        yield b"".join(begun) + b"\n"
        yield from (piece + b"\n" for piece in pieces[1:-1])
        begun, length = [pieces[-1]], len(pieces[-1])
    if rest := b"".join(begun):
        yield rest
