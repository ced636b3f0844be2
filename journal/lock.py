"""The append lock: one writer at a time, in any process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

from journal.errors import LockBusy
from journal.storage import Storage

TIMEOUT_S = 30.0  # a transaction takes well under a millisecond; after this time the holder must be stuck
MODE = 0o600
"""Mode of every lock file: any process that can open it can lock it, so only the owner may."""

_FIRST_PAUSE_S = 0.000_5  # a transaction is mostly one fdatasync, so the lock is often free again by then
_LONGEST_PAUSE_S = 0.02


class AppendLock:
    """`flock` on a file for a `with` block; not reentrant, not thread-safe.

    The kernel releases it when the holder dies. Close-on-exec, so that no child process keeps it.
    """

    def __init__(self, storage: Storage, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._storage = storage
        self.timeout_s = timeout_s
        self._fd = storage.open(path, os.O_RDONLY | os.O_CREAT, MODE)

    def __enter__(self) -> None:
        if not self._storage.try_lock(self._fd):
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        pause_s = _FIRST_PAUSE_S
        while time.monotonic() < deadline:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            if self._storage.try_lock(self._fd):
                return
        raise LockBusy(self.path, self.timeout_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._storage.unlock(self._fd)

    def close(self) -> None:
        self._storage.close(self._fd)
