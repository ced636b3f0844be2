"""Find the form in which a chat template takes messages, by rendering a few conversations with probes in them.

Most take contents as strings, arguments of calls as objects, and an empty content next to calls as "". Some take lists
of parts, JSON in a string, or null; given the usual form they omit text, write it as Python, or fail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from gpu.data.format.key_tables import REASONING
from gpu.data.format.tools import arguments_json
from gpu.data.template.render_check import Rendered

Messages = list[dict[str, Any]]

REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""Errors of a template that refuses a row: its own, or Python's."""

PROBES = ("keepstep asks", "keepstep answers")
DIALOGUE: Messages = [{"role": "user", "content": PROBES[0]}, {"role": "assistant", "content": PROBES[1]}]
_ARGUMENTS = {"probe": "keepstep"}
_CALL = {"id": "call_0", "type": "function", "function": {"name": PROBES[1], "arguments": _ARGUMENTS}}
_CALL_DIALOGUE: Messages = [DIALOGUE[0], {"role": "assistant", "content": "", "tool_calls": [_CALL]}]
_SYSTEM_DIALOGUE: Messages = [{"role": "system", "content": "keepstep rules"}, *DIALOGUE]
_TOOL_DIALOGUE: Messages = [
    *_CALL_DIALOGUE,
    {"role": "tool", "tool_call_id": "call_0", "name": PROBES[1], "content": "keepstep told"},
]


@dataclass(frozen=True, slots=True)
class MessageForm:
    """A chat template, and the form in which it takes messages. A tokenizer may have two: for rows with and without
    tools."""

    text: str
    marked: bool
    """True if it has `{% generation %}` marks."""
    header: str = ""
    """The role header before an answer, if the template has no generation prompt with it."""
    lists: frozenset[str] = frozenset()
    """The roles whose content it takes as a list of parts."""
    string_arguments: bool = False
    """True if it takes the arguments of calls as JSON in a string."""
    null_content: bool = False
    """True if an empty content next to calls must be null."""

    def format_messages(self, messages: Messages) -> Messages:
        """Return the messages in the form that the template takes."""
        names = _reasoning_names(self.text)
        return [self._message(message, names) for message in messages]

    def _message(self, message: dict[str, Any], reasoning_names: tuple[str, ...]) -> dict[str, Any]:
        calls, content = message.get("tool_calls"), message.get("content")
        made = dict(message)
        if message["role"] in self.lists:
            made["content"] = [{"type": "text", "text": content}] if content else []
        elif calls and not content and self.null_content:
            made["content"] = None
        if calls and self.string_arguments:
            made["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": arguments_json(call["function"]["arguments"])}}
                for call in calls
            ]
        if reasoning := message.get("reasoning_content"):
            made.update(dict.fromkeys(reasoning_names, reasoning))
        return made

    def reads(self, name: str) -> bool:
        """True if the template may read an argument of this name."""
        return re.search(rf"\b{re.escape(name)}\b", self.text) is not None


@lru_cache(maxsize=8)  # called for each message of each row
def _reasoning_names(text: str) -> tuple[str, ...]:
    """Return the names, other than `reasoning_content`, under which a template may read the reasoning of a message."""
    return tuple(name for name in REASONING if name != "reasoning_content" and re.search(rf"\b{name}\b", text))


Render = Callable[[Messages, MessageForm, bool], Rendered]
"""Renders messages in a form, with or without the generation prompt. Raises REFUSALS."""


def find_form(text: str, *, marked: bool, render: Render) -> MessageForm:
    """Return the form of the template `text`."""
    form = MessageForm(text, marked)
    form = _first_working(
        DIALOGUE,
        [replace(form, lists=frozenset(roles)) for roles in ((), ("user", "assistant"), ("user",), ("assistant",))],
        render,
    )
    for role, messages in (("system", _SYSTEM_DIALOGUE), ("tool", _TOOL_DIALOGUE)):
        form = _first_working(messages, [form, replace(form, lists=form.lists | {role})], render)
    calling = [replace(form, string_arguments=strings, null_content=null) for null in _BOTH for strings in _BOTH]
    form = _first_working(_CALL_DIALOGUE, calling, render)
    return form if marked else replace(form, header=_header(form, render))


_BOTH = (False, True)


def _first_working(messages: Messages, forms: list[MessageForm], render: Render) -> MessageForm:
    """Return the first form in which the template writes all of these messages; the first form if there is none."""
    return next((form for form in forms if _writes(messages, form, render)), forms[0])


def _writes(messages: Messages, form: MessageForm, render: Render) -> bool:
    try:
        text = render(messages, form, False).text
    except REFUSALS:
        return False
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    wanted = [str(message["content"]) for message in messages] + [call["name"] for call in calls]
    wanted += [next(iter(call["arguments"].values())) for call in calls]
    shown = [repr(_ARGUMENTS), repr({"name": PROBES[1], "arguments": json.dumps(_ARGUMENTS)})]
    shown += [repr([{"type": "text", "text": message["content"]}]) for message in messages]
    return all(part in text for part in wanted) and not any(python in text for python in shown)


def _header(form: MessageForm, render: Render) -> str:
    """Return the role header that the template writes before an answer and omits from the generation prompt."""
    try:
        prompt, bare = (render(DIALOGUE[:1], form, asked).text for asked in (True, False))
        turn = render(DIALOGUE, form, False).text
    except REFUSALS:  # each row tries a template that refuses a single question
        return ""
    if prompt != bare or not turn.startswith(bare):
        return ""
    lead = turn[len(bare) :].partition(PROBES[1])[0]
    return lead if lead.strip() else ""


def find_opening_difference(form: MessageForm, render: Render) -> tuple[str, str] | None:
    """Return how a prompt ends, and what the template writes before an answer instead; None if they are the same."""
    if form.marked:
        return None
    try:
        prompt = render(DIALOGUE[:1], form, True).text
        bare, text = (render(messages, form, False).text for messages in (DIALOGUE[:1], DIALOGUE))
    except REFUSALS:  # each row reports a template that refuses these
        return None
    if text.startswith(prompt) or not (text.startswith(bare) and prompt.startswith(bare)):
        return None
    return prompt[len(bare) :], text[len(bare) :].partition(PROBES[1])[0]
