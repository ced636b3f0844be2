"""What a chat template makes of messages, and which part of that the assistant says.

Only what the assistant says is trained: from the end of the role header, which the template itself writes before an
answer, to the end-of-turn token. The model does not write the header, nor the line break after the end. A template with
`{% generation %}` marks the answers. For one without, the answer is what a turn adds to the prompt that a model would
be given for it: text(messages before, generation prompt) is the beginning of text(messages up to the answer). Where it
is not, `gpu/data/divergence.py` says what the answer is, or why that cannot be told.

A template may write a turn differently once others follow it (drop its reasoning, end the text after the last one).
Then a conversation is as many examples as it has answers, each written as the last, which is how a model would meet it.

Either way `gpu.data.rendered` checks that the text has what the row says. A template that takes contents as lists of
parts, or the arguments of calls as JSON in a string, is given them so; rendering two probes once tells which it takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import TemplateError

from gpu.data.divergence import Answer, Renderings, cause_of, located
from gpu.data.example import Example, Problem
from gpu.data.rendered import missing_answer, missing_context, writes_python
from gpu.data.tools import json_of
from gpu.tokenizer import render_conversation

Messages = list[dict[str, Any]]

GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")

PINNED_DATE = {
    "%d": "26",
    "%-d": "26",
    "%e": "26",
    "%m": "07",
    "%Y": "2024",
    "%y": "24",
    "%b": "Jul",
    "%B": "July",
    "%a": "Fri",
    "%A": "Friday",
    "%H": "00",
    "%I": "12",
    "%M": "00",
    "%S": "00",
    "%p": "AM",
}
"""Today, for templates that ask (`strftime_now`): the day that Llama 3.1 takes where nobody tells one. With the real
day, a job that is prepared again after midnight would be another one."""

_PINNED = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{value}')" for code, value in PINNED_DATE.items())
    + " }}{% endmacro %}\n"
)
"""In front of such a template. The line break is swallowed with the block, as the template environment is set up."""

REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What comes out of a template that does not take a row: its own word, or Python's."""

_PROBES = ("keepstep asks", "keepstep answers")
_DIALOGUE: Messages = [{"role": "user", "content": _PROBES[0]}, {"role": "assistant", "content": _PROBES[1]}]
_ARGUMENTS = {"probe": "keepstep"}
_CALLING: Messages = [
    _DIALOGUE[0],
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": _PROBES[1], "arguments": _ARGUMENTS}}],
    },
]
"""Conversations that are rendered once, to see what a template takes."""


class CannotLearn(Exception):
    """A row that cannot be learned from; never leaves `gpu/data/`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Rendered(NamedTuple):
    """A text, and what of it is trained: from and to, in characters."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Variant:
    """A tokenizer may have one template for rows with tools and another for those without."""

    text: str
    marked: bool
    """Whether it has `{% generation %}` marks."""
    header: str
    """The role header, of a template that has no generation prompt with it; else ""."""
    lists: bool
    """Whether it takes contents as lists of parts, and drops those that are strings."""
    string_arguments: bool
    """Whether it takes the arguments of calls as JSON in a string, and not as an object."""


