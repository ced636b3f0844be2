"""The values that a key of keepstep.toml allows, in words, and the error for another value."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from msgspec import Meta

from cli.errors import UserError
from events.settings import Severity


def wrong(path: Path, key: str, value: object, words: str) -> UserError:
    """The error for a value that is not allowed; `words`: the values that are."""
    near = _nearest_time(value) if "a time" in words else None
    return UserError(
        f"{path}: {key} = {toml_text(value)} is not allowed",
        f"allowed: {words}" + (f". Did you mean {toml_text(near)}?" if near else ""),
    )


def _nearest_time(value: object) -> str | None:
    """The time of day that somebody may have meant, as the schedule takes it.

    >>> [_nearest_time(text) for text in ("3am", "3:00", "11.30 PM", "12 am", "3", "24:00", "noon")]
    ['03:00', '03:00', '23:30', '00:00', '03:00', None, None]
    """
    found = re.fullmatch(r"\s*(\d{1,2})(?:[:.h](\d{2}))?(?::\d{2})?\s*(am|pm)?\s*", str(value).lower())
    if found is None:
        return None
    hour, minute = int(found[1]), int(found[2] or 0)
    if found[3]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if found[3] == "pm" else 0)
    return f"{hour:02}:{minute:02}" if hour < 24 and minute < 60 else None


def allowed(hint: Any) -> str:
    """The values that a type allows, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return listed(toml_text(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(allowed(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        length = "" if Ellipsis in arguments else f" of {len(arguments)}"
        return f"a list{length}, each item {allowed(arguments[0])}"
    if hasattr(hint, "__metadata__"):
        bounds = [_bound(meta) for meta in hint.__metadata__ if isinstance(meta, Meta)]
        return " ".join([allowed(hint.__origin__), *filter(None, bounds)])
    return _WORDS.get(hint, str(hint))


_WORDS: dict[object, str] = {
    dict[str, Severity]: 'names, each with "refuse", "warn" or "off"',
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
}


def _bound(meta: Meta) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    parts = [f"{word} {getattr(meta, name)}" for name, word in words.items() if getattr(meta, name) is not None]
    if meta.min_length:
        parts.append("that is not empty")
    if meta.pattern:
        parts.append(_PATTERNS[meta.pattern])
    return " and ".join(parts)


_PATTERNS = {
    "^(([01][0-9]|2[0-3]):[0-5][0-9])?$": 'with a time of day such as "03:00" or "23:30", or "" for none',
    "[^0-9]": "with the path of a data file",
    "^([0-9a-f]{40})?$": "with a commit: its 40 hexadecimal digits (`keepstep init --model NAME@BRANCH` looks it up)",
}
"""The regular expressions of `events.settings`, in words."""


def listed(names: Iterable[str]) -> str:
    """Names, separated by commas."""
    return ", ".join(names)


def toml_text(value: object) -> str:
    """A value as a user writes it in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
