"""Read the rows of a CSV or TSV table whose first line is a header (`gpu.data.read.container` recognises it).

The header names the fields, and every value is a string: a number or `true` stays as it is written. A row with another
number of fields, or a quote that does not close, ends the reading, because nothing after it is certain.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from gpu.data.read import record
from gpu.data.read.record import Record, UnreadableFile, split_lines, too_long

csv.field_size_limit(record.RECORD_MAX_BYTES)

_ADVICE = (
    "Correct the row. A field that contains a delimiter, a quote or a line break needs quotes around it; write each "
    'quote inside as "".'
)


def read_csv(chunks: Iterator[bytes], delimiter: str) -> Iterator[Record]:
    """Yield the rows after the header. Raises UnreadableFile."""
    lines = _Lines(chunks)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        first = lines.count + 1
        lines.start_row()
        try:
            values = next(reader, None)
        except csv.Error as error:
            what = f"the row has broken quotes ({error})"
            raise UnreadableFile("broken_csv", first, what, _ADVICE) from error
        if values is None:
            return
        if not values:  # a blank line
            continue
        if not header:
            header = [name.strip() for name in values]
        elif len(values) != len(header):
            what = f"the row has {len(values)} fields, but the header names {len(header)}"
            raise UnreadableFile("broken_csv", first, what, _ADVICE)
        else:
            yield Record(first, lines.raw.removesuffix(b"\n"), fields=dict(zip(header, values, strict=True)))


class _Lines:
    """The decoded lines of a file, with their line feeds, as the csv module takes them."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._lines = split_lines(chunks)
        self.count = 0
        self.raw = b""
        """Bytes of the current row, as they stand in the file."""

    def start_row(self) -> None:
        """Forget the bytes of the row before."""
        self.raw = b""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, ended = next(self._lines)
        line += b"\n" if ended else b""
        self.count += 1
        self.raw += line
        if len(self.raw) > record.RECORD_MAX_BYTES:
            raise too_long(self.count)
        if b"\0" in line:
            advice = "Restore the file, then add it again."
            raise UnreadableFile("broken_csv", self.count, "the row contains NUL bytes", advice)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            what = f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8"
            advice = "Convert the file (`iconv -f WINDOWS-1252 -t UTF-8`?), then add it again."
            raise UnreadableFile("wrong_encoding", self.count, what, advice) from error
