"""Dispatch events to hooks and notifications, each event at most once.

The dispatcher follows the journal, so it sees events of all processes. `status/hooks.json` holds the position of the
last dispatched event; it is advanced and synced *before* a hook runs. After a crash, the next daemon runs the hooks of
events that were not dispatched, and never runs one twice: a repeated action does more harm than a missed message.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from datetime import datetime

import msgspec

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import read_records
from cli.home.subprocesses import command
from cli.hooks.runner import Runner, Task
from cli.hooks.triggers import Summary, Triggers, make_summary
from cli.output.console import Console
from core.state import State
from events import kinds
from events.codec import Record, decode_record, kind_of
from events.hooks import HookSettings
from events.text import carried
from journal import Position, PositionLost, follow
from journal.durable import claim_directory, move_aside, read_file, write_all
from journal.errors import JournalError
from journal.storage import NotAFile, Storage
from projections.checksum import UNREADABLE

AGE_MAX_S = 86_400.0
"""Events older than this run no hook, so that a daemon that was off for weeks does not start with 100 messages."""

NAMES_MAX = 64
"""Names of recent jobs to remember: a finished job has left the state when its hook runs."""

POSITION_BYTES = 256
"""The position file has a fixed length and is overwritten in place, so it needs no space on a full disk."""

log = logging.getLogger("keepstep.hooks")


class Hooks:
    """The hooks of one daemon. Never raises; only `finish` waits."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._runner = Runner()
        self._console = Console(lambda _: None)
        self._position: Position | None = None
        """Events before it are dispatched; None: not started, or no hook is set."""
        self._triggers = Triggers(State())
        self._names: dict[str, str] = {}

    def dispatch(self, store: EventStore, settings: HookSettings) -> None:
        """Dispatch the events since the last call."""
        if not any_set(settings):
            self._position = None
            return
        with store.meter.part("hooks"):
            if self._position is None:
                self._begin(store)
            for job in store.state.training.in_progress:
                self._remember(job.id, job.name)
            if self._position != store.journal.position:
                try:
                    self._run_new(store, settings)
                except (JournalError, OSError) as error:
                    self._position = store.journal.position
                    log.error("the hooks of the last events do not run: %s", error)  # noqa: TRY400 - no bug: no trace

    def finish(self, store: EventStore, settings: HookSettings) -> None:
        """Dispatch the rest, and wait for running hooks until their timeout."""
        self.dispatch(store, settings)
        if not self._runner.wait(settings.timeout_s):
            log.error("the daemon stops; running hooks continue without it, and waiting hooks do not run")

    def _begin(self, store: EventStore) -> None:
        self._triggers = Triggers(store.state)
        self._position = read_position(self._home)
        if self._position is None:  # the first hook: earlier events are not for it
            self._position = store.journal.position
            try:
                write_position(self._home, self._position)
            except OSError as error:
                log.warning("%s cannot be written: %s", self._home.hooks, error)

    def _run_new(self, store: EventStore, settings: HookSettings) -> None:
        assert self._position is not None  # set by `dispatch`
        try:
            records, position = follow(self._home.journal, decode_record, self._position, storage=self._home.storage)
        except PositionLost:
            records, position = [], store.journal.position  # another journal is here, or a repaired one
        tasks = [task for record in records for task in self._tasks(record, store.state, settings)]
        if tasks:
            write_position(self._home, position)  # at most once: write first, then run
        self._position = position
        for task in tasks:
            self._runner.submit(task)

    def _tasks(self, record: Record, state: State, settings: HookSettings) -> Sequence[Task]:
        event = record.event
        if isinstance(event, kinds.FileEnqueued):
            self._remember(event.job, event.name)
        trigger = self._triggers.trigger_of(event)
        at = datetime.fromisoformat(record.at).timestamp()
        if trigger is None or self._home.clock.now() - at > AGE_MAX_S:
            return ()
        job = getattr(event, "job", None)
        name = self._name(job, state) if isinstance(job, str) else None
        line = self._console.text(event, state) or kind_of(event)
        summary = make_summary(
            trigger,
            event,
            seq=record.seq,
            at=record.at,
            kind=kind_of(event),
            home=str(self._home.root),
            message=line.replace(job[:12], name) if job and name else line,
            job_name=name,
        )
        return tasks_for(self._home, settings, summary)

    def _remember(self, job: str, name: str) -> None:
        self._names.pop(job, None)
        self._names[job] = name
        while len(self._names) > NAMES_MAX:
            self._names.pop(next(iter(self._names)))

    def _name(self, job: str, state: State) -> str | None:
        """The file name of a job. Right after a start this may read the whole journal."""
        known = state.job(job)
        if known is not None:
            return known.name
        if job not in self._names:
            for record in read_records(self._home):
                if isinstance(record.event, kinds.FileEnqueued) and record.event.job == job:
                    self._remember(job, record.event.name)
                    break
        return self._names.get(job)


def any_set(settings: HookSettings) -> bool:
    """True if the config has a hook or a notification."""
    return bool(settings.notify) or any(
        getattr(settings, name) for name in settings.__struct_fields__ if name.startswith("on_")
    )


def tasks_for(home: Home, settings: HookSettings, summary: Summary) -> Sequence[Task]:
    """The tasks for an event: its hook, its notification, both or none."""
    tasks = []
    environment, stdin = summary.environment(), msgspec.json.encode(carried(summary)) + b"\n"
    hook = shlex.split(getattr(settings, f"on_{summary.hook}"))
    if hook:
        tasks.append(Task(f"on_{summary.hook}", hook, stdin, environment, home.root, settings.timeout_s))
    if settings.notify and summary.hook in settings.notify_on:
        message = {"urls": settings.notify, "template": settings.notify_template, "summary": carried(summary)}
        notify = command("cli.hooks.notification")
        stdin = msgspec.json.encode(message)
        tasks.append(Task(f"notification of {summary.hook}", notify, stdin, {}, home.root, settings.timeout_s))
    return tasks


# -- the position
# -------------------------------------------------------------------------------------------------------


def read_position(home: Home) -> Position | None:
    """The position of the last dispatched event; None if the file is missing or cannot be read."""
    try:
        return msgspec.json.decode(read_file(home.hooks, storage=home.storage), type=Position)
    except UNREADABLE:
        return None


def write_position(home: Home, position: Position) -> None:
    """Write the position in place and sync it. Raises OSError."""
    storage: Storage = home.storage
    # Not if the home is gone: it was moved, and its old place must stay empty.
    if storage.exists(home.root) and not storage.exists(home.hooks.parent):  # a user deleted it
        claim_directory(home.hooks.parent, storage=storage)
    try:
        fd = storage.open(home.hooks, os.O_WRONLY | os.O_CREAT)
    except NotAFile:
        move_aside(home.hooks, storage=storage)
        fd = storage.open(home.hooks, os.O_WRONLY | os.O_CREAT)
    try:
        write_all(storage, fd, msgspec.json.encode(position).ljust(POSITION_BYTES - 1) + b"\n")
        storage.fdatasync(fd)
    finally:
        storage.close(fd)
