"""Messages of the worker become commands; a worker that ends, hangs or sends garbage is reported as lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cli.daemon.config_watch import ConfigWatch
from cli.daemon.event_handler import EventHandler
from cli.daemon.ports import Worker
from cli.daemon.worker.messages import Written, missing_results, problem_of
from cli.daemon.worker.process import log_failure
from cli.daemon.worker.supervisor import WorkerSupervisor
from cli.home.event_store import EventStore
from core import commands
from core.deadlines import Phase, failures_in_a_row
from core.worker_exit import classify
from events import messages
from events.values import Failure
from gpu.errors import ProtocolViolation

_MEASURED = (
    messages.Evaluated,
    messages.JobEvaluated,
    messages.Sampled,
    messages.SamplesPutOff,
    messages.SamplesFailed,
    messages.SelfCorrected,
    messages.SelfCorrectionFailed,
    messages.SelfCorrectionPutOff,
    messages.VersionEvaluated,
)
"""Reports after which a heartbeat no longer says what the worker does."""


@dataclass
class WorkerListener:
    """Journals what the worker reports. Ends a worker that cannot be trusted any more."""

    store: EventStore
    handler: EventHandler
    supervisor: WorkerSupervisor
    watch: ConfigWatch
    write: Callable[[str], None]

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
            self.supervisor.observe(fact)
            if isinstance(fact, messages.Heartbeat):
                self.store.received = fact
            elif isinstance(fact, _MEASURED):
                self.store.received = None
            problem = missing_results(fact, self.store.state, self.store.home)
            if isinstance(fact, Written):
                problem = problem_of(fact, self.store.state, self.store.home)
            if problem is not None:
                self._lose("storage", problem)
                continue
            if isinstance(fact, messages.Failed):
                log_failure(fact)
            self.handler.execute(fact)

    def check(self) -> None:
        """End a worker that missed a deadline, or that died before it could send anything."""
        process, state = self.supervisor.worker, self.store.state
        limits, failures = self.watch.config.worker.limits, failures_in_a_row(state)
        missed = self.supervisor.missed_deadline(
            self.store.home.clock.monotonic(), limits, failures, state.attempts.current
        )
        if process is None:
            return
        if process.has_ended():
            self.receive(process)  # its last messages are still in the socket
            if not process.connected:
                self._lose(*classify(process.exit_status()))
            return
        if missed is not None:
            message = f"{missed}: {self.supervisor.end_hung()}"
            self._lose("hang", message, missed.phase)

    def _lose(self, failure: Failure, message: str, phase: Phase | None = None) -> None:
        """`phase`: what the worker did; None: ask the supervisor."""
        attempt = self.store.state.attempts.current
        self.supervisor.end()
        if attempt is None:
            self.write(f"{message}; nothing was running")
            return
        self.handler.execute(
            commands.ReportWorkerLost(
                attempt=attempt, failure=failure, message=message, phase=phase or self.supervisor.phase
            )
        )
