"""Hooks: what the config wants done when something has happened, handed over at most once for each event.

The journal is followed behind the daemon, whoever appended to it. `status/hooks.json` holds the position up to which
events were handed over; it is moved on, and synced, *before* anything is run. So a hook for an event that was journaled
before a crash and not handed over yet is run by the next daemon; one that the crash came in the middle of is not run
again: a hook that starts something twice would do more harm than one that misses a message, and the journal has it.
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
from cli.home.subprocesses import command
from cli.hooks.runner import Runner, Task
from cli.hooks.triggers import Summary, Triggers, summary
from cli.output.console import Console
from core.state import State
from events import kinds
from events.codec import Record, decode_record, kind_of
from events.settings import HookSettings
from events.text import carried
from journal import Position, PositionLost, follow, history
from journal.durable import claim_directory, move_aside, read_file, write_all
from journal.errors import JournalError
from journal.storage import NotAFile, Storage
from projections.checksum import UNREADABLE

TOO_OLD_S = 86_400.0
"""What happened longer ago is no news: a daemon that was away for weeks does not begin with a hundred messages."""

NAMES_KEPT = 64
"""Of jobs that were in hand lately: a job that is finished has left the state by the time that its hook is run."""

NOTE_BYTES = 256
"""The note has always the same length and is written in place: it needs no room on a full disk."""

log = logging.getLogger("keepstep.hooks")


class Hooks:
    """One for the life of a daemon. Never raises, never waits, but for `leave`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._runner = Runner()
        self._console = Console(lambda _: None)
        self._position: Position | None = None
        """Everything before it was looked at; None: not begun, or no hook is set."""
        self._occasions = Triggers(State())
        self._names: dict[str, str] = {}

    def look(self, store: EventStore, settings: HookSettings) -> None:
        """Hand over what has happened since the last look."""
        if not wanted(settings):
            self._position = None
            return
        with store.meter.part("hooks"):
            if self._position is None:
                self._begin(store)
            for job in store.state.training.in_progress:
                self._remember(job.id, job.name)
            if self._position != store.journal.position:
                try:
                    self._hand_over(store, settings)
                except (JournalError, OSError) as error:
                    self._position = store.journal.position
                    log.error("hooks of the last events are not run: %s", error)  # noqa: TRY400 - no bug: no trace

    def leave(self, store: EventStore, settings: HookSettings) -> None:
        """Hand over the rest, and wait for what runs as long as it may take."""
        self.look(store, settings)
        if not self._runner.wait(settings.timeout_s):
            log.error("the daemon leaves; hooks that have not ended are left alone, and those that wait are not run")

    def _begin(self, store: EventStore) -> None:
        self._occasions = Triggers(store.state)
        self._position = read_note(self._home)
        if self._position is None:  # hooks are new here: what happened before they were set is not theirs
            self._position = store.journal.position
            try:
                write_note(self._home, self._position)
            except OSError as error:
                log.warning("%s cannot be written: %s", self._home.hooks, error)

    def _hand_over(self, store: EventStore, settings: HookSettings) -> None:
        assert self._position is not None  # `look` has begun
        try:
            records, position = follow(self._home.journal, decode_record, self._position, storage=self._home.storage)
        except PositionLost:
            records, position = [], store.journal.position  # another journal stands here, or a repaired one
        tasks = [task for record in records for task in self._tasks(record, store.state, settings)]
        if tasks:
            write_note(self._home, position)  # at most once: noted first, then run
        self._position = position
        for task in tasks:
            self._runner.give(task)

    def _tasks(self, record: Record, state: State, settings: HookSettings) -> Sequence[Task]:
        event = record.event
        if isinstance(event, kinds.FileEnqueued):
            self._remember(event.job, event.name)
        trigger = self._occasions.see(event)
        at = datetime.fromisoformat(record.at).timestamp()
        if trigger is None or self._home.clock.now() - at > TOO_OLD_S:
            return ()
        job = getattr(event, "job", None)
        name = self._name(job, state) if isinstance(job, str) else None
        line = self._console.line(event, state) or kind_of(event)
        told = summary(
            trigger,
            event,
            seq=record.seq,
            at=record.at,
            kind=kind_of(event),
            home=str(self._home.root),
            message=line.replace(job[:12], name) if job and name else line,
            job_name=name,
        )
        return tasks_for(self._home, settings, told)

    def _remember(self, job: str, name: str) -> None:
        self._names.pop(job, None)
        self._names[job] = name
        while len(self._names) > NAMES_KEPT:
            self._names.pop(next(iter(self._names)))

    def _name(self, job: str, state: State) -> str | None:
        """What the file is called. Only right after a start it may have to be looked up in the whole journal."""
        known = state.job(job)
        if known is not None:
            return known.name
        if job not in self._names:
            for record in history(self._home.journal, decode_record, storage=self._home.storage):
                if isinstance(record.event, kinds.FileEnqueued) and record.event.job == job:
                    self._remember(job, record.event.name)
                    break
        return self._names.get(job)


def wanted(settings: HookSettings) -> bool:
    """Whether the config asks for anything."""
    return bool(settings.notify) or any(
        getattr(settings, name) for name in settings.__struct_fields__ if name.startswith("on_")
    )


def tasks_for(home: Home, settings: HookSettings, told: Summary) -> Sequence[Task]:
    """What the config wants run for this: the hook, the notification, both or neither."""
    tasks = []
    environment, said = told.environment(), msgspec.json.encode(carried(told)) + b"\n"
    hook = shlex.split(getattr(settings, f"on_{told.hook}"))
    if hook:
        tasks.append(Task(f"on_{told.hook}", hook, said, environment, home.root, settings.timeout_s))
    if settings.notify and told.hook in settings.notify_on:
        message = {"urls": settings.notify, "template": settings.notify_template, "summary": carried(told)}
        notify = command("cli.hooks.notification")
        said = msgspec.json.encode(message)
        tasks.append(Task(f"notification of {told.hook}", notify, said, {}, home.root, settings.timeout_s))
    return tasks


# -- the note -------------------------------------------------------------------------------------------------------


def read_note(home: Home) -> Position | None:
    """Up to where events were handed over; None if nobody noted it, or it cannot be read."""
    try:
        return msgspec.json.decode(read_file(home.hooks, storage=home.storage), type=Position)
    except UNREADABLE:
        return None


def write_note(home: Home, position: Position) -> None:
    """Note it, in place and synced. Raises OSError."""
    storage: Storage = home.storage
    # Not if the home itself is gone: it was moved, and nothing may be made in its old place.
    if storage.exists(home.root) and not storage.exists(home.hooks.parent):  # somebody deleted it
        claim_directory(home.hooks.parent, storage=storage)
    try:
        fd = storage.open(home.hooks, os.O_WRONLY | os.O_CREAT)
    except NotAFile:
        move_aside(home.hooks, storage=storage)
        fd = storage.open(home.hooks, os.O_WRONLY | os.O_CREAT)
    try:
        write_all(storage, fd, msgspec.json.encode(position).ljust(NOTE_BYTES - 1) + b"\n")
        storage.fdatasync(fd)
    finally:
        storage.close(fd)
