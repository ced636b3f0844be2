"""Whether a rendered conversation says what its row says.

A chat template is a program that a model's authors wrote for their own data. It may leave out what it does not expect:
text next to a tool call, a system prompt, reasoning, text in a list. Nothing reports that, and the row would be trained
as something that it is not. So every row is checked twice:

1. `gpu.data.template.markers`: the row with a marker in the place of each text. Which markers the template writes, and
   where, depends on the form of the row alone, so it is found once for all rows of one form.
2. Here: the texts themselves, for templates that look at what a text says.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from gpu.data.format.example import Example, Problem

THINK_TAG = re.compile(r"(</?think(?:ing)?>|\[/?THINK\])")
"""Templates write the reasoning in a content anew, with other white space around these tags."""


class Rendered(NamedTuple):
    """A text, and what of it is trained: from and to, in characters."""

    text: str
    spans: tuple[tuple[int, int], ...]


class NotTrainable(Exception):
    """A row that cannot be trained; never leaves `gpu/data/`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Judge(Protocol):
    """Checks a rendered conversation."""

    def answer(self, example: Example, index: int, trained: str) -> None:
        """Message `index` is an answer; `trained` is the text that is trained for it. Raises CannotLearn."""

    def context(self, example: Example, end: int, text: str) -> None:
        """`text` has the messages before `end`, and the declared tools. Raises CannotLearn."""


class TextJudge:
    """Looks for the texts of the row in what the template wrote."""

    def answer(self, example: Example, index: int, trained: str) -> None:
        """Every part of the content and the reasoning is in the trained text. Raises CannotLearn."""
        message, written = example.messages[index], _Written(trained)
        for piece in THINK_TAG.split(content_of(message))[::2]:
            if not written.has(piece):
                raise dropped_content(example, index, piece)
        if not written.has(str(message.get("reasoning_content") or "")):
            raise dropped_reasoning(example, index)

    def context(self, example: Example, end: int, text: str) -> None:
        """Every content is in the text, but for the reasoning of earlier answers. Raises CannotLearn."""
        written = _Written(text)
        for index, message in enumerate(example.messages[:end]):
            content = THINK_TAG.split(content_of(message))[-1]
            if not written.has(content) and not (message["role"] == "tool" and written.has_json(content)):
                raise dropped_content(example, index, content)
        for tool in example.tools or ():
            if tool["function"]["name"] not in text:
                raise dropped_tools(example)


def content_of(message: dict[str, Any]) -> str:
    """The content of a message; "" where it has none."""
    return str(message.get("content") or "")


def dropped_content(example: Example, index: int, seen: str) -> NotTrainable:
    """The template leaves out the content of a message, or a part of it."""
    trained = ", which was to be trained" if example.train[index] else ""
    return _dropped(example, f"text of message {index + 1} ({example.messages[index]['role']}){trained}", seen)


def dropped_reasoning(example: Example, index: int) -> NotTrainable:
    """The template leaves out the reasoning of an answer that is trained."""
    advice = (
        "The template has no place for it. Use a model whose chat template writes `reasoning_content`; put it into the "
        "content as <think>…</think>; or remove it from the row."
    )
    reasoning = str(example.messages[index].get("reasoning_content") or content_of(example.messages[index]))
    return _dropped(example, f"the reasoning of message {index + 1}", reasoning, advice)


def dropped_tools(example: Example) -> NotTrainable:
    """The template leaves out the declared tools."""
    names = ", ".join(tool["function"]["name"] for tool in example.tools or ())
    return _dropped(example, "the declared tools", names)


def dropped_call(example: Example, index: int) -> NotTrainable:
    """The template leaves out a tool call, or arguments of it."""
    what = f"the chat template leaves out a tool call of message {index + 1}, or arguments of it"
    advice = "Use a model whose chat template writes tool calls, or remove the line."
    calls = json.dumps(example.messages[index].get("tool_calls"), ensure_ascii=False)
    return NotTrainable(Problem("template_without_tool_calls", example.line, what, calls, advice))


def writes_python(example: Example, what: str) -> NotTrainable:
    """The template writes an object as Python shows it."""
    said = f"the chat template writes {what} as Python shows objects, and not as JSON"
    advice = "Its author forgot `| tojson`. Add it to the chat template, or use another model."
    return NotTrainable(Problem("template_writes_python", example.line, said, "", advice))


def _dropped(example: Example, what: str, seen: str, advice: str = "") -> NotTrainable:
    advice = advice or "Use a model whose chat template writes it, or remove it from the row if it is not needed."
    return NotTrainable(
        Problem("template_drops_text", example.line, f"the chat template leaves out {what}", seen, advice)
    )


class _Written:
    """A text that other texts are looked for in."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _flat(self) -> str:
        return " ".join(self._text.split())

    def has(self, piece: str) -> bool:
        """Whether the text has `piece`: as it is but for white space around it, escaped as in JSON, or with other white
        space within."""
        piece = piece.strip()
        if not piece or piece in self._text:
            return True
        if any(json.dumps(piece, ensure_ascii=ascii_only)[1:-1] in self._text for ascii_only in (False, True)):
            return True
        return " ".join(piece.split()) in self._flat

    def has_json(self, content: str) -> bool:
        """Whether the text has all strings of a tool's answer in JSON: some templates parse it and write it anew."""
        try:
            value = json.loads(content)
        except ValueError:
            return False
        return not isinstance(value, str) and all(map(self.has, _strings(value)))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *(text for inner in value.values() for text in _strings(inner))]
    return [text for inner in value for text in _strings(inner)] if isinstance(value, list) else []
