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

from cli.arrivals import finish_arrivals, settle_rejection
from cli.backups import back_up_in_emergency, bring_back
from cli.config import Config
from cli.config_watch import ConfigWatch
from cli.crew import Crew
from cli.errors import STORAGE_FAILED, UserError, is_full
from cli.home import Home
from cli.hooks import Hooks
from cli.identity import DaemonLock
from cli.inbox import Inbox
from cli.intake import Intake
from cli.layout import make_directories
from cli.ledger import Ledger
from cli.narrate import Narrator, held_back
from cli.nightly import by_the_clock, measure
from cli.orders import Written, answer_to, problem_of, to_consolidate, to_train
from cli.outcome import exit_code, inode_of, refuse_moved
from cli.room import Room, what_is_full
from cli.rubbish import Rubbish
from cli.surroundings import Machine, Surroundings, Worker
from cli.sweep import condemn_damaged, directories_given_up, sweep, sweep_temporaries
from cli.usual import Usual
from cli.version import VERSION
from cli.worker_process import log_failure
from core import commands, effects
from core.commands import AnyCommand
from core.deadlines import failures_in_a_row
from core.effects import next_effects
from core.endings import classify
from core.errors import Refused
from events import kinds, versions, worker
from events.values import Failure
from gpu.crashpoints import reached
from gpu.errors import LinkGarbage
from journal.errors import NoSpace

CATCH_UP_EVERY_S = 0.2
"""How soon the daemon notices what a command appended."""

log = logging.getLogger("keepstep.daemon")

AT_ONCE = 130
"""Exit code after a second signal, as shells give it for an interrupt."""


