"""The daemon: one loop that waits, receives, decides, and carries out effects.

    wait       for the worker, the inbox, a signal, another process's append, or the next scheduled time
    receive    turn each message into a command and journal the events that follow
    act        carry out `next_effects` of the state; a restart resumes with exactly these

The daemon keeps no durable state; everything is rebuilt from the journal.

    recovery.py           the start: replay, compare with the disk, journal the differences
    event_handler.py      what follows an event at once
    worker_listener.py    messages of the worker → commands
    effects.py            effects → actions
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing, suppress

from cli.config.schema import Config
from cli.daemon.config_watch import ConfigWatch
from cli.daemon.deferred_deletes import DeferredDeletes
from cli.daemon.effects import EffectExecutor
from cli.daemon.event_handler import EventHandler
from cli.daemon.outcome import exit_code, inode_of, refuse_moved
from cli.daemon.ports import Ports, RealPorts
from cli.daemon.recovery import Recovery
from cli.daemon.resource_monitor import ResourceMonitor, disk_full_message
from cli.daemon.schedule import run_scheduled
from cli.daemon.sweep import sweep
from cli.daemon.worker.latency_stats import LatencyStats
from cli.daemon.worker.listener import WorkerListener
from cli.daemon.worker.supervisor import WorkerSupervisor
from cli.errors import INTERRUPTED, STORAGE_FAILED, UserError, is_disk_full
from cli.home.event_store import EventStore
from cli.home.identity import DaemonLock
from cli.home.layout import make_directories
from cli.home.paths import Home
from cli.hooks.dispatch import Hooks
from cli.inbox.intake import Intake
from cli.inbox.watcher import Inbox
from cli.output.console import Console
from cli.output.event_lines import held_jobs_text
from cli.output.run_screen import RunScreen
from cli.report.processes import Reporters
from core import commands
from events import messages
from journal.errors import NoSpace
from projections.trouble import TERMINAL_CLOSED

log = logging.getLogger("keepstep.daemon")


class Daemon:
    """One run of the daemon over a home. `run` returns the exit code."""

    def __init__(
        self,
        home: Home,
        *,
        until_idle: bool,
        write: Callable[[str], None],
        ports: Ports | None = None,
        screen: RunScreen | None = None,
    ) -> None:
        self._home, self._until_idle, self._output = home, until_idle, write
        self._ports = ports or RealPorts(home)
        self._console = Console(self._print, screen)
        self._supervisor = WorkerSupervisor(self._ports, LatencyStats(home))
        self._inbox = Inbox(home, lambda: self._config.inbox)
        self._intake = Intake(home, self._inbox, self._write)
        self._monitor = ResourceMonitor(home, lambda: self._ports.measure(self._supervisor.worker))
        self._deletes = DeferredDeletes(home, self._write)
        self._hooks = Hooks(home)
        self._reporters = Reporters(home)
        self._signals = 0
        self._stopped_by: str | None = None
        self._done = False
        self._unreported_full: str | None = None
        """The message of a full disk that is not journaled yet, because not even its record fits."""

    def run(self) -> int:
        """Work until a user stops the daemon (or, with `until_idle`, until nothing is left to do).

        Raises UserError, journal.errors.JournalError, OSError.
        """
        for aside in make_directories(self._home):
            self._write(f"{self._home.relative(aside)} stood in the place of a directory, and was moved there")
        self._inode = inode_of(self._home)
        lock = DaemonLock(self._home)
        lock.take(self._ports.identity())
        try:
            self._watch = ConfigWatch(self._home, self._write)
            with closing(EventStore.open(self._home)) as store:
                self._connect(store)
                try:
                    return self._run()
                finally:
                    self._supervisor.end()
        finally:
            lock.release()

    def _connect(self, store: EventStore) -> None:
        """Make the parts that need the open store."""
        supervisor, monitor, deletes = self._supervisor, self._monitor, self._deletes
        console, watch, write = self._console, self._watch, self._write
        self._store = store
        self._handler = handler = EventHandler(store, console, supervisor, monitor, deletes, watch)
        self._recovery = Recovery(store, handler, self._ports, supervisor, deletes, console, write)
        self._listener = WorkerListener(store, handler, supervisor, watch, write)
        self._effects = EffectExecutor(store, handler, supervisor, monitor, watch, self._intake, self._leave)

    def _run(self) -> int:
        with self._ports.listening(self._inbox, self._on_signal, self._config.logs):
            while not self._done:
                self._turn()
            self._hooks.finish(self._store, self._config.hooks)
            self._reporters.finish()
            with self._store.exclusive():
                self._store.save_snapshot()
        return exit_code(
            self._store.state,
            self._write,
            storage_failure=self._handler.storage_failure,
            failed_jobs=self._handler.failed_jobs if self._until_idle else (),
            until_idle=self._until_idle,
        )

    # -- one turn of the loop -----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Run one turn. If the disk is full, report it and continue when there is room."""
        refuse_moved(self._home, self._inode)
        try:
            self._report_full_disk()
            if not self._recovery.is_done:
                self._recovery.run()
            self._work()
        except (NoSpace, OSError) as error:
            if not is_disk_full(error):
                raise
            self._supervisor.end()
            message = self._unreported_full or disk_full_message(error)
            if self._signals:
                raise UserError(message, "make room; `keepstep run` then continues", STORAGE_FAILED) from error
            if (
                self._unreported_full is not None or self._store.state.disk.full is not None
            ):  # already reported, or no room
                self._ports.wait(self._monitor.wait_s)
            self._unreported_full = message

    def _report_full_disk(self) -> None:
        if self._unreported_full is not None:
            self._handler.execute(commands.ReportDiskFull(message=self._unreported_full))
            self._unreported_full = None
            sweep(self._store, self._deletes.discard)

    def _work(self) -> None:
        store, handler = self._store, self._handler
        handler.handle(store.catch_up())
        if handler.storage_failure is not None:
            self._leave("storage failed")
            return
        if self._signals and store.state.daemon.status not in {"stopping", "stopping_paused"}:
            handler.execute(commands.Stop(alive=True))
        if store.journal.reserve_is_spent and store.state.disk.full is None:
            handler.execute(
                commands.ReportDiskFull(message="the disk is full; the journal is written from its reserve")
            )
        self._take_files()
        handler.handle(self._watch.check_edit(store))
        handler.handle(run_scheduled(store, self._config, self._monitor))
        if store.state.memory.shortage is not None and store.state.attempts.current is None:
            self._supervisor.end()  # an idle worker still holds a model in memory
        self._hooks.dispatch(store, self._config.hooks)
        self._reporters.keep_running(self._config.report)
        self._deletes.retry()
        self._listener.check()
        wait_s = self._effects.run()
        if self._until_idle and not self._done and self._nothing_left():
            if held := store.state.queue.held:
                self._write(held_jobs_text(held))
            self._leave("nothing is left to do")
        if not self._done:
            store.write_heartbeat()
            for process in self._ports.wait(0.0 if self._intake.has_more else wait_s):
                self._listener.receive(process)
        store.meter.lap("effects and messages")

    def _take_files(self) -> None:
        if self._store.state.disk.full is None:
            for event in self._intake.accept_some(self._store):
                self._console.print_event(event, self._store.state)
        self._store.meter.lap("the inbox")

    def _nothing_left(self) -> bool:
        state = self._store.state
        files_arrive = not self._intake.has_scanned or self._intake.has_more or self._inbox.has_unsettled()
        pending = (
            state.disk.full is not None
            or files_arrive
            or state.training.in_progress
            or state.queue.front() is not None
            or len(state.outcomes.rejections)
            or state.consolidation.request is not None
            or state.evaluations.pending
            or state.head.pending_restore is not None
        )
        return state.daemon.status == "paused" or (state.daemon.status == "idle" and not pending)

    def _leave(self, reason: str) -> None:
        self._supervisor.send(messages.Shutdown(attempt=0))
        if self._stopped_by == "SIGHUP":
            reason = TERMINAL_CLOSED
        self._handler.execute(commands.StopDaemon(reason=reason))
        self._done = True

    # -- signals, config, output --------------------------------------------------------------------------------------

    def _on_signal(self, name: str) -> None:
        """`name`: the name of the signal, or of the stop file."""
        self._stopped_by = self._stopped_by or name
        self._signals += 1
        if self._signals >= 2:  # as safe as kill -9 and as quick; the worker ends with its daemon
            self._ports.exit_now(INTERRUPTED)

    @property
    def _config(self) -> Config:
        return self._watch.config

    def _write(self, line: str) -> None:
        log.warning("%s", line)
        self._print(line)

    def _print(self, line: str) -> None:
        with suppress(OSError):  # the log is on the full disk, or the pipe is closed: the journal has everything
            self._output(line)
