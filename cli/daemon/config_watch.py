"""The daemon's view of keepstep.toml: the settings in force, and edits while it runs.

The daemon notices an edit in its next turn. It reports an edit that cannot be used (invalid TOML, a value that is not
allowed, another meaning for weights that no version has) and keeps the settings in force. A running job is never
affected. A job takes its settings from the file when it starts, and waits for the user if they cannot be used then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from cli.config.locks import DOES_NOT_FIT, compared, find_base_conflict, find_conflicts
from cli.config.plain_text import with_format_of
from cli.config.schema import DAEMON_SECTIONS, Config, load_config
from cli.config.validation_set import is_changed, keep_validation_set
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.output.event_lines import changes_text
from core.commands import HoldWork, RecordConfig
from core.compatibility import fixed_settings, has_unpublished_training, with_base_of
from core.state import State
from core.topics.config import changed_keys, sections_of
from events.kinds import AnyEvent
from events.settings import JobSettings

Stamp = tuple[int, int, int] | None


class ConfigWatch:
    """Loads the config when a daemon starts. Raises UserError, as `cli.config.schema.load_config`."""

    def __init__(self, home: Home, write: Callable[[str], None]) -> None:
        self._home, self._write = home, write
        self._seen: object = None
        """The stamp of the file and the locked settings at the last check."""
        self._stamp: Stamp = None
        """The stamp of the file that was checked last."""
        self._last = self._stamp = self._stamp_now()
        """The stamp in the last turn."""
        self.config = load_config(home.config, storage=home.storage)
        """The settings in force. The settings of a job are read again when it starts."""
        self._warn(self.config)

    def check_edit(self, store: EventStore) -> Sequence[AnyEvent]:
        """Accept or refuse an edit; the journaled events. Costs two system calls if there is no edit."""
        stamp, state = self._stamp_now(), store.state
        settled, self._last = stamp == self._last, stamp
        if not settled:  # an editor may still be writing
            return ()
        seen = (
            stamp,
            self._stamp_of(compared(self._home), None),
            fixed_settings(state),
            has_unpublished_training(state),
        )
        if seen == self._seen:
            return ()
        edited, self._seen, self._stamp = stamp != self._stamp, seen, stamp
        try:
            config = load_config(self._home.config, storage=self._home.storage)
        except UserError as error:
            if isinstance(error.__cause__, OSError):
                self._seen = None  # the next read may succeed
            return self._execute(store, RecordConfig(problem=error.reason, advice=error.advice or "fix the file"))
        for conflict in find_conflicts(self._home, state, config.job, reads=False):
            return self._execute(store, RecordConfig(problem=conflict.reason, advice=conflict.advice))
        changes = changed_keys(_own_sections(self.config), _own_sections(config))
        if edited:
            self._say(state, config)
            self._warn(config)
        self.config = config
        return self._execute(store, RecordConfig(changes=changes))

    def reload(self, store: EventStore) -> tuple[bool, Sequence[AnyEvent]]:
        """Load the config as it is now. False if it cannot be used: the daemon then waits for the user."""
        try:
            self.config = load_config(self._home.config, storage=self._home.storage)
        except UserError as error:
            return False, _hold(store, error)
        return True, ()

    def job_settings(self, store: EventStore, wanted: str) -> tuple[JobSettings | None, Sequence[AnyEvent]]:
        """The settings for the start of job `wanted`, with a copy of their validation set; None: wait for the user."""
        usable, events = self.reload(store)
        if not usable:
            return None, events
        job, settings = store.state.training.current, self.config.job
        moved = find_base_conflict(self._home, store.state, settings.model, reads=False)
        begun = store.state.job(wanted)
        if begun is not None:
            path = self._home.data_file(wanted)
            with suppress(FileNotFoundError):  # the worker reports it
                settings = with_format_of(settings, begun.name, path)
        if job is not None and job.begun:  # it keeps its settings and its validation set
            if is_changed(job.settings, settings):
                self._write(f"keepstep.toml was changed; {job.name} keeps the settings that it started with")
            return (with_base_of(settings, job.settings.model) if moved and job.settings else settings), ()
        if moved is not None:
            return None, _hold(store, UserError(f"{DOES_NOT_FIT}: {moved.reason}", moved.advice))
        try:
            return keep_validation_set(self._home, settings), ()
        except UserError as error:
            return None, _hold(store, error)

    def _execute(self, store: EventStore, command: RecordConfig) -> Sequence[AnyEvent]:
        said = store.state.config.error.reason if store.state.config.error is not None else None
        return store.execute(command) if command.changes or command.problem != said else ()

    def _warn(self, config: Config) -> None:
        for line in config.old_names:
            self._write(line)

    def _say(self, state: State, config: Config) -> None:
        changes = changed_keys(sections_of(self.config.job), sections_of(config.job))
        if changes:
            job = state.training.current
            keeps = job is not None and (job.begun or state.attempts.current is not None)
            running = f"; {job.name} keeps its settings" if job is not None and keeps else ""
            self._write(f"keepstep.toml was changed, for the next job: {changes_text(changes)}{running}")

    def _stamp_now(self) -> Stamp:
        return self._stamp_of(self._home.config, self._stamp)

    def _stamp_of(self, path: Path, before: Stamp) -> Stamp:
        """The properties of a file that an edit changes; None: the file is gone."""
        try:
            found = self._home.storage.stat(path)
        except FileNotFoundError:
            return None
        except OSError:  # it may still be there; the next turn checks again
            return before
        return found.st_mtime_ns, found.st_size, found.st_ino


def _own_sections(config: Config) -> dict[str, Struct]:
    return {name: getattr(config, name) for name in DAEMON_SECTIONS}


def _hold(store: EventStore, error: UserError) -> Sequence[AnyEvent]:
    return store.execute(HoldWork(reason=error.reason, advice=f"{error.advice}; then `keepstep resume`"))