class ChatTemplate:
    """The chat template of a tokenizer that has one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._variants: dict[bool, _Variant] = {}
        added = [str(token) for token in tokenizer.added_tokens_encoder] + list(tokenizer.all_special_tokens)
        self._ends = tuple(token for token in added if token.strip())

    def rendered(self, example: Example) -> list[Rendered]:
        """The example as one text, or as one for each answer. Raises CannotLearn."""
        variant = self._variant(example.tools)
        try:
            return self._rendered(example, variant)
        except CannotLearn as refused:
            # Arguments are tried the other way round, too: what a template takes may depend on the row.
            if not any(message.get("tool_calls") for message in example.messages):
                raise
            try:
                return self._rendered(example, replace(variant, string_arguments=not variant.string_arguments))
            except CannotLearn:
                raise refused from None

    def _rendered(self, example: Example, variant: _Variant) -> list[Rendered]:
        whole = self._render(example, example.messages, variant)
        if writes_python(example, whole.text):
            what, advice = "the chat template writes the arguments of a tool call as Python and not as JSON", ""
            raise CannotLearn(Problem("template_without_tool_calls", example.line, what, shown(example), advice))
        if variant.marked:
            return self._marked(example, whole, variant)
        turns = [self._turn(example, index, whole.text, variant) for index, is_ in enumerate(example.train) if is_]
        if all(whole.text.startswith(turn.text) for turn in turns):
            _refuse(missing_context(example, len(example.messages), whole.text))
            return [Rendered(whole.text, tuple(span for turn in turns for span in turn.spans))]
        for turn, index in zip(turns, (index for index, is_ in enumerate(example.train) if is_), strict=True):
            _refuse(missing_context(example, index, turn.text))
        return turns

    def _turn(self, example: Example, index: int, whole: str, variant: _Variant) -> Rendered:
        """The text up to an answer, and where in it the answer is."""
        message = example.messages[index]
        if index == 0:
            what, advice = "the assistant speaks first", "Put a user's message before it."
            raise CannotLearn(Problem("assistant_first", example.line, what, str(message.get("content", "")), advice))
        prompt = self._render(example, example.messages[:index], variant, add_generation_prompt=True).text
        is_last = index == len(example.messages) - 1
        text = whole if is_last else self._render(example, example.messages[: index + 1], variant).text
        prompt += variant.header
        start = len(prompt)
        if not text.startswith(prompt):
            text, start = self._parted(example, index, prompt, text, variant)
        _refuse(missing_answer(example, index, text[start:]))
        return Rendered(text, ((start, self._end_of_turn(text, start, str(message.get("content", "")))),))

    def _parted(self, example: Example, index: int, prompt: str, text: str, variant: _Variant) -> Answer:
        """The answer in a text that does not begin with the prompt for it. Raises CannotLearn."""
        before, answer = example.messages[:index], example.messages[index]
        others = [place for place, message in enumerate(before) if message["role"] not in ("assistant", "tool")]
        made = Renderings(
            bare=self._render(example, before, variant).text,
            question=self._render(example, before[: others[-1] + 1], variant).text if others else "",
            prompt=prompt,
            text=text,
            probe=self._render(example, [*before, {**answer, "content": _PROBES[1]}], variant).text,
        )
        found = located(made, str(answer.get("content", "")), _PROBES[1])
        if found is None:
            raise CannotLearn(_unstable(example, index + 1, made))
        return found

    def openings(self) -> tuple[str, str] | None:
        """What a prompt ends with, and what the template writes before an answer instead; None: the same."""
        variant = self._variant(None)
        if variant.marked:
            return None
        try:
            prompt = self._text(_DIALOGUE[:1], None, variant, add_generation_prompt=True).text
            bare, text = (self._text(messages, None, variant).text for messages in (_DIALOGUE[:1], _DIALOGUE))
        except REFUSALS:  # a template that takes no question alone, or no answer: each row tells
            return None
        if text.startswith(prompt) or not (text.startswith(bare) and prompt.startswith(bare)):
            return None
        return prompt[len(bare) :], text[len(bare) :].partition(_PROBES[1])[0]

    def _end_of_turn(self, text: str, start: int, content: str) -> int:
        """Past what ends a turn: a line break after it is never the model's to say, unless nothing else ends it."""
        stripped = text.rstrip()
        is_ended = stripped.endswith(self._ends) or not stripped.endswith(content.rstrip())
        return len(stripped) if is_ended and len(stripped) > start else len(text)

    def _marked(self, example: Example, whole: Rendered, variant: _Variant) -> list[Rendered]:
        """The same, of a template that marks answers. One that writes earlier answers without something that is to be
        trained, such as their reasoning, is asked for each answer as the last."""
        _refuse(missing_context(example, len(example.messages), whole.text))
        answers = [index for index, message in enumerate(example.messages) if message["role"] == "assistant"]
        if any(message.get("reasoning_content") or "think>" in str(message["content"]) for message in example.messages):
            try:
                return [_chosen(example, answers, whole)]
            except CannotLearn:
                if len(answers) == 1:
                    raise
            return [self._as_last(example, index, variant) for index in answers if example.train[index]]
        return [_chosen(example, answers, whole)]

    def _as_last(self, example: Example, index: int, variant: _Variant) -> Rendered:
        """The conversation up to an answer, which alone is trained."""
        part = replace(example, messages=example.messages[: index + 1], train=(*([False] * index), True))
        answers = [at for at, message in enumerate(part.messages) if message["role"] == "assistant"]
        return _chosen(part, answers, self._render(part, part.messages, variant))

    def _render(
        self, example: Example, messages: Messages, variant: _Variant, *, add_generation_prompt: bool = False
    ) -> Rendered:
        return _refusable(
            example,
            lambda: self._text(
                messages, example.tools or None, variant, add_generation_prompt, example.template_kwargs or {}
            ),
        )

    def _text(
        self,
        messages: Messages,
        tools: Messages | None,
        variant: _Variant,
        add_generation_prompt: bool = False,
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ) -> Rendered:
        """What the template writes, and what it marks in it; as `apply_chat_template` does before it tokenises."""
        return Rendered(
            *render_conversation(
                self._tokenizer,
                _written_for(messages, variant),
                tools,
                variant.text,
                marked=variant.marked and not add_generation_prompt,
                add_generation_prompt=add_generation_prompt,
                arguments=arguments,
            )
        )

    def _variant(self, tools: Messages | None) -> _Variant:
        has_tools = bool(tools)
        if has_tools not in self._variants:
            text = str(self._tokenizer.get_chat_template(tools=tools or None))
            pinned = _PINNED + text if "strftime_now" in text else text
            made = _Variant(pinned, bool(GENERATION_MARK.search(text)), "", lists=False, string_arguments=False)
            if self._takes_only_lists(made):
                made = replace(made, lists=True)
            if self._takes_only_string_arguments(made):
                made = replace(made, string_arguments=True)
            self._variants[has_tools] = made if made.marked else replace(made, header=self._header(made))
        return self._variants[has_tools]

    def _takes_only_lists(self, variant: _Variant) -> bool:
        """Whether the text of messages is lost as a string and there as a list of parts."""
        return not self._probe(_DIALOGUE, _PROBES, variant) and self._probe(
            _DIALOGUE, _PROBES, replace(variant, lists=True)
        )

    def _takes_only_string_arguments(self, variant: _Variant) -> bool:
        as_json = (json.dumps(_ARGUMENTS),)
        return not self._probe(_CALLING, _PROBES, variant) and self._probe(
            _CALLING, as_json, replace(variant, string_arguments=True)
        )

    def _probe(self, messages: Messages, wanted: tuple[str, ...], variant: _Variant) -> bool:
        """Whether the template takes these messages and writes what is wanted."""
        try:
            text = self._text(messages, None, variant).text
        except REFUSALS:
            return False
        return all(part in text for part in wanted) and repr(_ARGUMENTS) not in text

    def _header(self, variant: _Variant) -> str:
        """What stands before an answer though no generation prompt put it there."""
        question = _DIALOGUE[:1]
        try:
            prompt, bare = (self._text(question, None, variant, asked).text for asked in (True, False))
            turn = self._text(_DIALOGUE, None, variant).text
        except REFUSALS:  # a template that takes no question alone is tried by each row
            return ""
        if prompt != bare or not turn.startswith(bare):
            return ""
        lead = turn[len(bare) :].partition(_PROBES[1])[0]
        return lead if lead.strip() else ""


