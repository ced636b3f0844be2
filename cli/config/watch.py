"""keepstep.toml as the daemon uses it: what is in force, and what becomes of an edit while it runs.

An edit is seen in the next turn. What cannot be used (no TOML, a value that is not allowed, another meaning for
weights that no version holds) is said, and what was in force stays so; what runs is never touched. A job takes its
settings from the file as it is when the job is begun, and waits for a person if they cannot be used then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec import Struct

from cli.config.plain_text import with_format_of
from cli.config.schema import OTHERS, Config, load_config
from cli.config.validation_set import is_changed, with_validation_kept
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.output.console_resources import told
from core.commands import HoldWork, RecordConfig
from core.compatibility import fixed_settings, has_unpublished_training, settings_conflict
from core.state import State
from core.topics.config import changed_keys, sections_of
from events.kinds import AnyEvent
from events.settings import JobSettings

ADVICE = "put it back as it was; or `keepstep consolidate` first, or `keepstep versions rollback`"

Stamp = tuple[int, int, int] | None


class ConfigWatch:
    """Made when a daemon starts. Raises UserError, as `cli.config.schema.load_config`."""

    def __init__(self, home: Home, write: Callable[[str], None]) -> None:
        self._home, self._write = home, write
        self._seen: object = None
        """The file, and what it must fit, when it was looked at last."""
        self._stamp: Stamp = None
        """The file as it was looked at last."""
        self._last = self._stamp = self._stamp_now()
        self.config = load_config(home.config, storage=home.storage)
        """What is in force. What a job trains under is read again when it starts."""
        self._warn(self.config)

    def look(self, store: EventStore) -> Sequence[AnyEvent]:
        """Take an edit, or refuse it; what was journaled. One call of the system a turn while there is none."""
        stamp, state = self._stamp_now(), store.state
        settled, self._last = stamp == self._last, stamp
        if not settled:  # an editor may still be at it
            return ()
        seen = (stamp, fixed_settings(state), has_unpublished_training(state))
        if seen == self._seen:
            return ()
        edited, self._seen, self._stamp = stamp != self._stamp, seen, stamp
        try:
            config = load_config(self._home.config, storage=self._home.storage)
        except UserError as error:
            if isinstance(error.__cause__, OSError):
                self._seen = None  # what could not be read once may be read the next time
            return self._execute(store, RecordConfig(problem=error.reason, advice=error.advice or "mend the file"))
        conflict = conflict_of(state, config.job)
        if conflict is not None:
            problem = f"keepstep.toml does not fit what has been learned: {conflict}"
            return self._execute(store, RecordConfig(problem=problem, advice=ADVICE))
        changes = changed_keys(_own_sections(self.config), _own_sections(config))
        if edited:
            self._say(state, config)
        if edited:
            self._warn(config)
        self.config = config
        return self._execute(store, RecordConfig(changes=changes))

    def read(self, store: EventStore) -> tuple[bool, Sequence[AnyEvent]]:
        """Take the config as the file has it now. Whether it can be used; if not, a person is waited for."""
        try:
            self.config = load_config(self._home.config, storage=self._home.storage)
        except UserError as error:
            return False, _hold(store, error)
        return True, ()

    def for_a_job(self, store: EventStore, wanted: str) -> tuple[JobSettings | None, Sequence[AnyEvent]]:
        """The settings that the job `wanted` is begun under, their validation set kept; None as in `read`."""
        usable, events = self.read(store)
        if not usable:
            return None, events
        job, settings = store.state.training.current, self.config.job
        begun = store.state.job(wanted)
        if begun is not None:
            path = self._home.data_file(wanted)
            with suppress(FileNotFoundError):  # the worker tells of it
                settings = with_format_of(settings, begun.name, path)
        if job is not None and job.begun:  # it has its own settings, and its own validation set
            if is_changed(job.settings, settings):
                self._write(
                    f"keepstep.toml was changed; {job.name} is finished under the settings that it was begun with"
                )
            return settings, ()
        try:
            return with_validation_kept(self._home, settings), ()
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
            running = (
                f"; {state.training.current.name} is finished as it was begun"
                if state.training.current is not None
                else ""
            )
            self._write(f"keepstep.toml was changed, for the next file: {told(changes)}{running}")

    def _stamp_now(self) -> Stamp:
        """What an edit changes; None: the file is gone."""
        try:
            found = self._home.storage.stat(self._home.config)
        except FileNotFoundError:
            return None
        except OSError:  # it may be there all the same; the next turn sees
            return self._stamp
        return found.st_mtime_ns, found.st_size, found.st_ino


def conflict_of(state: State, wanted: JobSettings) -> str | None:
    """Why the next file cannot be learned under these settings; None if it can."""
    return settings_conflict(fixed_settings(state), wanted, unpublished=has_unpublished_training(state))


def _own_sections(config: Config) -> dict[str, Struct]:
    return {name: getattr(config, name) for name in OTHERS}


def _hold(store: EventStore, error: UserError) -> Sequence[AnyEvent]:
    return store.execute(HoldWork(reason=error.reason, advice=f"{error.advice}; then `keepstep resume`"))
