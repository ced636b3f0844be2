"""Encoded rows on disk, as flat files: 5 bytes a token and 16 a piece.

They are written in order and read through memory maps: unused rows take no memory, however many there are. Numbers are
little-endian. The files do not describe themselves; the manifest does (`gpu.data.plan.cache`), and only files that
match it are opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gpu.data.plan.chunk import EncodedChunk
from gpu.errors import StorageFailed
from journal.storage import REAL

DTYPES: Mapping[str, np.dtype[Any]] = {
    "ids.i32": np.dtype("<i4"),
    "learned.u8": np.dtype("u1"),
    "ends.i64": np.dtype("<i8"),
    "lines.i64": np.dtype("<i8"),
}
"""Type of each array. `ids` and `learned` (1 if trained) have an entry for each token. `ends` has a 0, then for each
piece the number of tokens up to its end. `lines` has for each piece the line of its row."""

HELD_OUT = "held-out."
"""Prefix of the same files for the rows that a job is evaluated on; they exist only if there are such rows."""

BUFFER_BYTES = 1 << 20
"""Write buffer of each file: a chunk's tokens reach the disk in one or two calls."""


class TokenCounter:
    """Counts encoded pieces and tokens."""

    def __init__(self) -> None:
        self.pieces = self.tokens = self.trained_tokens = 0

    def append(self, chunk: EncodedChunk) -> None:
        """Count a chunk."""
        self.pieces += len(chunk.lengths) // DTYPES["ids.i32"].itemsize
        self.tokens += len(chunk.trained)
        self.trained_tokens += int(np.count_nonzero(np.frombuffer(chunk.trained, "u1")))


class TokenWriter(TokenCounter):
    """Counts encoded chunks and writes them into a directory. Holds one chunk at most."""

    def __init__(self, directory: Path, prefix: str = "") -> None:
        super().__init__()
        self._directory, self._prefix = directory, prefix
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> TokenWriter:
        """Create the files. Raises StorageFailed, also if one exists."""
        for name in DTYPES:
            with self._storage(name) as path:
                fd = REAL.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                self._files[name] = os.fdopen(fd, "wb", buffering=BUFFER_BYTES)
        self._put("ends.i64", np.zeros(1, "<i8").tobytes())
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files without syncing; the commit does that. Raises StorageFailed."""
        with ExitStack() as closing:  # close all of them, even if one fails
            for name, file in self._files.items():
                closing.enter_context(self._storage(name))
                closing.callback(file.close)

    def append(self, chunk: EncodedChunk) -> None:
        """Raises StorageFailed."""
        ends = np.frombuffer(chunk.lengths, "<i4").cumsum(dtype="<i8") + self.tokens
        for name, data in (
            ("ids.i32", chunk.ids),
            ("learned.u8", chunk.trained),
            ("ends.i64", ends.tobytes()),
            ("lines.i64", chunk.piece_lines),
        ):
            self._put(name, data)
        super().append(chunk)

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
    """Stored pieces, numbered from 0; the batch plan calls them rows."""

    def __init__(self, directory: Path, prefix: str = "") -> None:
        """Raises OSError, ValueError if a file is empty."""
        self.ids: npt.NDArray[np.int32] = _mapped(directory, prefix, "ids.i32")
        self.trained: npt.NDArray[np.uint8] = _mapped(directory, prefix, "learned.u8")
        self.lines: npt.NDArray[np.int64] = _mapped(directory, prefix, "lines.i64")
        self._ends: npt.NDArray[np.int64] = _mapped(directory, prefix, "ends.i64")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def lengths(self) -> npt.NDArray[np.int32]:
        """Return the tokens of each piece; takes 4 bytes of memory for each."""
        found = np.empty(len(self), np.int32)
        np.subtract(self._ends[1:], self._ends[:-1], out=found, casting="unsafe")
        return found

    def length(self, row: int) -> int:
        """Return the number of tokens of `row`."""
        return int(self._ends[row + 1]) - int(self._ends[row])

    def trained_in(self, row: int) -> int:
        """Return the number of trained tokens of `row`."""
        start, end = self.span(row)
        return int(np.count_nonzero(self.trained[start:end]))

    def span(self, row: int) -> tuple[int, int]:
        """Return where the tokens of `row` begin and end in the arrays."""
        return int(self._ends[row]), int(self._ends[row + 1])

    def line(self, row: int) -> int:
        """Return the line of `row` in the file."""
        return int(self.lines[row])

    def rows_on_line(self, line: int) -> list[int]:
        """Return the pieces of the row on a line; none if there is no row, or nothing of it is trained."""
        first, end = np.searchsorted(self.lines, [line, line + 1]).tolist()
        return list(range(first, end))


def _mapped(directory: Path, prefix: str, name: str) -> npt.NDArray[Any]:
    # A slice of a `memmap` costs twice as much as one of a plain array.
    return np.memmap(directory / f"{prefix}{name}", DTYPES[name], mode="r").view(np.ndarray)
