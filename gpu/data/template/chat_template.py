"""What a chat template makes of messages, and which part of that the assistant says.

Only what the assistant says is trained: from the end of the role header, which the template itself writes before an
answer, to the end-of-turn token. The model does not write the header, nor the line break after the end. A template with
`{% generation %}` marks the answers. For one without, the answer is what a turn adds to the prompt that a model would
be given for it: text(messages before, generation prompt) is the beginning of text(messages up to the answer). Where it
is not, `gpu/data/template/divergence.py` says what the answer is, or why that cannot be told.

A template may write a turn differently once others follow it (drop its reasoning, end the text after the last one).
Then a conversation is as many examples as it has answers, each written as the last, which is how a model would meet it.

Either way `gpu.data.template.render_check` checks that the text has what the row says, and
`gpu.data.template.message_form` finds out how a template takes messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from gpu.data.format.example import Example, Problem
from gpu.data.template.divergence import Answer, Renderings, cause_of, located
from gpu.data.template.markers import Markers
from gpu.data.template.message_form import PROBES, REFUSALS, Form, Messages, found_form, openings
from gpu.data.template.render_check import Judge, NotTrainable, Rendered, TextJudge, content_of
from gpu.model.tokenizer import render_conversation

__all__ = ["ChatTemplate", "NotTrainable", "Rendered", "shown"]

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

KNOWN_FORMS = 4096
"""Of rows, that are remembered: a file has few, but long conversations may each have one of their own."""


class _Structure(NamedTuple):
    """What a template does with all rows of one form, found out with markers."""

    form: Form
    """In which it takes them."""
    refused: NotTrainable | None
    """Why it cannot be trained with them."""
    owners: tuple[int | None, ...] | None
    """Of each marked part, the message that it belongs to; None: not known, the template takes no markers."""


class ChatTemplate:
    """The chat template of a tokenizer that has one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._forms: dict[bool, Form] = {}
        self._structures: dict[bytes, _Structure] = {}
        added = [str(token) for token in tokenizer.added_tokens_encoder] + list(tokenizer.all_special_tokens)
        self._ends = tuple(token for token in added if token.strip())

    def rendered(self, example: Example) -> list[Rendered]:
        """The example as one text, or as one for each answer. Raises CannotLearn."""
        if unread := [name for name in example.template_kwargs or () if not self._form(example.tools).reads(name)]:
            what = f"the chat template does not read {', '.join(unread)}, which chat_template_kwargs of the row sets"
            advice = "Remove it, or correct its name."
            raise NotTrainable(Problem("row_key_refused", example.line, what, shown(example), advice))
        structure = self._structure(example)
        texts = self._texts(example, structure.form, TextJudge(), structure.owners)
        if structure.refused is not None:  # the row's own texts did not show it: they occur elsewhere, too
            raise NotTrainable(replace(structure.refused.problem, line=example.line, seen=shown(example)))
        return texts

    def openings(self) -> tuple[str, str] | None:
        """What a prompt ends with, and what the template writes before an answer instead; None: the same."""
        return openings(self._form(None), self._probe())

    def _structure(self, example: Example) -> _Structure:
        """What the template does with rows of this form; the same for the same form, whatever came before."""
        markers = Markers(example)
        marked = markers.example
        key = msgspec.json.encode([marked.messages, marked.train, marked.tools, marked.template_kwargs])
        if key not in self._structures:
            if len(self._structures) >= KNOWN_FORMS:
                self._structures.clear()
            self._structures[key] = self._tried(markers)
        return self._structures[key]

    def _tried(self, markers: Markers) -> _Structure:
        form, example = self._form(markers.example.tools), markers.example
        forms = [form]
        if any(message.get("tool_calls") for message in example.messages):
            # What a template takes may depend on the row, on its tools for one.
            forms.append(replace(form, string_arguments=not form.string_arguments))
        found: list[_Structure] = []
        for tried in forms:
            owners = None
            try:
                whole = self._render(example, example.messages, tried)
                owners = markers.owners(whole.spans, whole.text) if tried.marked else None
                self._texts(example, tried, markers, owners)
            except NotTrainable as refused:
                # A template may refuse the markers and not the row, which is rendered next and says so itself.
                only_markers = refused.problem.name == "template_refused"
                found.append(_Structure(tried, None if only_markers else refused, owners))
            else:
                return _Structure(tried, None, owners)
        return found[0]

    def _texts(
        self, example: Example, form: Form, judge: Judge, owners: tuple[int | None, ...] | None
    ) -> list[Rendered]:
        whole = self._render(example, example.messages, form)
        if form.marked:
            return self._marked(example, whole, judge, owners)
        answers = [index for index, is_trained in enumerate(example.train) if is_trained]
        turns = [self._turn(example, index, whole.text, form, judge) for index in answers]
        if all(whole.text.startswith(turn.text) for turn in turns):
            judge.context(example, len(example.messages), whole.text)
            return [Rendered(whole.text, tuple(span for turn in turns for span in turn.spans))]
        for turn, index in zip(turns, answers, strict=True):
            judge.context(example, index, turn.text)
        return turns

    def _turn(self, example: Example, index: int, whole: str, form: Form, judge: Judge) -> Rendered:
        """The text up to an answer, and where in it the answer is."""
        message = example.messages[index]
        if index == 0:
            what, advice = "the assistant speaks first", "Put a user's message before it."
            raise NotTrainable(Problem("assistant_first", example.line, what, content_of(message), advice))
        prompt = self._render(example, example.messages[:index], form, add_generation_prompt=True).text + form.header
        is_last = index == len(example.messages) - 1
        text = whole if is_last else self._render(example, example.messages[: index + 1], form).text
        start = len(prompt)
        if not text.startswith(prompt):
            text, start = self._parted(example, index, prompt, text, form)
        judge.answer(example, index, text[start:])
        return Rendered(text, ((start, self._end_of_turn(text, start, content_of(message))),))

    def _parted(self, example: Example, index: int, prompt: str, text: str, form: Form) -> Answer:
        """The answer in a text that does not begin with the prompt for it. Raises CannotLearn."""
        before, answer = example.messages[:index], example.messages[index]
        others = [place for place, message in enumerate(before) if message["role"] not in ("assistant", "tool")]
        probed = [name for name in ("content", "reasoning_content") if name == "content" or answer.get(name)]
        made = Renderings(
            bare=self._render(example, before, form).text,
            question=self._render(example, before[: others[-1] + 1], form).text if others else "",
            prompt=prompt,
            text=text,
            probe=self._render(example, [*before, {**answer, **dict.fromkeys(probed, PROBES[1])}], form).text,
        )
        found = located(made, content_of(answer), PROBES[1])
        if found is None:
            raise NotTrainable(_unstable(example, index + 1, made))
        return found

    def _end_of_turn(self, text: str, start: int, content: str) -> int:
        """Past what ends a turn: a line break after it is never the model's to say, unless nothing else ends it."""
        stripped = text.rstrip()
        is_ended = stripped.endswith(self._ends) or not stripped.endswith(content.rstrip())
        return len(stripped) if is_ended and len(stripped) > start else len(text)

    def _marked(
        self, example: Example, whole: Rendered, judge: Judge, owners: tuple[int | None, ...] | None
    ) -> list[Rendered]:
        """The same, of a template that marks answers. One that writes earlier answers without something that is to be
        trained, such as their reasoning, is asked for each answer as the last."""
        judge.context(example, len(example.messages), whole.text)
        try:
            return [_chosen(example, whole, judge, owners)]
        except NotTrainable as refused:
            answers = [index for index, message in enumerate(example.messages) if message["role"] == "assistant"]
            if len(answers) == 1 or refused.problem.name == "template_marks_unmatched":
                raise
        return [text for index in answers if example.train[index] for text in self.rendered(_up_to(example, index))]

    def _render(
        self, example: Example, messages: Messages, form: Form, *, add_generation_prompt: bool = False
    ) -> Rendered:
        """What the template writes, and what it marks in it; as `apply_chat_template` does before it tokenises. Raises
        CannotLearn."""
        try:
            return self._written(messages, example, form, add_generation_prompt)
        except REFUSALS as error:
            what, advice = f"the chat template says: {error}", "The model's chat template does not allow such a row."
            advice += " Correct the line or remove it."
            raise NotTrainable(Problem("template_refused", example.line, what, shown(example), advice)) from error

    def _written(self, messages: Messages, example: Example, form: Form, add_generation_prompt: bool) -> Rendered:
        return Rendered(
            *render_conversation(
                self._tokenizer,
                form.written(messages),
                example.tools or None,
                form.text,
                marked=form.marked and not add_generation_prompt,
                add_generation_prompt=add_generation_prompt,
                arguments=example.template_kwargs or {},
            )
        )

    def _form(self, tools: Messages | None) -> Form:
        has_tools = bool(tools)
        if has_tools not in self._forms:
            text = str(self._tokenizer.get_chat_template(tools=tools or None))
            pinned = _PINNED + text if "strftime_now" in text else text
            marked = bool(GENERATION_MARK.search(text))
            self._forms[has_tools] = found_form(pinned, marked=marked, render=self._probe())
        return self._forms[has_tools]

    def _probe(self) -> Callable[[Messages, Form, bool], Rendered]:
        row = Example(0, [], ())
        return lambda messages, form, prompt: self._written(messages, row, form, prompt)


def _up_to(example: Example, index: int) -> Example:
    """The conversation up to an answer, which alone is trained."""
    return replace(example, messages=example.messages[: index + 1], train=(*([False] * index), True))


def _chosen(example: Example, whole: Rendered, judge: Judge, owners: tuple[int | None, ...] | None) -> Rendered:
    """What the template marked, without the answers that are not to be trained. Raises CannotLearn."""
    answers = [index for index, message in enumerate(example.messages) if message["role"] == "assistant"]
    if owners is None and len(whole.spans) == len(answers):
        owners = tuple(answers)
    trained = {index for index in answers if example.train[index]}
    if owners is None or len(owners) != len(whole.spans) or not trained <= {*owners} <= {*answers}:
        raise NotTrainable(_unmatched(example, len(whole.spans), len(answers)))
    spans = [(owner, span) for owner, span in zip(owners, whole.spans, strict=True) if owner in trained]
    for index in sorted(trained):
        judge.answer(example, index, "".join(whole.text[slice(*span)] for owner, span in spans if owner == index))
    return Rendered(whole.text, tuple(span for _, span in spans))


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
