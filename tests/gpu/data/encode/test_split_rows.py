"""A split row trains every token once."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gpu.data.encode.split_rows import Piece, split_conversation, split_into_windows
from gpu.data.format.example import Example
from gpu.data.problems import Problem

ROLES = {"system": 1000, "user": 2000, "assistant": 3000}


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(2, 20))
def test_windows_teach_each_token_once_with_the_one_before_it_in_sight(trained: list[bool], limit: int) -> None:
    ids = list(range(len(trained)))
    pieces = list(split_into_windows(ids, bytes(trained), limit))
    assert all(0 < len(part) == len(marks) <= limit for part, marks in pieces)
    taught = [token for part, marks in pieces for token, mark in list(zip(part, marks, strict=True))[1:] if mark]
    assert taught == [token for token in ids[1:] if trained[token]]


def encode(row: Example) -> list[Piece] | Problem:
    """A token for the role, one for each character, one for the end; each message has its own kind of tokens."""
    ids: list[int] = [9]
    trained = bytearray(1)
    for message, train in zip(row.messages, row.train, strict=True):
        start = ROLES[message["role"]]
        ids += [start, *(start + int(part) for part in message["content"].split()), start + 999]
        trained += bytes([0]) + bytes([train]) * (len(ids) - len(trained) - 1)
    return [(ids, bytes(trained))]


def conversation(roles: list[tuple[str, int, bool]]) -> Example:
    """Return a conversation of numbered words, so that each token occurs once."""
    words = iter(range(1, 999))
    messages = [{"role": role, "content": " ".join(str(next(words)) for _ in range(size))} for role, size, _ in roles]
    return Example(1, messages, tuple(role == "assistant" and train for role, _, train in roles))


TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.integers(0, 9), st.booleans()), max_size=12)


@given(TURNS, st.booleans(), st.integers(8, 40))
def test_conversations_teach_each_token_once(turns: list[tuple[str, int, bool]], has_system: bool, limit: int) -> None:
    row = conversation([("system", 3, False)] * has_system + turns)
    pieces = split_conversation(row, limit, encode)
    if pieces is None:
        roles = ["", *(role for role, _, _ in turns)]
        assert sum(before != "user" == role for before, role in pairwise(roles)) < 2
        return
    assert all(len(ids) <= limit for ids, _ in pieces)
    taught = [token for ids, marks in pieces for token, mark in list(zip(ids, marks, strict=True))[1:] if mark]
    ((whole, trained),) = encode(row)  # type: ignore[misc]
    assert taught == [token for token, mark in zip(whole, trained, strict=True) if mark]


def test_untrained_turns_are_context_where_there_is_room() -> None:
    turns = [("user", 2, False), ("assistant", 2, False)] * 2 + [("user", 2, False), ("assistant", 2, True)]
    row = conversation(turns)
    ((whole, trained),) = encode(row)  # type: ignore[misc]
    assert len(whole) == 25
    assert split_conversation(row, 17, encode) == [([9, *whole[9:]], bytes(1) + trained[9:])]
    assert split_conversation(row, 16, encode) == [([9, *whole[17:]], bytes(1) + trained[17:])]


def test_where_the_template_refuses_a_part_there_are_no_conversations() -> None:
    row = conversation([("user", 5, False), ("assistant", 5, True)] * 3)
    refused = Problem("template_refused", 1, "no")
    assert split_conversation(row, 20, lambda part: refused) is None
