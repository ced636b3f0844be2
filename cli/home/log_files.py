"""The log: `logs/DATE.jsonl`, written by the daemon for itself, its worker and its hooks.

The journal has the facts; the log helps to find causes, and nothing depends on it. A line that a full or failing disk
refuses is counted and dropped; the log says how many when it can be written again.

Only one process writes, so rotation and deletion need no lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from events.settings import LogSettings
from gpu.runtime import log_lines
from gpu.runtime.log_lines import JsonLines, LogLine
from journal.storage import REAL

FILES_MIN = 10
"""A file grows to this fraction of `max_mb`, then the next file of the day begins; so a deletion never removes much."""

OUTPUT_LINES_MAX = 40
"""Last lines of a process that are kept to explain its death: about the length of a stack trace."""

POLL_S = 0.02

_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?\.jsonl")


def log_files(directory: Path) -> list[Path]:
    """The log files, oldest first; other files are ignored. Raises OSError."""
    found = [
        (match[1], int(match[2] or 1), path) for path in directory.iterdir() if (match := _FILE.fullmatch(path.name))
    ]
    return [path for _, _, path in sorted(found)]


class LogFiles(logging.Handler):
    """Writes log records to the file of the day. Never raises; waits for nothing but the disk."""

    def __init__(self, directory: Path, settings: LogSettings) -> None:
        super().__init__(getattr(logging, settings.level.upper()))
        self._directory, self._settings = directory, settings
        self._most_bytes = settings.max_mb * 1_000_000
        self._lines = JsonLines("daemon")
        self._fd: int | None = None
        self._day, self._part, self._size = date.min, 1, 0
        self.lines_lost = 0
        """Lines that could not be written since the last one that was."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it as lost. The lock of `logging.Handler` is held."""
        try:
            self._write(self._lines.line(record), datetime.fromtimestamp(record.created, UTC).date())
        except OSError:
            self.lines_lost += 1
            self._close_file()

    def _write(self, line: LogLine, day: date) -> None:
        data = log_lines.encode(line)
        fd = self._file(day, len(data))
        if self.lines_lost:
            message = f"{self.lines_lost} lines before this could not be written"
            note = LogLine(at=line.at, level="warning", source="daemon", message=message)
            self._append(fd, log_lines.encode(note))
            self.lines_lost = 0
        self._append(fd, data)

    def _append(self, fd: int, data: bytes) -> None:
        written = os.write(fd, data)
        self._size += written
        if written < len(data):  # the disk is full: remove the partial line
            os.ftruncate(fd, self._size - written)
            self._size -= written
            raise OSError("only a part of the line was written")

    def _file(self, day: date, more_bytes: int) -> int:
        """The open file to write to: a new one if a day has begun or the current one is full."""
        if day > self._day:  # the clock may have been set back
            self._close_file()
            self._day, self._part = day, 1
        if self._fd is not None and self._size + more_bytes > max(1, self._most_bytes // FILES_MIN):
            self._close_file()
            self._part += 1
        while self._fd is None:
            path = self._path()
            fd = REAL.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._size = os.fstat(fd).st_size
            if self._size and self._size + more_bytes > max(1, self._most_bytes // FILES_MIN):
                os.close(fd)
                self._part += 1
                continue
            self._fd = fd
            self._end_partial_line(fd)
            with contextlib.suppress(OSError):  # the next rotation tries again
                self._delete_oldest()
        return self._fd

    def _path(self) -> Path:
        part = "" if self._part == 1 else f".{self._part}"
        return self._directory / f"{self._day.isoformat()}{part}.jsonl"

    def _end_partial_line(self, fd: int) -> None:
        """End a partial line, which a power cut may leave."""
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
            self._append(fd, b"\n")

    def _delete_oldest(self) -> None:
        """Delete files older than `days`, and more until the rest and a full current file fit into `max_mb`."""
        files = log_files(self._directory)
        oldest = (self._day - timedelta(days=self._settings.days)).isoformat()
        sizes = {path: path.stat().st_size for path in files}
        total = sum(sizes.values()) + self._most_bytes // FILES_MIN - self._size
        for path in files:
            if path == self._path() or (path.name >= oldest and total <= self._most_bytes):
                continue
            path.unlink()
            total -= sizes[path]

    def _close_file(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def close(self) -> None:
        """Close the current file."""
        with self.lock or contextlib.nullcontext():
            self._close_file()
        super().close()


@contextlib.contextmanager
def logged(directory: Path, settings: LogSettings) -> Iterator[None]:
    """Send all log records of this process, also of libraries, to the log files and not to the terminal.

    An error that ends the block is logged with its traceback and raised."""
    files, root = LogFiles(directory, settings), logging.getLogger()
    level, others = root.level, root.handlers[:]
    root.handlers[:] = [files]
    root.setLevel(files.level)
    logging.captureWarnings(True)
    try:
        yield
    except Exception:
        logging.getLogger(__name__).critical("the daemon ends with an error", exc_info=True)
        raise
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = others
        root.setLevel(level)
        files.close()


class OutputReader:
    """Reads the output of a process from a pipe, in a thread, and logs each line.

    Lines in the log's format keep their fields; other lines (a native crash, a print of a library) are wrapped.
    """

    def __init__(self, pipe: BinaryIO, source: str) -> None:
        self._pipe, self._source = pipe, source
        self.attempt: int | None = None
        """The attempt that the process works on now."""
        self._last: deque[str] = deque(maxlen=OUTPUT_LINES_MAX)
        self._received = 0
        self._log = logging.getLogger(f"keepstep.{source}")
        self._thread = threading.Thread(target=self._read, name=f"{source} output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            for data in iter(lambda: self._pipe.readline(4 * log_lines.LONGEST_TEXT), b""):
                for part in re.split(rb"[\r\n]+", data):  # progress bars end their lines with \r
                    if part.strip():
                        self._receive(part)

    def _receive(self, data: bytes) -> None:
        line = log_lines.decode(data)
        self._received += 1
        self._last.append(line.message if line is not None else data.decode(errors="backslashreplace").rstrip())
        extra = {"source": self._source, "attempt": self.attempt}
        if line is None:
            self._log.info("%s", data.decode(errors="backslashreplace").rstrip(), extra=extra)
            return
        level = getattr(logging, line.level.upper(), logging.INFO)
        logger = logging.getLogger(line.logger or self._log.name)
        if logger.isEnabledFor(level):
            logger.log(level, "%s", line.message, extra={**extra, "trace": line.trace})

    def ask(self, send: Callable[[], None], timeout_s: float, quiet_s: float) -> bool:
        """Call `send` and wait for output: until it starts and then stops for `quiet_s`, or for `timeout_s`.

        Returns True if there was output.
        """
        before = last = self._received
        send()
        deadline = (quiet_since := time.monotonic()) + timeout_s
        while (now := time.monotonic()) < deadline and self._thread.is_alive():
            if self._received != last:
                last, quiet_since = self._received, now
            elif last != before and now - quiet_since >= quiet_s:
                break
            time.sleep(POLL_S)
        return self._received != before

    def last_output(self) -> str:
        """The last lines of the output."""
        return "\n".join(self._last.copy())

    def join(self, timeout_s: float) -> None:
        """Wait until all output of the ended process is logged. The timeout is for a child that keeps the pipe open."""
        self._thread.join(timeout_s)
