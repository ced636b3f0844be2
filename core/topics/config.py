"""Changes of keepstep.toml: journal which keys have new values, and refuse a file that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.structures.situations import ConfigError
from core.tables import DecideTable, Events, EvolveTable
from events import kinds
from events.kinds import AnyEvent, Change
from events.settings import JobSettings

if TYPE_CHECKING:
    from core.state import State

NOT_IN_THE_FILE = "sources"
"""The section of a job's settings that no person writes."""


class Config(Struct, frozen=True):
    """What the journal says about keepstep.toml."""

    error: ConfigError | None = None
    job_settings: JobSettings | None = None
    """The settings of the last job that started for the first time."""


def changed_keys(before: Mapping[str, Struct], now: Mapping[str, Struct]) -> tuple[Change, ...]:
    """The keys that differ, in the order of sections and keys, with both values as TOML writes them."""
    changes: list[Change] = []
    for section in dict.fromkeys((*before, *now)):
        then, new = _written(before.get(section)), _written(now.get(section))
        changes += [
            Change(f"{section}.{key}", then.get(key, ""), new.get(key, ""))
            for key in dict.fromkeys((*then, *new))
            if then.get(key) != new.get(key)
        ]
    return tuple(changes)


def sections_of(settings: JobSettings) -> dict[str, Struct]:
    """The sections of keepstep.toml that decide how a job trains, by name."""
    return {name: getattr(settings, name) for name in settings.__struct_fields__ if name != NOT_IN_THE_FILE}


def changed_for(state: State, job: str, settings: JobSettings) -> Events:
    """An event if the job is the first to start under other settings than the job before it."""
    if state.config.job_settings is None:
        return []
    found = changed_keys(sections_of(state.config.job_settings), sections_of(settings))
    changes = tuple(change for change in found if not _comes_from_the_file(change))
    return [kinds.ConfigChanged(job=job, changes=changes)] if changes else []


def _comes_from_the_file(change: Change) -> bool:
    """True if the data file alone may have caused the change: prose in a `.txt` file is plain text without a
    setting."""
    return change.key == "data.format" and {change.before, change.now} == {'"auto"', '"plain_text"'}


def _written(section: Struct | None) -> dict[str, str]:
    """The values of a section, each as TOML writes it (for these types, as JSON does); None is left out."""
    if section is None:
        return {}
    values = msgspec.to_builtins(section)
    return {key: msgspec.json.encode(value).decode() for key, value in values.items() if value is not None}


def _record(state: State, command: commands.RecordConfig, _now: float) -> Events:
    """Journal what is new: the same problem is not journaled twice."""
    events: list[AnyEvent] = []
    error = state.config.error
    if command.problem is None and error is not None:
        events.append(kinds.ConfigFixed())
    if command.problem is not None and (error is None or error.reason != command.problem):
        events.append(kinds.ConfigRefused(reason=command.problem, advice=command.advice))
    if command.changes:
        events.append(kinds.ConfigChanged(job=None, changes=command.changes))
    return events


DECIDE: DecideTable = {commands.RecordConfig: _record}


def _config_changed(state: State, _event: kinds.ConfigChanged) -> State:
    return state  # the settings of a job stand in `attempt_started`; the others are the daemon's own


def _config_refused(state: State, event: kinds.ConfigRefused) -> State:
    return replace(state, config=replace(state.config, error=ConfigError(event.reason, event.advice)))


def _config_fixed(state: State, event: kinds.ConfigFixed) -> State:
    if state.config.error is None:
        raise illegal(event, state.daemon.status, "nothing was wrong with it")
    return replace(state, config=replace(state.config, error=None))


EVOLVE: EvolveTable = {
    kinds.ConfigChanged: _config_changed,
    kinds.ConfigRefused: _config_refused,
    kinds.ConfigFixed: _config_fixed,
}
