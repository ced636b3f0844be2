"""Which process is which: pids are reused, so a start time and a boot go with each."""

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
"""Two readings of one start time differ by less: it counts in hundredths."""

START_TRIES = 20
TRY_EVERY_S = 0.05
"""Together one second: long enough to outlast a reader that asks whether the lock is held, and no longer."""


class Identity(Struct, frozen=True):
    """A process on this machine, by more than its number."""

    pid: int
    process_started_at: float
    boot_id: str
    host: str


def this_process() -> Identity:
    """The identity of the caller."""
    import socket  # these two here, not above: `status` needs no identity of its own

    import psutil

    return Identity(os.getpid(), psutil.Process().create_time(), _boot_id(), socket.gethostname())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux: the boot time names the boot well enough
        import psutil

        return str(int(psutil.boot_time()))


class DaemonLock:
    """Held by the one daemon of a home for as long as it lives; the kernel lets go of it when the process is gone.

    So no stale pid can block a start, and no other process can be mistaken for the daemon. What the file says
    (an `Identity`) is for messages only.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._fd: int | None = None

    def take(self, me: Identity) -> None:
        """Take the lock. Raises UserError naming the daemon that holds it, OSError."""
        storage, path = self._home.storage, self._home.daemon_lock
        make_directory(path.parent, storage=storage)
        fd = storage.open(path, os.O_RDWR | os.O_CREAT, MODE)
        with suppress(OSError):  # of an earlier keepstep everybody could open it, and so lock it; not ours: as it is
            storage.set_mode(fd, MODE)
        for _ in range(START_TRIES):
            if storage.try_lock(fd):
                self._fd = fd
                with suppress(OSError):  # a full disk, say: the name is for messages only
                    storage.truncate(fd, 0)
                    write_all(storage, fd, msgspec.json.encode(me) + b"\n")
                return
            time.sleep(TRY_EVERY_S)
        storage.close(fd)
        holder = lock_holder(self._home)
        if holder is None:
            raise UserError(
                f"another process holds {path}, and it is not the daemon that the file names; nothing was started",
                f"find it with `fuser -v {shlex.quote(str(path))}`; it lets go when it ends",
            )
        raise UserError(
            f"a daemon already runs in this home: pid {holder.pid} on {holder.host}",
            "see it with `keepstep status`, or end it with `keepstep stop`",
        )

    def release(self) -> None:
        """Let go."""
        if self._fd is not None:
            self._home.storage.close(self._fd)
            self._fd = None


def daemon_is_alive(home: Home) -> bool:
    """Whether a daemon holds the lock of the home now."""
    return is_locked(home, home.daemon_lock)


def is_locked(home: Home, lock: Path) -> bool:
    """Whether some process holds this lock of the home. Raises OSError."""
    try:
        with opened(home.storage, lock, os.O_RDONLY) as fd:
            return not home.storage.try_lock(fd, shared=True)
    except FileNotFoundError:
        return False
    except PermissionError:  # somebody of the home's group, who may read and not lock: the system's own list says it
        holders = flock_holders(lock)
        if holders is None:
            raise
        return bool(holders)


def lock_holder(home: Home) -> Identity | None:
    """The process that holds the daemon's lock, if it is the one that the lock file names; else None.

    The file may name a daemon that is gone while somebody else holds the lock: then nobody is named.
    """
    try:
        named = msgspec.json.decode(read_file(home.daemon_lock, storage=home.storage), type=Identity)
    except UNREADABLE:
        return None
    return named if _holds(named, home.daemon_lock) else None


def flock_holders(lock: Path) -> set[int] | None:
    """The pids of those who hold a `flock` on the file; None where the system has no list of them."""
    try:
        inode = lock.stat().st_ino
        lines = (PROC / "locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    # 3: FLOCK  ADVISORY  WRITE 1234 fe:00:5562989 0 EOF
    # Only the inode is compared: what stands there of the device is not what `stat` says on every file system.
    fields = (line.split() for line in lines if "->" not in line)  # those with an arrow only wait
    return {int(each[4]) for each in fields if each[1] == "FLOCK" and each[5].rpartition(":")[2] == str(inode)}


def _holds(named: Identity, lock: Path) -> bool:
    """Whether the named process is the very one that was named, and holds the lock."""
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
    except PermissionError:  # of another user
        return named.pid in (flock_holders(lock) or ())
    except OSError:
        pass  # it is gone
    return False
