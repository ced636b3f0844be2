"""Read and change single keys of keepstep.toml. Comments stay; a value that cannot be used is never written."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from cli.config.renamed import present_key, with_present_names
from cli.config.schema import DAEMON_SECTIONS, METHODS, Config, load_config, parse_config, read_config, resolve_config
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive
from cli.home.paths import CONFIG_MODE, Home
from core.compatibility import differences, fixed_settings, has_unpublished_training, settings_conflict
from core.state import State
from core.topics.config import sections_of
from events.settings import JobSettings
from events.text import visible
from journal import durable

LOCKABLE = ("model", "method", "data.max_length")
"""Sections and keys that decide what weights mean. The tokenizer and the chat template come with the model; a plan made
with others is refused when a file is prepared."""


CONFLICT_ADVICE = "set the old value again; or run `keepstep consolidate` or `keepstep versions rollback` first"
"""What to do about a keepstep.toml that does not fit the trained weights."""


class KeyChange(NamedTuple):
    """The result of `keepstep config set`."""

    before: str
    now: str
    applies: str


def sections(config: Config) -> dict[str, Struct]:
    """All sections by name."""
    return {**sections_of(config.job), **{name: getattr(config, name) for name in DAEMON_SECTIONS}}


def values(config: Config) -> dict[str, Any]:
    """All keys with their values, defaults included; None: not set."""
    found: dict[str, Any] = {}
    for name, section in sections(config).items():
        plain: Mapping[str, Any] = msgspec.to_builtins(section)
        found.update({f"{name}.{key}": value for key, value in plain.items()})
    return found


def is_lockable(key: str) -> bool:
    """True if the key decides what weights mean."""
    return key != "model.trust_remote_code" and (key in LOCKABLE or key.partition(".")[0] in LOCKABLE)


def value_of(config: Config, key: str) -> Any:
    """The value of a key. Raises UserError for an unknown key."""
    found, key = values(config), present_key(key)
    if key not in found:
        near = [name for name in found if name.endswith(f".{key}") or name.partition(".")[0] == key.partition(".")[0]]
        raise UserError(f"there is no key {key} in keepstep.toml", f"known ones: {', '.join(near or found)}")
    return found[key]


def set_key(home: Home, key: str, text: str) -> KeyChange:
    """Set a key of keepstep.toml to a value written as in TOML; a text may lack its quotes.

    Refuses a value that is not allowed, or that changes what unconsolidated weights mean; the file then stays as it is.
    Holds the journal's lock, so no job starts meanwhile. Raises UserError, journal.errors.JournalError, OSError.
    """
    import tomlkit  # here, not above: reading needs none of it

    if visible(text) != text:
        raise UserError(f"{key} was not changed: keepstep.toml is UTF-8 and cannot hold {text}", "write it in UTF-8")
    key = present_key(key)
    section, _, name = key.partition(".")
    with closing(EventStore.open(home)) as store, store.exclusive():
        # Read under the lock: another `config set` may have written while this one waited for it.
        config = load_config(home.config, storage=home.storage)
        current = values(config).get(key)
        document = tomlkit.parse(read_config(home.config, storage=home.storage).decode())
        unwrapped, _ = with_present_names(document.unwrap(), home.config)
        wanted = _parsed(home.config, unwrapped, section, name, text)
        changed = parse_config(wanted, home.config)  # checks it together with the other keys, too
        _refuse_if_locked(store.state, key, current, changed.job)
        if section not in document:
            document.add(section, tomlkit.table())
        for other in [each for each in document[section] if each not in wanted[section]]:
            document[section].remove(other)
        for each in [each for each in wanted[section] if each == name or each not in document[section]]:
            _put(document[section], each, wanted[section][each])
        durable.write_atomically(
            resolve_config(home.config, storage=home.storage),
            tomlkit.dumps(document).encode(),
            mode=CONFIG_MODE,
            sync=True,
            storage=home.storage,
        )
        applies = "at once" if section in DAEMON_SECTIONS else _from_when(store)
    return KeyChange(shown(current), shown(value_of(changed, key)), applies)


def check(home: Home) -> str:
    """Check keepstep.toml and say that it can be used. Raises UserError with what is wrong."""
    from cli.home.snapshot_reader import load_state

    config = load_config(home.config, storage=home.storage)
    state = load_state(home)[0].state
    conflict = conflict_of(state, config.job)
    if conflict is not None:
        raise UserError(f"keepstep.toml does not fit the trained weights: {conflict}", _what_to_do(state, config.job))
    locked = ", and fits the trained weights" if fixed_settings(state) is not None else ""
    return "\n".join((*config.old_names, f"{home.config} can be used{locked}"))


def conflict_of(state: State, wanted: JobSettings) -> str | None:
    """Why the next job cannot train under these settings; None if it can."""
    return settings_conflict(fixed_settings(state), wanted, unpublished=has_unpublished_training(state))


def locked_keys(state: State, config: Config) -> set[str]:
    """The keys that `set_key` refuses to change now."""
    trained = fixed_settings(state)
    if trained is None:
        return set()
    kept = {"model.path", "model.revision", "model.dtype", "method.kind"}  # also after a version
    free = set() if trained.model.revision else {"model.revision"}  # a model without a commit can be pinned at any time
    return {
        key for key in values(config) if is_lockable(key) and (has_unpublished_training(state) or key in kept)
    } - free


def shown(value: Any) -> str:
    """A value as TOML writes it; "not set" for None."""
    if value is None:
        return "not set"
    import tomlkit

    return str(tomlkit.item(value).as_string())


def _put(table: Any, name: str, value: Any) -> None:
    """Set a value and keep the comment after it."""
    import tomlkit

    item = tomlkit.item(value)
    if name in table:
        trivia = table.item(name).trivia if hasattr(table, "item") else table[name].trivia
        item.trivia.comment_ws, item.trivia.comment = trivia.comment_ws, trivia.comment
        table[name] = item
    else:
        table.add(name, item)


def _parsed(path: Path, document: dict[str, Any], section: str, name: str, text: str) -> dict[str, Any]:
    """The document with the new value: the text read as TOML; or the text itself, if only that is allowed."""
    if not name:
        raise UserError(f"{section} is not a key", "write section and name, for example training.learning_rate")
    try:
        value: Any = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    others = document.get(section, {})
    if (section, name) == ("method", "kind") and text.strip("\"'") in METHODS:  # keys of the other kind are removed
        known = METHODS[text.strip("\"'")].__struct_fields__
        others = {key: each for key, each in others.items() if key in known}
    wanted = {**document, section: {**others, name: value}}
    if isinstance(value, str):
        return wanted
    try:
        parse_config(wanted, path)
    except UserError:
        as_text = {**document, section: {**others, name: text}}
        try:
            parse_config(as_text, path)
        except UserError:
            return wanted  # the caller parses it again and reports the error
        return as_text
    return wanted


def _refuse_if_locked(state: State, key: str, current: Any, wanted: JobSettings) -> None:
    found = {
        each.key: each
        for each in differences(fixed_settings(state), wanted, unpublished=has_unpublished_training(state))
    }
    difference = found.get(key) or (found.get("method.kind") if key.startswith("method.") else None)
    if difference is None:
        return
    step = f" (step {state.head.global_step})" if state.head.checkpoint is not None else ""
    raise UserError(
        f"{key} is locked and was not changed: it is {shown(current)} in keepstep.toml, and the weights trained since "
        f"{state.head.base or 'the origin'}{step} have {shown(difference.trained)}. Weights trained under one value "
        "mean nothing under another",
        _what_to_do(state, wanted),
    )


def _what_to_do(state: State, wanted: JobSettings) -> str:
    """Advice on how to get to the wanted settings. Some need another home: a version does not unlock them."""
    if differences(fixed_settings(state), wanted, unpublished=False):
        return "make another home for it (`keepstep init`): every version of this home comes from that model and method"
    waits = "" if state.head.checkpoint is not None else ", once the running job has a checkpoint"
    return f"run `keepstep consolidate`{waits}, or `keepstep versions rollback` to drop that training; then try again"


def _from_when(store: EventStore) -> str:
    """When a changed key applies. A job keeps its settings from its first checkpoint on."""
    job = store.state.training.current
    if job is None:
        return "from the next job on"
    if job.begun:
        return f"from the job after {job.name} on; {job.name} keeps the settings that it started with"
    if store.state.attempts.current is not None and daemon_is_alive(store.home):
        return f"from the job after {job.name} on, or if {job.name} starts again before its first checkpoint"
    return f"from {job.name} on: it has no checkpoint yet"
