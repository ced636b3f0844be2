"""The worker's side of the conversation: facts out, orders in, and what was asked for while the hands were busy."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from socket import socket
from typing import NoReturn, Protocol

from events.course import Course
from events.messages import (
    AnyFact,
    AnyOrder,
    Committed,
    Consolidate,
    Heartbeat,
    OutOfMemory,
    Phase,
    Prepare,
    RunAgain,
    Shutdown,
    Train,
    Yield,
)
from events.values import CheckpointId
from gpu.errors import ProtocolViolation
from gpu.ipc.connection import Sender, order_reader

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
"""At most one heartbeat of a phase in this time: often enough for any deadline, rare enough to cost nothing."""


class WorkerChannel(Protocol):
    """What the work needs of the other end."""

    def tell(self, fact: AnyFact) -> None:
        """Report a fact. Safe from any thread."""

    def yield_requested(self) -> bool:
        """Whether the daemon wants the current work to stop."""

    def is_committed(self, checkpoint: CheckpointId) -> bool:
        """Whether the daemon has journaled `checkpoint`."""

    def wait_committed(self, checkpoint: CheckpointId) -> None:
        """Return when the daemon has journaled `checkpoint`."""

    def ask_course(self, fact: OutOfMemory) -> Course:
        """Report that a step did not fit; by what course it is to be run again, once that is journaled."""


class Heartbeats:
    """Heartbeats of one attempt, from whatever code does its work; safe from any thread."""

    def __init__(self, channel: WorkerChannel, attempt: int) -> None:
        self._channel = channel
        self._attempt = attempt
        self._lock = threading.Lock()
        self._last: dict[Phase, float] = {}

    def beat(self, phase: Phase, done: int, total: int, *, force: bool = False) -> None:
        """Say that there is progress; `force`: even if the last word of this phase was less than a second ago."""
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(phase, float("-inf")) < HEARTBEAT_S and not force:
                return
            self._last[phase] = now
        self._channel.tell(Heartbeat(attempt=self._attempt, phase=phase, done=done, total=total))


class SocketChannel:
    """A desk at the end of a socket.

    A thread reads the orders. When the daemon closes the socket, or says so, the process ends at once, whatever it is
    doing: everything that counts is committed, and the rest is debris that the next daemon sweeps.
    """

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._sender = Sender(connection)
        self._orders: queue.SimpleQueue[Prepare | Train | Consolidate | Yield] = queue.SimpleQueue()
        self._courses: queue.SimpleQueue[Course] = queue.SimpleQueue()
        self._yield = threading.Event()
        self._committed: CheckpointId | None = None
        self._commit = threading.Condition()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def next_order(self) -> Prepare | Train | Consolidate | Yield:
        """Wait for something to do."""
        order = self._orders.get()
        if isinstance(order, Yield):
            self._yield.clear()
        return order

    def tell(self, fact: AnyFact) -> None:
        try:
            self._sender.send(fact)
        except OSError:
            log.info("the daemon is gone")
            leave(0)

    def yield_requested(self) -> bool:
        return self._yield.is_set()

    def is_committed(self, checkpoint: CheckpointId) -> bool:
        return self._committed == checkpoint

    def wait_committed(self, checkpoint: CheckpointId) -> None:
        with self._commit:
            self._commit.wait_for(lambda: self.is_committed(checkpoint))

    def ask_course(self, fact: OutOfMemory) -> Course:
        self.tell(fact)
        return self._courses.get()

    def _read(self) -> None:
        reader = order_reader()
        while True:
            try:
                data = self._connection.recv(65536)
                if not data:
                    log.info("the daemon closed the connection")
                    leave(0)
                while orders := reader.feed(data):
                    for order in orders:
                        self._take(order)
                    data = b""
            except ProtocolViolation:
                log.exception("cannot understand the daemon")
                leave(1)
            except OSError:
                log.info("the daemon is gone")
                leave(0)

    def _take(self, order: AnyOrder) -> None:
        match order:
            case Shutdown():
                leave(0)
            case Committed():
                with self._commit:
                    self._committed = order.checkpoint
                    self._commit.notify_all()
            case RunAgain():
                self._courses.put(order.course)
            case Yield():
                # Seen by the work in hand, which stops, and then answered in its turn as an order.
                self._yield.set()
                self._orders.put(order)
            case _:
                self._orders.put(order)


def leave(code: int) -> NoReturn:
    """End the process now, from any thread."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
