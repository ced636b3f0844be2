"""The daemon: one loop that waits, hears, decides, and does what is owed.

    wait      for the worker, the inbox, a signal, another process's append, or the next time that something is due
    hear      turn each into a command, journal what follows
    do        carry out `next_effects` of the state: what a restart resumes with is what every turn goes on with

It holds no state of its own that matters: all of it is in the journal, or is asked of the world anew.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable

from msgspec.structs import asdict

from cli.config.schema import Config
from cli.config.watch import ConfigWatch
from cli.daemon.deferred_deletes import DeferredDeletes
from cli.daemon.latency_stats import LatencyStats
from cli.daemon.outcome import exit_code, inode_of, refuse_moved
from cli.daemon.ports import Machine, Ports, Worker
from cli.daemon.resource_monitor import ResourceMonitor, what_is_full
from cli.daemon.schedule import by_the_clock, measure
from cli.daemon.sweep import condemn_damaged, deleted_directories, sweep, sweep_temporaries
from cli.daemon.worker_messages import Written, answer_to, problem_of, to_consolidate, to_train
from cli.daemon.worker_process import log_failure
from cli.daemon.worker_supervisor import WorkerSupervisor
from cli.errors import STORAGE_FAILED, UserError, is_disk_full
from cli.home.backups import make_emergency_backup, restore_backup
from cli.home.event_store import EventStore
from cli.home.identity import DaemonLock
from cli.home.layout import make_directories
from cli.home.paths import Home
from cli.hooks.dispatch import Hooks
from cli.inbox.accept import finish_arrivals, settle_rejection
from cli.inbox.intake import Intake
from cli.inbox.watcher import Inbox
from cli.output.console import Console, held_back
from cli.version import VERSION
from core import commands, effects
from core.commands import AnyCommand
from core.deadlines import failures_in_a_row
from core.effects import next_effects
from core.endings import classify
from core.errors import Refused
from events import kinds, versions, worker
from events.values import Failure
from gpu.errors import ProtocolViolation
from journal.errors import NoSpace
from journal.failpoints import failpoint

CATCH_UP_EVERY_S = 0.2
"""How soon the daemon notices what a command appended."""

log = logging.getLogger("keepstep.daemon")

AT_ONCE = 130
"""Exit code after a second signal, as shells give it for an interrupt."""


class Daemon:
    """One run of the daemon over a home. `run` returns the exit code."""

    def __init__(
        self, home: Home, *, until_idle: bool, write: Callable[[str], None], ports: Ports | None = None
    ) -> None:
        self._home = home
        self._storage, self._clock = home.storage, home.clock
        self._until_idle = until_idle
        self._output = write
        self._console = Console(self._print)
        self._lock = DaemonLock(home)
        self._ports = ports or Machine(home)
        self._supervisor = WorkerSupervisor(self._ports, LatencyStats(home))
        self._inbox = Inbox(home, lambda: self._config.inbox)
        self._intake = Intake(home, self._inbox, self._write)
        self._resource_monitor = ResourceMonitor(home, lambda: self._ports.measure(self._supervisor.worker))
        self._deferred_deletes = DeferredDeletes(home, self._write)
        self._hooks = Hooks(home)
        self._signals = 0
        self._started = self._recovered = False
        self._done = False
        self._full: str | None = None
        """What did not fit on the disk, as long as not even that could be journaled."""
        self._abandoned: list[str] = []
        """The jobs that failed for good in this run."""
        self._broken: str | None = None
        """What the disk did not take or give, though it is not full."""

    def run(self) -> int:
        """Work until told to stop (or, `until_idle`, until nothing is left to do).

        Raises UserError, journal.errors.JournalError, OSError.
        """
        for aside in make_directories(self._home):
            self._write(f"{self._home.relative(aside)} stood in the place of a directory, and was moved there")
        self._inode = inode_of(self._home)
        self._lock.take(self._ports.identity())
        try:
            self._watch = ConfigWatch(self._home, self._write)
            self._store = EventStore.open(self._home)
            try:
                return self._run()
            finally:
                self._supervisor.end()
                self._store.close()
        finally:
            self._lock.release()

    def _run(self) -> int:
        with self._ports.entered(self._inbox, self._on_signal, self._config.logs):
            while not self._done:
                self._turn()
            self._hooks.leave(self._store, self._config.hooks)
            with self._store.exclusive():
                self._store.save_snapshot()
        abandoned = self._abandoned if self._until_idle else ()
        return exit_code(self._store.state, self._broken, abandoned, self._write, until_idle=self._until_idle)

    # -- starting ---------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """No special path: say that a daemon is here, finish what was half done, and go on with what is owed."""
        if not self._started:
            me = self._ports.identity()
            self._supervisor.recall(me, self._store.journal.id)
            self._console.look(self._store.state)
            self._store.heartbeat_at = self._clock.now()
            self._execute(commands.StartDaemon(**asdict(me), keepstep=VERSION))
            for left in self._ports.end_leftovers():
                self._execute(commands.RecordOrphan(pid=left.pid, started_at=left.started_at, command=left.command))
            self._started = True  # a full disk may have the rest begun again
        with self._store.exclusive():
            sweep_temporaries(self._home)
        condemned = list(condemn_damaged(self._store))
        for event in condemned:
            self._after(event)
        if any(isinstance(event, kinds.CheckpointQuarantined) for event in condemned):
            make_emergency_backup(self._store, self._write)
        sweep(self._store, self._deferred_deletes.discard)
        finish_arrivals(self._store)
        self._recovered = True
        state = self._store.state
        if state.daemon.status == "paused":
            self._console.say_that_it_is_paused(state.hold)

    def _write(self, line: str) -> None:
        log.warning("%s", line)
        self._print(line)

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a log on the full disk, a closed pipe: the journal has it all
            self._output(line)

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals >= 2:  # as safe as kill -9, and meant to be as quick; the worker ends with its daemon
            self._ports.leave_at_once(AT_ONCE)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """One round. A disk without room ends no daemon: it says so, and goes on when there is some."""
        refuse_moved(self._home, self._inode)
        try:
            self._say_what_is_full()
            if not self._recovered:
                self._recover()
            self._work()
        except (NoSpace, OSError) as error:
            if not is_disk_full(error):
                raise
            self._supervisor.end()
            full = self._full or what_is_full(error)
            if self._signals:
                raise UserError(full, "make room; `keepstep run` then goes on", STORAGE_FAILED) from error
            if self._full is not None or self._store.state.full is not None:  # said, or not even that fits
                self._ports.wait(self._resource_monitor.wait_s)
            self._full = full

    def _say_what_is_full(self) -> None:
        if self._full is not None:
            self._execute(commands.ReportDiskFull(message=self._full))
            self._full = None
            sweep(self._store, self._deferred_deletes.discard)

    def _work(self) -> None:
        for event in self._store.catch_up():
            self._after(event)
        if self._broken is not None:
            self._leave("storage failed")
            return
        if self._signals and self._store.state.daemon.status not in {"stopping", "stopping_paused"}:
            self._execute(commands.Stop(alive=True))
        if self._store.journal.reserve_is_spent and self._store.state.full is None:
            self._execute(commands.ReportDiskFull(message="the disk is full; the journal is written from its reserve"))
        if self._store.state.full is None:
            for event in self._intake.take(self._store):
                self._console.tell(event, self._store.state)
        self._store.meter.lap("the inbox")
        self._receive(self._watch.look(self._store))
        self._receive(by_the_clock(self._store, self._config, self._resource_monitor))
        if self._store.state.short is not None and self._store.state.attempt is None:
            self._supervisor.end()  # a warm worker holds a model: its memory goes with it
        self._hooks.look(self._store, self._config.hooks)
        self._deferred_deletes.try_again()
        self._check_worker()
        wait_s = 0.0 if self._intake.has_more else CATCH_UP_EVERY_S
        wait_s = min(wait_s, self._carry_out_effects())
        if self._until_idle and not self._done and self._nothing_left():
            if held := self._store.state.queue.held:
                self._write(held_back(held))
            self._leave("nothing is left to do")
        if not self._done:
            self._store.beat()
            for process in self._ports.wait(wait_s):
                self._receive_from_worker(process)
        self._store.meter.lap("orders and reports")

    def _execute(self, command: AnyCommand) -> None:
        self._receive(self._store.execute(command))

    def _receive(self, events: Iterable[kinds.AnyEvent]) -> None:
        for event in events:
            self._after(event)

    @property
    def _config(self) -> Config:
        return self._watch.config

    def _after(self, event: kinds.AnyEvent) -> None:
        """What follows from an event at once, whoever journaled it."""
        self._console.tell(event, self._store.state)
        if (order := answer_to(event, self._store.state)) is not None:
            self._supervisor.tell(order)
        if isinstance(event, kinds.JobFailed):
            self._abandoned.append(event.job)
        if isinstance(event, kinds.CheckpointCommitted):
            self._resource_monitor.proved()
        elif abandoned := deleted_directories(self._home, self._store.state, event):
            for directory in abandoned:  # these alone: the worker may be putting the next in its place
                self._deferred_deletes.discard(directory)
        elif isinstance(event, versions.ConsolidationFinished):
            self._supervisor.end()  # it has held whole models, and what they took comes back only with its end
            self._execute(commands.Retain(retention=self._config.retention))
        elif isinstance(event, versions.ConsolidationAborted) and event.failure is None:
            sweep(self._store, self._deferred_deletes.discard)
        elif isinstance(event, kinds.AttemptFailed | versions.ConsolidationAborted):
            self._supervisor.end()  # whatever state it is in, the next attempt begins with a clean one
            failpoint("worker_ended")
            if event.failure == "storage":
                self._broken = event.message
            sweep(self._store, self._deferred_deletes.discard)

    def _nothing_left(self) -> bool:
        state = self._store.state
        comes = not self._intake.has_looked or self._intake.has_more or self._inbox.has_unsettled()
        owed = (
            state.full is not None
            or comes
            or state.begun
            or state.queue.front() is not None
            or len(state.rejections)
            or state.consolidation_request is not None
            or state.fetch is not None
        )
        return state.daemon.status == "paused" or (state.daemon.status == "idle" and not owed)

    # -- the worker -------------------------------------------------------------------------------------------------

    def _receive_from_worker(self, process: Worker) -> None:
        try:
            facts = process.receive()
        except EOFError:
            self._lose_worker(*classify(process.how_it_ended()))
            return
        except ProtocolViolation as error:
            self._lose_worker("code", str(error))
            return
        for fact in facts:
            self._supervisor.received(fact)
            if isinstance(fact, worker.Heartbeat):
                self._store.received = fact
            elif isinstance(fact, worker.Evaluated):
                self._store.received = None
            if isinstance(fact, Written) and (problem := problem_of(fact, self._store.state, self._home)):
                self._lose_worker("storage", problem)
                continue
            if isinstance(fact, worker.Failed):
                log_failure(fact)
            self._execute(fact)

    def _check_worker(self) -> None:
        """End a worker that let a deadline pass, or that died before it could say anything."""
        process, state = self._supervisor.worker, self._store.state
        limits, failures = self._config.worker.limits, failures_in_a_row(state)
        late = self._supervisor.late(self._clock.monotonic(), limits, failures, state.attempt)
        if process is None:
            return
        if process.has_ended():
            self._receive_from_worker(process)  # what it said last is still in the socket
            if not process.connected:
                self._lose_worker(*classify(process.how_it_ended()))
            return
        if late is not None:
            self._lose_worker("hang", f"{late}: {self._supervisor.end_hung()}")

    def _lose_worker(self, failure: Failure, message: str) -> None:
        attempt = self._store.state.attempt
        self._supervisor.end()
        if attempt is not None:
            evaluating = self._supervisor.is_evaluating
            self._execute(
                commands.ReportWorkerLost(attempt=attempt, failure=failure, message=message, evaluating=evaluating)
            )
        else:
            self._write(f"{message}; nothing was running")

    # -- effects ----------------------------------------------------------------------------------------------------

    def _carry_out_effects(self) -> float:
        """Carry out every effect; how long to wait then, in seconds."""
        wait_s = CATCH_UP_EVERY_S
        for effect in next_effects(self._store.state, self._clock.now()):
            match effect:
                case effects.BeginAttempt():
                    wait_s = self._begin_attempt(effect)
                case effects.PrepareData():
                    self._prepare(effect)
                case effects.TrainJob():
                    self._supervisor.give(to_train(effect))
                case effects.BeginConsolidation():
                    wait_s = self._begin_consolidation()
                case effects.Consolidate():
                    if not self._supervisor.has_had(worker.Consolidate, effect.attempt):
                        space_factor = self._config.consolidation.space_factor
                        self._supervisor.give(to_consolidate(effect, self._home, space_factor))
                case effects.RestoreCheckpoint():
                    restore_backup(self._store, effect)
                    wait_s = 0.0
                case effects.AskYield():
                    if (
                        self._supervisor.worker is None
                    ):  # asked before the attempt had a worker: there is nothing to wait for
                        self._execute(worker.Yielded(attempt=effect.attempt))
                    else:
                        self._supervisor.give(worker.Yield(attempt=effect.attempt))
                        failpoint("yield_asked")
                case effects.MoveRejected():
                    for event in settle_rejection(self._store, effect.job):
                        self._after(event)
                    wait_s = 0.0
                case effects.WaitUntil():
                    wait_s = min(wait_s, max(0.0, effect.at - self._clock.now()))
                case effects.AwaitRoom():
                    self._look_for_room(effect)
                case effects.Leave():
                    self._leave("asked to stop")
        return wait_s

    def _begin_attempt(self, effect: effects.BeginAttempt) -> float:
        """Journal the attempt, under the config as the file has it now, if there is room for it now."""
        self._receive(measure(self._store, self._config, self._resource_monitor, at_once=True))
        settings, events = self._watch.for_a_job(self._store, effect.job)
        self._receive(events)
        if settings is None:
            return CATCH_UP_EVERY_S
        with contextlib.suppress(Refused):  # somebody else's append came first, or there is no room: the next turn sees
            self._execute(commands.StartAttempt(job=effect.job, settings=settings))
        return 0.0

    def _begin_consolidation(self) -> float:
        self._receive(measure(self._store, self._config, self._resource_monitor, at_once=True))
        usable, events = self._watch.read(self._store)
        self._receive(events)
        if not usable:
            return CATCH_UP_EVERY_S
        with contextlib.suppress(Refused):  # as above
            self._execute(commands.StartConsolidation())
        return 0.0

    def _prepare(self, effect: effects.PrepareData) -> None:
        if not self._storage.exists(self._home.data_file(effect.job)):
            finish_arrivals(self._store)  # a command was killed between journaling the file and naming it
        order = worker.Prepare(attempt=effect.attempt, job=effect.job, name=effect.name, settings=effect.settings)
        self._supervisor.give(order)

    def _look_for_room(self, effect: effects.AwaitRoom) -> None:
        free_bytes = self._resource_monitor.found(effect.wanted_bytes)
        if free_bytes is not None and self._store.journal.restore_reserve():
            finish_arrivals(self._store)
            self._execute(commands.ReportDiskFree(free_bytes=free_bytes))
            self._resource_monitor.trusted_again()
            self._intake.look_again()

    def _leave(self, reason: str) -> None:
        self._supervisor.tell(worker.Shutdown(attempt=0))
        self._execute(commands.StopDaemon(reason=reason))
        self._done = True
