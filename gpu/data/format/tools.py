"""Declared tools and calls of them, in the several ways they are written, to the one that chat templates take.

A tool is `{"type": "function", "function": {"name": …}}`, a call `{"id": …, "type": "function", "function": {"name":
…, "arguments": {…}}}`. Both may stand there without the outer object, or as JSON in a string, which is how files whose
columns have one type each carry them.
"""

from __future__ import annotations

import json
from typing import Any

from gpu.data.format.problems import Findings, kind_of
from gpu.data.read import strict_json


class Arguments(dict[str, Any]):
    """The arguments of a call, an object; with the JSON text that a row has for them, if it has one."""

    text: str | None = None


def json_of(arguments: Any) -> Any:
    """The arguments as JSON in a string: the row's own text, where it has one."""
    text = getattr(arguments, "text", None)
    return json.dumps(arguments, ensure_ascii=False) if text is None else text


_ARGUMENTS = ("arguments", "parameters", "input", "args", "kwargs")
"""Where a call has its arguments: OpenAI; Llama 3.1; Anthropic; others."""

_OF_A_CALL = ("name", "id", "type", "index", "call_id")
"""What else a call may have that is no argument."""

_TOOLS_ADVICE = 'Expected: "tools": [{"type": "function", "function": {"name": "…", "parameters": {…}}}].'
_CALL_ADVICE = 'Expected: {"id": "…", "type": "function", "function": {"name": "…", "arguments": {…}}}.'


def declared_tools(value: Any, found: Findings) -> list[dict[str, Any]] | None:
    """The tools of a row; None where there are none, or they are wrong, which `found` has then."""
    if value in (None, "", []):
        return None
    tools = _parsed(value, "the declared tools", "bad_tools", found) if isinstance(value, str) else value
    if tools is None:
        return None
    if not isinstance(tools, list):
        found.add("bad_tools", f"the declared tools must be a list, they are {kind_of(tools)}", tools, _TOOLS_ADVICE)
        return None
    made = [_tool(tool, number, found) for number, tool in enumerate(tools, start=1)]
    names: set[str] = set()
    for tool in made:
        name = tool["function"]["name"] if tool else None
        if name in names:
            found.add("bad_tools", "two declared tools have the same name", name, "Rename one, or remove it.")
        names |= {name} if name else set()
    return [tool for tool in made if tool] or None


def tool_calls(value: Any, where: str, found: Findings) -> list[dict[str, Any]]:
    """The calls in the field `tool_calls` of a message."""
    calls = _parsed(value, f"'tool_calls' of {where}", "bad_tool_call", found) if isinstance(value, str) else value
    if calls is None:
        return []
    if not isinstance(calls, list):
        what = f"'tool_calls' of {where} must be a list, it is {kind_of(calls)}"
        found.add("bad_tool_call", what, calls, _CALL_ADVICE)
        return []
    return [made for call in calls if (made := _call(call, where, found))]


def function_call(value: Any, where: str, found: Findings) -> list[dict[str, Any]]:
    """The call in the older field `function_call`, or the calls in a turn of that name."""
    call = _parsed(value, f"the function call of {where}", "bad_tool_call", found) if isinstance(value, str) else value
    if call is None:
        return []
    return [made for one in (call if isinstance(call, list) else [call]) if (made := _call(one, where, found))]


def _tool(tool: Any, number: int, found: Findings) -> dict[str, Any] | None:
    function = tool.get("function", tool) if isinstance(tool, dict) else tool
    kind = tool.get("type", "function") if isinstance(tool, dict) and function is not tool else "function"
    if isinstance(function, dict) and kind == "function":
        function = {key: part for key, part in function.items() if not (function is tool and key == "type")}
        name, parameters = function.get("name"), function.get("parameters")
        if isinstance(name, str) and name and (parameters is None or isinstance(parameters, dict)):
            return {"type": "function", "function": function}
    found.add("bad_tools", f"declared tool {number} is not a function with a name", tool, _TOOLS_ADVICE)
    return None


def _call(call: Any, where: str, found: Findings) -> dict[str, Any] | None:
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict):
        found.add("bad_tool_call", f"a tool call of {where} is not an object", call, _CALL_ADVICE)
        return None
    name = function.get("name")
    given = {key: function[key] for key in _ARGUMENTS if function.get(key) is not None}
    arguments = next(iter(given.values()), None)
    if len(given) > 1:
        what = f"a tool call of {where} has its arguments twice, as {' and '.join(map(repr, given))}"
        found.add("bad_tool_call", what, call, "Keep one of them.")
        return None
    unknown = [key for key in function if key not in (*_ARGUMENTS, *_OF_A_CALL) and function[key] is not None]
    if unknown:
        what = f"a tool call of {where} has keys that keepstep does not know"
        found.add("message_unrecognized_key", what, ", ".join(unknown), "They are left out.")
    if not isinstance(name, str) or not name:
        found.add("bad_tool_call", f"a tool call of {where} names no function", call, _CALL_ADVICE)
        return None
    what = f"the arguments of the call of {name!r} in {where}"
    text = None
    for _ in range(2):  # some files have them encoded twice
        if isinstance(arguments, str) and arguments.strip():
            text = arguments
            arguments = _parsed(text, what, "bad_tool_call", found)
            if arguments is None:
                return None
    if arguments is None or arguments == "" or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}  # a function without parameters is called with nothing
    if not isinstance(arguments, dict):
        found.add("bad_tool_call", f"{what} must be an object, they are {kind_of(arguments)}", call, _CALL_ADVICE)
        return None
    identifier = call.get("id")
    if identifier is not None and not isinstance(identifier, str):
        found.add("bad_tool_call", f"the id of a tool call of {where} must be a string", call, _CALL_ADVICE)
        return None
    made: dict[str, Any] = {} if identifier is None else {"id": identifier}
    kept = Arguments(arguments)
    kept.text = text
    return {**made, "type": "function", "function": {"name": name, "arguments": kept}}


def _parsed(text: str, what: str, problem: str, found: Findings) -> Any:
    """What a JSON text within the JSON says; None where it is none, which `found` has then."""
    try:
        value = strict_json.loads(text)
    except strict_json.NotStrict as error:
        fault = error.faults[0]
        line, column = strict_json.place(text, fault.position)
        at = f"column {column}" if line == 1 else f"line {line}, column {column}"
        found.add(problem, f"{what} must be JSON, and at {at} of it: {fault.what}", text, "Correct it there.")
        return None
    if value is None:
        found.add(problem, f"{what} are null in a string", text, "Leave the field out, or fill it.")
    return value
