"""What a chat template makes of messages, and which part of that the assistant says.

Only what the assistant says is learned: from behind the role header, which the template itself writes in front of an
answer, to the end-of-turn token; neither the header nor the line break after the end is the model's to say. A template
with `{% generation %}` says where that is, and is believed. For one without, the answer is what a turn adds to the
prompt that a model would be given for it: text(messages before, generation prompt) is the beginning of
text(messages up to the answer). Where it is not, `gpu/data/divergence.py` says what the answer is, or why that cannot
be told.

A template may write a turn differently once others follow it (drop its reasoning, end the text after the last one).
Then a conversation is as many examples as it has answers, each written as the last, which is how a model would meet it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import TemplateError

from gpu.data.divergence import Answer, Renderings, cause_of, located
from gpu.data.example import Example, Problem

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

_PROBE = "keepstep"


class CannotLearn(Exception):
    """A row that cannot be learned from; never leaves `gpu/data/`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Rendered(NamedTuple):
    """A text, and what of it is learned: from and to, in characters."""

    text: str
    spans: tuple[tuple[int, int], ...]


class Masked(NamedTuple):
    """Token ids, and a 1 for each that is learned."""

    ids: list[int]
    learned: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Variant:
    """A tokenizer may have one template for rows with tools and another for those without."""

    text: str
    marked: bool
    header: str
    """The role header, of a template that has no generation prompt with it; else ""."""


