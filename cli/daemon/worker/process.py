"""The worker process: a child of the daemon that is connected by a Unix socket.

The daemon starts it with the first job and keeps it warm between jobs. The worker never outlives the daemon: the kernel
kills it with its parent, and it leaves when the socket closes.
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

from cli.home.log_files import OutputReader
from cli.home.paths import Home
from cli.home.subprocesses import command
from cli.machine.oom_kills import count_oom_kills
from core.worker_exit import Ending
from events.messages import AnyFact, AnyOrder, Failed
from gpu.ipc import connection as link
from gpu.runtime.driver import names_driver, names_memory

KILL_WAIT_S = 10.0

STACKS_WAIT_S = 2.0
"""Time to write the stacks. A signal handler in C writes them whatever Python does: at once or never."""

STACKS_QUIET_S = 0.2
"""The stacks are complete when nothing more arrives for this long."""

TERMINATE_WAIT_S = 3.0
"""Time from SIGTERM to SIGKILL: a worker that can exit by itself does so at once, and its exit code tells more."""

LAST_OUTPUT_WAIT_S = 1.0
"""Time to log its last output. A limit, because a child of the worker may hold the output open."""

RECEIVE_BYTES = 1 << 20


class WorkerProcess:
    """One worker. `selector` reports it, as the data of a key, when a message can be read with `receive`."""

    def __init__(self, home: Home, selector: selectors.BaseSelector, module: str = "gpu.worker") -> None:
        self._selector = selector
        self._path = home.run / f"worker-{secrets.token_hex(4)}.sock"
        self._listener = link.listen(self._path)
        self._listener.setblocking(False)
        self._connection: socket.socket | None = None
        self._reader = link.fact_reader()
        self._pending: list[AnyOrder] = []
        self.sent: set[tuple[type, int]] = set()
        """The messages that were sent, by type and attempt."""
        self._memory_kills = count_oom_kills()
        self._process = subprocess.Popen(
            command(module, "--home", str(home.root), "--socket", str(self._path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the daemon handles Ctrl-C of the terminal
        )
        assert self._process.stdout is not None  # it was asked for
        self._output = OutputReader(cast("BinaryIO", self._process.stdout), "worker")
        selector.register(self._listener, selectors.EVENT_READ, self)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def connected(self) -> bool:
        """True if the worker has connected."""
        return self._connection is not None

    def receive(self) -> list[AnyFact]:
        """Read the messages that have arrived.

        Raises EOFError if the worker is gone, gpu.errors.ProtocolViolation if the bytes are no message.
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
        """Send a message, after the worker connects if it has not. `receive` notices a dead worker."""
        self.sent.add((type(order), order.attempt))
        self._output.attempt = order.attempt or self._output.attempt
        if self._connection is None:
            self._pending.append(order)
            return
        with contextlib.suppress(OSError):
            self._connection.sendall(link.encode(order))

    def exit_status(self) -> Ending:
        """Wait for the process, which has ended or is about to, and return how it ended."""
        try:
            code = self._process.wait(timeout=KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._output.join(LAST_OUTPUT_WAIT_S)
        lines = self._output.last_output()
        return Ending(
            killed_by=_signal_name(-code) if code < 0 else None,
            exit_code=code if code >= 0 else None,
            was_up=self.connected,
            memory_kills=max(0, count_oom_kills() - self._memory_kills),
            says="memory" if names_memory(lines) else "driver" if names_driver(lines) else None,
        )

    def show_stacks(self) -> bool:
        """Have the worker log the stack of each thread, then ask it to exit and wait a moment. True if it logged them.

        A process that is stopped or stuck in the kernel logs nothing.
        """
        if self.has_ended():
            return False
        logged = self._output.ask(
            lambda: self._process.send_signal(signal.SIGUSR1), timeout_s=STACKS_WAIT_S, quiet_s=STACKS_QUIET_S
        )
        self._process.terminate()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)  # the worker exits when its socket closes
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_WAIT_S)
        return logged

    def has_ended(self) -> bool:
        """True if the process has ended, connected or not."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Kill the process group, wait until it is gone, and close the socket. Nothing writes after this."""
        self._unregister()
        if not self.has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # the worker leads its own process group
        self._process.wait()
        self._output.join(LAST_OUTPUT_WAIT_S)
        self._listener.close()
        if self._connection is not None:
            self._connection.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:  # no connection: `receive` was called because the process has ended
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
    """Log a failure that the worker reported, with its traceback."""
    extra = {"source": "worker", "attempt": fact.attempt, "trace": fact.trace}
    logging.getLogger("keepstep.worker").error("failed: %s", fact.message, extra=extra)
