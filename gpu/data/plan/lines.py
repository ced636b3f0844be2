"""Line numbers of pieces: that of the row in its file.

A row from the n-th earlier file, from 1, has n · 2⁴⁰ added, so it comes after all rows of the job's own file.
"""

from __future__ import annotations

SOURCE_SHIFT = 40


def line_of(source: int, line: int) -> int:
    """Return the line number of a row from the n-th earlier file."""
    return (source << SOURCE_SHIFT) + line


def source_of(line: int) -> tuple[int, int]:
    """Return the number of the earlier file (0: the job's own), and the line in it."""
    return line >> SOURCE_SHIFT, line & ((1 << SOURCE_SHIFT) - 1)


def is_own(line: int) -> bool:
    """True if the row is from the job's own file."""
    return line < 1 << SOURCE_SHIFT
