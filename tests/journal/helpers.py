"""Small journals, and file systems that fail on purpose."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from journal import Journal, Line, read_line
from journal.storage import Storage

AT = "2026-11-22T03:00:00.123456Z"


def event(number: int) -> bytes:
    return b'{"kind":"counted","n":%d}' % number


class Killed(BaseException):
    """The process is gone: nothing after this may touch the disk."""


class Faulty(Storage):
    """Counts the calls that change something, and does something to number `at`."""

    def __init__(self, at: int = 0, fault: str = "kill") -> None:
        self.at, self.fault, self.calls = at, fault, 0
        self.dead = False
        self.names_called: list[str] = []

    def _count(self, name: str) -> bool:
        """Whether this is the call that goes wrong; raises, unless only a write is to be shortened."""
        if self.dead:
            raise Killed
        self.calls += 1
        self.names_called.append(name)
        if self.calls != self.at:
            return False
        if self.fault == "kill":
            self.dead = True
            raise Killed(name)
        if self.fault == "short":
            return True
        raise OSError(getattr(errno, self.fault), os.strerror(getattr(errno, self.fault)))

    def write(self, fd: int, data: bytes | memoryview) -> int:
        try:
            short = self._count("write")
        except Killed:
            if self.calls == self.at:
                super().write(fd, bytes(data)[: len(data) // 2])
            raise
        if short:
            return super().write(fd, bytes(data)[: max(1, len(data) // 2)])
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._count("fsync")
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._count("fdatasync")
        super().fdatasync(fd)

    def truncate(self, fd: int, length: int) -> None:
        self._count("truncate")
        super().truncate(fd, length)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._count("unlink")
        super().unlink(path)

    def mkdir(self, path: Path, mode: int = 0o700) -> None:
        self._count("mkdir")
        super().mkdir(path, mode)

    def allocate(self, fd: int, length: int) -> None:
        self._count("allocate")  # and no megabyte for each of hundreds of journals


class Unsynced(Storage):
    """For tests of bytes, not of time."""

    def fsync(self, fd: int) -> None: ...
    def fdatasync(self, fd: int) -> None: ...
    def allocate(self, fd: int, length: int) -> None: ...
    def drop_cache(self, fd: int, offset: int = 0) -> None: ...


class Guarded(Unsynced):
    """Notes every change that is made while nobody holds the append lock."""

    def __init__(self) -> None:
        self.held = False
        self.unguarded: list[str] = []

    def try_lock(self, fd: int, *, shared: bool = False) -> bool:
        self.held = super().try_lock(fd, shared=shared)
        return self.held

    def unlock(self, fd: int) -> None:
        super().unlock(fd)
        self.held = False

    def _note(self, name: str) -> None:
        if not self.held:
            self.unguarded.append(name)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._note("write")
        return super().write(fd, data)

    def rename(self, source: Path, target: Path) -> None:
        self._note("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._note("unlink")
        super().unlink(path)


def create(directory: Path) -> Path:
    Journal.create(directory, at=AT, first=[event(0)], storage=Unsynced())
    return directory


def open_journal(directory: Path, **options: Any) -> Journal[Line]:
    options.setdefault("storage", Unsynced())
    return Journal.open(directory, decode=read_line, **options)


def append(journal: Journal[Line], *numbers: int) -> list[Line]:
    with journal.transaction() as transaction:
        return transaction.append([event(number) for number in numbers], at=AT)


def records(directory: Path, **options: Any) -> list[Line]:
    """Everything that an opened journal believes."""
    journal = open_journal(directory, **options)
    found = [record for batch in journal.read() for record in batch]
    journal.close()
    return found


def events(directory: Path, **options: Any) -> list[bytes]:
    return [record.event for record in records(directory, **options)]


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below, with its bytes."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def restore(directory: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
