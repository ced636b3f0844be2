"""The worker as the daemon holds it: a process of its own, at the other end of a socket.

It is started with the first job, kept warm between jobs, and never outlives the daemon: its end of the socket closes
with the daemon, and the kernel kills it with its parent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import selectors
import signal
import socket
import subprocess
from typing import BinaryIO, cast

from cli.home.log_files import Eavesdropper
from cli.home.paths import Home
from cli.home.subprocesses import command
from cli.machine.oom_kills import memory_kills
from core.worker_exit import Ending
from events.messages import AnyFact, AnyOrder, Failed
from gpu.ipc import connection as link
from gpu.runtime.driver import names_driver, names_memory

KILL_WAIT_S = 10.0

STACKS_WAIT_S = 2.0
"""For the stacks to be written: by a signal handler of C, whatever Python is at, so at once or not at all."""

STACKS_QUIET_S = 0.2
"""They are complete when so long nothing more came."""

TERMINATE_WAIT_S = 3.0
"""From being told that the daemon wants no more to the kill: for what may still be told apart in the worker's own way
out, which is quick or stuck."""

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
        self._memory_kills = memory_kills()
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

        Raises EOFError when it is gone, gpu.errors.ProtocolViolation when it speaks nonsense.
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
        facts: list[AnyFact] = []
        while read := self._reader.feed(data):
            facts += read
            data = b""
        return facts

    def send(self, order: AnyOrder) -> None:
        """Give an order; one to a worker that has not connected yet waits. A dead worker is noticed by `receive`."""
        self.sent.add((type(order), order.attempt))
        self._said.attempt = order.attempt or self._said.attempt
        if self._connection is None:
            self._pending.append(order)
            return
        with contextlib.suppress(OSError):
            self._connection.sendall(link.encode(order))

    def how_it_ended(self) -> Ending:
        """How the process ended; it has ended, or is about to."""
        try:
            code = self._process.wait(timeout=KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._said.end(SAID_WAIT_S)
        words = self._said.last_words()
        return Ending(
            killed_by=_signal_name(-code) if code < 0 else None,
            exit_code=code if code >= 0 else None,
            was_up=self.connected,
            memory_kills=max(0, memory_kills() - self._memory_kills),
            says="memory" if names_memory(words) else "driver" if names_driver(words) else None,
        )

    def show_stacks(self) -> bool:
        """Have it write where each of its threads stands, which goes into the log; then tell it to leave, and give it a
        moment for that. One that is stopped, or stuck in the kernel, says nothing."""
        if self.has_ended():
            return False
        shown = self._said.answer(
            lambda: self._process.send_signal(signal.SIGUSR1), timeout_s=STACKS_WAIT_S, quiet_s=STACKS_QUIET_S
        )
        self._process.terminate()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)  # what the worker leaves for
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_WAIT_S)
        return shown

    def has_ended(self) -> bool:
        """Whether the process is gone, connected or not."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Kill it, and wait until it is gone: nothing of it may write after this. Then let go of the socket."""
        self._unregister()
        if not self.has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it leads a group of its own: its children too
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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def log_failure(fact: Failed) -> None:
    """Log what a worker said of its failure, the traceback too."""
    extra = {"source": "worker", "attempt": fact.attempt, "trace": fact.trace}
    logging.getLogger("keepstep.worker").error("failed: %s", fact.message, extra=extra)
