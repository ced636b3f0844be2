"""Render messages with a chat template, and find the characters that the assistant writes.

Only what the assistant writes is trained: from the end of the role header, which the template itself writes before an
answer, to the end-of-turn token. The model writes neither the header nor the line break after the end. A template with
`{% generation %}` marks the answers. Without marks, the answer is what a turn adds to the prompt that a model would be
given for it: text(messages before, generation prompt) is the beginning of text(messages up to the answer). Where it is
not, `gpu/data/template/divergence.py` locates the answer, or explains why it cannot.

A template may write a turn differently once others follow it (drop its reasoning, end the text after the last one).
Then a conversation becomes one example for each of its answers, each rendered as the last, which is how a model would
meet it.

In both cases `gpu.data.template.render_check` checks that the text contains what the row says, and
`gpu.data.template.message_form` finds the form in which a template takes messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from gpu.data.format.example import Example
from gpu.data.problems import Problem
from gpu.data.template.divergence import AnswerRenderings, LocatedAnswer, explain_divergence, locate_answer
from gpu.data.template.markers import Markers
from gpu.data.template.message_form import PROBES, REFUSALS, MessageForm, Messages, find_form, find_opening_difference
from gpu.data.template.render_check import NotTrainable, RenderChecker, Rendered, TextChecker, content_of
from gpu.model.tokenizer import render_conversation

__all__ = ["ChatTemplate", "NotTrainable", "Rendered", "messages_json"]

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
"""The date for templates that ask for it (`strftime_now`): Llama 3.1's default. With the real date, a job that is
prepared again after midnight would have other tokens."""

_PINNED = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{value}')" for code, value in PINNED_DATE.items())
    + " }}{% endmacro %}\n"
)
"""Precedes such a template. The template environment removes the line break after the block."""

STRUCTURES_MAX = 4096
"""Row structures to cache: a file has few, but each long conversation may have its own."""


class _RowStructure(NamedTuple):
    """The behaviour of a template for all rows of one structure, found with markers."""

    form: MessageForm
    """The form in which it takes messages."""
    refused: NotTrainable | None
    """The reason that these rows cannot be trained; None if they can."""
    owners: tuple[int | None, ...] | None
    """For each marked part, the index of its message; None if unknown, because the template takes no markers."""


class ChatTemplate:
    """The chat template of a tokenizer that has one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._forms: dict[bool, MessageForm] = {}
        self._structures: dict[bytes, _RowStructure] = {}
        added = [str(token) for token in tokenizer.added_tokens_encoder] + list(tokenizer.all_special_tokens)
        self._ends = tuple(token for token in added if token.strip())

    def render_example(self, example: Example) -> list[Rendered]:
        """Render the example as one text, or as one for each answer. Raises NotTrainable."""
        if unread := [name for name in example.template_kwargs or () if not self._form(example.tools).reads(name)]:
            what = f"the chat template does not read {', '.join(unread)}, which 'chat_template_kwargs' of the row sets"
            advice = "Remove the argument, or correct its name."
            raise NotTrainable(Problem("row_key_refused", example.line, what, messages_json(example), advice))
        structure = self._structure(example)
        texts = self._render_texts(example, structure.form, TextChecker(), structure.owners)
        if structure.refused is not None:  # the check of the row's own texts misses texts that occur elsewhere too
            raise NotTrainable(replace(structure.refused.problem, line=example.line, seen=messages_json(example)))
        return texts

    def render_prompt(self, messages: Messages) -> str:
        """Return the text that an answer to `messages` follows in training. Raises NotTrainable."""
        form = self._form(None)
        example = Example(0, messages, (False,) * len(messages))
        return self._render(example, messages, form, add_generation_prompt=True).text + form.header

    def find_opening_difference(self) -> tuple[str, str] | None:
        """Return how a prompt ends, and what the template writes before an answer instead; None if they are the
        same."""
        return find_opening_difference(self._form(None), self._probe())

    def _structure(self, example: Example) -> _RowStructure:
        """Return the behaviour for rows of this structure; earlier rows never change it."""
        markers = Markers(example)
        marked = markers.example
        key = msgspec.json.encode([marked.messages, marked.train, marked.tools, marked.template_kwargs])
        if key not in self._structures:
            if len(self._structures) >= STRUCTURES_MAX:
                self._structures.clear()
            self._structures[key] = self._probe_structure(markers)
        return self._structures[key]

    def _probe_structure(self, markers: Markers) -> _RowStructure:
        form, example = self._form(markers.example.tools), markers.example
        forms = [form]
        if any(message.get("tool_calls") for message in example.messages):
            # The form that a template takes may depend on the row, for example on its tools.
            forms.append(replace(form, string_arguments=not form.string_arguments))
        found: list[_RowStructure] = []
        for tried in forms:
            owners = None
            try:
                whole = self._render(example, example.messages, tried)
                owners = markers.owners(whole.spans, whole.text) if tried.marked else None
                self._render_texts(example, tried, markers, owners)
            except NotTrainable as refused:
                # A template may refuse the markers but not the row; rendering the row decides.
                only_markers = refused.problem.name == "template_refused"
                found.append(_RowStructure(tried, None if only_markers else refused, owners))
            else:
                return _RowStructure(tried, None, owners)
        return found[0]

    def _render_texts(
        self, example: Example, form: MessageForm, checker: RenderChecker, owners: tuple[int | None, ...] | None
    ) -> list[Rendered]:
        whole = self._render(example, example.messages, form)
        if form.marked:
            return self._render_marked(example, whole, checker, owners)
        answers = [index for index, is_trained in enumerate(example.train) if is_trained]
        turns = [self._render_turn(example, index, whole.text, form, checker) for index in answers]
        if all(whole.text.startswith(turn.text) for turn in turns):
            checker.check_context(example, len(example.messages), whole.text)
            return [Rendered(whole.text, tuple(span for turn in turns for span in turn.spans))]
        for turn, index in zip(turns, answers, strict=True):
            checker.check_context(example, index, turn.text)
        return turns

    def _render_turn(
        self, example: Example, index: int, whole: str, form: MessageForm, checker: RenderChecker
    ) -> Rendered:
        """Return the text up to an answer, and where in it the answer is."""
        message = example.messages[index]
        if index == 0:
            what, advice = "the conversation begins with the assistant", "Put a user message before it."
            raise NotTrainable(Problem("assistant_first", example.line, what, content_of(message), advice))
        prompt = self._render(example, example.messages[:index], form, add_generation_prompt=True).text + form.header
        is_last = index == len(example.messages) - 1
        text = whole if is_last else self._render(example, example.messages[: index + 1], form).text
        start = len(prompt)
        if not text.startswith(prompt):
            text, start = self._locate(example, index, prompt, text, form)
        checker.check_answer(example, index, text[start:])
        return Rendered(text, ((start, self._end_of_turn(text, start, content_of(message))),))

    def _locate(self, example: Example, index: int, prompt: str, text: str, form: MessageForm) -> LocatedAnswer:
        """Locate the answer in a text that does not begin with the prompt for it. Raises NotTrainable."""
        before, answer = example.messages[:index], example.messages[index]
        others = [place for place, message in enumerate(before) if message["role"] not in ("assistant", "tool")]
        probed = [name for name in ("content", "reasoning_content") if name == "content" or answer.get(name)]
        made = AnswerRenderings(
            bare=self._render(example, before, form).text,
            question=self._render(example, before[: others[-1] + 1], form).text if others else "",
            prompt=prompt,
            text=text,
            probe=self._render(example, [*before, {**answer, **dict.fromkeys(probed, PROBES[1])}], form).text,
        )
        found = locate_answer(made, content_of(answer), PROBES[1])
        if found is None:
            raise NotTrainable(_prefix_problem(example, index + 1, made))
        return found

    def _end_of_turn(self, text: str, start: int, content: str) -> int:
        """Return the end of a turn. The model never writes a line break after it, unless nothing else ends the turn."""
        stripped = text.rstrip()
        is_ended = stripped.endswith(self._ends) or not stripped.endswith(content.rstrip())
        return len(stripped) if is_ended and len(stripped) > start else len(text)

    def _render_marked(
        self, example: Example, whole: Rendered, checker: RenderChecker, owners: tuple[int | None, ...] | None
    ) -> list[Rendered]:
        """Render with a template that marks answers.

        If it omits something that is trained, such as the reasoning of earlier answers, each answer is rendered as the
        last.
        """
        checker.check_context(example, len(example.messages), whole.text)
        try:
            return [_trained_parts(example, whole, checker, owners)]
        except NotTrainable as refused:
            answers = [index for index, message in enumerate(example.messages) if message["role"] == "assistant"]
            if len(answers) == 1 or refused.problem.name == "template_marks_unmatched":
                raise
        return [
            text for index in answers if example.train[index] for text in self.render_example(_up_to(example, index))
        ]

    def _render(
        self, example: Example, messages: Messages, form: MessageForm, *, add_generation_prompt: bool = False
    ) -> Rendered:
        """Render messages and their marks as `apply_chat_template` does before it tokenises. Raises NotTrainable."""
        try:
            return self._written(messages, example, form, add_generation_prompt)
        except REFUSALS as error:
            what = f"the chat template refuses the conversation: {error}"
            advice = "The model's chat template does not allow such a row. Correct the row or remove it."
            seen = messages_json(example)
            raise NotTrainable(Problem("template_refused", example.line, what, seen, advice)) from error

    def _written(
        self, messages: Messages, example: Example, form: MessageForm, add_generation_prompt: bool
    ) -> Rendered:
        return Rendered(
            *render_conversation(
                self._tokenizer,
                form.format_messages(messages),
                example.tools or None,
                form.text,
                marked=form.marked and not add_generation_prompt,
                add_generation_prompt=add_generation_prompt,
                arguments=example.template_kwargs or {},
            )
        )

    def _form(self, tools: Messages | None) -> MessageForm:
        has_tools = bool(tools)
        if has_tools not in self._forms:
            text = str(self._tokenizer.get_chat_template(tools=tools or None))
            pinned = _PINNED + text if "strftime_now" in text else text
            marked = bool(GENERATION_MARK.search(text))
            self._forms[has_tools] = find_form(pinned, marked=marked, render=self._probe())
        return self._forms[has_tools]

    def _probe(self) -> Callable[[Messages, MessageForm, bool], Rendered]:
        row = Example(0, [], ())
        return lambda messages, form, prompt: self._written(messages, row, form, prompt)


