"""Reading and changing single keys of keepstep.toml: comments stay, nothing is written that could not be used."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from cli.config.renamed import present_key, with_present_names
from cli.config.schema import METHODS, OTHERS, Config, load_config, parse_config, read_config, real_config
from cli.config.watch import conflict_of
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import CONFIG_MODE, Home
from core.compatibility import Difference, differences, fixed_settings, has_unpublished_training
from core.state import State
from core.topics.config import sections_of
from events.settings import JobSettings
from events.text import visible
from journal import durable

LOCKABLE = ("model", "method", "data.max_length")
"""Sections and keys that decide what weights mean. (Tokenizer and chat template come with the model's directory; a plan
that was made by others is refused when a file is prepared.)"""


class Edited(NamedTuple):
    """What became of a `config set`."""

    before: str
    now: str
    applies: str


def sections(config: Config) -> dict[str, Struct]:
    """Every section, by name."""
    return {**sections_of(config.job), **{name: getattr(config, name) for name in OTHERS}}


def values(config: Config) -> dict[str, Any]:
    """Every key with its value, defaults included; None: not set."""
    found: dict[str, Any] = {}
    for name, section in sections(config).items():
        plain: Mapping[str, Any] = msgspec.to_builtins(section)
        found.update({f"{name}.{key}": value for key, value in plain.items()})
    return found


def is_lockable(key: str) -> bool:
    """Whether the key decides what weights mean."""
    return key != "model.trust_remote_code" and (key in LOCKABLE or key.partition(".")[0] in LOCKABLE)


def value_of(config: Config, key: str) -> Any:
    """The value of a key. Raises UserError if there is none of that name."""
    found, key = values(config), present_key(key)
    if key not in found:
        near = [name for name in found if name.endswith(f".{key}") or name.partition(".")[0] == key.partition(".")[0]]
        raise UserError(f"there is no key {key}", f"known ones: {', '.join(near or found)}")
    return found[key]


def set_key(home: Home, key: str, text: str) -> Edited:
    """Give a key of keepstep.toml another value, written as in TOML (a text may go without its quotes).

    Refused, and nothing written, if the value is not allowed or would change what unconsolidated weights mean. Nothing
    is begun meanwhile: the journal's lock is held. Raises UserError, journal.errors.JournalError, OSError.
    """
    import tomlkit  # here, not above: reading needs none of it

    if visible(text) != text:
        raise UserError(f"{key} was not changed: keepstep.toml is UTF-8 and cannot hold {text}", "write it in UTF-8")
    key = present_key(key)
    section, _, name = key.partition(".")
    with closing(EventStore.open(home)) as store, store.exclusive():
        # Read only now: another `config set` may have written while this one waited for the lock.
        config = load_config(home.config, storage=home.storage)
        current = value_of(config, key) if _is_known(config, key) else None
        document = tomlkit.parse(read_config(home.config, storage=home.storage).decode())
        unwrapped, _ = with_present_names(document.unwrap(), home.config)
        wanted = _parsed(home.config, unwrapped, section, name, text)
        changed = parse_config(wanted, home.config)  # also what it means together with the other keys
        _refuse_if_locked(store.state, key, current, changed.job)
        if section not in document:
            document.add(section, tomlkit.table())
        for other in [each for each in document[section] if each not in wanted[section]]:
            document[section].remove(other)
        for each in [each for each in wanted[section] if each == name or each not in document[section]]:
            _put(document[section], each, wanted[section][each])
        durable.write_atomically(
            real_config(home.config, storage=home.storage),
            tomlkit.dumps(document).encode(),
            mode=CONFIG_MODE,
            sync=True,
            storage=home.storage,
        )
        applies = "at once" if section in OTHERS else _from_when(store.state)
    return Edited(shown(current), shown(value_of(changed, key)), applies)


def check(home: Home) -> str:
    """That keepstep.toml can be used, in words. Raises UserError with what is wrong."""
    from cli.home.snapshot_reader import read_only

    config = load_config(home.config, storage=home.storage)
    state = read_only(home)[0].state
    conflict = conflict_of(state, config.job)
    if conflict is not None:
        raise UserError(f"keepstep.toml does not fit what has been learned: {conflict}", _what_to_do(state, config.job))
    locked = ", and fits what has been learned" if fixed_settings(state) is not None else ""
    return "\n".join((*config.old_names, f"{home.config} can be used{locked}"))


def locked_keys(state: State, config: Config) -> set[str]:
    """The keys that `set_key` would refuse now, whatever else they were set to."""
    trained = fixed_settings(state)
    if trained is None:
        return set()
    kept = {"model.path", "model.revision", "model.dtype", "method.kind"}  # behind a version too
    free = set() if trained.model.revision else {"model.revision"}  # what has none can be pinned at any time
    return {
        key for key in values(config) if is_lockable(key) and (has_unpublished_training(state) or key in kept)
    } - free


def shown(value: Any) -> str:
    """As TOML writes it."""
    if value is None:
        return "not set"
    import tomlkit

    return str(tomlkit.item(value).as_string())


def _is_known(config: Config, key: str) -> bool:
    return key in values(config)


def _put(table: Any, name: str, value: Any) -> None:
    """Replace a value, and keep the comment behind it."""
    import tomlkit

    item = tomlkit.item(value)
    if name in table:
        trivia = table.item(name).trivia if hasattr(table, "item") else table[name].trivia
        item.trivia.comment_ws, item.trivia.comment = trivia.comment_ws, trivia.comment
        table[name] = item
    else:
        table.add(name, item)


def _parsed(path: Path, document: dict[str, Any], section: str, name: str, text: str) -> dict[str, Any]:
    """The document with the value in it: as TOML reads the text; as the text itself, where only that is allowed."""
    if not name:
        raise UserError(f"{section} is no key", "write section and name, for example training.learning_rate")
    try:
        value: Any = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    others = document.get(section, {})
    if (section, name) == ("method", "kind") and text.strip("\"'") in METHODS:  # keys of the other kind go with it
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
            return wanted  # whoever parses it once more says what is wrong
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
        f"{key} is locked: it is {shown(current)} in keepstep.toml, and what was learned since "
        f"{state.head.base or 'the origin'}{step} has {_trained(difference)}. Weights that were learned under one mean "
        "nothing under another, so it was not changed",
        _what_to_do(state, wanted),
    )


def _trained(difference: Difference) -> str:
    value = difference.trained
    return shown(list(value) if isinstance(value, tuple) else value)


def _what_to_do(state: State, wanted: JobSettings) -> str:
    """A way to the wanted settings; what a version does not unlock needs another home."""
    if differences(fixed_settings(state), wanted, unpublished=False):
        return (
            "begin another home for it (`keepstep init`): every version of this one is made from that model and method"
        )
    waits = "" if state.head.checkpoint is not None else ", once something of the file in hand is committed"
    return (
        f"`keepstep consolidate` makes a version of it{waits}, or `keepstep versions rollback` leaves it behind; "
        "then try again"
    )


def _from_when(state: State) -> str:
    job = state.training.current
    return f"from the file behind {job.name} on" if job is not None else "from the next file on"
