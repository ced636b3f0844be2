"""In which form a chat template takes messages. Rendering a few conversations with probes in them tells.

Most take contents as strings, arguments of calls as objects and an empty content next to calls as "". Some take lists
of parts, JSON in a string, or null; given the usual form they leave text out, write it as Python does, or fail.
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
from gpu.data.format.tools import json_of
from gpu.data.template.render_check import Rendered

Messages = list[dict[str, Any]]

REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What comes out of a template that does not take a row: its own word, or Python's."""

PROBES = ("keepstep asks", "keepstep answers")
DIALOGUE: Messages = [{"role": "user", "content": PROBES[0]}, {"role": "assistant", "content": PROBES[1]}]
_ARGUMENTS = {"probe": "keepstep"}
_CALL = {"id": "call_0", "type": "function", "function": {"name": PROBES[1], "arguments": _ARGUMENTS}}
_CALLING: Messages = [DIALOGUE[0], {"role": "assistant", "content": "", "tool_calls": [_CALL]}]
_SYSTEM: Messages = [{"role": "system", "content": "keepstep rules"}, *DIALOGUE]
_TOLD: Messages = [*_CALLING, {"role": "tool", "tool_call_id": "call_0", "name": PROBES[1], "content": "keepstep told"}]


@dataclass(frozen=True, slots=True)
class Form:
    """A chat template, and how it takes messages. A tokenizer may have one for rows with tools and another without."""

    text: str
    marked: bool
    """Whether it has `{% generation %}` marks."""
    header: str = ""
    """The role header before an answer, of a template that has no generation prompt with it."""
    lists: frozenset[str] = frozenset()
    """The roles whose content it takes as a list of parts."""
    string_arguments: bool = False
    """Whether it takes the arguments of calls as JSON in a string."""
    null_content: bool = False
    """Whether the content next to calls must be null where it is empty."""

    def written(self, messages: Messages) -> Messages:
        """The messages as the template takes them."""
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
                {**call, "function": {**call["function"], "arguments": json_of(call["function"]["arguments"])}}
                for call in calls
            ]
        if reasoning := message.get("reasoning_content"):
            made.update(dict.fromkeys(reasoning_names, reasoning))
        return made

    def reads(self, name: str) -> bool:
        """Whether the template may read an argument of this name."""
        return re.search(rf"\b{re.escape(name)}\b", self.text) is not None


@lru_cache(maxsize=8)  # a template is asked for each message of each row
def _reasoning_names(text: str) -> tuple[str, ...]:
    """The names, besides `reasoning_content`, under which a template may read the reasoning of a message."""
    return tuple(name for name in REASONING if name != "reasoning_content" and re.search(rf"\b{name}\b", text))


Render = Callable[[Messages, Form, bool], Rendered]
"""Renders messages, in a form, with the generation prompt or without it. Raises REFUSALS."""


def found_form(text: str, *, marked: bool, render: Render) -> Form:
    """The form of the template `text`."""
    form = Form(text, marked)
    form = _first(
        DIALOGUE,
        [replace(form, lists=frozenset(roles)) for roles in ((), ("user", "assistant"), ("user",), ("assistant",))],
        render,
    )
    for role, messages in (("system", _SYSTEM), ("tool", _TOLD)):
        form = _first(messages, [form, replace(form, lists=form.lists | {role})], render)
    calling = [replace(form, string_arguments=strings, null_content=null) for null in _BOTH for strings in _BOTH]
    form = _first(_CALLING, calling, render)
    return form if marked else replace(form, header=_header(form, render))


_BOTH = (False, True)


def _first(messages: Messages, forms: list[Form], render: Render) -> Form:
    """The first of the forms in which the template writes all of these messages; the first of all if there is none."""
    return next((form for form in forms if _writes(messages, form, render)), forms[0])


def _writes(messages: Messages, form: Form, render: Render) -> bool:
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


def _header(form: Form, render: Render) -> str:
    """What stands before an answer though no generation prompt put it there."""
    try:
        prompt, bare = (render(DIALOGUE[:1], form, asked).text for asked in (True, False))
        turn = render(DIALOGUE, form, False).text
    except REFUSALS:  # a template that takes no question alone is tried by each row
        return ""
    if prompt != bare or not turn.startswith(bare):
        return ""
    lead = turn[len(bare) :].partition(PROBES[1])[0]
    return lead if lead.strip() else ""


def openings(form: Form, render: Render) -> tuple[str, str] | None:
    """What a prompt ends with, and what the template writes before an answer instead; None: the same."""
    if form.marked:
        return None
    try:
        prompt = render(DIALOGUE[:1], form, True).text
        bare, text = (render(messages, form, False).text for messages in (DIALOGUE[:1], DIALOGUE))
    except REFUSALS:  # a template that takes no question alone, or no answer: each row tells
        return None
    if text.startswith(prompt) or not (text.startswith(bare) and prompt.startswith(bare)):
        return None
    return prompt[len(bare) :], text[len(bare) :].partition(PROBES[1])[0]
