"""Ports: the side effects that are injected into the daemon: signals, the watched inbox, workers, measurements.

A test can replace them with a simulated world in which workers, users, files and time follow a script.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from typing import Protocol

from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from cli.daemon.worker.orphans import Orphan, end_orphans
from cli.daemon.worker.process import WorkerProcess
from cli.home.identity import Identity, this_process
from cli.home.log_files import logged
from cli.home.paths import Home
from cli.inbox.watcher import Inbox
from cli.machine.gpus import GpuWatch
from cli.machine.measure import MachineWatch
from cli.signals import handle_signals
from core.worker_exit import Ending
from events.messages import AnyFact, AnyOrder
from events.settings import LogSettings
from projections.machine import MachineView


class Worker(Protocol):
    """A worker process, as the daemon sees it."""

    sent: set[tuple[type, int]]
    """The messages that were sent, by type and attempt."""

    @property
    def pid(self) -> int:
        """Process id."""

    @property
    def connected(self) -> bool:
        """True if the worker has connected."""

    def send(self, order: AnyOrder) -> None:
        """Send a message. It waits until the worker connects; to a dead worker it is lost."""

    def receive(self) -> list[AnyFact]:
        """Read the messages that have arrived.

        Raises EOFError if the worker is gone, gpu.errors.ProtocolViolation if the bytes are no message.
        """

    def has_ended(self) -> bool:
        """True if the process has ended, connected or not."""

    def exit_status(self) -> Ending:
        """Wait for the process, which has ended or is about to, and return how it ended."""

    def show_stacks(self) -> bool:
        """Have the worker log the stack of each thread and ask it to exit. True if it logged them."""

    def end(self) -> None:
        """Kill the worker and return when it is gone. Nothing writes after this."""


class Ports(Protocol):
    """The side effects of the daemon."""

    def listening(
        self, inbox: Inbox, on_signal: Callable[[str], None], logs: LogSettings
    ) -> contextlib.AbstractContextManager[None]:
        """Within a block, signals call `on_signal`, file events call `inbox.received`, and log records go to files."""

    def wait(self, seconds: float) -> list[Worker]:
        """Wait until something happens, at most `seconds`; return the workers that have sent something."""

    def start_worker(self) -> Worker:
        """Start a worker; it connects later."""

    def measure(self, worker: Worker | None) -> MachineView | None:
        """Measure the machine, and how much of its memory the worker has; None: it cannot be measured."""

    def end_orphans(self) -> list[Orphan]:
        """End the workers that earlier daemons of this home left running, and return them. Raises UserError."""

    def identity(self) -> Identity:
        """The identity of this process."""

    def exit_now(self, code: int) -> None:
        """End this process without cleanup."""


class RealPorts:
    """The ports of the real machine."""

    def __init__(self, home: Home, worker_module: str = "gpu.worker") -> None:
        self._home = home
        self._worker_module = worker_module
        self._watch = MachineWatch(home.root, storage=home.storage, gpus=GpuWatch())
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)

    @contextlib.contextmanager
    def listening(self, inbox: Inbox, on_signal: Callable[[str], None], logs: LogSettings) -> Iterator[None]:
        with (
            logged(self._home.logs, logs),
            handle_signals(self._wake_out.fileno(), on_signal),
            _watch_inbox(inbox, self._wake),
        ):
            yield

    def wait(self, seconds: float) -> list[Worker]:
        ready: list[Worker] = []
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.data is not None:
                ready.append(key.data)
                continue
            with contextlib.suppress(BlockingIOError):
                while self._wake_in.recv(4096):
                    pass
        return ready

    def start_worker(self) -> WorkerProcess:
        return WorkerProcess(self._home, self._selector, self._worker_module)

    def measure(self, worker: Worker | None) -> MachineView | None:
        return self._watch.measure(worker.pid if worker is not None else None)

    def end_orphans(self) -> list[Orphan]:
        return end_orphans(self._home, self._worker_module)

    def identity(self) -> Identity:
        return this_process()

    def exit_now(self, code: int) -> None:
        os._exit(code)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the wait ends anyway
            self._wake_out.send(b"\0")


@contextlib.contextmanager
def _watch_inbox(inbox: Inbox, wake: Callable[[], None]) -> Iterator[None]:
    """Report file events in the inbox within a block. If the kernel has no watch left, only polling finds files."""
    observer, handler = Observer(), _InboxEventHandler(inbox, wake)
    observer.daemon = True
    try:
        observer.start()
        for directory in inbox.directories():
            observer.schedule(handler, str(directory), event_filter=[FileClosedEvent, FileMovedEvent])
    except OSError as error:
        observer.unschedule_all()
        inbox.not_watched = error.strerror or str(error)
    try:
        yield
    finally:
        # watchdog logs events that arrive while it stops as errors; they are none
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)
        if observer.is_alive():
            observer.stop()
            observer.join(timeout=1.0)


class _InboxEventHandler(FileSystemEventHandler):
    def __init__(self, inbox: Inbox, wake: Callable[[], None]) -> None:
        self._inbox = inbox
        self._wake = wake

    def on_any_event(self, _event: FileSystemEvent) -> None:
        self._inbox.notify()
        self._wake()