class ChatTemplate:
    """The chat template of a tokenizer that has one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._variants: dict[bool, _Variant] = {}
        added = [str(token) for token in tokenizer.added_tokens_encoder] + list(tokenizer.all_special_tokens)
        self._ends = tuple(token for token in added if token.strip())

    def marks(self, example: Example) -> bool:
        """Whether the template says itself what the assistant's part is."""
        return self._variant(example.tools).marked

    def masked(self, examples: Sequence[Example]) -> list[Masked | Problem]:
        """The examples, of a template that marks."""
        plain = [example for example in examples if not example.tools]
        done = dict(zip(map(id, plain), self._masked_together(plain), strict=True)) if plain else {}
        return [done[id(example)] if id(example) in done else self._masked(example) for example in examples]

    def rendered(self, example: Example) -> list[Rendered]:
        """The example in one text, or in one for each answer; of a template that does not mark. Raises CannotLearn."""
        whole = self._render(example, example.messages)
        turns = [self._turn(example, index, whole) for index, learned in enumerate(example.train) if learned]
        if all(whole.startswith(turn.text) for turn in turns):
            return [Rendered(whole, tuple(span for turn in turns for span in turn.spans))]
        return turns

    def _turn(self, example: Example, index: int, whole: str) -> Rendered:
        """The text up to an answer, and where in it the answer is."""
        message = example.messages[index]
        if index == 0:
            what, advice = "the assistant speaks first", "Put a user's message before it."
            raise CannotLearn(Problem("assistant_first", example.line, what, str(message.get("content", "")), advice))
        prompt = self._render(example, example.messages[:index], add_generation_prompt=True)
        is_last = index == len(example.messages) - 1
        text = whole if is_last else self._render(example, example.messages[: index + 1])
        prompt += self._variant(example.tools).header
        start = len(prompt)
        if not text.startswith(prompt):
            text, start = self._parted(example, index, prompt, text)
        _check_calls(example, message, text[start:])
        return Rendered(text, ((start, self._end_of_turn(text, start, str(message.get("content", "")))),))

    def _parted(self, example: Example, index: int, prompt: str, text: str) -> Answer:
        """The answer in a text that does not begin with the prompt for it. Raises CannotLearn."""
        before, answer = example.messages[:index], example.messages[index]
        others = [place for place, message in enumerate(before) if message["role"] not in ("assistant", "tool")]
        made = Renderings(
            bare=self._render(example, before),
            question=self._render(example, before[: others[-1] + 1]) if others else "",
            prompt=prompt,
            text=text,
            probe=self._render(example, [*before, {**answer, "content": _PROBE}]),
        )
        found = located(made, str(answer.get("content", "")), _PROBE)
        if found is None:
            raise CannotLearn(_unstable(example, index + 1, made))
        return found

    def openings(self) -> tuple[str, str] | None:
        """What a prompt ends with, and what the template writes before an answer instead; None: the same."""
        question = Example(0, [{"role": "user", "content": _PROBE}], (False,))
        turn = [*question.messages, {"role": "assistant", "content": _PROBE}]
        try:
            prompt = self._render(question, question.messages, add_generation_prompt=True)
            bare = self._render(question, question.messages)
            text = self._render(question, turn)
        except CannotLearn:  # a template that takes no question alone, or no answer: each row tells
            return None
        if text.startswith(prompt) or not (text.startswith(bare) and prompt.startswith(bare)):
            return None
        return prompt[len(bare) :], text[len(bare) :].partition(_PROBE)[0]

    def _end_of_turn(self, text: str, start: int, content: str) -> int:
        """Past what ends a turn: a line break after it is never the model's to say, unless nothing else ends it."""
        stripped = text.rstrip()
        is_ended = stripped.endswith(self._ends) or not stripped.endswith(content.rstrip())
        return len(stripped) if is_ended and len(stripped) > start else len(text)

    def _masked_together(self, examples: list[Example]) -> list[Masked | Problem]:
        try:
            marked = self._apply([example.messages for example in examples], None)
        except REFUSALS:  # one of them; each alone tells which
            return [self._masked(example) for example in examples]
        made = zip(examples, marked["input_ids"], marked["assistant_masks"], strict=True)
        return [self._chosen(example, list(ids), list(mask)) for example, ids, mask in made]

    def _masked(self, example: Example) -> Masked | Problem:
        try:
            marked = _refusable(example, lambda: self._apply([example.messages], example.tools))
        except CannotLearn as refused:
            return refused.problem
        return self._chosen(example, list(marked["input_ids"][0]), list(marked["assistant_masks"][0]))

    def _apply(self, conversations: list[Messages], tools: Messages | None) -> Any:
        return self._tokenizer.apply_chat_template(
            conversations,
            tools=tools,
            chat_template=self._variant(tools).text,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_attention_mask": False, "verbose": False},
        )

    def _chosen(self, example: Example, ids: list[int], mask: list[int]) -> Masked | Problem:
        """What the template marked, without the answers that are not to be learned."""
        answers = [index for index, message in enumerate(example.messages) if message["role"] == "assistant"]
        all_learned, marked = all(example.train[index] for index in answers), _runs(mask)
        # Where a tokenizer drops the last character of a marked part, transformers marks all that follows.
        to_the_end = bool(mask) and mask[-1] == 1
        runs_on = to_the_end and (len(marked) < len(answers) or answers[-1:] != [len(example.messages) - 1])
        if runs_on or not (all_learned or len(marked) == len(answers)):
            return _unmatched(example, len(marked), len(answers))
        if not all_learned:
            for index, (start, end) in zip(answers, marked, strict=True):
                if not example.train[index]:
                    mask[start:end] = [0] * (end - start)
        if any(message.get("tool_calls") for message in example.messages):
            said = self._tokenizer.decode([token for token, learned in zip(ids, mask, strict=True) if learned])
            try:
                for index in answers:
                    if example.train[index]:
                        _check_calls(example, example.messages[index], said)
            except CannotLearn as refused:
                return refused.problem
        return Masked(ids, mask)

    def _render(self, example: Example, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        variant = self._variant(example.tools)
        tools = example.tools or None
        return str(_refusable(example, lambda: self._text(messages, tools, variant.text, add_generation_prompt)))

    def _text(self, messages: Messages, tools: Messages | None, template: str, prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=prompt
            )
        )

    def _variant(self, tools: Messages | None) -> _Variant:
        has_tools = bool(tools)
        if has_tools not in self._variants:
            text = str(self._tokenizer.get_chat_template(tools=tools or None))
            pinned = _PINNED + text if "strftime_now" in text else text
            marked = bool(GENERATION_MARK.search(text))
            self._variants[has_tools] = _Variant(pinned, marked, "" if marked else self._header(pinned))
        return self._variants[has_tools]

    def _header(self, template: str) -> str:
        """What stands before an answer though no generation prompt put it there."""
        question = [{"role": "user", "content": _PROBE}]
        try:
            prompt, bare = (self._text(question, None, template, asked) for asked in (True, False))
            turn = self._text([*question, {"role": "assistant", "content": _PROBE}], None, template, prompt=False)
        except REFUSALS:  # a template that takes no question alone is tried by each row
            return ""
        if prompt != bare or not turn.startswith(bare):
            return ""
        lead = turn[len(bare) :].partition(_PROBE)[0]
        return lead if lead.strip() else ""


def _refusable(example: Example, render: Callable[[], Any]) -> Any:
    try:
        return render()
    except REFUSALS as error:
        what, advice = f"the chat template says: {error}", "The model's chat template does not allow such a row."
        problem = Problem(
            "template_refused", example.line, what, shown(example), f"{advice} Correct the line or remove it."
        )
        raise CannotLearn(problem) from error


def _runs(mask: list[int]) -> list[tuple[int, int]]:
    """Where the ones are: from and to."""
    edges = [index for index, (one, next_one) in enumerate(zip([0, *mask], [*mask, 0], strict=True)) if one != next_one]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _check_calls(example: Example, message: dict[str, Any], said: str) -> None:
    """A template that does not know tool calls leaves them out without a word."""
    for call in message.get("tool_calls") or ():
        name = call.get("function", call).get("name")
        if isinstance(name, str) and name not in said:
            what = "the chat template leaves out what the assistant calls, so the call cannot be learned"
            advice = "Use a model whose chat template writes tool calls, or remove the line."
            raise CannotLearn(Problem("template_without_tool_calls", example.line, what, name, advice))


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
