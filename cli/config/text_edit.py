"""Change keys in the text of keepstep.toml. Every byte of other keys, comments and blank lines stays as it is.

The text is split into statements: the shortest runs of lines that are TOML by themselves. Only the statement of a
changed key is written again.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

UNSET = None
"""The value of a key that is taken out. TOML has no null."""

_PARKED = re.compile(r"^[ \t]*#[ \t]*\((lora|qlora|full)\) ?")


class Statement(NamedTuple):
    """A key with its value, a header, a comment or a blank line, with its line ends."""

    text: str
    section: tuple[str, ...]
    """The header that it follows; of a header, its own."""
    values: Mapping[str, Any]
    """{} for a header, a comment and a blank line."""
    is_header: bool = False


def split(text: str) -> list[Statement]:
    """The statements of a TOML text. Raises tomllib.TOMLDecodeError."""
    found: list[Statement] = []
    section: tuple[str, ...] = ()
    unfinished = ""
    for line in _lines(text):
        unfinished += line
        try:
            values = tomllib.loads(unfinished)
        except tomllib.TOMLDecodeError:
            continue  # an array or a text that has more lines
        if is_header := unfinished.lstrip().startswith("["):
            section = tuple(_path(values))
            values = {}
        found.append(Statement(unfinished, section, values, is_header))
        unfinished = ""
    if unfinished:
        tomllib.loads(text)  # names the line and the column
        raise tomllib.TOMLDecodeError(f"the last lines are no TOML: {unfinished[:80]!r}")
    return found


def with_changes(text: str, changes: Mapping[str, Any]) -> str:
    """The text with these values, by `section.key`; UNSET takes a key out. Raises tomllib.TOMLDecodeError.

    A key that is taken out stays as a comment if its line has a comment.
    """
    for key, value in changes.items():
        section, _, name = key.partition(".")
        text = _unset(text, (section, name)) if value is UNSET else _set(text, (section, name), value)
    return text


def renamed(text: str, section: str, old: str, new: str) -> str:
    """The text with another name for a key."""
    return "".join(
        re.sub(rf"\b{re.escape(old)}\b", new, each.text, count=1) if _holds(each, (section, old)) else each.text
        for each in split(text)
    )


def with_method(text: str, old: str, new: str, known: Container[str]) -> str:
    """The text for another [method] kind: keys that only the old kind has become comments, and come back with it.

    `known`: the keys of the new kind. The line of `kind` itself does not change.
    """
    kept: list[str] = []
    present: set[str] = set()
    for each in split(text):
        (name, *_) = (*each.values, "")
        if each.section == ("method",) and name and name not in known and name != "kind":
            kept.append(_commented(each.text, f"({old}) "))
            continue
        if each.section == ("method",):
            present.add(name)
        kept.append(each.text)
    text = "".join(kept)
    for kind in dict.fromkeys((new, old, "lora", "qlora")):
        text = _restored(text, kind, known, present)
    return text


def _restored(text: str, kind: str, known: Container[str], present: set[str]) -> str:
    """The text with the commented keys of `kind` as keys again: those that the new kind knows and the text lacks."""
    done: list[str] = []
    waiting: list[str] = []
    for each in split(text):
        marker = _PARKED.match(each.text) if each.section == ("method",) else None
        if marker is None or marker[1] != kind:
            done, waiting = [*done, *waiting, each.text], []
            continue
        waiting.append(each.text)
        plain = "".join(_PARKED.sub("", line) for line in waiting)
        try:
            names = list(tomllib.loads(plain))
        except tomllib.TOMLDecodeError:
            continue  # a value that has more lines
        if len(names) == 1 and names[0] in known and names[0] not in present:
            present.add(names[0])
            done.append(plain)
        else:
            done += waiting
        waiting = []
    return "".join([*done, *waiting])


def _set(text: str, path: tuple[str, ...], value: Any) -> str:
    found = split(text)
    for index, each in enumerate(found):
        if _holds(each, path) or (not each.section and isinstance(each.values.get(path[0]), dict) and _is_inline(each)):
            return _joined(found, index, _with_value(each, path, value))
    key = f"{path[1]} = {toml(value)}\n"
    inside = [index for index, each in enumerate(found) if each.section == path[:1]]
    if not inside:
        dotted = [index for index, each in enumerate(found) if not each.section and path[0] in each.values]
        if dotted:
            return _joined(found, dotted[-1], f"{_ended(found[dotted[-1]].text)}{path[0]}.{key}")
        return f"{_ended(text)}\n[{path[0]}]\n{key}"
    last = [
        index for index in inside if found[index].is_header or found[index].values or _is_example(found[index], path[1])
    ]
    place = next((index for index in reversed(last) if _is_example(found[index], path[1])), last[-1])
    return _joined(found, place, _ended(found[place].text) + key)


def _unset(text: str, path: tuple[str, ...]) -> str:
    found = split(text)
    for index, each in enumerate(found):
        if not _holds(each, path):
            continue
        if _is_inline(each):
            return _joined(found, index, _with_value(each, path, UNSET))
        return _joined(found, index, _commented(each.text, "") if "#" in _trivia(each) else "")
    return text


def _holds(statement: Statement, path: tuple[str, ...]) -> bool:
    section, values = statement.section, statement.values
    if section != path[: len(section)]:
        return False
    for name in path[len(section) : -1]:
        below = values.get(name)
        if not isinstance(below, dict):
            return False
        values = below
    return len(section) < len(path) and path[-1] in values


def _is_inline(statement: Statement) -> bool:
    """True for `method = {kind = "lora"}`, which holds more than one key."""
    import tomlkit
    from tomlkit.items import InlineTable

    return any(isinstance(value, InlineTable) for value in tomlkit.parse(statement.text).values())


def _is_example(statement: Statement, name: str) -> bool:
    """True for a comment that holds the key: `# prompt = "question"`."""
    return re.match(rf"[ \t]*#[ \t]*{re.escape(name)}[ \t]*=", statement.text) is not None


def _with_value(statement: Statement, path: tuple[str, ...], value: Any) -> str:
    import tomlkit

    document = tomlkit.parse(statement.text)
    table: Any = document
    for name in path[len(statement.section) : -1]:
        table = table[name]
    if value is UNSET:
        del table[path[-1]]
        return tomlkit.dumps(document)
    item = tomlkit.item(value)
    if path[-1] in table:
        old = table.item(path[-1]).trivia if hasattr(table, "item") else table[path[-1]].trivia
        item.trivia.indent, item.trivia.trail = old.indent, old.trail
        item.trivia.comment_ws, item.trivia.comment = old.comment_ws, old.comment
    table[path[-1]] = item
    return tomlkit.dumps(document)


def _trivia(statement: Statement) -> str:
    """The comments of a statement: after its value, and between the items of a list."""
    import tomlkit
    from tomlkit.items import Array

    item: Any = tomlkit.parse(statement.text)
    while isinstance(item, dict):
        (item,) = (item.item(name) if hasattr(item, "item") else item[name] for name in item)
    inner = item.as_string() if isinstance(item, Array) else ""
    return f"{item.trivia.comment}{inner}"


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    import tomlkit

    return str(tomlkit.item(value).as_string())


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _commented(text: str, marker: str) -> str:
    return "".join(f"# {marker}{line}" for line in _lines(text))


def _joined(found: list[Statement], index: int, text: str) -> str:
    return "".join([*(each.text for each in found[:index]), text, *(each.text for each in found[index + 1 :])])


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _path(values: Mapping[str, Any]) -> list[str]:
    """The names of a header."""
    names: list[str] = []
    below: Any = values
    while isinstance(below, dict) and below:
        ((name, below),) = below.items()
        names.append(name)
    return names
