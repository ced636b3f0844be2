"""Check that a rendered conversation contains what its row says.

A chat template is a program that a model's authors wrote for their own data. It may omit what it does not expect: text
next to a tool call, a system prompt, reasoning, text in a list. Nothing reports that, and something else than the row
would be trained. So every row is checked twice:

1. `gpu.data.template.markers`: the row with a marker in place of each text. Which markers the template writes, and
   where, depends only on the structure of the row, so one check serves all rows of one structure.
2. Here: the texts themselves, for templates that look at the content of a text.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from gpu.data.format.example import Example
from gpu.data.problems import Problem

THINK_TAG = re.compile(r"(</?think(?:ing)?>|\[/?THINK\])")
"""Tags of reasoning; templates change the white space around them."""


class Rendered(NamedTuple):
    """A text, and the spans of it that are trained: from and to, in characters."""

    text: str
    spans: tuple[tuple[int, int], ...]


class NotTrainable(Exception):
    """A row cannot be trained, or a dialogue cannot be a prompt. Data: `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class RenderChecker(Protocol):
    """Checks a rendered conversation."""

    def check_answer(self, example: Example, index: int, trained: str) -> None:
        """Check the text that is trained for message `index`, an answer. Raises NotTrainable."""

    def check_context(self, example: Example, end: int, text: str) -> None:
        """Check the text of the declared tools and the messages before `end`. Raises NotTrainable."""


class TextChecker:
    """Looks for the row's own texts in what the template wrote."""

    def check_answer(self, example: Example, index: int, trained: str) -> None:
        """Check that the trained text has every part of content and reasoning. Raises NotTrainable."""
        message, written = example.messages[index], _RenderedText(trained)
        for piece in THINK_TAG.split(content_of(message))[::2]:
            if not written.contains(piece):
                raise dropped_content_error(example, index, piece)
        if not written.contains(str(message.get("reasoning_content") or "")):
            raise dropped_reasoning_error(example, index)

    def check_context(self, example: Example, end: int, text: str) -> None:
        """Check that the text has every content, except for the reasoning of earlier answers. Raises NotTrainable."""
        written = _RenderedText(text)
        for index, message in enumerate(example.messages[:end]):
            content = THINK_TAG.split(content_of(message))[-1]
            if not written.contains(content) and not (message["role"] == "tool" and written.contains_json(content)):
                raise dropped_content_error(example, index, content)
        for tool in example.tools or ():
            if tool["function"]["name"] not in text:
                raise dropped_tools_error(example)


def content_of(message: dict[str, Any]) -> str:
    """Return the content of a message; "" if it has none."""
    return str(message.get("content") or "")


def dropped_content_error(example: Example, index: int, seen: str) -> NotTrainable:
    """Return the error that the template omits the content of a message, or a part of it."""
    trained = ", which should be trained" if example.train[index] else ""
    return _dropped(example, f"text of message {index + 1} ({example.messages[index]['role']}){trained}", seen)


def dropped_reasoning_error(example: Example, index: int) -> NotTrainable:
    """Return the error that the template omits the reasoning of a trained answer."""
    advice = (
        "Use a model whose chat template writes `reasoning_content`; or put the reasoning into the content as "
        "<think>…</think>; or remove it from the row."
    )
    reasoning = str(example.messages[index].get("reasoning_content") or content_of(example.messages[index]))
    return _dropped(example, f"the reasoning of message {index + 1}", reasoning, advice)


def dropped_tools_error(example: Example) -> NotTrainable:
    """Return the error that the template omits the declared tools."""
    names = ", ".join(tool["function"]["name"] for tool in example.tools or ())
    return _dropped(example, "the declared tools", names)


def dropped_call_error(example: Example, index: int) -> NotTrainable:
    """Return the error that the template omits a tool call, or arguments of it."""
    what = f"the chat template omits a tool call of message {index + 1}, or its arguments"
    advice = "Use a model whose chat template writes tool calls, or remove the row."
    calls = json.dumps(example.messages[index].get("tool_calls"), ensure_ascii=False)
    return NotTrainable(Problem("template_without_tool_calls", example.line, what, calls, advice))


def python_object_error(example: Example, what: str) -> NotTrainable:
    """Return the error that the template writes an object as Python."""
    problem = f"the chat template writes {what} as a Python object instead of JSON"
    advice = "The template lacks `| tojson` there. Add it to the chat template, or use another model."
    return NotTrainable(Problem("template_writes_python", example.line, problem, "", advice))


def _dropped(example: Example, what: str, seen: str, advice: str = "") -> NotTrainable:
    advice = advice or "Use a model whose chat template writes it, or remove it from the row."
    return NotTrainable(Problem("template_drops_text", example.line, f"the chat template omits {what}", seen, advice))


class _RenderedText:
    """A text in which other texts are searched."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _flat(self) -> str:
        return " ".join(self._text.split())

    def contains(self, piece: str) -> bool:
        """True if the text has `piece`: unchanged except for white space around it, escaped as in JSON, or with other
        white space within."""
        piece = piece.strip()
        if not piece or piece in self._text:
            return True
        if any(json.dumps(piece, ensure_ascii=ascii_only)[1:-1] in self._text for ascii_only in (False, True)):
            return True
        return " ".join(piece.split()) in self._flat

    def contains_json(self, content: str) -> bool:
        """True if the text has all strings of a tool's answer in JSON: some templates parse it and write it again."""
        try:
            value = json.loads(content)
        except ValueError:
            return False
        return not isinstance(value, str) and all(map(self.contains, _strings(value)))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *(text for inner in value.values() for text in _strings(inner))]
    return [text for inner in value for text in _strings(inner)] if isinstance(value, list) else []
