"""The watchdog heartbeats of the daemon, for systemd or `keepstep run --supervise`.

The loop itself sends a heartbeat: each time that it waits, and with each piece of a large file that it reads or writes
(recovery, restoring a backup). No thread sends heartbeats, because a thread would continue while the loop hangs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cli.daemon.loop import Daemon
from cli.daemon.ports import RealPorts, Worker
from cli.home.paths import Home
from cli.inbox.watcher import Inbox
from cli.output.run_screen import RunScreen
from cli.signals import ignore_signals
from cli.status.report import health
from cli.supervision import sd_notify
from cli.supervision.sd_notify import WATCHDOG_TIMEOUT_S, Notifier
from events.settings import LogSettings
from journal.storage import Storage
from projections.status import read_status

HEARTBEAT_EVERY_S = 1.0
"""Far below WATCHDOG_TIMEOUT_S; one datagram a second costs nothing."""

LONGEST_WAIT_S = 5.0
"""Longest wait without a heartbeat. On a full disk the daemon may wait for a minute."""

SYNC_BYTES_PER_S = 10_000_000
"""The speed of the slowest disk. It gives the time that one fsync of a large file may take."""


class Watchdog:
    """Sends heartbeats and the status line, each at most once per HEARTBEAT_EVERY_S."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._next_heartbeat = self._next_line = 0.0
        self._ready = False

    @property
    def is_due(self) -> bool:
        """True if there is a listener and the last heartbeat is old enough."""
        return self._notifier.is_listening and time.monotonic() >= self._next_heartbeat

    def line_is_due(self) -> bool:
        """True if the status line is due, which schedules the next one.

        It has its own schedule: most heartbeats come from reads and writes, and carry no status line.
        """
        now = time.monotonic()
        if not self._notifier.is_listening or now < self._next_line:
            return False
        self._next_line = now + HEARTBEAT_EVERY_S
        return True

    def beat(self, *lines: str) -> None:
        """Send a heartbeat, with these lines."""
        self._next_heartbeat = time.monotonic() + HEARTBEAT_EVERY_S
        starting = () if self._ready else (sd_notify.extend_timeout(WATCHDOG_TIMEOUT_S),)
        self._notifier.send(sd_notify.ALIVE, *starting, *lines)

    def ready(self) -> None:
        """Report once that recovery is done."""
        if not self._ready:
            self._ready = True
            self._notifier.send(sd_notify.READY)

    def stopping(self) -> None:
        """Report that the loop has ended."""
        self._notifier.send(sd_notify.STOPPING)

    @contextlib.contextmanager
    def syncing(self, size_bytes: int) -> Iterator[None]:
        """Within a block, extend the timeout for one fsync of a file of this size."""
        takes_s = size_bytes / SYNC_BYTES_PER_S
        if not self._notifier.is_listening or takes_s < HEARTBEAT_EVERY_S:
            yield
            return
        timeout_s = WATCHDOG_TIMEOUT_S + takes_s
        self.beat(sd_notify.watchdog_timeout(timeout_s), sd_notify.extend_timeout(timeout_s))
        try:
            yield
        finally:
            self.beat(sd_notify.watchdog_timeout(self._notifier.timeout_s))


class HeartbeatStorage(Storage):
    """The disk, with a heartbeat at each read and write: copying many gigabytes is no hang."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog

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
        with self._watchdog.syncing(self.size(fd)):
            super().fsync(fd)

    def _beat(self) -> None:
        if self._watchdog.is_due:
            self._watchdog.beat()


class WatchedPorts(RealPorts):
    """The real ports, with heartbeats. A file `.stop` in the home stops the daemon, as a signal does."""

    def __init__(
        self, home: Home, watchdog: Watchdog, worker_module: str = "gpu.worker", *, owns_process: bool = False
    ) -> None:
        """`owns_process`: the process ends with the daemon, so later signals are ignored."""
        super().__init__(home, worker_module)
        self._owns_process = owns_process
        self._status, self._storage = home.status, home.storage
        self._stop_file = home.stop_file
        self._watchdog = watchdog
        self._stop: Callable[[str], None] | None = None

    @contextlib.contextmanager
    def listening(self, inbox: Inbox, on_signal: Callable[[str], None], logs: LogSettings) -> Iterator[None]:
        self._stop = on_signal
        try:
            with super().listening(inbox, on_signal, logs):
                try:
                    yield
                finally:
                    if self._owns_process:
                        ignore_signals()
        finally:
            self._watchdog.stopping()

    def wait(self, seconds: float) -> list[Worker]:
        self._watchdog.ready()
        while True:
            self._report()
            began, piece_s = time.monotonic(), min(seconds, LONGEST_WAIT_S)
            workers = super().wait(piece_s)
            seconds -= piece_s
            if workers or seconds <= 0 or time.monotonic() - began < piece_s:  # a short wait: something ended it
                return workers

    def _report(self) -> None:
        """Send the status line if it is due; obey the stop file."""
        if self._watchdog.line_is_due():
            view = read_status(self._status, storage=self._storage)
            self._watchdog.beat(*([sd_notify.status(health(view, alive=True))] if view else []))
        if self._stop is not None and self._storage.exists(self._stop_file):
            stop, self._stop = self._stop, None  # only once: perhaps the file cannot be removed
            with contextlib.suppress(OSError):
                self._storage.unlink(self._stop_file)
            stop(self._stop_file.name)


def run_daemon(
    home: Home,
    *,
    until_idle: bool,
    write: Callable[[str], None],
    worker_module: str = "gpu.worker",
    screen: RunScreen | None = None,
) -> int:
    """Run the daemon of `home` in this process, with heartbeats if there is a listener; return the exit code.

    `write` prints a line; `screen`, if any, observes the events.

    Raises as `Daemon.run`.
    """
    notifier = Notifier.from_environment()
    watchdog = Watchdog(notifier)
    if notifier.is_listening:
        faulthandler.enable()  # a hung daemon gets SIGABRT before it is killed; this prints its stacks into the log
        home = Home(home.root, storage=HeartbeatStorage(watchdog), clock=home.clock)
        watchdog.beat(sd_notify.status("recovering"))
    ports = WatchedPorts(home, watchdog, worker_module, owns_process=True)
    return Daemon(home, until_idle=until_idle, write=write, ports=ports, screen=screen).run()
