"""By which line a piece is known: that of its row in the file.

A row that was mixed in from the n-th earlier file, from 1, has n · 2⁴⁰ more: these stand behind all of the file's own,
in order.
"""

from __future__ import annotations

SOURCE_SHIFT = 40


def line_of(source: int, line: int) -> int:
    """The line that a row of the n-th earlier file is known by."""
    return (source << SOURCE_SHIFT) + line


def source_of(line: int) -> tuple[int, int]:
    """The other way round: the number of the earlier file (0: it is the file itself), and the line in it."""
    return line >> SOURCE_SHIFT, line & ((1 << SOURCE_SHIFT) - 1)


def is_own(line: int) -> bool:
    """Whether the row is of the file itself."""
    return line < 1 << SOURCE_SHIFT
