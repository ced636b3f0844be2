"""What the daemon does at once after each event, whichever process journaled it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cli.daemon.config_watch import ConfigWatch
from cli.daemon.deferred_deletes import DeferredDeletes
from cli.daemon.resource_monitor import ResourceMonitor
from cli.daemon.sweep import deleted_directories, sweep
from cli.daemon.worker.messages import answer_to, correction_order, sample_order
from cli.daemon.worker.supervisor import WorkerSupervisor
from cli.home.event_store import EventStore
from cli.output.console import Console
from core import commands
from core.commands import AnyCommand
from events import kinds
from events.kinds import AnyEvent
from journal.failpoints import failpoint

_ENDED_EARLY = kinds.ConsolidationAborted | kinds.VersionEvaluationFailed
"""What ends an attempt that was asked to yield."""


@dataclass
class EventHandler:
    """Prints an event, answers the worker, deletes directories. Every part of the daemon journals through it."""

    store: EventStore
    console: Console
    supervisor: WorkerSupervisor
    monitor: ResourceMonitor
    deletes: DeferredDeletes
    watch: ConfigWatch
    failed_jobs: list[str] = field(default_factory=list)
    """The jobs that failed permanently in this run."""
    storage_failure: str | None = None
    """Why storage failed although the disk is not full; None: it did not fail. The daemon then stops."""

    def execute(self, command: AnyCommand) -> None:
        """Journal what follows from a command and handle it. Raises core.errors.Refused, OSError."""
        self.handle(self.store.execute(command))

    def handle(self, events: Iterable[AnyEvent]) -> None:
        """Handle events that are in the journal. Raises OSError if the disk is full."""
        for event in events:
            self._handle(event)

    def _handle(self, event: AnyEvent) -> None:
        self.console.print_event(event, self.store.state)
        if (message := answer_to(event, self.store.state)) is not None:
            self.supervisor.send(message)
        order = sample_order(event, self.store.state, self.store.home, self.watch.config)
        if order is not None:
            self.supervisor.send(order)
        if (change := correction_order(event, self.store.state, self.watch.config)) is not None:
            self.supervisor.send(change)
        if isinstance(event, kinds.JobFailed):
            self.failed_jobs.append(event.job)
        if isinstance(event, kinds.CheckpointCommitted):
            self.monitor.reset_backoff()
        elif directories := deleted_directories(self.store.home, self.store.state, event):
            for directory in directories:  # no sweep here: the worker may write the next checkpoint now
                self.deletes.discard(directory)
        elif isinstance(event, kinds.ConsolidationFinished):
            self.supervisor.end()  # the worker held whole models; only its end returns the memory
            self.execute(commands.Retain(retention=self.watch.config.retention))
        elif isinstance(event, kinds.VersionEvaluated | kinds.VersionPromoted):
            self.supervisor.end()  # as after a consolidation; what it needed may be deleted now
            self.execute(commands.Retain(retention=self.watch.config.retention))
            sweep(self.store, self.deletes.discard)  # the results that newer ones have replaced
        elif isinstance(event, _ENDED_EARLY) and event.failure is None:
            sweep(self.store, self.deletes.discard)
        elif isinstance(event, kinds.AttemptFailed | kinds.ConsolidationAborted | kinds.VersionEvaluationFailed):
            self.supervisor.end()  # the next attempt starts with a new worker
            failpoint("worker_ended")
            if event.failure == "storage":
                self.storage_failure = event.message
            sweep(self.store, self.deletes.discard)
