"""How the shell ends, and what it says then.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | refused or failed, the reason on stderr |
| 2 | the command line itself was wrong |
| 3 | the journal is damaged |
| 4 | storage failed: an I/O error, or no space |
| 130 | interrupted: Ctrl-C, or a second signal to the daemon |
| 70 | a bug in keepstep, its traceback on stderr; whoever looks after a daemon starts it again |
"""

from __future__ import annotations

import errno
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

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
"""EX_SOFTWARE of sysexits.h. Python's own would be 1, which is a refusal here."""

STORAGE_ERRNOS = {errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT}


TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}

FILES_LEAST = 64
"""A daemon with its worker, an inbox that is watched and three hooks at once has some forty files, pipes and sockets
open."""

MORE_FILES = "`ulimit -n 1024`, or LimitNOFILE= of the service; then try again"


class UserError(Exception):
    """Something that the person at the keyboard can mend. Data: what happened, and what to do."""

    def __init__(self, reason: str, advice: str = "", exit_code: int = REFUSED) -> None:
        self.reason = reason
        self.advice = advice
        self.exit_code = exit_code
        super().__init__(reason)


def exit_code_of(error: BaseException) -> int | None:
    """The exit code for an error that people can meet; None for a bug, which keeps its traceback."""
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
        case OSError() if error.errno in TOO_MANY_OPEN:
            return REFUSED
        case OSError() if error.filename is not None:
            return REFUSED
        case _:
            return None


def refuse_too_few_files() -> None:
    """Raise the limit of open files, where the system lets us, to what a daemon needs. Raises UserError if it cannot
    be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= FILES_LEAST or soft == resource.RLIM_INFINITY:
        return
    if hard < FILES_LEAST and hard != resource.RLIM_INFINITY:
        raise UserError(
            f"this process may open {hard} files at once, and the daemon needs {FILES_LEAST}; nothing was begun",
            MORE_FILES,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_LEAST, hard))


def is_full(error: BaseException) -> bool:
    """Whether all that is wrong is that the disk has no room."""
    return isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno in FULL)


def explain(error: BaseException) -> str:
    """What happened and what to do, as one text."""
    if isinstance(error, UserError) and error.advice:
        return f"{error.reason}\n  → {error.advice}"
    if isinstance(error, OSError) and error.errno in TOO_MANY_OPEN:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}no more files can be opened at once ({error.strerror})\n  → {MORE_FILES}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def fail(error: BaseException, code: int) -> NoReturn:
    """End the process with a reason on stderr."""
    said = "\n".join(printable(line) for line in explain(error).split("\n"))
    sys.stderr.write(f"keepstep: {said}\n")
    raise SystemExit(code) from error


@contextmanager
def told() -> Iterator[None]:
    """Errors that people can meet become a sentence and an exit code; bugs a traceback and a code of their own.

    Also the output that is still buffered is written here: a full disk must not be noticed only after the exit code.
    """
    try:
        try:
            yield
        finally:
            _flush()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            traceback.print_exc()
            raise SystemExit(CRASHED) from error
        fail(error, code)


def _flush() -> None:
    try:
        if sys.stdout is not None:  # it is None where it was closed, until `prepare_streams` has run
            sys.stdout.flush()
    except OSError as error:
        discard_output()
        error.filename = error.filename or "standard output"
        raise
