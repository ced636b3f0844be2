"""Parse declared tools and tool calls, in the ways they are written, into the form that chat templates take.

A tool is `{"type": "function", "function": {"name": …}}`, a call `{"id": …, "type": "function", "function": {"name": …,
"arguments": {…}}}`. Both may come without the outer object, or as JSON in a string, as in files whose columns have one
type each.
"""

from __future__ import annotations

import json
from typing import Any

from gpu.data.problems import Findings, type_name
from gpu.data.read import strict_json


class Arguments(dict[str, Any]):
    """The arguments of a call; `text` is the JSON text that the row has for them, if it has one."""

    text: str | None = None


def arguments_json(arguments: Any) -> Any:
    """Return the arguments as JSON text: the row's own text, if it has one."""
    text = getattr(arguments, "text", None)
    return json.dumps(arguments, ensure_ascii=False) if text is None else text


_ARGUMENTS = ("arguments", "parameters", "input", "args", "kwargs")
"""Keys with the arguments of a call: OpenAI; Llama 3.1; Anthropic; others."""

_OF_A_CALL = ("name", "id", "type", "index", "call_id")
"""Other keys of a call."""

_TOOLS_ADVICE = 'Expected: "tools": [{"type": "function", "function": {"name": "…", "parameters": {…}}}].'
_CALL_ADVICE = 'Expected: {"id": "…", "type": "function", "function": {"name": "…", "arguments": {…}}}.'


def parse_tools(value: Any, found: Findings) -> list[dict[str, Any]] | None:
    """Return the tools of a row; None if there are none, or if they are wrong and `found` has the problem."""
    if value in (None, "", []):
        return None
    tools = _parsed(value, "the declared tools", "bad_tools", found) if isinstance(value, str) else value
    if tools is None:
        return None
    if not isinstance(tools, list):
        found.add(
            "bad_tools", (f"the declared tools must be a list, but they are {type_name(tools)}"), tools, _TOOLS_ADVICE
        )
        return None
    made = [_tool(tool, number, found) for number, tool in enumerate(tools, start=1)]
    names: set[str] = set()
    for tool in made:
        name = tool["function"]["name"] if tool else None
        if name in names:
            found.add("bad_tools", "two declared tools have the same name", name, "Rename one, or remove it.")
        names |= {name} if name else set()
    return [tool for tool in made if tool] or None


def parse_tool_calls(value: Any, where: str, found: Findings) -> list[dict[str, Any]]:
    """Return the calls in the field `tool_calls` of a message."""
    calls = _parsed(value, f"'tool_calls' of {where}", "bad_tool_call", found) if isinstance(value, str) else value
    if calls is None:
        return []
    if not isinstance(calls, list):
        what = f"'tool_calls' of {where} must be a list, but it is {type_name(calls)}"
        found.add("bad_tool_call", what, calls, _CALL_ADVICE)
        return []
    return [made for call in calls if (made := _call(call, where, found))]


def parse_function_call(value: Any, where: str, found: Findings) -> list[dict[str, Any]]:
    """Return the call in the older field `function_call`, or the calls in a turn of that name."""
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
        what = f"a tool call of {where} has arguments in both {' and '.join(map(repr, given))}"
        found.add("bad_tool_call", what, call, "Keep one of them.")
        return None
    unknown = [key for key in function if key not in (*_ARGUMENTS, *_OF_A_CALL) and function[key] is not None]
    if unknown:
        what = f"a tool call of {where} has unknown keys"
        found.add("message_unrecognized_key", what, ", ".join(unknown), "keepstep ignores them.")
    if not isinstance(name, str) or not name:
        found.add("bad_tool_call", f"a tool call of {where} has no function name", call, _CALL_ADVICE)
        return None
    what = f"the arguments of the call of {name!r} in {where}"
    text = None
    for _ in range(2):  # some files encode them twice
        if isinstance(arguments, str) and arguments.strip():
            text = arguments
            arguments = _parsed(text, what, "bad_tool_call", found)
            if arguments is None:
                return None
    if arguments is None or arguments == "" or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}  # a function without parameters
    if not isinstance(arguments, dict):
        found.add("bad_tool_call", f"{what} must be an object, but they are {type_name(arguments)}", call, _CALL_ADVICE)
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
    """Parse JSON text inside a string; None if it is broken and `found` has the problem."""
    try:
        value = strict_json.loads(text)
    except strict_json.InvalidJson as error:
        fault = error.faults[0]
        line, column = strict_json.line_and_column(text, fault.position)
        at = f"column {column}" if line == 1 else f"line {line}, column {column}"
        found.add(problem, f"{what} must be JSON; at {at}: {fault.what}", text, "Correct it there.")
        return None
    if value is None:
        found.add(problem, f"{what} are the string null", text, "Remove the field, or fill it.")
    return value
