"""Recovery at the start of the daemon. A clean start, a crash and a power cut take the same path.

1. Replay: `EventStore.open` folds the journal into the state.
2. Compare the state with the facts on disk: the processes, the checkpoints, the directories, the files on their way in.
3. Journal what was found: a lost attempt, an orphan, a damaged checkpoint, a leftover directory, an accepted file.
4. Carry out the next effects. This is what every turn of the loop does; recovery has no effects of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import asdict

from cli.daemon.deferred_deletes import DeferredDeletes
from cli.daemon.event_handler import EventHandler
from cli.daemon.ports import Ports
from cli.daemon.sweep import quarantine_damaged, sweep, sweep_temporaries
from cli.daemon.worker_supervisor import WorkerSupervisor
from cli.home.backups import make_emergency_backup
from cli.home.event_store import EventStore
from cli.inbox.accept import finish_arrivals
from cli.output.console import Console
from cli.version import VERSION
from core import commands
from events import kinds


class Recovery:
    """Recovers once. A full disk may interrupt `run`; the next call repeats all but the journaled start."""

    def __init__(
        self,
        store: EventStore,
        handler: EventHandler,
        *,
        ports: Ports,
        supervisor: WorkerSupervisor,
        deletes: DeferredDeletes,
        console: Console,
        write: Callable[[str], None],
    ) -> None:
        self._store, self._handler, self._ports = store, handler, ports
        self._supervisor, self._deletes, self._console, self._write = supervisor, deletes, console, write
        self._announced = False
        self.is_done = False

    def run(self) -> None:
        """Compare the replayed state with the facts on disk and journal the differences. Every part is idempotent.

        Raises UserError if a person is needed; OSError.
        """
        if not self._announced:
            self._announce()
        with self._store.exclusive():
            sweep_temporaries(self._store.home)
        damaged = list(quarantine_damaged(self._store))
        self._handler.handle(damaged)
        if any(isinstance(event, kinds.CheckpointQuarantined) for event in damaged):
            make_emergency_backup(self._store, self._write)
        sweep(self._store, self._deletes.discard)
        finish_arrivals(self._store)
        self.is_done = True
        if self._store.state.daemon.status == "paused":
            self._console.say_that_it_is_paused(self._store.state.hold)

    def _announce(self) -> None:
        """Journal that this daemon runs, which ends an attempt that lost its daemon; then end workers without one."""
        identity = self._ports.identity()
        self._supervisor.load_latencies(identity, self._store.journal.id)
        self._console.look(self._store.state)
        self._store.heartbeat_at = self._store.home.clock.now()
        self._handler.execute(commands.StartDaemon(**asdict(identity), keepstep=VERSION))
        for orphan in self._ports.end_orphans():
            self._handler.execute(
                commands.RecordOrphan(pid=orphan.pid, started_at=orphan.started_at, command=orphan.command)
            )
        self._announced = True
