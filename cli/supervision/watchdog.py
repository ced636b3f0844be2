"""The daemon as it is watched from outside: by systemd, or by `keepstep run --supervise`.

A keep-alive is sent where the loop really comes by: each time that it waits, and with each piece of a large file that
it reads or writes meanwhile (recovery, a backup brought back). Never from a thread of its own, which would go on
beating for a loop that hangs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cli.daemon.loop import Daemon
from cli.daemon.ports import Machine, Worker
from cli.daemon.signals import ignored
from cli.home.paths import Home
from cli.inbox.watcher import Inbox
from cli.status.report import health
from cli.supervision import sd_notify
from cli.supervision.sd_notify import SILENCE_S, Notifier
from events.settings import LogSettings
from journal.storage import Storage
from projections.status import read_status

BEAT_EVERY_S = 1.0
"""Far below SILENCE_S, and a datagram a second costs nothing."""

LONGEST_WAIT_S = 5.0
"""Of one wait without a beat; on a full disk the daemon may wait for a minute."""

FLUSHED_BYTES_PER_S = 10_000_000
"""What the slowest disk does at least: how long the system may take to write a large file down, in one call."""


class Watchdog:
    """What is sent, and when."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._next_beat = self._next_line = 0.0
        self._ready = False

    @property
    def is_due(self) -> bool:
        """Whether somebody wants to hear of the loop, and has not for a while."""
        return self._notifier.is_listening and time.monotonic() >= self._next_beat

    def line_is_due(self) -> bool:
        """The same of the line that says what it does; asked once, it is due again after a while. Apart from the beats:
        most of those come with what is read and written."""
        now = time.monotonic()
        if not self._notifier.is_listening or now < self._next_line:
            return False
        self._next_line = now + BEAT_EVERY_S
        return True

    def beat(self, *words: str) -> None:
        """The loop came by."""
        self._next_beat = time.monotonic() + BEAT_EVERY_S
        starting = () if self._ready else (sd_notify.more_time(SILENCE_S),)
        self._notifier.tell(sd_notify.ALIVE, *starting, *words)

    def ready(self) -> None:
        """Recovery is done."""
        if not self._ready:
            self._ready = True
            self._notifier.tell(sd_notify.READY)

    def stopping(self) -> None:
        """The loop has ended, in good order or not."""
        self._notifier.tell(sd_notify.STOPPING)

    @contextlib.contextmanager
    def flushing(self, size_bytes: int) -> Iterator[None]:
        """One call that takes as long as it takes, in a block: it is waited for by the size of the file."""
        takes_s = size_bytes / FLUSHED_BYTES_PER_S
        if not self._notifier.is_listening or takes_s < BEAT_EVERY_S:
            yield
            return
        self.beat(sd_notify.patience(SILENCE_S + takes_s), sd_notify.more_time(SILENCE_S + takes_s))
        try:
            yield
        finally:
            self.beat(sd_notify.patience(self._notifier.silence_s))


class BeatingStorage(Storage):
    """The disk, and a beat where it gives or takes something: a copy of many gigabytes is no hang."""

    def __init__(self, keep_alive: Watchdog) -> None:
        self._keep_alive = keep_alive

    def read(self, fd: int, length: int, offset: int) -> bytes:
        self._beat()
        return super().read(fd, length, offset)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._beat()
        return super().write(fd, data)

    def unlink(self, path: Path) -> None:
        self._beat()
        super().unlink(path)

    def fsync(self, fd: int) -> None:
        self._beat()
        with self._keep_alive.flushing(self.size(fd)):
            super().fsync(fd)

    def _beat(self) -> None:
        if self._keep_alive.is_due:
            self._keep_alive.beat()


class Watched(Machine):
    """The machine, with somebody who watches; and with a file `.stop` in the home, which is an order to stop."""

    def __init__(
        self, home: Home, keep_alive: Watchdog, worker_module: str = "gpu.worker", *, leaves: bool = False
    ) -> None:
        """`leaves`: the process ends with the daemon."""
        super().__init__(home, worker_module)
        self._leaves = leaves
        self._status, self._storage = home.status, home.storage
        self._stop_file = home.stop_file
        self._keep_alive = keep_alive
        self._stop: Callable[[], None] | None = None

    @contextlib.contextmanager
    def entered(self, inbox: Inbox, on_signal: Callable[[], None], logs: LogSettings) -> Iterator[None]:
        self._stop = on_signal
        try:
            with super().entered(inbox, on_signal, logs):
                try:
                    yield
                finally:
                    if self._leaves:
                        ignored()
        finally:
            self._keep_alive.stopping()

    def wait(self, seconds: float) -> list[Worker]:
        self._keep_alive.ready()
        while True:
            self._come_by()
            began, piece_s = time.monotonic(), min(seconds, LONGEST_WAIT_S)
            found = super().wait(piece_s)
            seconds -= piece_s
            if found or seconds <= 0 or time.monotonic() - began < piece_s:  # the last: something woke it
                return found

    def _come_by(self) -> None:
        if self._keep_alive.line_is_due():
            view = read_status(self._status, storage=self._storage)
            self._keep_alive.beat(*([sd_notify.status(health(view, alive=True))] if view else []))
        if self._stop is not None and self._storage.exists(self._stop_file):
            stop, self._stop = self._stop, None  # once, should it be a file that cannot be removed
            with contextlib.suppress(OSError):
                self._storage.unlink(self._stop_file)
            stop()


def run_daemon(home: Home, *, until_idle: bool, write: Callable[[str], None], worker_module: str = "gpu.worker") -> int:
    """The daemon of `home` in this process, which ends with it; watched by whoever started it, if it wants to. The exit
    code.

    Raises as `Daemon.run`.
    """
    notifier = Notifier.from_environment()
    keep_alive = Watchdog(notifier)
    if notifier.is_listening:
        faulthandler.enable()  # before a hung one is killed, it is told to abort: where it hung is then in the log
        home = Home(home.root, storage=BeatingStorage(keep_alive), clock=home.clock)
        keep_alive.beat(sd_notify.status("recovering"))
    ports = Watched(home, keep_alive, worker_module, leaves=True)
    return Daemon(home, until_idle=until_idle, write=write, ports=ports).run()
