"""The log: `logs/DATE.jsonl`, one file a day, written by the daemon for itself, its worker and the hooks.

What belongs to the promise is in the journal; the log is for finding out why. So nothing hangs on it: a line that a
full or failing disk does not take is counted and left out, and the log says so when it can be written again.

One process writes, so there is nothing to agree on when a new day begins, a file is large enough or the oldest go.
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

PARTS = 10
"""A file grows to this part of what all of them may have, then the next one of the day begins: what is given up at once
is never much of it."""

LAST_WORDS = 40
"""Lines: the end of what a process that died said, to find out what it died of. A stack has as many."""

LOOK_S = 0.02

_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?\.jsonl")


def log_files(directory: Path) -> list[Path]:
    """The files of the log, the oldest first. Whatever else stands there is not the log's. Raises OSError."""
    found = [
        (match[1], int(match[2] or 1), path) for path in directory.iterdir() if (match := _FILE.fullmatch(path.name))
    ]
    return [path for _, _, path in sorted(found)]


class LogFiles(logging.Handler):
    """Writes records to the files of the day. Never raises, never waits for anything but the disk."""

    def __init__(self, directory: Path, settings: LogSettings) -> None:
        super().__init__(getattr(logging, settings.level.upper()))
        self._directory, self._settings = directory, settings
        self._most_bytes = settings.max_mb * 1_000_000
        self._lines = JsonLines("daemon")
        self._fd: int | None = None
        self._day, self._part, self._size = date.min, 1, 0
        self.missed = 0
        """Lines that could not be written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it as missed. The lock of `logging.Handler` is held."""
        try:
            self._write(self._lines.line(record), datetime.fromtimestamp(record.created, UTC).date())
        except OSError:
            self.missed += 1
            self._let_go()

    def _write(self, line: LogLine, day: date) -> None:
        data = log_lines.encode(line)
        fd = self._file(day, len(data))
        if self.missed:
            message = f"{self.missed} lines before this could not be written"
            note = LogLine(at=line.at, level="warning", source="daemon", message=message)
            self._append(fd, log_lines.encode(note))
            self.missed = 0
        self._append(fd, data)

    def _append(self, fd: int, data: bytes) -> None:
        written = os.write(fd, data)
        self._size += written
        if written < len(data):  # the end of the disk's room: half a line helps nobody
            os.ftruncate(fd, self._size - written)
            self._size -= written
            raise OSError("the line was not taken whole")

    def _file(self, day: date, more_bytes: int) -> int:
        """The file to write to, open: a new one where a new day has begun or the present one is large enough."""
        if day > self._day:  # never back: the clock may have been set back
            self._let_go()
            self._day, self._part = day, 1
        if self._fd is not None and self._size + more_bytes > max(1, self._most_bytes // PARTS):
            self._let_go()
            self._part += 1
        while self._fd is None:
            path = self._path()
            fd = REAL.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._size = os.fstat(fd).st_size
            if self._size and self._size + more_bytes > max(1, self._most_bytes // PARTS):
                os.close(fd)
                self._part += 1
                continue
            self._fd = fd
            self._begin_after_a_whole_line(fd)
            with contextlib.suppress(OSError):  # one that cannot be deleted now is tried again with the next file
                self._give_up_the_oldest()
        return self._fd

    def _path(self) -> Path:
        part = "" if self._part == 1 else f".{self._part}"
        return self._directory / f"{self._day.isoformat()}{part}.jsonl"

    def _begin_after_a_whole_line(self, fd: int) -> None:
        """Behind half a line, which a power cut may leave, the next one begins on its own."""
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
            self._append(fd, b"\n")

    def _give_up_the_oldest(self) -> None:
        """Those of too many days ago, and as many more as are too much together with room for the present one."""
        files = log_files(self._directory)
        oldest = (self._day - timedelta(days=self._settings.days)).isoformat()
        sizes = {path: path.stat().st_size for path in files}
        total = sum(sizes.values()) + self._most_bytes // PARTS - self._size
        for path in files:
            if path == self._path() or (path.name >= oldest and total <= self._most_bytes):
                continue
            path.unlink()
            total -= sizes[path]

    def _let_go(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def close(self) -> None:
        """Let go of the file."""
        with self.lock or contextlib.nullcontext():
            self._let_go()
        super().close()


@contextlib.contextmanager
def logged(directory: Path, settings: LogSettings) -> Iterator[None]:
    """In this block everything that is logged in this process, by us or by a library, goes to the files; nothing of it
    goes to the terminal. An error that ends the block is logged with its trace, and goes on."""
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


class Eavesdropper:
    """Reads what a process says on a pipe, from a thread of its own, and logs it line by line.

    Lines of the log keep what they say of themselves; any other one (a native crash, a library's print) is wrapped.
    """

    def __init__(self, pipe: BinaryIO, source: str) -> None:
        self._pipe, self._source = pipe, source
        self.attempt: int | None = None
        """What the process works on now."""
        self._last: deque[str] = deque(maxlen=LAST_WORDS)
        self._received = 0
        self._log = logging.getLogger(f"keepstep.{source}")
        self._thread = threading.Thread(target=self._read, name=f"what the {source} says", daemon=True)
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

    def answer(self, ask: Callable[[], None], timeout_s: float, quiet_s: float) -> bool:
        """Have the process say something, and wait until it has begun to and then stopped for `quiet_s`, for
        `timeout_s` at most. Whether it said anything."""
        before = last = self._received
        ask()
        deadline = (quiet_since := time.monotonic()) + timeout_s
        while (now := time.monotonic()) < deadline and self._thread.is_alive():
            if self._received != last:
                last, quiet_since = self._received, now
            elif last != before and now - quiet_since >= quiet_s:
                break
            time.sleep(LOOK_S)
        return self._received != before

    def last_words(self) -> str:
        """The last lines that were said."""
        return "\n".join(self._last.copy())

    def end(self, timeout_s: float) -> None:
        """Wait until all that was said is logged; the process has ended. A child of it may hold the pipe open."""
        self._thread.join(timeout_s)
