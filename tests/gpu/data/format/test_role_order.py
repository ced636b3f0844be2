"""Unusual orders of roles and tool calls are reported."""

from __future__ import annotations

from typing import Any

import pytest

from gpu.data.format.role_order import check_order, is_blank
from gpu.data.problems import PROBLEMS, Findings

S, U, A, T = ({"role": role, "content": "…"} for role in ("system", "user", "assistant", "tool"))


def call(*ids: str | None, name: str = "f") -> dict[str, Any]:
    calls = [{"id": one, "function": {"name": name}} if one else {"function": {"name": name}} for one in ids]
    return {**A, "tool_calls": calls}


def answer(identifier: str) -> dict[str, Any]:
    return {**T, "tool_call_id": identifier}


def test_only_who_speaks_has_to_say_something() -> None:
    assert [is_blank(role, " \n") for role in ("user", "assistant", "system", "tool", None)] == [True, True] + [
        False
    ] * 3
    assert not is_blank("user", "\u200b")
    assert not is_blank("assistant", "", calls=True)
    assert is_blank("assistant", "")


@pytest.mark.parametrize(
    ("messages", "problems"),
    [
        ([U, A], []),
        ([S, U, A, U, A], []),
        ([S, S, U, A], []),
        ([U, A, U], []),
        ([U, call("1"), answer("1"), A], []),
        ([U, call("1", "2"), answer("2"), answer("1"), A, U, call("1"), answer("1"), call("1"), answer("1"), A], []),
        ([U, call(None), T, A], []),
        ([U, call(None, None), T, T, A], []),
        ([U, call(None), answer("1"), A], []),
        ([U, call("1"), T, A], []),
        ([U, call("1")], []),
        ([U, S, A], ["system_not_first"]),
        ([A], ["assistant_first"]),
        ([S, A, U, A], ["assistant_first"]),
        ([U, U, A], ["same_role_twice"]),
        ([U, A, A], ["same_role_twice"]),
        ([U, call("1"), A], ["unanswered_tool_call", "same_role_twice"]),
        ([U, T, A], ["tool_without_call"]),
        ([T, A], ["tool_without_call"]),
        ([U, A, answer("1"), A], ["tool_without_call"]),
        ([U, call("1"), answer("1"), U, T, A], ["tool_without_call"]),
        ([U, call("1", "1"), answer("1"), answer("1")], ["duplicate_tool_call_id"]),
        ([U, call("1"), answer("2"), A], ["unknown_tool_call_id", "unanswered_tool_call"]),
        ([U, call("1"), answer("1"), answer("1"), A], ["unknown_tool_call_id"]),
        ([U, call("1", "2"), answer("1"), A], ["unanswered_tool_call"]),
        ([U, call("1", name="g"), answer("1"), A], ["undeclared_tool"]),
    ],
)
def test_an_unusual_order_is_reported(messages: list[dict[str, Any]], problems: list[str]) -> None:
    found = Findings(1)
    check_order(messages, [{"function": {"name": "f"}}], found)
    assert [problem.name for problem in found.problems] == problems
    assert not found.broken
    assert all(PROBLEMS[problem.name].level in ("refuse", "warn") for problem in found.problems)


def test_any_tool_may_be_called_where_none_are_declared() -> None:
    found = Findings(1)
    check_order([U, call("1", name="g")], None, found)
    assert not found.problems