class Daemon:
    """One run of the daemon over a home. `run` returns the exit code."""

    def __init__(
        self, home: Home, *, until_idle: bool, write: Callable[[str], None], surroundings: Surroundings | None = None
    ) -> None:
        self._home = home
        self._storage, self._clock = home.storage, home.clock
        self._until_idle = until_idle
        self._output = write
        self._narrator = Narrator(self._print)
        self._lock = DaemonLock(home)
        self._surroundings = surroundings or Machine(home)
        self._crew = Crew(self._surroundings, Usual(home))
        self._inbox = Inbox(home, lambda: self._config.inbox)
        self._intake = Intake(home, self._inbox, self._write)
        self._room = Room(home, lambda: self._surroundings.measure(self._crew.worker))
        self._rubbish = Rubbish(home, self._write)
        self._hooks = Hooks(home)
        self._signals = 0
        self._started = self._recovered = False
        self._done = False
        self._full: str | None = None
        """What did not fit on the disk, as long as not even that could be journaled."""
        self._given_up: list[str] = []
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
        self._lock.take(self._surroundings.identity())
        try:
            self._watch = ConfigWatch(self._home, self._write)
            self._ledger = Ledger.open(self._home)
            try:
                return self._run()
            finally:
                self._crew.end()
                self._ledger.close()
        finally:
            self._lock.release()

    def _run(self) -> int:
        with self._surroundings.entered(self._inbox, self._on_signal, self._config.logs):
            while not self._done:
                self._turn()
            self._hooks.leave(self._ledger, self._config.hooks)
            with self._ledger.exclusive():
                self._ledger.save_snapshot()
        given_up = self._given_up if self._until_idle else ()
        return exit_code(self._ledger.state, self._broken, given_up, self._write, until_idle=self._until_idle)

    # -- starting ---------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """No special path: say that a daemon is here, finish what was half done, and go on with what is owed."""
        if not self._started:
            me = self._surroundings.identity()
            self._crew.recall(me, self._ledger.journal.id)
            self._narrator.look(self._ledger.state)
            self._ledger.heartbeat_at = self._clock.now()
            self._execute(commands.StartDaemon(**asdict(me), keepstep=VERSION))
            for left in self._surroundings.end_leftovers():
                self._execute(commands.RecordOrphan(pid=left.pid, started_at=left.started_at, command=left.command))
            self._started = True  # a full disk may have the rest begun again
        with self._ledger.exclusive():
            sweep_temporaries(self._home)
        condemned = list(condemn_damaged(self._ledger))
        for event in condemned:
            self._after(event)
        if any(isinstance(event, kinds.CheckpointQuarantined) for event in condemned):
            back_up_in_emergency(self._ledger, self._write)
        sweep(self._ledger, self._rubbish.discard)
        finish_arrivals(self._ledger)
        self._recovered = True
        state = self._ledger.state
        if state.daemon.status == "paused":
            self._narrator.say_that_it_is_paused(state.hold)

    def _write(self, line: str) -> None:
        log.warning("%s", line)
        self._print(line)

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a log on the full disk, a closed pipe: the journal has it all
            self._output(line)

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals >= 2:  # as safe as kill -9, and meant to be as quick; the worker ends with its daemon
            self._surroundings.leave_at_once(AT_ONCE)

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
            if not is_full(error):
                raise
            self._crew.end()
            full = self._full or what_is_full(error)
            if self._signals:
                raise UserError(full, "make room; `keepstep run` then goes on", STORAGE_FAILED) from error
            if self._full is not None or self._ledger.state.full is not None:  # said, or not even that fits
                self._surroundings.wait(self._room.wait_s)
            self._full = full

    def _say_what_is_full(self) -> None:
        if self._full is not None:
            self._execute(commands.RunOutOfSpace(message=self._full))
            self._full = None
            sweep(self._ledger, self._rubbish.discard)

    def _work(self) -> None:
        for event in self._ledger.catch_up():
            self._after(event)
        if self._broken is not None:
            self._leave("storage failed")
            return
        if self._signals and self._ledger.state.daemon.status not in {"stopping", "stopping_paused"}:
            self._execute(commands.Stop(alive=True))
        if self._ledger.journal.reserve_is_spent and self._ledger.state.full is None:
            self._execute(commands.RunOutOfSpace(message="the disk is full; the journal is written from its reserve"))
        if self._ledger.state.full is None:
            for event in self._intake.take(self._ledger):
                self._narrator.tell(event, self._ledger.state)
        self._ledger.meter.lap("the inbox")
        self._hear(self._watch.look(self._ledger))
        self._hear(by_the_clock(self._ledger, self._config, self._room))
        if self._ledger.state.short is not None and self._ledger.state.attempt is None:
            self._crew.end()  # a warm worker holds a model: its memory goes with it
        self._hooks.look(self._ledger, self._config.hooks)
        self._rubbish.try_again()
        self._check_worker()
        wait_s = 0.0 if self._intake.has_more else CATCH_UP_EVERY_S
        wait_s = min(wait_s, self._do_what_is_owed())
        if self._until_idle and not self._done and self._nothing_left():
            if held := self._ledger.state.queue.held:
                self._write(held_back(held))
            self._leave("nothing is left to do")
        if not self._done:
            self._ledger.beat()
            for process in self._surroundings.wait(wait_s):
                self._hear_worker(process)
        self._ledger.meter.lap("orders and reports")

    def _execute(self, command: AnyCommand) -> None:
        self._hear(self._ledger.execute(command))

    def _hear(self, events: Iterable[kinds.AnyEvent]) -> None:
        for event in events:
            self._after(event)

    @property
    def _config(self) -> Config:
        return self._watch.config

    def _after(self, event: kinds.AnyEvent) -> None:
        """What follows from an event at once, whoever journaled it."""
        self._narrator.tell(event, self._ledger.state)
        if (order := answer_to(event, self._ledger.state)) is not None:
            self._crew.tell(order)
        if isinstance(event, kinds.JobFailed):
            self._given_up.append(event.job)
        if isinstance(event, kinds.CheckpointCommitted):
            self._room.proved()
        elif given_up := directories_given_up(self._home, self._ledger.state, event):
            for directory in given_up:  # these alone: the worker may be putting the next in its place
                self._rubbish.discard(directory)
        elif isinstance(event, versions.ConsolidationFinished):
            self._crew.end()  # it has held whole models, and what they took comes back only with its end
            self._execute(commands.Retain(retention=self._config.retention))
        elif isinstance(event, versions.ConsolidationAborted) and event.failure is None:
            sweep(self._ledger, self._rubbish.discard)
        elif isinstance(event, kinds.AttemptFailed | versions.ConsolidationAborted):
            self._crew.end()  # whatever state it is in, the next attempt begins with a clean one
            reached("worker_ended")
            if event.failure == "storage":
                self._broken = event.message
            sweep(self._ledger, self._rubbish.discard)

    def _nothing_left(self) -> bool:
        state = self._ledger.state
        comes = not self._intake.has_looked or self._intake.has_more or self._inbox.has_unsettled()
        owed = (
            state.full is not None
            or comes
            or state.begun
            or state.queue.front() is not None
            or len(state.rejections)
            or state.wish is not None
            or state.fetch is not None
        )
        return state.daemon.status == "paused" or (state.daemon.status == "idle" and not owed)

    # -- the worker -------------------------------------------------------------------------------------------------

    def _hear_worker(self, process: Worker) -> None:
        try:
            facts = process.receive()
        except EOFError:
            self._lose_worker(*classify(process.how_it_ended()))
            return
        except LinkGarbage as error:
            self._lose_worker("code", str(error))
            return
        for fact in facts:
            self._crew.heard(fact)
            if isinstance(fact, worker.Heartbeat):
                self._ledger.heard = fact
            elif isinstance(fact, worker.Evaluated):
                self._ledger.heard = None
            if isinstance(fact, Written) and (problem := problem_of(fact, self._ledger.state, self._home)):
                self._lose_worker("storage", problem)
                continue
            if isinstance(fact, worker.Failed):
                log_failure(fact)
            self._execute(fact)

    def _check_worker(self) -> None:
        """End a worker that let a deadline pass, or that died before it could say anything."""
        process, state = self._crew.worker, self._ledger.state
        limits, failures = self._config.worker.limits, failures_in_a_row(state)
        late = self._crew.late(self._clock.monotonic(), limits, failures, state.attempt)
        if process is None:
            return
        if process.has_ended():
            self._hear_worker(process)  # what it said last is still in the socket
            if not process.connected:
                self._lose_worker(*classify(process.how_it_ended()))
            return
        if late is not None:
            message = f"{late}: {self._crew.end_hung()}"
            self._lose_worker("hang", message, evaluating=late.phase == "evaluate")

    def _lose_worker(self, failure: Failure, message: str, *, evaluating: bool | None = None) -> None:
        """`evaluating`: whether it was lost in an evaluation; None: it is what its last sign of life says."""
        attempt = self._ledger.state.attempt
        self._crew.end()
        if attempt is not None:
            evaluating = self._crew.is_evaluating if evaluating is None else evaluating
            self._execute(commands.LoseWorker(attempt=attempt, failure=failure, message=message, evaluating=evaluating))
        else:
            self._write(f"{message}; nothing was running")

    # -- effects ----------------------------------------------------------------------------------------------------

    def _do_what_is_owed(self) -> float:
        """Carry out every effect; how long to wait then, in seconds."""
        wait_s = CATCH_UP_EVERY_S
        for effect in next_effects(self._ledger.state, self._clock.now()):
            match effect:
                case effects.BeginAttempt():
                    wait_s = self._begin_attempt(effect)
                case effects.PrepareData():
                    self._prepare(effect)
                case effects.TrainJob():
                    self._crew.give(to_train(effect))
                case effects.BeginConsolidation():
                    wait_s = self._begin_consolidation()
                case effects.Consolidate():
                    if not self._crew.has_had(worker.Consolidate, effect.attempt):
                        space_factor = self._config.consolidation.space_factor
                        self._crew.give(to_consolidate(effect, self._home, space_factor))
                case effects.BringBack():
                    bring_back(self._ledger, effect)
                    wait_s = 0.0
                case effects.AskYield():
                    if self._crew.worker is None:  # asked before the attempt had a worker: there is nothing to wait for
                        self._execute(worker.Yielded(attempt=effect.attempt))
                    else:
                        self._crew.give(worker.Yield(attempt=effect.attempt))
                        reached("yield_asked")
                case effects.MoveRejected():
                    for event in settle_rejection(self._ledger, effect.job):
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
        self._hear(measure(self._ledger, self._config, self._room, at_once=True))
        settings, events = self._watch.for_a_job(self._ledger, effect.job)
        self._hear(events)
        if settings is None:
            return CATCH_UP_EVERY_S
        with contextlib.suppress(Refused):  # somebody else's append came first, or there is no room: the next turn sees
            self._execute(commands.StartAttempt(job=effect.job, settings=settings))
        return 0.0

    def _begin_consolidation(self) -> float:
        self._hear(measure(self._ledger, self._config, self._room, at_once=True))
        usable, events = self._watch.read(self._ledger)
        self._hear(events)
        if not usable:
            return CATCH_UP_EVERY_S
        with contextlib.suppress(Refused):  # as above
            self._execute(commands.StartConsolidation())
        return 0.0

    def _prepare(self, effect: effects.PrepareData) -> None:
        if not self._storage.exists(self._home.data_file(effect.job)):
            finish_arrivals(self._ledger)  # a command was killed between journaling the file and naming it
        order = worker.Prepare(attempt=effect.attempt, job=effect.job, name=effect.name, settings=effect.settings)
        self._crew.give(order)

    def _look_for_room(self, effect: effects.AwaitRoom) -> None:
        free_bytes = self._room.found(effect.wanted_bytes)
        if free_bytes is not None and self._ledger.journal.restore_reserve():
            finish_arrivals(self._ledger)
            self._execute(commands.FindRoom(free_bytes=free_bytes))
            self._room.trusted_again()
            self._intake.look_again()

    def _leave(self, reason: str) -> None:
        self._crew.tell(worker.Shutdown(attempt=0))
        self._execute(commands.LeaveHome(reason=reason))
        self._done = True
