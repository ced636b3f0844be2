"""The encoded rows of a file on disk, end to end in flat files: 5 bytes a token and 16 a piece.

They are written as they come, and read through memory maps: what is not looked at takes no memory, however many rows
there are. Numbers have their least byte first. Nothing in them says what they are: that is the manifest's
(`gpu.data.plan.cache`), and only what fits its manifest is ever opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gpu.data.plan.chunk import Looked
from gpu.errors import StorageFailed
from journal.storage import REAL

DTYPES: Mapping[str, np.dtype[Any]] = {
    "ids.i32": np.dtype("<i4"),
    "learned.u8": np.dtype("u1"),
    "ends.i64": np.dtype("<i8"),
    "lines.i64": np.dtype("<i8"),
}
"""What each file is an array of. `ids` and `trained` have an entry for each token; `ends` one for each piece, behind a
0: how many tokens there are up to its end; `lines` one for each piece: the line of the file that it is of."""

HELD_OUT = "held-out."
"""In front of the names of the same files, of the rows that a job is evaluated on. They have none if there are none."""

BUFFER_BYTES = 1 << 20
"""Of each file: a chunk's tokens go to the disk in one or two calls."""


class Counter:
    """Counts what was encoded."""

    def __init__(self) -> None:
        self.pieces = self.tokens = self.trained_tokens = 0

    def append(self, looked: Looked) -> None:
        """Take a chunk in."""
        self.pieces += len(looked.lengths) // DTYPES["ids.i32"].itemsize
        self.tokens += len(looked.trained)
        self.trained_tokens += int(np.count_nonzero(np.frombuffer(looked.trained, "u1")))


class TokenWriter(Counter):
    """Writes what was encoded below a directory, in the order in which it comes. Holds a chunk at most."""

    def __init__(self, directory: Path, prefix: str = "") -> None:
        super().__init__()
        self._directory, self._prefix = directory, prefix
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> TokenWriter:
        """Raises StorageFailed, also if there is something of that name already."""
        for name in DTYPES:
            with self._storage(name) as path:
                fd = REAL.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                self._files[name] = os.fdopen(fd, "wb", buffering=BUFFER_BYTES)
        self._put("ends.i64", np.zeros(1, "<i8").tobytes())
        return self

    def __exit__(self, *_: object) -> None:
        """Raises StorageFailed. Nothing is synced: that is for whoever commits it."""
        with ExitStack() as closing:  # all of them, whichever fails
            for name, file in self._files.items():
                closing.enter_context(self._storage(name))
                closing.callback(file.close)

    def append(self, looked: Looked) -> None:
        """Raises StorageFailed."""
        ends = np.frombuffer(looked.lengths, "<i4").cumsum(dtype="<i8") + self.tokens
        for name, data in (
            ("ids.i32", looked.ids),
            ("learned.u8", looked.trained),
            ("ends.i64", ends.tobytes()),
            ("lines.i64", looked.piece_lines),
        ):
            self._put(name, data)
        super().append(looked)

    def _put(self, name: str, data: bytes) -> None:
        with self._storage(name):
            self._files[name].write(data)

    @contextmanager
    def _storage(self, name: str) -> Iterator[Path]:
        path = self._directory / f"{self._prefix}{name}"
        try:
            yield path
        except OSError as error:
            raise StorageFailed(path, error) from error


class Tokens:
    """The pieces in a store, numbered from 0: what the plan calls rows."""

    def __init__(self, directory: Path, prefix: str = "") -> None:
        """Raises OSError, ValueError if there is nothing in it."""
        self.ids: npt.NDArray[np.int32] = _mapped(directory, prefix, "ids.i32")
        self.trained: npt.NDArray[np.uint8] = _mapped(directory, prefix, "learned.u8")
        self.lines: npt.NDArray[np.int64] = _mapped(directory, prefix, "lines.i64")
        self._ends: npt.NDArray[np.int64] = _mapped(directory, prefix, "ends.i64")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each piece: 4 bytes for each, in memory."""
        found = np.empty(len(self), np.int32)
        np.subtract(self._ends[1:], self._ends[:-1], out=found, casting="unsafe")
        return found

    def length(self, row: int) -> int:
        """Tokens of `row`."""
        return int(self._ends[row + 1]) - int(self._ends[row])

    def trained_in(self, row: int) -> int:
        """Tokens of `row` that are learned."""
        start, end = self.span(row)
        return int(np.count_nonzero(self.trained[start:end]))

    def span(self, row: int) -> tuple[int, int]:
        """Where the tokens of `row` begin and end in the arrays."""
        return int(self._ends[row]), int(self._ends[row + 1])

    def line(self, row: int) -> int:
        """The line of the file that `row` is of."""
        return int(self.lines[row])

    def of_line(self, line: int) -> list[int]:
        """The pieces of the row on a line; none if there is no row, or nothing of it is learned."""
        first, end = np.searchsorted(self.lines, [line, line + 1]).tolist()
        return list(range(first, end))


def _mapped(directory: Path, prefix: str, name: str) -> npt.NDArray[Any]:
    # as a plain array: a slice of a `memmap` costs twice as much
    return np.memmap(directory / f"{prefix}{name}", DTYPES[name], mode="r").view(np.ndarray)
