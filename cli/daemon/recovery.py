"""Recovery at the start of the daemon. A clean start, a crash and a power cut take the same path.

1. Replay: `EventStore.open` folds the journal into the state.
2. Compare the state with the facts on disk: the processes, the checkpoints, the directories, the files on their way in.
3. Journal what was found: a lost attempt, an orphan, a damaged checkpoint, a leftover directory, an accepted file.
4. Carry out the next effects, as every turn of the loop does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import asdict

from cli.daemon.deferred_deletes import DeferredDeletes
from cli.daemon.event_handler import EventHandler
from cli.daemon.ports import Ports
from cli.daemon.sweep import quarantine_damaged, sweep, sweep_temporaries
from cli.daemon.worker.supervisor import WorkerSupervisor
from cli.home.backups import make_emergency_backup
from cli.home.event_store import EventStore
from cli.inbox.accept import finish_arrivals
from cli.output.console import Console
from cli.version import VERSION
from core import commands
from events import kinds


@dataclass
class Recovery:
    """Recovers once. A full disk may interrupt `run`; the next call repeats all but the journaled start."""

    store: EventStore
    handler: EventHandler
    ports: Ports
    supervisor: WorkerSupervisor
    deletes: DeferredDeletes
    console: Console
    write: Callable[[str], None]
    is_announced: bool = False
    is_done: bool = False

    def run(self) -> None:
        """Compare the replayed state with the facts on disk and journal the differences. Every part is idempotent.

        Raises UserError if a person is needed; OSError.
        """
        # 1. Replay: the state is the folded journal; `EventStore.open` has done it.
        if not self.is_announced:
            self._announce()

        # 2. and 3. Compare with the facts on disk, and journal what differs.
        with self.store.exclusive():
            sweep_temporaries(self.store.home)
        damaged = list(quarantine_damaged(self.store))
        self.handler.handle(damaged)
        if any(isinstance(event, kinds.CheckpointQuarantined) for event in damaged):
            make_emergency_backup(self.store, self.write)
        sweep(self.store, self.deletes.discard)
        finish_arrivals(self.store)

        # 4. The next effects: the loop carries them out, now and in every turn.
        self.is_done = True
        if self.store.state.daemon.status == "paused":
            self.console.print_paused(self.store.state.daemon.hold)

    def _announce(self) -> None:
        """Journal that this daemon runs, which ends an attempt that lost its daemon; then end workers without one."""
        identity = self.ports.identity()
        self.supervisor.load_latencies(identity, self.store.journal.id)
        self.console.remember_job(self.store.state)
        self.store.heartbeat_at = self.store.home.clock.now()
        self.handler.execute(commands.StartDaemon(**asdict(identity), keepstep=VERSION))
        for orphan in self.ports.end_orphans():
            self.handler.execute(
                commands.RecordOrphan(pid=orphan.pid, started_at=orphan.started_at, command=orphan.command)
            )
        self.is_announced = True
