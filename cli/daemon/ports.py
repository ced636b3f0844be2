"""What the daemon has around it: signals, the inbox as it is watched, workers, and one place to wait for all of them.

A port: a test can put a world of its own here, in which workers, people and files act by a script, and time passes as
it says.
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

from cli.daemon.orphans import Leftover, end_leftovers
from cli.daemon.signals import taken_over
from cli.daemon.worker_process import WorkerProcess
from cli.home.identity import Identity, this_process
from cli.home.log_files import logged
from cli.home.paths import Home
from cli.inbox.watcher import Inbox
from cli.machine.gpus import GpuWatch
from cli.machine.measure import MachineWatch
from core.worker_exit import Ending
from events.messages import AnyFact, AnyOrder
from events.settings import LogSettings
from projections.machine import MachineView


class Worker(Protocol):
    """A worker, as the daemon holds it."""

    sent: set[tuple[type, int]]
    """Which orders it has had, by kind and attempt: effects are asked for again and again."""

    @property
    def pid(self) -> int:
        """Of its process."""

    @property
    def connected(self) -> bool:
        """Whether it has come up."""

    def send(self, order: AnyOrder) -> None:
        """Give an order. One to a worker that is not up yet waits; one to a dead worker is lost."""

    def receive(self) -> list[AnyFact]:
        """What it said. Raises EOFError when it is gone, gpu.errors.ProtocolViolation when it speaks nonsense."""

    def has_ended(self) -> bool:
        """Whether the process is gone, connected or not."""

    def how_it_ended(self) -> Ending:
        """How it ended; it has ended, or is about to."""

    def show_stacks(self) -> bool:
        """Have it say where it stands, for the log, and ask it to leave; whether it did say it. `end` then makes sure
        that it is gone."""

    def end(self) -> None:
        """Kill it, and return when it is gone: nothing of it may write after this."""


class Ports(Protocol):
    """The port."""

    def entered(
        self, inbox: Inbox, on_signal: Callable[[], None], logs: LogSettings
    ) -> contextlib.AbstractContextManager[None]:
        """Signals lead to `on_signal`, events in the inbox to `inbox.received`, and what is logged into the log, for
        the time of a block."""

    def wait(self, seconds: float) -> list[Worker]:
        """Return when something happens, at the latest after `seconds`; the workers that have something to say."""

    def start_worker(self) -> Worker:
        """A new worker, coming up."""

    def measure(self, worker: Worker | None) -> MachineView | None:
        """What the machine has and does now, and what of it is the worker's; None: nothing is known of it."""

    def end_leftovers(self) -> list[Leftover]:
        """End what earlier daemons of this home left running; what that was. Raises UserError."""

    def identity(self) -> Identity:
        """Who this process is."""

    def leave_at_once(self, code: int) -> None:
        """End this process without another word."""


class Machine:
    """The real one."""

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
    def entered(self, inbox: Inbox, on_signal: Callable[[], None], logs: LogSettings) -> Iterator[None]:
        with (
            logged(self._home.logs, logs),
            taken_over(self._wake_out.fileno(), on_signal),
            _watched(inbox, self._wake),
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

    def end_leftovers(self) -> list[Leftover]:
        return end_leftovers(self._home, self._worker_module)

    def identity(self) -> Identity:
        return this_process()

    def leave_at_once(self, code: int) -> None:
        os._exit(code)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake already
            self._wake_out.send(b"\0")


@contextlib.contextmanager
def _watched(inbox: Inbox, wake: Callable[[], None]) -> Iterator[None]:
    """Report events in the inbox for the time of a block. Where the kernel has no watch left, the poll must do."""
    observer, handler = Observer(), _Handler(inbox, wake)
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
        # What the kernel still says while watching ends would be printed as an error, and is none.
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)
        if observer.is_alive():
            observer.stop()
            observer.join(timeout=1.0)


class _Handler(FileSystemEventHandler):
    def __init__(self, inbox: Inbox, wake: Callable[[], None]) -> None:
        self._inbox = inbox
        self._wake = wake

    def on_any_event(self, _event: FileSystemEvent) -> None:
        self._inbox.received()
        self._wake()
