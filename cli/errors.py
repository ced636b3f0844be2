"""Exit codes, and the messages of errors.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | refused or failed, the reason on stderr |
| 2 | the command line itself was wrong |
| 3 | the journal is damaged |
| 4 | storage failed: an I/O error, or a full disk |
| 130 | interrupted: Ctrl-C, or a second signal to the daemon |
| 70 | a bug in keepstep, its traceback on stderr; a supervisor restarts the daemon |
"""

from __future__ import annotations

import errno
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from cli.layout import fitted
from cli.text import printable
from core.errors import IllegalEvent, Refused
from events.errors import EventError
from gpu.runtime.streams import discard_output
from journal.errors import JournalDamaged, JournalError, JournalReadFailed, NoSpace, StorageFailed
from journal.writer import FULL

REFUSED = 1
DAMAGED = 3
STORAGE_FAILED = 4
INTERRUPTED = 130
"""128 + SIGINT, as shells count."""
CRASHED = 70
"""EX_SOFTWARE of sysexits.h. Python exits with 1 after a traceback, which means "refused" here."""

STORAGE_ERRNOS = {errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT}
TOO_MANY_FILES_ERRNOS = {errno.EMFILE, errno.ENFILE}

MIN_OPEN_FILES = 64
"""A daemon with a worker, a watched inbox and three hooks keeps about forty files, pipes and sockets open."""

RAISE_FILE_LIMIT = "`ulimit -n 1024`, or LimitNOFILE= of the service; then try again"


class UserError(Exception):
    """An error that the user can fix: what happened (`reason`) and what to do (`advice`)."""

    def __init__(self, reason: str, advice: str = "", exit_code: int = REFUSED) -> None:
        self.reason = reason
        self.advice = advice
        self.exit_code = exit_code
        super().__init__(reason)


def exit_code_of(error: BaseException) -> int | None:
    """The exit code for an error that a user can cause; None for a bug."""
    match error:
        case UserError():
            return error.exit_code
        case Refused():
            return REFUSED
        case JournalDamaged() | EventError() | IllegalEvent():
            return DAMAGED
        case StorageFailed() | JournalReadFailed():
            return STORAGE_FAILED
        case JournalError():
            return REFUSED
        case OSError() if error.errno in STORAGE_ERRNOS:
            return STORAGE_FAILED
        case OSError() if error.errno in TOO_MANY_FILES_ERRNOS:
            return REFUSED
        case OSError() if error.filename is not None:
            return REFUSED
        case _:
            return None


def refuse_too_few_files() -> None:
    """Raise the limit of open files to what a daemon needs. Raises UserError if the system does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= MIN_OPEN_FILES or soft == resource.RLIM_INFINITY:
        return
    if hard < MIN_OPEN_FILES and hard != resource.RLIM_INFINITY:
        raise UserError(
            f"this process may open {hard} files at once, and the daemon needs {MIN_OPEN_FILES}; nothing was begun",
            RAISE_FILE_LIMIT,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (MIN_OPEN_FILES, hard))


def is_disk_full(error: BaseException) -> bool:
    """True if the error only says that the disk is full."""
    return isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno in FULL)


def error_text(error: BaseException) -> str:
    """The message of an error: what happened, and what to do."""
    if isinstance(error, UserError) and error.advice:
        return f"{error.reason}\n  → {error.advice}"
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES_ERRNOS:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}no more files can be opened at once ({error.strerror})\n  → {RAISE_FILE_LIMIT}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def fail(error: BaseException, code: int) -> NoReturn:
    """End the process with a reason on stderr."""
    text = "\n".join(printable(line) for line in error_text(error).split("\n"))
    text = f"keepstep: {text}"
    sys.stderr.write(f"{fitted(text) if sys.stderr.isatty() else text}\n")
    raise SystemExit(code) from error


@contextmanager
def report_errors(cancelled: str = "nothing was changed") -> Iterator[None]:
    """Turn errors that a user can cause into a message and an exit code, and bugs into a traceback and exit code 70.

    `cancelled`: what the command leaves when Ctrl-C ends it.

    It also flushes standard output, so that a full disk is noticed before the exit code is chosen.
    """
    try:
        try:
            yield
        finally:
            _flush()
    except KeyboardInterrupt:
        _say_cancelled(cancelled)
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer turns KeyboardInterrupt into this
            _say_cancelled(cancelled)
        raise
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            import traceback

            traceback.print_exc()
            raise SystemExit(CRASHED) from error
        fail(error, code)


def _say_cancelled(left: str) -> None:
    """Report what Ctrl-C left, and ignore further ones: the process is about to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    text = f"Cancelled; {left}"
    sys.stderr.write(f"{fitted(text) if sys.stderr.isatty() else text}\n")
    sys.stderr.flush()


def _flush() -> None:
    try:
        if sys.stdout is not None:  # it is None where it was closed, until `prepare_streams` has run
            sys.stdout.flush()
    except OSError as error:
        discard_output()
        error.filename = error.filename or "standard output"
        raise
