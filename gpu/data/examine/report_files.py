"""The files that a preparation leaves in `reports/`, for people and for later files.

    <job>.json            the report
    <job>.skipped.jsonl   the rows that were skipped because they are bad, to be corrected and added again
    <job>.rows            the content of each good row, as sorted 8-byte hashes: later files recognise rows by them

All three are views: each preparation writes them again, and only warnings depend on them. So they are written
atomically and not synced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from events.values import JobId
from gpu.data.examine.quality import Hashes
from gpu.data.examine.report import Report
from gpu.errors import StorageFailed
from journal.durable import is_temporary, make_directory, temporary_path, write_atomically
from journal.storage import REAL

REPORT, SKIPPED, ROWS = ".json", ".skipped.jsonl", ".rows"


class ReportWriter:
    """Writes the skipped rows of a job as they come, and at the end its report."""

    def __init__(self, directory: Path, job: JobId) -> None:
        self._directory, self._job = directory, job
        self._skipped = temporary_path(self._path(SKIPPED))
        self._file = os.fdopen(REAL.open(self._skipped, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")
        self._count = 0

    def save_skipped(self, raw: bytes) -> None:
        """Write a row that is skipped. Raises OSError."""
        self._file.write(raw + b"\n")
        self._count += 1

    def finish(self, report: Report, content: Hashes) -> None:
        """Publish the files, once every row was examined. Raises OSError."""
        self._file.close()
        if self._count:
            self._skipped.replace(self._path(SKIPPED))
        else:
            self._path(SKIPPED).unlink(missing_ok=True)
        write_atomically(self._path(ROWS), np.sort(content).astype("<u8").tobytes(), sync=False)
        write_atomically(self._path(REPORT), report.encode(), sync=False)

    def close(self) -> None:
        """Delete the temporary file of an unfinished report."""
        self._file.close()
        with suppress(OSError):
            self._skipped.unlink(missing_ok=True)

    def _path(self, suffix: str) -> Path:
        return self._directory / f"{self._job}{suffix}"


@contextmanager
def open_report(directory: Path, job: JobId) -> Iterator[ReportWriter]:
    """Open a writer for the time of a block. Raises StorageFailed."""
    try:
        make_directory(directory)
        for path in directory.iterdir():
            if is_temporary(path.name) and path.name.startswith(f".{job}"):  # left by a killed process
                path.unlink()
        writer = ReportWriter(directory, job)
    except OSError as error:
        raise StorageFailed(directory, error) from error
    try:
        yield writer
    except OSError as error:
        raise StorageFailed(directory, error) from error
    finally:
        writer.close()


def read_earlier_rows(directory: Path, job: JobId | None) -> list[Hashes]:
    """Return the content hashes of all other files' good rows. Unreadable files are ignored: only a warning depends on
    them."""
    found: list[Hashes] = []
    with suppress(OSError):
        for path in sorted(directory.glob(f"*{ROWS}")):
            if path.name != f"{job}{ROWS}":
                with suppress(OSError, ValueError):  # empty, or deleted meanwhile
                    found.append(np.memmap(path, "<u8", mode="r"))
    return found
