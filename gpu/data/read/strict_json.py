"""Parse one JSON text strictly, with Python's json module underneath.

Refused in addition to everything that json refuses: the same key twice in an object (json silently keeps the last),
NaN, Infinity and numbers that overflow to it, halves of surrogate pairs (no tokenizer takes them, because UTF-8 has
none), and nesting beyond DEPTH_MAX. A good text costs one pass in C; only a suspicious one is scanned token by token,
to find where the fault is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

DEPTH_MAX = 100
"""Nested lists and objects. The schema of a tool nests some ten deep. Templates and `json.dumps` recurse over the
value, and Python's limit of 1000 frames counts all of them together."""

WHITESPACE = " \t\n\r"
"""White space of JSON; `str.strip` would remove more."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_SUSPECT_ESCAPE = re.compile(
    r"\\\\u[dD]"  # an escaped backslash, or an escape after one
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
_INCOMPLETE = re.compile(r"|-|[.eE]|[eE][+-]|tr?u?|fa?l?s?|nu?l?|\\|\\?u[0-9a-fA-F]{0,4}")
"""Matches what may be left of a number, a word or an escape that was cut."""


class JsonFault(NamedTuple):
    """One fault of a JSON text."""

    name: str
    """Name of the problem, in `gpu.data.problems.PROBLEMS`."""
    what: str
    position: int
    """Position in characters, from 0."""
    is_cut: bool = False
    """True if the text may be the beginning of a correct one."""


class InvalidJson(ValueError):
    """The text is not strict JSON. Data: `faults`, at least one, in the order of the text."""

    def __init__(self, faults: tuple[JsonFault, ...]) -> None:
        self.faults = faults
        super().__init__("; ".join(fault.what for fault in faults))


class _Suspicious(Exception):
    """Something is wrong; `_find_faults` finds where."""


def loads(text: str) -> Any:
    """Return the value of `text`. Raises InvalidJson."""
    start = 0 if text[:1] in ("{", "[") else len(text) - len(text.lstrip(WHITESPACE))
    try:
        value, end = _scan_once(text, start)
    except (StopIteration, ValueError, RecursionError, _Suspicious) as error:
        raise InvalidJson(_find_faults(text)) from error
    if (
        (end != len(text) and text[end:].strip(WHITESPACE))
        or (("\\ud" in text or "\\uD" in text) and _SUSPECT_ESCAPE.search(text))
        or (text.count("[") + text.count("{") > DEPTH_MAX and _is_deep(value))
    ):
        faults = _find_faults(text)
        if faults:
            raise InvalidJson(faults)
    return value


def line_and_column(text: str, position: int) -> tuple[int, int]:
    """Return line and column of a position, both from 1, in characters."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Suspicious
    return made


def _reject_constant(_name: str) -> None:
    raise _Suspicious


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Suspicious
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_reject_constant, parse_float=_finite_float)
_scan_once: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]  # typeshed does not know it
"""The function that `raw_decode` calls."""


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, (dict, list))
        ]
        if not level:
            return False
    return True


def _find_faults(text: str) -> tuple[JsonFault, ...]:
    """Return the one fault of the grammar, since nothing after it is certain; else all faults that json accepts."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return (JsonFault("broken_json", f"broken JSON ({error.msg})", error.pos, _is_cut(text, error)),)
    except (ValueError, RecursionError) as error:
        return tuple(_find_strict_faults(text)) or (JsonFault("broken_json", f"broken JSON ({error})", 0),)
    return tuple(_find_strict_faults(text))


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    if error.msg.startswith("Unterminated string"):
        return True
    return _INCOMPLETE.fullmatch(text[error.pos :].rstrip(WHITESPACE)) is not None


def _find_strict_faults(text: str) -> Iterator[JsonFault]:
    """Yield the faults that json accepts. `text` is JSON as far as brackets and strings go."""
    keys: list[set[str] | None] = []
    before = ""
    for match in _TOKEN.finditer(text):
        part, at = match[0], match.start()
        if part in ("{", "["):
            keys.append(set() if part == "{" else None)
            if len(keys) == DEPTH_MAX + 1:
                yield JsonFault("too_deep", f"lists and objects are nested more than {DEPTH_MAX} levels deep", at)
                return
        elif part in ("}", "]"):
            if keys:
                keys.pop()
        elif part[0] == '"':
            yield from _string_faults(part, at, keys[-1] if keys and before in ("{", ",") else None)
        elif part not in (":", ",", "true", "false", "null"):
            yield from _number_faults(part, at)
        before = part


def _string_faults(token: str, at: int, keys: set[str] | None) -> Iterator[JsonFault]:
    """Yield the faults of a string. `keys`: the keys before it in its object, if the string is a key."""
    for escape in _ESCAPE.finditer(token):
        if escape["half"]:
            what = f"{escape[0]} is half of a surrogate pair"
            yield JsonFault("half_character", what, at + escape.start())
    if keys is None:
        return
    key = json.loads(token)
    if key in keys:
        yield JsonFault("duplicate_key", f"the object has the key {json.dumps(key, ensure_ascii=False)} twice", at)
    keys.add(key)


def _number_faults(token: str, at: int) -> Iterator[JsonFault]:
    if token in ("NaN", "Infinity", "-Infinity"):
        yield JsonFault("not_finite", f"{token} is not a JSON number", at)
        return
    try:
        value = json.loads(token)
    except ValueError:
        yield JsonFault("broken_json", f"a number of {len(token)} digits", at)
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield JsonFault("not_finite", f"{token[:20]} is too large for a 64-bit float", at)
