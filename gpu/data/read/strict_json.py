"""One JSON text to what it says, with Python's json underneath, which is kinder than it should be.

Refused beside all that json refuses: the same key twice in an object (json keeps the last, silently), NaN and
Infinity and numbers that overflow to it, halves of surrogate pairs (they cannot be written as UTF-8, so no tokenizer
takes them), and nesting beyond DEEPEST. The good case costs one pass in C; only a text under suspicion is gone through
token by token, to say where.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

DEEPEST = 100
"""Lists and objects within each other. The schema of a tool nests some ten deep; templates and `json.dumps` recurse
over what is let in, and Python's own limit of 1000 frames is one for all of them together."""

WHITESPACE = " \t\n\r"
"""Of JSON; Python's own idea of it is wider."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_MAYBE_HALF = re.compile(
    r"\\\\u[dD]"  # an escaped backslash, or an escape behind one
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
_BEGUN = re.compile(r"|-|[.eE]|[eE][+-]|tr?u?|fa?l?s?|nu?l?|\\|\\?u[0-9a-fA-F]{0,4}")
"""What may be left of a number, a word or an escape that goes on."""


class Fault(NamedTuple):
    """One thing that is wrong with a JSON text."""

    name: str
    """In `gpu.data.format.problems.PROBLEMS`."""
    what: str
    position: int
    """In characters, from 0."""
    cut: bool = False
    """Whether the text might be the beginning of one that is right."""


class NotStrict(ValueError):
    """The text is refused. Data: `faults`, at least one, in the order of the text."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        super().__init__("; ".join(fault.what for fault in faults))


class _Suspect(Exception):
    """Something is wrong; `_faults` will find where."""


def loads(text: str) -> Any:
    """What `text` says. Raises NotStrict."""
    start = 0 if text[:1] in ("{", "[") else len(text) - len(text.lstrip(WHITESPACE))
    try:
        value, end = _scan(text, start)
    except (StopIteration, ValueError, RecursionError, _Suspect) as error:
        raise NotStrict(_faults(text)) from error
    if (
        (end != len(text) and text[end:].strip(WHITESPACE))
        or (("\\ud" in text or "\\uD" in text) and _MAYBE_HALF.search(text))
        or (text.count("[") + text.count("{") > DEEPEST and _is_deep(value))
    ):
        faults = _faults(text)
        if faults:
            raise NotStrict(faults)
    return value


def place(text: str, position: int) -> tuple[int, int]:
    """Line and column of a position, both from 1, in characters."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Suspect
    return made


def _no_constant(_name: str) -> None:
    raise _Suspect


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Suspect
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]  # typeshed does not know it
"""What `raw_decode` calls."""


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, (dict, list))
        ]
        if not level:
            return False
    return True


def _faults(text: str) -> tuple[Fault, ...]:
    """A fault of the grammar alone, since nothing behind it is known; or all others."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return (Fault("broken_json", f"broken JSON ({error.msg})", error.pos, _is_cut(text, error)),)
    except (ValueError, RecursionError) as error:
        return tuple(_beyond_grammar(text)) or (Fault("broken_json", f"broken JSON ({error})", 0),)
    return tuple(_beyond_grammar(text))


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    if error.msg.startswith("Unterminated string"):
        return True
    return _BEGUN.fullmatch(text[error.pos :].rstrip(WHITESPACE)) is not None


def _beyond_grammar(text: str) -> Iterator[Fault]:
    """What json lets pass. The text is JSON as far as brackets and strings go."""
    keys: list[set[str] | None] = []
    before = ""
    for match in _TOKEN.finditer(text):
        part, at = match[0], match.start()
        if part in ("{", "["):
            keys.append(set() if part == "{" else None)
            if len(keys) == DEEPEST + 1:
                yield Fault("too_deep", f"lists and objects within each other, more than {DEEPEST} deep", at)
                return
        elif part in ("}", "]"):
            if keys:
                keys.pop()
        elif part[0] == '"':
            yield from _in_string(part, at, keys[-1] if keys and before in ("{", ",") else None)
        elif part not in (":", ",", "true", "false", "null"):
            yield from _in_number(part, at)
        before = part


def _in_string(token: str, at: int, keys: set[str] | None) -> Iterator[Fault]:
    """`keys`: those before it, where the string is one itself."""
    for escape in _ESCAPE.finditer(token):
        if escape["half"]:
            what = f"{escape[0]} is half a character"
            yield Fault("half_character", what, at + escape.start())
    if keys is None:
        return
    key = json.loads(token)
    if key in keys:
        yield Fault("duplicate_key", f"the key {json.dumps(key, ensure_ascii=False)} stands here a second time", at)
    keys.add(key)


def _in_number(token: str, at: int) -> Iterator[Fault]:
    if token in ("NaN", "Infinity", "-Infinity"):
        yield Fault("not_finite", f"{token} is no number that JSON has", at)
        return
    try:
        value = json.loads(token)
    except ValueError:
        yield Fault("broken_json", f"a number of {len(token)} digits", at)
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield Fault("not_finite", f"{token[:20]} is beyond all numbers of 64 bits", at)
