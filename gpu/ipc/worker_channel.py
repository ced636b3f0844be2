"""The worker's end of the socket: it sends facts, queues orders, and notes requests that arrive during work."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from socket import socket
from typing import NoReturn, Protocol, TypeVar

from msgspec.structs import replace

from events.course import Course
from events.messages import (
    AnyFact,
    AnyOrder,
    Committed,
    Consolidate,
    EvaluateVersion,
    Heartbeat,
    OutOfMemory,
    Phase,
    Prepare,
    RunAgain,
    Sample,
    Shutdown,
    Train,
    Yield,
)
from events.values import CheckpointId
from gpu.errors import ProtocolViolation
from gpu.ipc.connection import Sender, order_reader, receive_messages

Order = TypeVar("Order")

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
"""Shortest time between two heartbeats of a phase: often enough for any deadline, and rare enough to cost nothing."""


class WorkerChannel(Protocol):
    """The worker's connection to the daemon. Tests and reruns implement it without a socket."""

    def send(self, fact: AnyFact) -> None:
        """Report a fact. Any thread may call this."""

    def yield_requested(self) -> bool:
        """True if the daemon wants the current work to stop."""

    def is_committed(self, checkpoint: CheckpointId) -> bool:
        """True if the daemon has journaled `checkpoint`."""

    def wait_committed(self, checkpoint: CheckpointId) -> None:
        """Wait until the daemon has journaled `checkpoint`."""

    def take_sample_order(self) -> Sample | None:
        """The newest order about samples since the last call; None: there is none."""

    def request_course(self, fact: OutOfMemory) -> Course:
        """Report that a step did not fit into memory. Return the course to run it again with, once that is
        journaled."""


class Heartbeats:
    """Sends the heartbeats of one attempt. Any thread may use it."""

    def __init__(self, channel: WorkerChannel, attempt: int) -> None:
        self._channel = channel
        self._attempt = attempt
        self._lock = threading.Lock()
        self._last: dict[Phase, float] = {}

    def beat(self, phase: Phase, done: int, total: int, *, force: bool = False) -> None:
        """Report progress, at most once per HEARTBEAT_S and phase. `force`: report in any case."""
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(phase, float("-inf")) < HEARTBEAT_S and not force:
                return
            self._last[phase] = now
        self._channel.send(Heartbeat(attempt=self._attempt, phase=phase, done=done, total=total))


class SocketChannel:
    """A `WorkerChannel` over a socket.

    A thread reads the orders. When the daemon closes the socket or orders a shutdown, the process ends at once: all
    that counts is committed, and the next daemon sweeps the rest.
    """

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._sender = Sender(connection)
        self._orders: queue.SimpleQueue[Prepare | Train | Consolidate | EvaluateVersion | Yield] = queue.SimpleQueue()
        self._courses: queue.SimpleQueue[Course] = queue.SimpleQueue()
        self._yield = threading.Event()
        self._sample_order: Sample | None = None
        self._sample_lock = threading.Lock()
        self._committed: CheckpointId | None = None
        self._commit = threading.Condition()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def next_order(self) -> Prepare | Train | Consolidate | EvaluateVersion | Yield:
        """Wait for the next order to carry out."""
        order = self._orders.get()
        if isinstance(order, Yield):
            self._yield.clear()
        return order

    def send(self, fact: AnyFact) -> None:
        try:
            self._sender.send(fact)
        except OSError:
            log.info("the daemon is gone")
            exit_process(0)

    def yield_requested(self) -> bool:
        return self._yield.is_set()

    def is_committed(self, checkpoint: CheckpointId) -> bool:
        return self._committed == checkpoint

    def wait_committed(self, checkpoint: CheckpointId) -> None:
        with self._commit:
            self._commit.wait_for(lambda: self.is_committed(checkpoint))

    def take_sample_order(self) -> Sample | None:
        with self._sample_lock:
            order, self._sample_order = self._sample_order, None
            return order

    def request_course(self, fact: OutOfMemory) -> Course:
        self.send(fact)
        return self._courses.get()

    def _read(self) -> None:
        follow_orders(receive_messages(self._connection, order_reader()), self._receive, "the daemon")

    def _receive(self, order: AnyOrder) -> None:
        match order:
            case Shutdown():
                exit_process(0)
            case Committed():
                with self._commit:
                    self._committed = order.checkpoint
                    self._commit.notify_all()
            case RunAgain():
                self._courses.put(order.course)
            case Sample():
                with self._sample_lock:
                    before = self._sample_order
                    asked = order.asked or (before is not None and before.asked)
                    self._sample_order = replace(order, asked=asked)
            case Yield():
                # The work in progress sees the flag and stops; then the order is answered like any other.
                self._yield.set()
                self._orders.put(order)
            case _:
                self._orders.put(order)


def follow_orders(orders: Iterable[Order], receive: Callable[[Order], None], sender: str) -> NoReturn:
    """Receive orders until `sender` is gone or not understood, then end this process."""
    try:
        for order in orders:
            receive(order)
        log.info("%s closed the connection", sender)
    except ProtocolViolation:
        log.exception("cannot understand %s", sender)
        exit_process(1)
    except OSError:
        log.info("%s is gone", sender)
    exit_process(0)


def exit_process(code: int) -> NoReturn:
    """End the process at once. Any thread may call this."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