def _up_to(example: Example, index: int) -> Example:
    """Return the conversation up to an answer, in which only that answer is trained."""
    return replace(example, messages=example.messages[: index + 1], train=(*([False] * index), True))


def _trained_parts(
    example: Example, whole: Rendered, checker: RenderChecker, owners: tuple[int | None, ...] | None
) -> Rendered:
    """Return the marked parts of the trained answers. Raises NotTrainable."""
    answers = [index for index, message in enumerate(example.messages) if message["role"] == "assistant"]
    if owners is None and len(whole.spans) == len(answers):
        owners = tuple(answers)
    trained = {index for index in answers if example.train[index]}
    if owners is None or len(owners) != len(whole.spans) or not trained <= {*owners} <= {*answers}:
        raise NotTrainable(_marks_problem(example, len(whole.spans), len(answers)))
    spans = [(owner, span) for owner, span in zip(owners, whole.spans, strict=True) if owner in trained]
    for index in sorted(trained):
        checker.check_answer(
            example, index, "".join(whole.text[slice(*span)] for owner, span in spans if owner == index)
        )
    return Rendered(whole.text, tuple(span for _, span in spans))


def _marks_problem(example: Example, marked: int, answers: int) -> Problem:
    return Problem(
        "template_marks_unmatched",
        example.line,
        f"the chat template marks {marked} parts as the assistant's, but the row has {answers} answers, so keepstep "
        "cannot tell what to train",
        messages_json(example),
        "Use a chat template with a {% generation %} block for every answer, and the role header outside of it.",
    )


def _prefix_problem(example: Example, place: int, made: AnswerRenderings) -> Problem:
    system = next((str(message["content"]) for message in example.messages if message["role"] == "system"), "")
    tools = example.tools or [{}]
    cause, advice = explain_divergence(made, system, str(tools[0].get("function", tools[0]).get("name", "")))
    return Problem(
        "template_not_prefix_stable",
        example.line,
        f"the chat template writes the text before message {place} differently once that message follows, so "
        f"keepstep cannot tell which tokens are the assistant's: {cause}",
        messages_json(example),
        advice,
    )


def messages_json(example: Example) -> str:
    """Return the messages as JSON, for a message to the user."""
    return json.dumps(example.messages, ensure_ascii=False)
