"""Split a row that is too long into pieces; every trained token is trained in exactly one of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from gpu.data.format.example import Example
from gpu.data.problems import Problem

Piece = tuple[list[int], bytes]
"""Token ids, and a 1 for each trained one."""

Encode = Callable[[Example], list[Piece] | Problem]


def split_into_windows(ids: list[int], trained: bytes, limit: int) -> Iterator[Piece]:
    """Yield pieces of at most `limit` tokens.

    Each but the first begins with the last token of the piece before, which predicts its second token and is not
    trained again.
    """
    yield ids[:limit], trained[:limit]
    for start in range(limit - 1, len(ids) - 1, limit - 1):
        yield ids[start : start + limit], b"\0" + trained[start + 1 : start + limit]


def split_conversation(row: Example, limit: int, encode: Encode) -> list[Piece] | None:
    """Split a conversation before user messages. Each piece has the system prompt, and as many turns as fit. A turn
    that is too long by itself is cut into windows.

    None if that is impossible: there is nowhere to cut, or the template refuses a part.
    """
    opening, starts = _opening(row), _turn_starts(row)
    if len(starts) < 2:
        return None
    ends = [*starts[1:], len(row.messages)]

    def part(first: int, last: int) -> Example:
        return _part(row, opening, starts[first], ends[last])

    def size(first: int, last: int) -> int:
        pieces = encode(part(first, last))
        return limit + 1 if isinstance(pieces, Problem) else max(len(ids) for ids, _ in pieces)

    made: list[Piece] = []
    done = 0
    while done < len(starts):
        first = next((at for at in range(done, len(starts)) if any(row.train[starts[at] : ends[at]])), len(starts))
        if first == len(starts):
            break
        last = _last_fitting(range(first, len(starts)), limit, partial(size, first))
        while first > done and size(first - 1, last) <= limit:
            first -= 1
        pieces = encode(part(first, last))
        if isinstance(pieces, Problem):
            return None
        made.extend(window for ids, trained in pieces for window in split_into_windows(ids, trained, limit))
        done = last + 1
    return made


def _last_fitting(places: range, limit: int, size: Callable[[int], int]) -> int:
    """Return the last index whose size fits; the first if none does."""
    return places[max(bisect_right(places, limit, key=size), 1) - 1]


def _opening(row: Example) -> int:
    """Return the number of system messages at the beginning."""
    return next((index for index, message in enumerate(row.messages) if message["role"] != "system"), 0)


def _turn_starts(row: Example) -> list[int]:
    """Return where the turns of the user begin; the first turn includes everything before it."""
    roles = [message["role"] for message in row.messages]
    found = [index for index, role in enumerate(roles) if role == "user" and (index == 0 or roles[index - 1] != "user")]
    return [_opening(row), *found[1:]]


def _part(row: Example, opening: int, start: int, end: int) -> Example:
    """Return the system prompt and the messages from `start` to `end`."""
    chosen = [*range(opening), *range(start, end)]
    return replace(
        row, messages=[row.messages[index] for index in chosen], train=tuple(row.train[index] for index in chosen)
    )
