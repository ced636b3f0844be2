"""Identify processes, and the daemon's lock. Pids are reused, so a start time and a boot id belong to each."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from cli.errors import UserError
from cli.home.paths import Home
from journal.durable import make_directory, opened, read_file, write_all
from journal.lock import MODE
from projections.checksum import UNREADABLE

PROC = Path("/proc")

SAME_START_S = 1.0
"""Two readings of one start time differ by less: the kernel counts in hundredths of a second."""

START_TRIES = 20
TRY_EVERY_S = 0.05
"""Together one second: longer than a reader holds the lock to test it."""


class Identity(Struct, frozen=True):
    """A process on this machine; its pid alone may be reused."""

    pid: int
    process_started_at: float
    boot_id: str
    host: str


def this_process() -> Identity:
    """The identity of this process."""
    import socket  # these two here, not above: `status` does not need them

    import psutil

    return Identity(os.getpid(), psutil.Process().create_time(), _boot_id(), socket.gethostname())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux: use the boot time
        import psutil

        return str(int(psutil.boot_time()))


class DaemonLock:
    """The lock that the daemon of a home holds while it runs; the kernel releases it when the process ends.

    So a stale pid never blocks a start, and no other process is mistaken for the daemon. The `Identity` in the file is
    for messages only.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._fd: int | None = None

    def take(self, me: Identity) -> None:
        """Take the lock. Raises UserError naming the daemon that holds it, OSError."""
        storage, path = self._home.storage, self._home.daemon_lock
        make_directory(path.parent, storage=storage)
        fd = open_lock(self._home, path)
        for _ in range(START_TRIES):
            if storage.try_lock(fd):
                self._fd = fd
                with suppress(OSError):  # for example a full disk: the identity is for messages only
                    storage.truncate(fd, 0)
                    write_all(storage, fd, msgspec.json.encode(me) + b"\n")
                return
            time.sleep(TRY_EVERY_S)
        storage.close(fd)
        holder = lock_holder(self._home)
        if holder is None:
            raise UserError(
                f"another process holds {path}, and it is not the daemon that the file names; the daemon did not start",
                f"find it with `fuser -v {shlex.quote(str(path))}` and end it",
            )
        raise UserError(
            f"a daemon already runs in this home: pid {holder.pid} on {holder.host}",
            "see it with `keepstep status`, or end it with `keepstep stop`",
        )

    def release(self) -> None:
        """Release the lock."""
        if self._fd is not None:
            self._home.storage.close(self._fd)
            self._fd = None


def open_lock(home: Home, lock: Path) -> int:
    """Open a lock file, made if it is missing, and keep other users from opening and so locking it. Raises OSError."""
    fd = home.storage.open(lock, os.O_RDWR | os.O_CREAT, MODE)
    with suppress(OSError):  # it belongs to another user
        home.storage.set_mode(fd, MODE)
    return fd


def daemon_is_alive(home: Home) -> bool:
    """True if a daemon holds the lock of the home now."""
    return is_locked(home, home.daemon_lock)


def is_locked(home: Home, lock: Path) -> bool:
    """True if some process holds this lock of the home. Raises OSError."""
    try:
        with opened(home.storage, lock, os.O_RDONLY) as fd:
            return not home.storage.try_lock(fd, shared=True)
    except FileNotFoundError:
        return False
    except PermissionError:  # a member of the home's group may not open it: ask the kernel's list of locks
        holders = flock_holders(lock)
        if holders is None:
            raise
        return bool(holders)


def lock_holder(home: Home) -> Identity | None:
    """The process that holds the daemon's lock, if the lock file names it; else None.

    The file may name an earlier daemon while another process holds the lock.
    """
    try:
        named = msgspec.json.decode(read_file(home.daemon_lock, storage=home.storage), type=Identity)
    except UNREADABLE:
        return None
    return named if _holds(named, home.daemon_lock) else None


def flock_holders(lock: Path) -> set[int] | None:
    """The pids that hold a `flock` on the file; None if the system has no list of locks."""
    try:
        inode = lock.stat().st_ino
        lines = (PROC / "locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    # 3: FLOCK  ADVISORY  WRITE 1234 fe:00:5562989 0 EOF
    # Compare the inode only: on some file systems the device number differs from that of `stat`.
    fields = (line.split() for line in lines if "->" not in line)  # a line with an arrow is a waiting process
    return {int(each[4]) for each in fields if each[1] == "FLOCK" and each[5].rpartition(":")[2] == str(inode)}


def _holds(named: Identity, lock: Path) -> bool:
    """True if the named process still runs and holds the lock."""
    import psutil

    try:
        process = psutil.Process(named.pid)
        if abs(process.create_time() - named.process_started_at) > SAME_START_S:
            return False
        if not PROC.is_dir():
            return str(lock.resolve()) in {file.path for file in process.open_files()}
    except psutil.Error:
        return False
    wanted = lock.stat()
    try:
        for fd in (PROC / str(named.pid) / "fd").iterdir():
            with suppress(FileNotFoundError):
                found = fd.stat()
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return "FLOCK" in (PROC / str(named.pid) / "fdinfo" / fd.name).read_text(encoding="ascii")
    except PermissionError:  # a process of another user
        return named.pid in (flock_holders(lock) or ())
    except OSError:
        pass  # the process ended
    return False
