"""What is written down of a file that was gone through, below `reports/`, for people and for the files that come later.

    <job>.json            the report
    <job>.skipped.jsonl   the rows that were left out because they are bad, to be mended and dropped in again
    <job>.rows            what each good row says, as sorted hashes of 8 bytes: so later files know them again

All three are views: they are made again whenever the file is prepared anew, and nothing believes in them but a warning.
So they are written whole, and not synced.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from events.settings import DataSettings
from events.values import JobId
from gpu.data.examine.quality import Hashes, identity
from gpu.data.examine.report import Report
from gpu.data.format.example import BadRow, Problem
from gpu.data.read import rows
from gpu.data.read.source import own_format
from gpu.errors import DataChanged, StorageFailed
from journal.durable import is_temporary, make_directory, temporary_path, write_atomically
from journal.storage import REAL

REPORT, SKIPPED, ROWS = ".json", ".skipped.jsonl", ".rows"

VALIDATION = "validation"
"""Where in a home validation sets are kept, each under its SHA-256."""


class Writer:
    """Takes rows that are put aside, and in the end the report."""

    def __init__(self, directory: Path, job: JobId) -> None:
        self._directory, self._job = directory, job
        self._skipped = temporary_path(self._path(SKIPPED))
        self._file = os.fdopen(REAL.open(self._skipped, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")
        self._count = 0

    def put_aside(self, raw: bytes) -> None:
        """A row that is left out. Raises OSError."""
        self._file.write(raw + b"\n")
        self._count += 1

    def finish(self, report: Report, content: Hashes) -> None:
        """All rows were seen. Raises OSError."""
        self._file.close()
        if self._count:
            self._skipped.replace(self._path(SKIPPED))
        else:
            self._path(SKIPPED).unlink(missing_ok=True)
        write_atomically(self._path(ROWS), np.sort(content).astype("<u8").tobytes(), sync=False)
        write_atomically(self._path(REPORT), report.encode(), sync=False)

    def close(self) -> None:
        """Let go of what was not finished."""
        self._file.close()
        with suppress(OSError):
            self._skipped.unlink(missing_ok=True)

    def _path(self, suffix: str) -> Path:
        return self._directory / f"{self._job}{suffix}"


@contextmanager
def writing(directory: Path, job: JobId) -> Iterator[Writer]:
    """A writer for the time of a block. Raises StorageFailed."""
    try:
        make_directory(directory)
        for path in directory.iterdir():
            if is_temporary(path.name) and path.name.startswith(f".{job}"):  # of one that was killed
                path.unlink()
        writer = Writer(directory, job)
    except OSError as error:
        raise StorageFailed(directory, error) from error
    try:
        yield writer
    except OSError as error:
        raise StorageFailed(directory, error) from error
    finally:
        writer.close()


def earlier_rows(directory: Path, job: JobId | None) -> list[Hashes]:
    """What the good rows of all other files say that were gone through before. What cannot be read is passed over: it
    is only ever good for a warning."""
    found: list[Hashes] = []
    with suppress(OSError):
        for path in sorted(directory.glob(f"*{ROWS}")):
            if path.name != f"{job}{ROWS}":
                with suppress(OSError, ValueError):  # of no rows, or gone
                    found.append(np.memmap(path, "<u8", mode="r"))
    return found


def kept_validation(home: Path, sha256: str) -> Path | None:
    """Where the validation set of this SHA-256 is kept; None if there is none ("")."""
    return home / VALIDATION / f"{sha256}.jsonl" if sha256 else None


class ValidationSet(NamedTuple):
    """What a validation set says."""

    content: Hashes
    """Of its good rows, sorted."""
    problems: tuple[Problem, ...] = ()
    """The first of each of its bad rows; and what the file as a whole has, behind which nothing was read."""


def validation_rows(path: Path | None, settings: DataSettings) -> ValidationSet:
    """The validation set at `path`; nothing if there is none. Raises DataChanged."""
    if path is None:
        return ValidationSet(np.zeros(0, np.uint64))
    good, problems = array("Q"), list[Problem]()
    try:
        for row in rows.read(path, own_format(path, settings)):
            if not isinstance(row, BadRow | Problem):
                good.append(identity(row).content)
            elif (problem := row.problems[0] if isinstance(row, BadRow) else row).name != "empty_file":
                problems.append(problem)  # of a set without rows nothing is missing
    except OSError as error:
        raise DataChanged(
            f"the validation set {path} cannot be read: {error.strerror}. Bring it back, then `keepstep resume`."
        ) from error
    return ValidationSet(np.sort(np.array(good, dtype=np.uint64)), tuple(problems))
