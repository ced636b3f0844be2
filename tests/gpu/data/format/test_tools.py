"""Declared tools and tool calls are parsed, in every way they are written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpu.data.format.tools import parse_function_call, parse_tool_calls, parse_tools
from gpu.data.problems import Findings

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


def names(found: Findings) -> list[str]:
    return [problem.name for problem in found.problems]


@pytest.mark.parametrize(
    "written",
    [
        [TOOL],
        [FUNCTION],
        [{"type": "function", **FUNCTION}],
        [{"function": FUNCTION}],
        json.dumps([TOOL]),
        json.dumps([FUNCTION]),
    ],
)
def test_tools_are_the_same_however_they_are_written(written: Any) -> None:
    found = Findings(1)
    assert parse_tools(written, found) == [TOOL]
    assert not found.problems


@pytest.mark.parametrize("nothing", [None, [], ""])
def test_no_tools_are_no_tools(nothing: Any) -> None:
    found = Findings(1)
    assert parse_tools(nothing, found) is None
    assert not found.problems


@pytest.mark.parametrize(
    "wrong",
    [
    7, {}, {"name": "f"}, ["f"], [{}], [{"name": ""}], [{"name": 7}], [{"type": "web_search"}],
    [{"type": "code", "function": FUNCTION}],
        [{"name": "f", "parameters": "none"}], [TOOL, FUNCTION], "[", "null", '[{"name": "f", "name": "g"}]', '"f"',
    ],
)  # fmt: skip
def test_bad_tools_are_reported(wrong: Any) -> None:
    found = Findings(1)
    parse_tools(wrong, found)
    assert names(found) == ["bad_tools"]


@pytest.mark.parametrize(
    "written",
    [
        [CALL],
        [CALL["function"]],
        [{"function": {"name": "f", "arguments": '{"a": 1}'}}],
        [{"name": "f", "arguments": '{"a": 1}'}],
        json.dumps([CALL]),
    ],
)
def test_calls_are_the_same_however_they_are_written(written: Any) -> None:
    found = Findings(1)
    assert parse_tool_calls(written, "message 1", found) == [CALL]
    assert not found.problems


@pytest.mark.parametrize("arguments", [None, "", " ", {}, "{}"])
def test_a_call_may_have_no_arguments(arguments: Any) -> None:
    found = Findings(1)
    (call,) = parse_tool_calls([{"id": "1", "function": {"name": "f", "arguments": arguments}}], "message 1", found)
    assert call == {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    assert not found.problems


@pytest.mark.parametrize(
    "written", [CALL["function"], [CALL["function"]], json.dumps(CALL["function"]), json.dumps([CALL])]
)
def test_the_older_field_holds_one_call_or_several(written: Any) -> None:
    found = Findings(1)
    assert parse_function_call(written, "message 1", found) == [CALL]
    assert not found.problems


@pytest.mark.parametrize(
    "wrong",
    [
    7, {"a": 1}, ["f"], [{}], [{"function": "f"}], [{"function": {"arguments": {}}}],
    [{"name": "f", "arguments": [1]}], "[", "null",
    [{"name": "f", "arguments": '{"a": 1'}], [{"name": "f", "arguments": '{"a": 1, "a": 2}'}],
    [{"name": "f", "arguments": "[1]"}],
    [{"name": "f", "arguments": "x"}], [{"name": "f", "arguments": 7}], [{"name": "f", "arguments": "null"}],
    [{"id": 7, "name": "f"}],
    ],
)  # fmt: skip
def test_calls_that_do_not_parse_are_reported(wrong: Any) -> None:
    found = Findings(1)
    assert parse_tool_calls(wrong, "message 1", found) == []
    assert names(found) == ["bad_tool_call"]


def test_a_mistake_in_arguments_is_reported_with_its_column() -> None:
    found = Findings(1)
    parse_tool_calls([{"name": "f", "arguments": '{"a": oops}'}], "message 3", found)

    assert "the arguments of the call of 'f' in message 3 must be JSON; at column 7" in found.problems[0].what


@pytest.mark.parametrize("name", ["arguments", "parameters", "input", "args"])
def test_arguments_are_read_under_each_of_their_names(name: str) -> None:
    found = Findings(1)
    (call,) = parse_tool_calls([{"function": {"name": "f", name: {"a": 1}}}], "message 2", found)
    assert (call["function"]["arguments"], found.problems) == ({"a": 1}, [])


def test_arguments_that_are_encoded_twice_are_decoded_twice() -> None:
    found = Findings(1)
    (call,) = parse_tool_calls([{"function": {"name": "f", "arguments": '"{\\"a\\": 1}"'}}], "message 2", found)
    assert (call["function"]["arguments"], found.problems) == ({"a": 1}, [])


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ({"name": "f", "arguments": '"Rome"'}, "bad_tool_call"),
        ({"name": "f", "arguments": {}, "parameters": {"a": 1}}, "bad_tool_call"),
        ({"name": "f", "settings": {"a": 1}}, "message_unrecognized_key"),
    ],
)
def test_arguments_are_never_lost_without_a_word(function: dict[str, Any], problem: str) -> None:
    found = Findings(1)
    parse_tool_calls([{"function": function}], "message 2", found)
    assert [each.name for each in found.problems] == [problem]
