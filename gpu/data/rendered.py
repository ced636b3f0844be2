"""Whether a rendered conversation says what its row says.

A chat template is a program that a model's authors wrote for their own data. It may leave out what it does not expect:
text next to a tool call, a system prompt, reasoning, text in a list. Nothing reports that, and the row would be trained
as something that it is not. So what a row says is looked for in what the template wrote: what the assistant is to be
trained on within the trained text, everything else anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from gpu.data.example import Example, Problem

_THINK_TAG = re.compile(r"</?think(?:ing)?>|\[/?THINK\]")
"""Templates write the reasoning in a content anew, with other white space around these tags."""

_CORRECT_OR_REMOVE = "Use a model whose chat template writes it, or remove it from the row if it is not to be trained."


def missing_answer(example: Example, index: int, trained: str) -> Problem | None:
    """What message `index`, an answer to be trained, says and the trained text does not have; None if all is there."""
    message = example.messages[index]
    for piece in _THINK_TAG.split(str(message.get("content") or "")):
        if not _occurs(piece, trained):
            return _dropped(example, f"text of message {index + 1}, which was to be trained", piece)
    if not _occurs(str(message.get("reasoning_content") or ""), trained):
        return _dropped(example, f"the reasoning of message {index + 1}", message["reasoning_content"], _REASONING)
    return _missing_call(example, message, trained)


def missing_context(example: Example, end: int, text: str) -> Problem | None:
    """What the messages before `end` and the tools say and the text does not have; None if all is there.

    The reasoning of earlier answers may be left out: many templates do that on purpose, and the model is asked so, too.
    """
    for index, message in enumerate(example.messages[:end]):
        content = _THINK_TAG.split(str(message.get("content") or ""))[-1]
        if not _occurs(content, text) and not (message["role"] == "tool" and _occurs_as_json(content, text)):
            return _dropped(example, f"the text of message {index + 1} ({message['role']})", content)
        if problem := _missing_call(example, message, text):
            return problem
    for tool in example.tools or ():
        name = tool["function"]["name"]
        if name not in text:
            return _dropped(example, "the declared tools", name)
    return None


def writes_python(example: Example, text: str) -> bool:
    """True if the text has the arguments of a call as Python shows an object: the template takes them as text."""
    calls = [call for message in example.messages for call in message.get("tool_calls") or ()]
    return any(
        arguments and repr(dict(arguments)) in text and json.dumps(arguments, ensure_ascii=False) not in text
        for arguments in (call["function"]["arguments"] for call in calls)
        if isinstance(arguments, dict)
    )


def _missing_call(example: Example, message: dict[str, Any], text: str) -> Problem | None:
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        name, arguments = function.get("name"), function.get("arguments")
        if name not in text or not all(_occurs(leaf, text) for leaf in _leaves(arguments)):
            what = "the chat template leaves out a tool call, or arguments of it"
            advice = "Use a model whose chat template writes tool calls, or remove the line."
            return Problem("template_without_tool_calls", example.line, what, str(name), advice)
    return None


def _leaves(value: Any) -> Iterator[str]:
    """The texts in a JSON value: keys and strings. Numbers and truth values have too many spellings to look for."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)


def _occurs(piece: str, text: str) -> bool:
    """Whether `text` has `piece`: as it is but for white space around it, escaped as in JSON, or with other white space
    within."""
    piece = piece.strip()
    if not piece or piece in text:
        return True
    if any(json.dumps(piece, ensure_ascii=ascii_only)[1:-1] in text for ascii_only in (False, True)):
        return True
    return _flat(piece) in _flat(text)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _occurs_as_json(content: str, text: str) -> bool:
    """Whether all texts of a tool's answer in JSON occur: some templates parse it and write it anew."""
    try:
        value = json.loads(content)
    except ValueError:
        return False
    return not isinstance(value, str) and all(_occurs(leaf, text) for leaf in _leaves(value))


_REASONING = (
    "The template has no place for it. Use a model whose chat template writes `reasoning_content`; put it into the "
    "content as <think>…</think>; or remove it from the row."
)


def _dropped(example: Example, what: str, seen: str, advice: str = _CORRECT_OR_REMOVE) -> Problem:
    return Problem("template_drops_text", example.line, f"the chat template leaves out {what}", seen, advice)