def _written_for(messages: Messages, variant: _Variant) -> Messages:
    """The messages in the form that the template takes."""
    if not variant.lists and not variant.string_arguments:
        return messages
    made = []
    for message in messages:
        changed = dict(message)
        if variant.lists:
            content = message.get("content")
            changed["content"] = [{"type": "text", "text": content}] if content else []
        if variant.string_arguments and message.get("tool_calls"):
            changed["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": json_of(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ]
        made.append(changed)
    return made


def _chosen(example: Example, answers: list[int], whole: Rendered) -> Rendered:
    """What the template marked, without the answers that are not to be trained. Raises CannotLearn."""
    trained = [index for index in answers if example.train[index]]
    if len(whole.spans) != len(answers):
        if trained != answers or not whole.spans:
            raise CannotLearn(_unmatched(example, len(whole.spans), len(answers)))
        said = "".join(whole.text[start:end] for start, end in whole.spans)
        for index in trained:
            _refuse(missing_answer(example, index, said))
        return whole
    spans = dict(zip(answers, whole.spans, strict=True))
    for index in trained:
        _refuse(missing_answer(example, index, whole.text[slice(*spans[index])]))
    return Rendered(whole.text, tuple(spans[index] for index in trained))


def _refuse(problem: Problem | None) -> None:
    if problem is not None:
        raise CannotLearn(problem)


def _refusable(example: Example, render: Callable[[], Rendered]) -> Rendered:
    try:
        return render()
    except REFUSALS as error:
        what, advice = f"the chat template says: {error}", "The model's chat template does not allow such a row."
        problem = Problem(
            "template_refused", example.line, what, shown(example), f"{advice} Correct the line or remove it."
        )
        raise CannotLearn(problem) from error


def _unmatched(example: Example, marked: int, answers: int) -> Problem:
    return Problem(
        "template_marks_unmatched",
        example.line,
        f"{marked} stretches of tokens are marked as the assistant's by the chat template, and the row has {answers} "
        "answers, so it cannot be told which tokens are to be learned",
        shown(example),
        "Use a chat template that has a {% generation %} block for every answer, and the role header outside of it.",
    )


def _unstable(example: Example, place: int, made: Renderings) -> Problem:
    system = next((str(message["content"]) for message in example.messages if message["role"] == "system"), "")
    tools = example.tools or [{}]
    cause, advice = cause_of(made, system, str(tools[0].get("function", tools[0]).get("name", "")))
    return Problem(
        "template_not_prefix_stable",
        example.line,
        f"the chat template writes the text before message {place} differently once that message is there, "
        f"so it cannot be told which tokens are the assistant's: {cause}",
        shown(example),
        advice,
    )


def shown(example: Example) -> str:
    """The example as a message shows it."""
    return json.dumps(example.messages, ensure_ascii=False)
