"""The fake worker as a process: `python -m tests.harness.worker --home HOME --socket PATH`.

It speaks the protocol over the socket. Each line of the data file is one step; these lines make it misbehave:

    ok          a step
    die         the process is killed
    die-once    the same, the first time only (a file in run/ remembers)
    silent      it says nothing more
    garbage     it sends bytes that are no message
    fail        it reports an error in its code
    phantom     it reports a checkpoint here that does not exist
    broken      it reports that the disk takes no writes
    wait        a step that takes until the daemon asks it to yield
    wait-once   the same, the first time only
    model       (first line) the model cannot be loaded
    reject      (any line) the file is rejected, by that line's number
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

from events.messages import AnyFact, AnyOrder, Failed, Hello, Shutdown, Train
from events.values import Failure
from gpu.ipc import connection as link
from tests.harness.fake_worker import FakeWorker


class WorkerProcess(FakeWorker):
    """One connection to a daemon."""

    def __init__(self, root: Path, connection: socket.socket) -> None:
        super().__init__(root)
        self.connection = connection
        self._arrived: queue.SimpleQueue[AnyOrder] = queue.SimpleQueue()

    def report(self, fact: AnyFact) -> None:
        self.connection.sendall(link.encode(fact))

    def leave(self) -> None:
        os._exit(0)

    def listen(self) -> None:
        """Take messages as they arrive. The process ends with its daemon, whatever it does just then."""
        reader = link.order_reader()
        with contextlib.suppress(OSError):  # a daemon that was killed resets the connection
            while data := self.connection.recv(65536):
                while messages := reader.feed(data):
                    data = b""
                    for message in messages:
                        if isinstance(message, Shutdown):
                            self.leave()
                        self._arrived.put(message)
        self.leave()

    def serve(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        self.report(Hello(attempt=0, pid=os.getpid()))
        busy = False
        while True:
            with contextlib.suppress(queue.Empty):
                while True:
                    self.send(self._arrived.get(block=not busy))
                    busy = True
            busy = self.act()

    def load(self, order: Train) -> None:
        if self.lines[0] == b"model":
            self._fails(order, "model", "there is no such model")
        else:
            super().load(order)

    def may_step(self, order: Train) -> bool:
        line = self.lines[self.step].decode()
        once = self.root / "run" / line
        match line:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die-once" if not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "silent":
                time.sleep(3600)
            case "garbage":
                self.connection.sendall(b"\x00not a message\n")
                time.sleep(3600)
            case "fail":
                self._fails(order, "code", "it broke", "Traceback: here")
                return False
            case "broken":
                self._fails(order, "storage", "cannot write: I/O error")
                return False
            case "wait":
                self._await_yield()
            case "wait-once" if not once.exists():
                once.touch()
                self._await_yield()
        return True

    def saved(self, checkpoint: str) -> None:
        if self.lines[self.step - 1] == b"phantom":
            shutil.rmtree(self.root / "checkpoints" / checkpoint)

    def _await_yield(self) -> None:
        while not self.yield_requested():
            self.send(self._arrived.get())

    def _fails(self, order: Train, failure: Failure, message: str, trace: str = "") -> None:
        self.abandon(Failed(attempt=order.attempt, failure=failure, message=message, trace=trace))


def main(worker: type[WorkerProcess] = WorkerProcess) -> None:
    """Serve one daemon."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--socket", type=Path)
    arguments, _ = parser.parse_known_args()
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        worker(arguments.home, link.connect(arguments.socket)).serve()


if __name__ == "__main__":
    main()
