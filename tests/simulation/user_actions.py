"""What people do to a home while a daemon runs, and while none does: drop files, and type commands."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from cli.commands.backup import clean_up_backups, create_backup, restore_backup
from cli.commands.models.gate import discard_version, promote_version
from cli.commands.models.head import move_head
from cli.commands.versions import delete_version
from cli.errors import REFUSED, UserError, exit_code_of
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import accept_copy, finish_arrivals, remove_job, skip_job
from core import commands
from core.commands import AnyCommand
from core.errors import Refused
from events.values import PRIORITIES
from tests.harness.fake_disk import Killed, Process
from tests.simulation.fault import Fault

if TYPE_CHECKING:
    from tests.simulation.world import World

OFTEN = ["drop", "drop", "drop", "add", "pause", "resume", "resume", "skip", "retry", "stop", "vanish", "prune"]
OFTEN += ["move", "move", "hold", "hold", "release", "release", "remove", "again", "again", "tangle"]
OFTEN += ["sample"]
SELDOM = ["consolidate", "consolidate", "consolidate", "cancel", "roll back", "restore", "go back", "back up"]
SELDOM += ["bring back", "clean up", "delete", "promote", "promote", "discard", "evaluate"]
"""What people do."""


class User:
    """Somebody, who acts when the world lets him. What he does follows from the world's dice."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._busy = False

    def act(self) -> None:
        """A user does something, in a separate process that may die of it."""
        if self._busy:
            return
        self._busy = True
        process = self._world.disk.process("command")
        doomed = self._world.random.random() < 0.15
        if doomed:
            kind = self._world.random.choice(["kill", "kill", "EIO", "short"])
            self._world.faults[process.number] = Fault(kind, self._world.random.randint(1, 60))
        try:
            what = self._world.random.choice(
                SELDOM if self._world.random.random() < (0.7 if self._world.keen else 0.2) else OFTEN
            )
            self._world.note(f"  somebody: {what}")
            self._do(process, what)
        except Killed:
            process.die()
        except Refused:
            pass
        except UserError as error:
            if error.exit_code != REFUSED and not (doomed or self._expects_trouble):
                raise
        except Exception as error:
            if exit_code_of(error) is None or not (doomed or self._expects_trouble):
                raise
        finally:
            process.die()
            self._busy = False

    @property
    def _expects_trouble(self) -> bool:
        """Whether a command may end badly though nothing is done to it: the disk is full, or rotten."""
        return self._world.disk.capacity is not None or bool(self._world.invariants.rotten)

    def _do(self, process: Process, what: str) -> None:
        """One thing that a person does."""
        if what == "drop":
            self._world.drop(process)
        elif what == "vanish":
            names = [name for name in process.names(self._world.root / "inbox") if name.startswith("file")]
            if names:
                process.unlink(self._world.root / "inbox" / self._world.random.choice(names))
        elif what == "add":
            path = Path("/outside") / f"added-{self._world.files}.jsonl"
            self._world.write(process, path, self._world.content())
            with self._world.store(process) as store:
                finish_arrivals(store)
                accept_copy(store, path, "high")
        elif what == "again":
            path = Path("/outside") / f"again-{self._world.files}-{self._world.calls}.jsonl"
            self._world.write(process, path, self._world.random.choice(self._world.contents))
            with self._world.store(process) as store:
                finish_arrivals(store)
                accept_copy(store, path, "normal", again=True)
        elif what == "tangle":
            with contextlib.suppress(FileExistsError):
                process.mkdir(self._world.root / "inbox" / f"directory-{self._world.files}.jsonl")
        elif what in {"move", "hold", "release", "remove"}:
            with self._world.store(process) as store:
                self._order(store, what)
        elif what in SELDOM:
            with contextlib.redirect_stdout(io.StringIO()):
                self._of_versions(self._world.home(process), what)
        elif what == "skip":
            with self._world.store(process) as store:
                skip_job(store, None)
        else:
            with self._world.store(process) as store:
                failed = next((job for job, _ in store.state.outcomes.failed.items()), "none")
                wanted: dict[str, AnyCommand] = {
                    "pause": commands.Pause(),
                    "resume": commands.Resume(),
                    "retry": commands.Retry(job=failed),
                    "prune": commands.PruneCheckpoints(keep=1),
                    "sample": commands.RequestSamples(alive=self._world.daemon is not None),
                    "stop": commands.Stop(alive=self._world.daemon is not None and not self._world.daemon.dead),
                }
                store.execute(wanted[what])

    def _order(self, store: EventStore, what: str) -> None:
        """Something about a job that waits, or does no more."""
        jobs = [job.id for job in (*store.state.training.in_progress, *store.state.queue)]
        jobs += [job for job, _ in store.state.outcomes.failed.items()] or ["none"]
        job, other = self._world.random.choice(jobs), self._world.random.choice([None, *jobs])
        if what == "remove":
            remove_job(store, job)
            return
        priority = self._world.random.choice(PRIORITIES) if other is None else None
        move = commands.MoveJob(job=job, priority=priority, before=other, first=other is None and len(jobs) % 2 == 0)
        orders: dict[str, AnyCommand] = {
            "move": move,
            "hold": commands.HoldJob(job=job),
            "release": commands.ReleaseJob(job=job),
        }
        store.execute(orders[what])

    def _of_versions(self, home: Home, what: str) -> None:
        """Something about what was trained, by the very commands."""
        with contextlib.closing(EventStore.open(home)) as store:
            state = store.state
            if what in {"consolidate", "cancel"}:
                now = self._world.random.random() < 0.5
                store.execute(
                    commands.RequestConsolidation(description="", after_current=now)
                    if what == "consolidate"
                    else commands.CancelConsolidation()
                )
                return
        choose = self._world.random.choice
        if what == "roll back":
            move_head(home, commands.RollBack())
        elif what == "restore":
            move_head(home, commands.MoveHead(version=choose([None, *(each.id for each in state.retention.versions)])))
        elif what == "go back" and state.head.detached:
            move_head(home, commands.MoveHead(checkpoint=choose(state.head.detached).checkpoint.id))
        elif what == "back up":
            create_backup(home, "to be sure")
        elif what == "bring back" and state.retention.backups:
            restore_backup(home, choose(state.retention.backups).id)
        elif what == "clean up":
            clean_up_backups(home, 0.0, execute=True)
        elif what in {"promote", "discard", "evaluate"} and (
            names := [each.version for each in state.evaluations.held] or [v.id for v in state.retention.versions]
        ):
            self._decide(home, what, choose(names))
        elif what == "delete" and (
            names := [*(v.id for v in state.retention.versions), *(x.checkpoint.id for x in state.head.detached)]
        ):
            delete_version(home, choose(names), confirmed=True)

    def _decide(self, home: Home, what: str, name: str) -> None:
        """Something about a version that the gate may hold."""
        if what == "promote":
            promote_version(home, name, json=False)
        elif what == "discard":
            discard_version(home, name, confirmed=True, json=False)
        else:
            with contextlib.closing(EventStore.open(home)) as store:
                store.execute(commands.RequestEvaluation(version=name))
