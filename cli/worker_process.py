"""The worker as the daemon holds it: a process of its own, at the other end of a socket.

It is started with the first job, kept warm between jobs, and never outlives the daemon: its end of the socket closes
with the daemon, and the kernel kills it with its parent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import time

from cli.clock import timestamp
from cli.home import Home
from cli.modules import command
from events.worker import AnyFact, AnyOrder, Failed
from gpu import link
from journal.durable import opened, write_all

CONNECT_S = 120.0
"""From start to hello. Importing torch takes seconds; from a cold disk on a busy machine, more."""

KILL_WAIT_S = 10.0
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
        log = os.open(home.logs / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._process = subprocess.Popen(
                command(module, "--home", str(home.root), "--socket", str(self._path)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal is the daemon's to handle
            )
        finally:
            os.close(log)
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


def log_failure(home: Home, fact: Failed) -> None:
    """Add what a worker said of its failure, the traceback too, to what it printed. Raises OSError."""
    text = f"{timestamp(home.clock.now())} attempt {fact.attempt} failed: {fact.message}\n{fact.trace}\n"
    with opened(home.storage, home.logs / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) as log:
        write_all(home.storage, log, text.encode())
