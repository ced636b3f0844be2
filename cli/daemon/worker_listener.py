"""Messages of the worker become commands; a worker that ends, hangs or sends garbage is reported as lost."""

from __future__ import annotations

from collections.abc import Callable

from cli.config.schema import Config
from cli.daemon.event_handler import EventHandler
from cli.daemon.ports import Worker
from cli.daemon.worker_messages import Written, problem_of
from cli.daemon.worker_process import log_failure
from cli.daemon.worker_supervisor import WorkerSupervisor
from cli.home.event_store import EventStore
from core import commands
from core.deadlines import failures_in_a_row
from core.endings import classify
from events import worker
from events.values import Failure
from gpu.errors import ProtocolViolation


class WorkerListener:
    """Journals what the worker reports. Ends a worker that cannot be trusted any more."""

    def __init__(
        self,
        store: EventStore,
        handler: EventHandler,
        supervisor: WorkerSupervisor,
        config: Callable[[], Config],
        write: Callable[[str], None],
    ) -> None:
        self._store, self._handler, self._supervisor = store, handler, supervisor
        self._config, self._write = config, write

    def receive(self, process: Worker) -> None:
        """Read the messages of a worker and journal what follows."""
        try:
            facts = process.receive()
        except EOFError:
            self._lose(*classify(process.exit_status()))
            return
        except ProtocolViolation as error:
            self._lose("code", str(error))
            return
        for fact in facts:
            self._supervisor.observe(fact)
            if isinstance(fact, worker.Heartbeat):
                self._store.received = fact
            elif isinstance(fact, worker.Evaluated):
                self._store.received = None
            if isinstance(fact, Written) and (problem := problem_of(fact, self._store.state, self._store.home)):
                self._lose("storage", problem)
                continue
            if isinstance(fact, worker.Failed):
                log_failure(fact)
            self._handler.execute(fact)

    def check(self) -> None:
        """End a worker that missed a deadline, or that died before it could send anything."""
        process, state = self._supervisor.worker, self._store.state
        limits, failures = self._config().worker.limits, failures_in_a_row(state)
        missed = self._supervisor.missed_deadline(self._store.home.clock.monotonic(), limits, failures, state.attempt)
        if process is None:
            return
        if process.has_ended():
            self.receive(process)  # its last messages are still in the socket
            if not process.connected:
                self._lose(*classify(process.exit_status()))
            return
        if missed is not None:
            self._lose("hang", f"{missed}: {self._supervisor.end_hung()}")

    def _lose(self, failure: Failure, message: str) -> None:
        attempt = self._store.state.attempt
        self._supervisor.end()
        if attempt is None:
            self._write(f"{message}; nothing was running")
            return
        evaluating = self._supervisor.is_evaluating
        self._handler.execute(
            commands.ReportWorkerLost(attempt=attempt, failure=failure, message=message, evaluating=evaluating)
        )
