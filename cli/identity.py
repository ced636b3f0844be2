"""Which process is which: pids are reused, so a start time and a boot go with each."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from cli.errors import UserError

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

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self) -> None:
        """Take the lock. Raises UserError naming the daemon that holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        for _ in range(START_TRIES):
            if _try_lock(fd, fcntl.LOCK_EX):
                os.ftruncate(fd, 0)
                os.pwrite(fd, msgspec.json.encode(this_process()) + b"\n", 0)
                self._fd = fd
                return
            time.sleep(TRY_EVERY_S)
        os.close(fd)
        holder = lock_holder(self._path)
        who = f"pid {holder.pid} on {holder.host}" if holder else "another process"
        raise UserError(
            f"a daemon already runs in this home: {who}",
            "see it with `keepstep status`, or end it with `keepstep stop`",
        )

    def release(self) -> None:
        """Let go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def daemon_is_alive(path: Path) -> bool:
    """Whether a daemon holds the lock at `path` now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def lock_holder(path: Path) -> Identity | None:
    """Who wrote the lock file last; None if it says nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except (OSError, msgspec.MsgspecError):
        return None


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
