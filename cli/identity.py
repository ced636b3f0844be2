"""Which process is which: pids are reused, so a start time and a boot go with each."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from cli.errors import UserError
from cli.home import Home
from journal.durable import make_directory, opened, read_file, write_all

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
        fd = storage.open(path, os.O_RDWR | os.O_CREAT, 0o644)
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
        who = f"pid {holder.pid} on {holder.host}" if holder else "another process"
        raise UserError(
            f"a daemon already runs in this home: {who}",
            "see it with `keepstep status`, or end it with `keepstep stop`",
        )

    def release(self) -> None:
        """Let go."""
        if self._fd is not None:
            self._home.storage.close(self._fd)
            self._fd = None


def daemon_is_alive(home: Home) -> bool:
    """Whether a daemon holds the lock of the home now."""
    try:
        with opened(home.storage, home.daemon_lock, os.O_RDONLY) as fd:
            return not home.storage.try_lock(fd, shared=True)
    except FileNotFoundError:
        return False


def lock_holder(home: Home) -> Identity | None:
    """Who wrote the lock file last; None if it says nothing."""
    try:
        return msgspec.json.decode(read_file(home.daemon_lock, storage=home.storage), type=Identity)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None
