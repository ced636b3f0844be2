"""keepstep.toml as it changes: commands in, events out; events in, state out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.moves import illegal
from core.state import ConfigError, State
from events.changes import Change, ConfigChanged, ConfigFixed, ConfigRefused
from events.event import Event
from events.kinds import AnyEvent
from events.settings import JobSettings

FOUND_OUT = "sources"
"""A part of a job's settings that no person writes."""


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
    """The sections of keepstep.toml that decide what a job learns, by name."""
    return {name: getattr(settings, name) for name in settings.__struct_fields__ if name != FOUND_OUT}


def changed_for(state: State, job: str, settings: JobSettings) -> Sequence[AnyEvent]:
    """That a job is the first to be begun under other settings than the one before it, if it is."""
    if state.settings is None:
        return []
    found = changed_keys(sections_of(state.settings), sections_of(settings))
    changes = tuple(change for change in found if not _is_of_the_file(change))
    return [ConfigChanged(job=job, changes=changes)] if changes else []


def _is_of_the_file(change: Change) -> bool:
    """Whether a change may come from the file alone: prose in a `.txt` file is plain text without a setting."""
    return change.key == "data.format" and {change.before, change.now} == {'"auto"', '"plain_text"'}


def _written(section: Struct | None) -> dict[str, str]:
    """The values of a section, each as TOML writes it (for these, as JSON does); what is not set is left out."""
    if section is None:
        return {}
    values = msgspec.to_builtins(section)
    return {key: msgspec.json.encode(value).decode() for key, value in values.items() if value is not None}


def _note(state: State, command: commands.RecordConfig, _now: float) -> Sequence[AnyEvent]:
    """Say what is new: the same problem is not said twice."""
    events: list[AnyEvent] = []
    if command.problem is None and state.config_error is not None:
        events.append(ConfigFixed())
    if command.problem is not None and (state.config_error is None or state.config_error.reason != command.problem):
        events.append(ConfigRefused(reason=command.problem, advice=command.advice))
    if command.changes:
        events.append(ConfigChanged(job=None, changes=command.changes))
    return events


def _config_changed(state: State, _event: ConfigChanged) -> State:
    return state  # the settings stand in `attempt_started`; the others are the daemon's own


def _config_refused(state: State, event: ConfigRefused) -> State:
    return replace(state, config_error=ConfigError(event.reason, event.advice))


def _config_fixed(state: State, event: ConfigFixed) -> State:
    if state.config_error is None:
        raise illegal(event, state.daemon.status, "nothing was wrong with it")
    return replace(state, config_error=None)


NOTING: Mapping[type, Callable[[State, Any, float], Sequence[AnyEvent]]] = {commands.RecordConfig: _note}

CHANGES: Mapping[type[Event], Callable[[State, Any], State]] = {
    ConfigChanged: _config_changed,
    ConfigRefused: _config_refused,
    ConfigFixed: _config_fixed,
}
