"""The worker as the daemon holds it: a process of its own, at the other end of a socket.

It is started with the first job, kept warm between jobs, and never outlives the daemon: its end of the socket closes
with the daemon, and the kernel kills it with its parent.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import selectors
import signal
import socket
import subprocess
import time
from typing import BinaryIO, cast

from cli.home import Home
from cli.logs import Eavesdropper
from cli.modules import command
from events.worker import AnyFact, AnyOrder, Failed
from gpu import link

CONNECT_S = 120.0
"""From start to hello. Importing torch takes seconds; from a cold disk on a busy machine, more."""

KILL_WAIT_S = 10.0

SAID_WAIT_S = 1.0
"""For what it said last to be logged: as long as it takes, but a child of it may hold its output open."""

RECEIVE_BYTES = 1 << 20


class WorkerProcess:
    """One worker. `selector` wakes, with this as its data, when it has something to say; `receive` then gives it."""

    def __init__(self, home: Home, selector: selectors.BaseSelector, module: str = "gpu.worker") -> None:
        self._selector = selector
        self._path = home.run / f"worker-{secrets.token_hex(4)}.sock"
        self._listener = link.listen(self._path)
        self._listener.setblocking(False)
        self._connection: socket.socket | None = None
        self._reader = link.fact_reader()
        self._pending: list[AnyOrder] = []
        self.sent: set[tuple[type, int]] = set()
        """Which orders this worker has had, by kind and attempt: effects are asked for again and again."""
        self.last_heard = time.monotonic()
        self._process = subprocess.Popen(
            command(module, "--home", str(home.root), "--socket", str(self._path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C on the terminal is the daemon's to handle
        )
        assert self._process.stdout is not None  # it was asked for
        self._said = Eavesdropper(cast("BinaryIO", self._process.stdout), "worker")
        selector.register(self._listener, selectors.EVENT_READ, self)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def connected(self) -> bool:
        """Whether it has come up."""
        return self._connection is not None

    def receive(self) -> list[AnyFact]:
        """What the worker said.

        Raises EOFError when it is gone, gpu.errors.LinkGarbage when it speaks nonsense.
        """
        if self._connection is None:
            self._accept()
            return []
        try:
            data = self._connection.recv(RECEIVE_BYTES)
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self.last_heard = time.monotonic()
        facts: list[AnyFact] = []
        while read := self._reader.feed(data):
            facts += read
            data = b""
        return facts

    def send(self, order: AnyOrder) -> None:
        """Give an order; one to a worker that has not connected yet waits. A dead worker is noticed by `receive`."""
        self.sent.add((type(order), order.attempt))
        self._said.attempt = order.attempt or self._said.attempt
        self.last_heard = time.monotonic()  # a warm worker was silent for good reason until now
        if self._connection is None:
            self._pending.append(order)
            return
        with contextlib.suppress(OSError):
            self._connection.sendall(link.encode(order))

    def exit_reason(self) -> str:
        """How the process ended, in words; it has ended, or is about to."""
        try:
            code = self._process.wait(timeout=KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._said.end(SAID_WAIT_S)
        if code < 0:
            return f"the worker was killed by {signal.Signals(-code).name}"
        return f"the worker ended with exit code {code}"

    def has_ended(self) -> bool:
        """Whether the process is gone, connected or not."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Kill it, and wait until it is gone: nothing of it may write after this. Then let go of the socket."""
        self._unregister()
        self._process.kill()
        self._process.wait()
        self._said.end(SAID_WAIT_S)
        self._listener.close()
        if self._connection is not None:
            self._connection.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:  # nobody came: asked once more because the process has ended
            return
        self._unregister()
        self._connection = connection
        self.last_heard = time.monotonic()
        self._selector.register(connection, selectors.EVENT_READ, self)
        with contextlib.suppress(OSError):  # as in `send`
            for order in self._pending:
                self._connection.sendall(link.encode(order))
        self._pending.clear()

    def _unregister(self) -> None:
        for end in (self._listener, self._connection):
            if end is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(end)


def log_failure(fact: Failed) -> None:
    """Log what a worker said of its failure, the traceback too."""
    extra = {"source": "worker", "attempt": fact.attempt, "trace": fact.trace}
    logging.getLogger("keepstep.worker").error("failed: %s", fact.message, extra=extra)
