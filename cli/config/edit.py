"""Read and change keys of keepstep.toml. Everything else in the file stays. No file is written that cannot be used.

Changes hold the journal's lock, so that no job starts meanwhile.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
from msgspec import Struct

from cli.config.checks.other_names import find_meant
from cli.config.checks.usable import find_problems
from cli.config.locks import find_conflicts, refuse_if_locked
from cli.config.renamed import present_key
from cli.config.schema import (
    DAEMON_SECTIONS,
    METHODS,
    Config,
    hint_of,
    read_config,
    read_document,
    resolve_config,
)
from cli.config.text_edit import UNSET, renamed, toml, with_changes, with_method
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive
from cli.home.paths import CONFIG_MODE, Home
from core.compatibility import fixed_settings
from core.state import State
from core.topics.config import sections_of
from events.text import visible
from events.upcasters import SETTINGS_ALIASES
from journal import durable


class KeyChange(NamedTuple):
    """A key that was changed."""

    key: str
    before: str
    now: str
    applies: str
    """The moment at which the change takes effect."""


class Changed(NamedTuple):
    """The result of a change of the file."""

    keys: Sequence[KeyChange]
    notes: Sequence[str] = ()
    """Lines for the user: what was pinned, and what was wrong before and still is."""


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


def value_of(config: Config, key: str) -> Any:
    """The value of a key. Raises UserError for an unknown key."""
    found, key = values(config), present_key(key)
    if key not in found:
        section, _, name = key.rpartition(".")
        near = [each for each in found if each.endswith(f".{name}") or each.partition(".")[0] == section]
        meant = find_meant(section, name)
        raise UserError(
            f"there is no key {key.lstrip('.')} in keepstep.toml",
            meant or f"known ones: {', '.join(near or found)}",
        )
    return found[key]


def set_keys(home: Home, texts: Mapping[str, str]) -> Changed:
    """Set keys of keepstep.toml, all at once, to values written as in TOML; a text may lack its quotes.

    Refuses values that are not allowed, that cannot be used, or that change what the trained weights mean; the file
    then stays as it is. Raises UserError, journal.errors.JournalError, OSError.
    """
    for key, text in texts.items():
        if visible(text) != text:
            raise UserError(
                f"{key} was not changed: keepstep.toml is UTF-8 and cannot hold {text}", "write it in UTF-8"
            )
    keys = {_known_form(key, text): text for key, text in texts.items()}
    note, named = _named_model(home, keys)
    with closing(EventStore.open(home)) as store, store.exclusive():
        # Read under the lock: another `config set` may have written while this one waited for it.
        before = _read(home)
        document = tomllib.loads(before)
        kind = _kind_of(document)
        new_kind = keys.get("method.kind", kind).strip("\"'")
        changes = {key: _value(key, text, new_kind, home) for key, text in keys.items()}
        if named and named["model.path"] != _raw(before).get("model.path"):
            changes |= named
        text = (
            with_method(before, kind, new_kind, METHODS[new_kind].__struct_fields__) if new_kind in METHODS else before
        )
        for (section, old), new in SETTINGS_ALIASES.items():
            if f"{section}.{new}" in changes:
                text = renamed(text, section, old, new)
        after = with_changes(text, changes)
        changed = _put_in_place(home, store.state, before, after, set(keys))
    return changed._replace(notes=(*filter(None, (note,)), *changed.notes))


def unset_keys(home: Home, keys: Sequence[str]) -> Changed:
    """Take keys out of keepstep.toml, so that their defaults apply. Raises as `set_keys`."""
    keys = [_known_form(key, "") for key in keys]
    with closing(EventStore.open(home)) as store, store.exclusive():
        before = _read(home)
        old = {f"{section}.{name}" for (section, name), new in SETTINGS_ALIASES.items() if f"{section}.{new}" in keys}
        after = with_changes(before, dict.fromkeys([*keys, *old], UNSET))
        return _put_in_place(home, store.state, before, after, set(keys))


def replace_text(home: Home, before: str, after: str) -> Changed:
    """Put an edited text in place of `before`. Raises as `set_keys`; UserError too if the file has changed since."""
    with closing(EventStore.open(home)) as store, store.exclusive():
        if read_text(home) != before:
            raise UserError(
                f"{home.config} was changed during the edit", "the next edit has to begin with the new text"
            )
        return _put_in_place(home, store.state, before, after, set())


def read_text(home: Home) -> str:
    """The text of keepstep.toml, valid or not. Raises UserError, OSError."""
    try:
        return read_config(home.config, storage=home.storage).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{home.config} is not UTF-8: {error}", "write it again with an editor, in UTF-8") from error


def check(home: Home) -> str:
    """Check keepstep.toml and the questions; say that they can be used. Raises UserError with everything that is
    wrong."""
    from cli.config.questions import check_questions
    from cli.home.snapshot_reader import load_state

    config = _config_of(_read(home), home.config)
    state = load_state(home)[0].state
    errors = [UserError(each.reason, each.advice) for each in find_problems(home, config)]
    errors += find_conflicts(home, state, config.job, reads=True)
    if errors:
        raise combined(errors, home.config)
    questions = check_questions(home)
    locked = ", and fits the trained weights" if fixed_settings(state) is not None else ""
    return "\n".join((*config.old_names, f"{home.config} can be used{locked}", *questions))


def combined(errors: Sequence[UserError], path: Path) -> UserError:
    """All errors of a file as one."""
    if len(errors) == 1:
        return errors[0]
    lines = [f"  {error.reason}\n    → {error.advice}" for error in errors]
    return UserError("\n".join((f"{path} has {len(errors)} problems:", *lines)))


def shown(value: Any) -> str:
    """A value as TOML writes it; "not set" for None."""
    return "not set" if value is None else toml(value)


def _read(home: Home) -> str:
    """The text of the file. Raises UserError if it is not TOML."""
    text = read_text(home)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"{home.config} is not valid TOML: {error}", "fix it at that place: `keepstep config edit`"
        ) from error
    return text


def _config_of(text: str, path: Path) -> Config:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}", "fix it at that place") from error
    config, errors = read_document(document, path)
    if config is None:
        raise combined(errors, path)
    return config


def _put_in_place(home: Home, state: State, before: str, after: str, named: set[str]) -> Changed:
    """Check the new text and write it. `named`: the keys that the user named."""
    config = _config_of(after, home.config)
    old_config, _ = read_document(tomllib.loads(before), home.config) if _is_toml(before) else (None, [])
    new = values(config)
    old = values(old_config) if old_config is not None else {**new, **dict.fromkeys(named), **_raw(before)}
    keys = {key for key in (*old, *new) if old.get(key) != new.get(key)}
    problems = find_problems(home, config)
    if errors := [UserError(each.reason, each.advice) for each in problems if {*each.keys} & (keys | named)]:
        raise combined(errors, home.config)
    refuse_if_locked(home, state, keys, old, config.job)
    if after != before:
        durable.write_atomically(
            resolve_config(home.config, storage=home.storage),
            after.encode(),
            mode=CONFIG_MODE,
            sync=True,
            storage=home.storage,
        )
    order = [*new, *(key for key in old if key not in new)]
    changed = [
        KeyChange(key, shown(old.get(key)), shown(new.get(key)), _applies(home, state, key))
        for key in sorted(keys | named, key=lambda key: order.index(key) if key in order else len(order))
    ]
    return Changed(changed, [f"still wrong: {each.reason}\n  → {each.advice}" for each in problems])


def _applies(home: Home, state: State, key: str) -> str:
    """The moment from which a changed key applies. A job keeps its settings from its first checkpoint on."""
    if key.partition(".")[0] in DAEMON_SECTIONS:
        return "at once"
    job = state.training.current
    if job is None:
        return "from the next job on"
    if job.begun:
        return f"from the job after {job.name} on; {job.name} keeps the settings that it started with"
    if state.attempts.current is not None and daemon_is_alive(home):
        return f"from the job after {job.name} on, or if {job.name} starts again before its first checkpoint"
    return f"from {job.name} on: it has no checkpoint yet"


def _known_form(key: str, text: str) -> str:
    """The present name of the key. Raises UserError if it is no `section.name`."""
    if "." in key:
        return present_key(key)
    meant = find_meant("", key)
    example = re.search(r"\[(\w+)\] (\w+)", meant)
    written = f"`keepstep config set {example[1]}.{example[2]}={text}`" if example and text else ""
    raise UserError(
        f"{key} is not a key: it lacks its section",
        " ".join(filter(None, (meant, written))) or "write section and name, for example training.learning_rate",
    )


def _value(key: str, text: str, kind: str, home: Home) -> Any:
    """The value of a text: read as TOML if the key allows that; else the text itself; UNSET for "" where it says so."""
    hint = hint_of(key, kind)
    candidates: list[Any] = [text]
    try:
        candidates.insert(0, tomllib.loads(f"x = {text}")["x"])
    except tomllib.TOMLDecodeError:
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
            candidates.insert(0, float(text))  # `.5`, which TOML does not know
        with suppress(tomllib.TOMLDecodeError):
            candidates.append(tomllib.loads(f"x = [{text}]")["x"])  # `0.9, 0.95`, a list without its brackets
    if candidates[0] == "" and type(None) in get_args(hint):
        return UNSET
    if key == "method.target_modules" and re.fullmatch(r"[\w.]+(,[\w.]+)*", text):
        return text.split(",")  # names; a regular expression for the whole name of a layer has other characters too
    if key == "data.validation" or (key == "samples.prompts" and isinstance(candidates[0], str)):
        return _from_here(home, str(candidates[0]))
    for value in candidates:
        try:
            msgspec.convert(value, hint, str_keys=True)
        except (msgspec.ValidationError, TypeError):
            continue
        return value
    return candidates[0] if isinstance(candidates[0], str | bool | int | float | list | dict) else text


def _from_here(home: Home, path: str) -> str:
    """A path as the home understands it: one that only exists from the current directory becomes absolute."""
    place = Path(path).expanduser()
    return path if (home.root / place).exists() or not place.exists() else str(place.absolute())


def _named_model(home: Home, texts: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """A note, and path and revision of the model that `model.path` names: a hub id gets the commit that it means now.

    A revision that is named too stays as it is. {}: no path is named. Asks the hub, so it comes before the lock.
    """
    from cli.config.pinning import resolve_model

    if "model.path" not in texts:
        return "", {}
    text = texts["model.path"].strip().strip("\"'")
    place = Path(text).expanduser()
    if not text or place.is_absolute() or (home.root / place).exists() or "model.revision" in texts:
        return "", {"model.path": text, **({} if "model.revision" in texts else {"model.revision": UNSET})}
    found = resolve_model(text)
    note = found.note
    if not found.revision and not Path(found.path).is_absolute():
        note = f"there is no directory {text} in the home or here, so it is taken for a hub id\n{note}"
    return note, {"model.path": found.path, "model.revision": found.revision or UNSET}


def _kind_of(document: Mapping[str, Any]) -> str:
    method = document.get("method", {})
    kind = method.get("kind", "lora") if isinstance(method, dict) else "lora"
    return kind if isinstance(kind, str) else "lora"


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _raw(text: str) -> dict[str, Any]:
    """The keys of a file that cannot be used, as far as it has any."""
    document = tomllib.loads(text) if _is_toml(text) else {}
    tables = {name: section for name, section in document.items() if isinstance(section, dict)}
    return {
        f"{name}.{key}": tuple(value) if isinstance(value, list) else value
        for name, section in tables.items()
        for key, value in section.items()
    }
