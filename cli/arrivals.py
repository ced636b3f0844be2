"""How a file becomes a job, whatever happens on the way.

    data/.arriving/<priority>-<nonce>/<name>   the file is in keepstep's hands (moved from the inbox, or copied)
    file_enqueued                              journaled: it is a job
    data/<sha256>.jsonl                        its bytes, under their own hash

The last two happen under the append lock. Killed anywhere, the file stands in exactly one of these places, and
`finish_arrivals` takes it on from there. `data/<sha256>.jsonl` exists only for what was journaled, so its existence
is how an earlier file with the same bytes is known, however long ago that was.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

import msgspec

from cli.home import Home
from cli.ledger import Ledger, timestamp
from core.commands import AddFile
from events.kinds import AnyEvent, FileDuplicate
from events.values import Priority
from gpu.crashpoints import reached
from journal import durable

PARTIAL = ".partial"
"""What a copy is called until it is whole. A name that begins with a dot is never a file of the user's here."""


def take_from_inbox(ledger: Ledger, path: Path, priority: Priority) -> Sequence[AnyEvent]:
    """Make a job of a complete file in the inbox. Raises OSError, journal.errors.StorageFailed."""
    with _new_directory(ledger.home, priority) as directory:
        durable.fsync_file(path)
        try:
            durable.rename_durably(path, directory / path.name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # the inbox is on another file system: a copy, whole and synced, before the original goes
            durable.copy_durably(path, directory / PARTIAL)
            durable.rename_durably(directory / PARTIAL, directory / path.name)
            path.unlink()
        reached("arrival_moved")
        return _finish(ledger, directory)


def take_copy(ledger: Ledger, path: Path, priority: Priority) -> Sequence[AnyEvent]:
    """Make a job of a copy of `path`, which stays where it is. Raises OSError, journal.errors.StorageFailed."""
    with _new_directory(ledger.home, priority) as directory:
        durable.copy_durably(path, directory / PARTIAL)
        durable.rename_durably(directory / PARTIAL, directory / safe_name(path.name))
        reached("arrival_copied")
        return _finish(ledger, directory)


def finish_arrivals(ledger: Ledger) -> None:
    """Take on what an earlier process had in its hands when it died. Raises as `take_copy`."""
    with suppress(FileNotFoundError):
        for directory in sorted(path for path in _arriving(ledger.home).iterdir() if path.is_dir()):
            with _held(directory) as ours:
                if ours:
                    _finish(ledger, directory)


def _finish(ledger: Ledger, directory: Path) -> Sequence[AnyEvent]:
    """From the arriving directory to the end. Once more, from wherever it was left, is the same."""
    for debris in directory.glob(".*"):  # a copy that was not finished; its source is where it was
        debris.unlink()
    file = next(directory.iterdir(), None)
    if file is None:
        return ()
    home, job = ledger.home, _settled_sha256(file)
    target = home.data_file(job)
    with ledger.exclusive():
        known = target.exists()
        journaled = not known and ledger.state.job(job) is not None
        events: Sequence[AnyEvent] = ()
        if not journaled:
            name, size_bytes = shown_name(file), file.stat().st_size
            priority = _priority(directory)
            events = ledger.execute(AddFile(job=job, name=name, size_bytes=size_bytes, priority=priority, known=known))
        reached("arrival_journaled")
        if known:
            _return(home, file, job)
        else:
            durable.rename_durably(file, target)
        reached("arrival_named")
    return events


def put_in_rejected(home: Home, source: Path, name: str, report: dict[str, object]) -> Path:
    """Move `source` to `rejected/` beside its report, which is written first. Done already is the same as done.

    A file of that name may lie there from an earlier night: nothing is overwritten.
    """
    target = home.rejected / safe_name(name)
    if source.exists():
        taken = 1
        while target.exists():
            taken += 1
            target = home.rejected / f"{taken}-{safe_name(name)}"
        text = msgspec.json.format(msgspec.json.encode({"file": name, **report}), indent=2)
        durable.write_atomically(target.with_name(f"{target.name}.report.json"), text + b"\n", sync=True)
        reached("report_written")
        durable.rename_durably(source, target)
    return target


def _return(home: Home, file: Path, job: str) -> None:
    message = "a file with the very same bytes was accepted before, so this one is not learned again"
    report: dict[str, object] = {"problem": "duplicate", "line": None, "message": message, "job": job}
    put_in_rejected(home, file, file.name, {**report, "at": timestamp()})


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; its job's id."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown_name(path: Path) -> str:
    """A file's name as text that JSON can carry: bytes that are no UTF-8 are written out."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def safe_name(name: str) -> str:
    """`name` as one path component that stays where it is put, with room for what is added to it."""
    cleaned = name.replace("/", "_").replace("\0", "_").lstrip(".") or "unnamed"
    while len(os.fsencode(cleaned)) > 200:
        cleaned = cleaned[1:]  # the end of a name tells files apart, and holds its suffix
    return cleaned


def is_duplicate(events: Sequence[AnyEvent]) -> bool:
    """Whether an arrival turned out to be an earlier file again."""
    return any(isinstance(event, FileDuplicate) for event in events)


def _settled_sha256(path: Path) -> str:
    """The hash of a file that did not change while it was read: its writer may still have it open."""
    while True:
        before = path.stat()
        digest = file_sha256(path)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return digest


def _arriving(home: Home) -> Path:
    return home.data / ".arriving"


@contextmanager
def _new_directory(home: Home, priority: Priority) -> Iterator[Path]:
    """A directory for one arrival, held while the block runs and removed behind it if it is empty then."""
    arriving = _arriving(home)
    arriving.mkdir(exist_ok=True)
    directory = arriving / f"{priority}-{secrets.token_hex(8)}"
    directory.mkdir()
    durable.fsync_directory(arriving)
    with _held(directory):
        yield directory


@contextmanager
def _held(directory: Path) -> Iterator[bool]:
    """Whether this process holds the arrival in `directory`; if another living one does, it is at work there."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        with suppress(OSError):  # not empty: what is in it will be taken on at the next start
            directory.rmdir()
    finally:
        os.close(fd)


def _priority(directory: Path) -> Priority:
    word = directory.name.partition("-")[0]
    for priority in get_args(Priority):
        if priority == word:
            return priority  # type: ignore[no-any-return]
    return "normal"
