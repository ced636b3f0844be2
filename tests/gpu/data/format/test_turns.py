"""Messages of OpenAI and ShareGPT are parsed."""

from __future__ import annotations

from typing import Any

import pytest

from gpu.data.format.turns import parse_messages
from gpu.data.problems import Findings

U = {"role": "user", "content": "u"}
A = {"role": "assistant", "content": "a"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


def one(message: Any) -> tuple[dict[str, Any], bool, list[str]]:
    """Parse one message; return it, its train flag, and its problems."""
    found = Findings(1)
    messages, train = parse_messages([message], "messages", found)
    return (*(messages or [{}]), *(train or [False]), [problem.name for problem in found.problems])  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("written", "role"),
    [
        *[("system", "system"), ("developer", "system"), ("user", "user"), ("assistant", "assistant")],
        *[("tool", "tool"), ("function", "tool")],
    ],
)
def test_roles_are_those_that_templates_know(written: str, role: str) -> None:
    assert one({"role": written, "content": "c"}) == ({"role": role, "content": "c"}, role == "assistant", [])
    assert one({"role": written, "content": "c", "name": "n"})[0] == {"role": role, "content": "c", "name": "n"}


@pytest.mark.parametrize(
    ("written", "role"),
    [
        *[("human", "user"), ("user", "user"), ("gpt", "assistant"), ("assistant", "assistant"), ("system", "system")],
        *[("observation", "tool"), ("tool", "tool"), ("chatgpt", "assistant"), ("function_response", "tool")],
    ],
)
def test_roles_of_sharegpt_have_their_own_names(written: str, role: str) -> None:
    assert one({"from": written, "value": "c"}) == ({"role": role, "content": "c"}, role == "assistant", [])


@pytest.mark.parametrize(
    "value", ['{"name": "f", "arguments": {}}', '[{"name": "f", "arguments": "{}"}]', {"name": "f"}]
)
def test_a_call_of_sharegpt_is_an_assistant_that_calls(value: Any) -> None:
    made = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert one({"from": "function_call", "value": value}) == (made, True, [])
    assert one({"from": "function_call", "value": value, "weight": 0}) == (made, False, [])


@pytest.mark.parametrize("extra", [{}, {"content": None}, {"content": ""}])
def test_a_message_that_calls_need_not_say_anything(extra: dict[str, Any]) -> None:
    made = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert one({"role": "assistant", "tool_calls": [CALL], **extra}) == (made, True, [])
    assert one({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}, **extra}) == (made, True, [])


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"text": "c"}]
    assert one({"role": "user", "content": parts}) == ({"role": "user", "content": "abc"}, False, [])


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ({"weight": 1}, True),
        ({"weight": 0}, False),
        ({"weight": 1.0}, True),
        ({"weight": None}, True),
        ({"train": True}, True),
        ({"train": False}, False),
        ({"training": False}, False),
        ({"weight": 0, "train": False}, False),
    ],
)
def test_an_assistant_is_trained_unless_its_flag_says_otherwise(flags: dict[str, Any], trained: bool) -> None:
    assert one({**A, **flags}) == (A, trained, [])


@pytest.mark.parametrize("flags", [{"weight": 1}, {"train": True}, {"training": True}])
def test_nobody_else_is_ever_trained_and_a_flag_that_says_so_is_reported(flags: dict[str, Any]) -> None:
    assert one({**U, **flags}) == (U, False, ["train_flag_ignored"])
    assert one({**U, **dict.fromkeys(flags, False)}) == (U, False, [])


@pytest.mark.parametrize(
    ("message", "problems"),
    [
        ("hello", ["data_type"]),
        (None, ["data_type"]),
        ({}, ["message_missing_key", "message_missing_key"]),
        ({"content": "c"}, ["message_missing_key"]),
        ({"role": "user"}, ["message_missing_key"]),
        ({"role": "wizard", "content": "c"}, ["unrecognized_role"]),
        ({"role": ["user"], "content": "c"}, ["unrecognized_role"]),
        ({"role": "User", "content": "c"}, ["unrecognized_role"]),
        ({"from": "wizard", "value": "c"}, ["unrecognized_role"]),
        ({"from": "human"}, ["message_missing_key"]),
        ({"from": "function_call", "value": None}, ["missing_content"]),
        ({"from": "function_call", "value": "f()"}, ["bad_tool_call"]),
        ({"role": "user", "content": None}, ["missing_content"]),
        ({"role": "user", "content": 7}, ["missing_content"]),
        ({"role": "user", "content": {"text": "c"}}, ["missing_content"]),
        ({"role": "user", "content": ""}, ["missing_content"]),
        ({"role": "user", "content": "", "name": "n"}, ["missing_content"]),
        ({"role": "assistant", "content": " \n"}, ["missing_content"]),
        ({"role": "user", "content": []}, ["missing_content"]),
        ({"role": "user", "content": ["c"]}, ["unsupported_content"]),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ["unsupported_content"]),
        ({"role": "user", "content": "c", "x": 1, "y": 2}, ["message_unrecognized_key"]),
        ({"role": "user", "content": "c", "tool_calls": [CALL]}, ["bad_tool_call"]),
        ({"role": "assistant", "content": "c", "tool_calls": "x"}, ["bad_tool_call"]),
        ({"role": "tool", "content": "c", "tool_call_id": 7}, ["bad_field"]),
        ({**A, "weight": 0.5}, ["bad_train_flag"]),
        ({**A, "weight": "1"}, ["bad_train_flag"]),
        ({**A, "train": 2}, ["bad_train_flag"]),
        ({**A, "train": "yes"}, ["bad_train_flag"]),
        ({**A, "train": True, "weight": 0}, ["bad_train_flag"]),
    ],
)
def test_problems_of_a_message_are_reported(message: Any, problems: list[str]) -> None:
    assert one(message)[2] == problems


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_system_or_a_tool_may_say_nothing(role: str) -> None:
    assert one({"role": role, "content": ""}) == ({"role": role, "content": ""}, False, [])


@pytest.mark.parametrize("value", [None, [], {}, "hello", 7])
def test_messages_are_a_list_with_something_in_it(value: Any) -> None:
    found = Findings(1)
    assert parse_messages(value, "messages", found) == ([], [])
    assert [problem.name for problem in found.problems] == ["missing_messages_list"]
