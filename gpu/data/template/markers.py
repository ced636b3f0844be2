"""Replace each text of a row with a marker, to see what a chat template does with rows of its structure.

A text may stand in a conversation twice, or be a word that the template itself writes ("user", "4"). A marker cannot:
if the template writes the marker, it writes the text; otherwise the text is lost. Two rows of the same structure (the
same roles, keys, tags and tools) have the same markers, so one rendering serves all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gpu.data.format.example import Example
from gpu.data.format.tools import Arguments
from gpu.data.template.render_check import (
    THINK_TAG,
    NotTrainable,
    content_of,
    dropped_call_error,
    dropped_content_error,
    dropped_reasoning_error,
    dropped_tools_error,
    python_object_error,
)

FIRST_NUMBER = 7_100_001
"""Integers in the arguments of calls are replaced by numbers from here on."""


@dataclass
class _MessageMarkers:
    """The markers of one message."""

    content: list[str]
    """One for each part of the content between tags of reasoning; "" for a blank part."""
    reasoning: str
    calls: list[str]


class Markers:
    """The markers of a row. `example` is the row with the markers; it checks its renderings, as a
    `gpu.data.template.render_check.RenderChecker`."""

    def __init__(self, row: Example) -> None:
        self._count = 0
        self._names: dict[str, str] = {}
        self._messages: list[_MessageMarkers] = []
        self._tools = [self._tool(tool) for tool in row.tools] if row.tools else None
        self.example = replace(
            row, line=0, messages=[self._message(message) for message in row.messages], tools=self._tools
        )

    # -- markers in place of texts ----------------------------------------------------------------------------------

    def _marker(self) -> str:
        self._count += 1
        return f"zq{self._count}qz"

    def _name(self, name: str) -> str:
        """Return the marker of a function name, which calls and declared tools share."""
        if name not in self._names:
            self._names[name] = self._marker()
        return self._names[name]

    def _tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        function = tool["function"]
        return {**tool, "function": {**function, "name": self._name(function["name"])}}

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        made, found = dict(message), _MessageMarkers([], "", [])
        self._messages.append(found)
        content = message.get("content")
        if content:
            made["content"] = self._content(message["role"], content, found)
        if message.get("reasoning_content"):
            made["reasoning_content"] = found.reasoning = self._marker()
        if message.get("tool_calls"):
            made["tool_calls"] = [self._call(call, found) for call in message["tool_calls"]]
        if message["role"] == "tool" and message.get("name") in self._names:
            made["name"] = self._names[message["name"]]
        return made

    def _content(self, role: str, content: str, found: _MessageMarkers) -> str:
        if role == "tool" and isinstance(value := _json_of(content), dict | list):
            return json.dumps(self._value(value, found.content), ensure_ascii=False)
        parts = THINK_TAG.split(content)
        for place in range(0, len(parts), 2):
            text = parts[place].strip()
            found.content.append(self._marker() if text else "")
            parts[place] = parts[place].replace(text, found.content[-1], 1) if text else parts[place]
        return "".join(parts)

    def _call(self, call: dict[str, Any], found: _MessageMarkers) -> dict[str, Any]:
        function = call["function"]
        arguments = Arguments(self._value(function["arguments"], found.calls))
        arguments.text = json.dumps(arguments, ensure_ascii=False)
        found.calls.append(self._name(function["name"]))
        return {**call, "function": {**function, "name": found.calls[-1], "arguments": arguments}}

    def _value(self, value: Any, found: list[str]) -> Any:
        """Return a JSON value with a marker for each text and each integer in it."""
        if isinstance(value, dict):
            return {name: self._value(inner, found) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._value(inner, found) for inner in value]
        if isinstance(value, str) and value.strip():
            found.append(self._marker())
            return found[-1]
        if type(value) is int:
            self._count += 1
            found.append(str(FIRST_NUMBER + self._count))
            return int(found[-1])
        return value

    # -- what the template wrote of them ----------------------------------------------------------------------------

    def check_answer(self, example: Example, index: int, trained: str) -> None:
        """Check that the trained text has all markers of an answer. Raises NotTrainable."""
        message = self._messages[index]
        for number, marker in enumerate(message.content, start=1):
            if marker not in trained:
                raise self._dropped(example, index, is_last=number == len(message.content))
        if message.reasoning not in trained:
            raise dropped_reasoning_error(example, index)
        if not all(marker in trained for marker in message.calls):
            raise dropped_call_error(example, index)

    def _dropped(self, example: Example, index: int, *, is_last: bool) -> NotTrainable:
        return dropped_content_error(example, index, "") if is_last else dropped_reasoning_error(example, index)

    def check_context(self, example: Example, end: int, text: str) -> None:
        """Check that the text has all markers of the tools and of the messages before `end`. Raises NotTrainable.

        The reasoning of earlier answers may be missing: many templates omit it on purpose, and a model is prompted that
        way.
        """
        for index, message in enumerate(self._messages[:end]):
            needed = message.content if example.messages[index]["role"] == "tool" else message.content[-1:]
            if not all(marker in text for marker in needed):
                raise dropped_content_error(example, index, "")
            if not all(marker in text for marker in message.calls):
                raise dropped_call_error(example, index)
        if not all(tool["function"]["name"] in text for tool in self._tools or ()):
            raise dropped_tools_error(example)
        for what, value in self._objects():
            if value and repr(value) in text:
                raise python_object_error(example, what)

    def _objects(self) -> Iterator[tuple[str, Any]]:
        """Yield the objects that a template may write as Python, if it forgets to write JSON."""
        for message in self.example.messages:
            yield "a content", [{"type": "text", "text": content_of(message)}]
            for call in message.get("tool_calls") or ():
                function = call["function"]
                arguments = dict(function["arguments"])
                yield "the arguments of a tool call", arguments
                for given in (arguments, function["arguments"].text):
                    yield "a tool call", {**function, "arguments": given}
                    yield "a tool call", {**call, "function": {**function, "arguments": given}}
        for tool in self._tools or ():
            yield "a declared tool", tool
            yield "a declared tool", tool["function"]

    def owners(self, spans: tuple[tuple[int, int], ...], text: str) -> tuple[int | None, ...]:
        """Return for each marked part of a text the index of its message.

        A part without a text of a message, such as an end-of-turn token, belongs to the message before it. None: the
        part has texts of more than one message.
        """
        inside = [self._messages_in(text[start:end]) for start, end in spans]
        answers = [index for index, message in enumerate(self.example.messages) if message["role"] == "assistant"]
        if len(spans) == len(answers) and all(
            {*found} <= {index} for found, index in zip(inside, answers, strict=True)
        ):
            return tuple(answers)
        owners: list[int | None] = []
        for found in inside:
            before = owners[-1] if owners else None
            owners.append(found[0] if len(found) == 1 else None if found else before)
        return tuple(owners)

    def _messages_in(self, text: str) -> list[int]:
        """Return the messages that have a marker in a text."""
        return [
            index
            for index, message in enumerate(self._messages)
            if any(marker and marker in text for marker in (*message.content, message.reasoning, *message.calls))
        ]


def _json_of(content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
