"""Make the standard streams safe: writing to them never raises, whatever the locale, the terminal or the reader is.

Each entry point of `cli` and `gpu` calls `prepare_streams` first:

    file names are not UTF-8 (`LANG=de_DE`)   Python starts again in UTF-8 mode: a name in the journal must name a file
    a stream is closed (`>&-`)               it becomes /dev/null, so that no other file gets its descriptor
    a character does not fit the encoding    it is written as \\xNN or \\uNNNN
    the reader of a pipe is gone (`| head`)  the rest of the output is dropped; the process does its work to the end

By the last rule the exit code does not depend on how fast the reader leaves. A command that follows something calls
`reader_is_gone` and ends.
"""

from __future__ import annotations

import errno
import io
import locale
import os
import select
import stat
import sys
from contextlib import suppress
from typing import TextIO

STDIN, STDOUT, STDERR = 0, 1, 2

UTF8_MODE = ["-X", "utf8"]


def prepare_streams() -> None:
    """Make the standard streams of this process safe. May restart the process in UTF-8 mode."""
    _open_closed_streams()
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.orig_argv[0], *UTF8_MODE, *sys.orig_argv[1:]])  # noqa: S606 - the same program
    if not isinstance(sys.stdin, io.TextIOBase):
        sys.stdin = os.fdopen(STDIN, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = _tolerant(sys.stdout, STDOUT)
    sys.stderr = _tolerant(sys.stderr, STDERR)


def reader_is_gone() -> bool:
    """True if standard output is a pipe, a socket or a terminal whose other end is closed."""
    if isinstance(raw := _raw(sys.stdout), _Output) and raw.reader_left:
        return True
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))
    return False


def discard_output() -> None:
    """Discard the buffered standard output, which cannot be written."""
    _to_null(STDOUT)
    with suppress(OSError, ValueError):
        sys.stdout.flush()


class _Output(io.FileIO):
    """A descriptor that discards everything once its reader is gone."""

    reader_left = False

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # any buffer, as FileIO takes it
        try:
            return super().write(data) or 0
        except OSError as error:
            # EIO of a terminal: it is closed. EIO of a regular file: the disk is broken, and the user must know.
            terminal_left = error.errno == errno.EIO and not stat.S_ISREG(os.fstat(self.fileno()).st_mode)
            if error.errno != errno.EPIPE and not terminal_left:
                raise
            self.reader_left = True
            _to_null(self.fileno())
            return memoryview(data).nbytes


def _tolerant(stream: TextIO | None, number: int) -> TextIO:
    """Return the stream with an encoder that escapes and a descriptor that survives its reader."""
    if stream is not None and not isinstance(stream, io.TextIOWrapper):
        return stream  # replaced by a test
    encoding = stream.encoding if stream is not None else "utf-8"
    if sys.orig_argv[1:3] == UTF8_MODE and "PYTHONIOENCODING" not in os.environ:
        encoding = locale.getencoding()  # UTF-8 mode is for file names; the terminal keeps its encoding
    if stream is not None:
        with suppress(OSError):
            stream.flush()
    raw = _Output(number, "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering if stream is not None else False,
        write_through=stream.write_through if stream is not None else False,
    )


def _raw(stream: object) -> object:
    return getattr(getattr(stream, "buffer", None), "raw", None)


def _open_closed_streams() -> None:
    """Open /dev/null for closed standard streams: the journal must not become descriptor 1."""
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == STDIN else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def _to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, number)
    os.close(null)
