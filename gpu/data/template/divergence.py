"""Where a chat template writes an answer otherwise than its own prompt for it begins.

A prompt is what a model is given before it answers; the text is the conversation with the answer in it. Usually the
prompt is the beginning of the text. Two kinds of templates differ, and both are understood:

1. The prompt ends with an opening that an answer has not: `<think>` and a line break, as DeepSeek-R1 and QwQ have it.
   The answer then begins where prompt and text part, as in TRL. Such a template may cut the reasoning off an answer
   that has it; if the answer begins with the opening, it is written into the text as it stands.
2. What the assistant did since the last question is written otherwise once more follows: Qwen3 drops its reasoning.
   The answer then follows the prompt, which is what a model is given.

Whatever else differs (a system prompt that only the last message gets, a number of messages) is the row's context.
Then it cannot be told what a model would see, and the row is refused with the cause and a way out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gpu.data.encode.spans import common_prefix

EXCERPT_CHARACTERS = 30
"""Of what differs, shown in a message."""

_OPENING = re.compile(r"\s*(<.*>\s*)?", re.DOTALL)
"""What an answer may go without: white space and tags, such as a block of reasoning that is opened, or empty."""


class Renderings(NamedTuple):
    """One answer, rendered in several ways."""

    bare: str
    """The messages before it."""
    question: str
    """Those up to the last that is not the assistant's or a tool's."""
    prompt: str
    """The messages before it, with the generation prompt."""
    text: str
    """The messages before it, and the answer."""
    probe: str
    """The same with `placeholder` for the answer."""


class Answer(NamedTuple):
    """A text, and the character at which the answer begins in it."""

    text: str
    start: int


def located(made: Renderings, content: str, placeholder: str) -> Answer | None:
    """Where the answer with this content is; None: it cannot be told."""
    parts_late = made.text.startswith(made.bare) and made.prompt.startswith(made.bare)
    if parts_late and (found := _after_header(made, content, placeholder)) is not None:
        return found
    return _after_prompt(made, content)


def _after_header(made: Renderings, content: str, placeholder: str) -> Answer | None:
    """The prompt ends with an opening that the text has not, or not all of it."""
    shared = made.prompt[: common_prefix(made.prompt, made.probe)]
    if not made.text.startswith(shared):
        shared = made.prompt[: common_prefix(made.prompt, made.text)]
    header, opening = shared[len(made.bare) :], made.prompt[len(shared) :]
    if not header.strip() or not _OPENING.fullmatch(opening):
        return None
    if content.strip() in made.text[len(made.bare) :]:
        return Answer(made.text, len(shared))
    before, written, after = made.probe[len(shared) :].partition(placeholder)
    if before or not written or not opening.strip() or not content.startswith(opening.strip()):
        return None
    text = shared + content + after
    return Answer(text, common_prefix(made.prompt, text))


def _after_prompt(made: Renderings, content: str) -> Answer | None:
    """Prompt and text part after the last question, and the answer has a role header of its own."""
    if not made.bare or not made.prompt.startswith(made.bare):
        return None
    header = made.prompt[len(made.bare) :]
    shared = made.prompt[: common_prefix(made.prompt, made.text)]
    if not header.strip() or not made.question or not shared.startswith(made.question):
        return None
    differs = common_prefix(made.text, made.probe)
    place = made.text.rfind(header, len(shared), differs)
    answer = made.text[place + len(header) :]
    if place < 0 or differs == len(made.text) or content.strip() not in answer:
        return None
    return Answer(made.prompt + answer, len(made.prompt))


def cause_of(made: Renderings, system: str, tool: str) -> tuple[str, str]:
    """Why the answer could not be located, in words, and the way out. `system`: the system prompt; `tool`: the name of
    a declared tool; "" where there is none."""
    parting = common_prefix(made.prompt, made.text)
    before, after = (_excerpt(each[parting:]) for each in (made.prompt, made.text))
    said = f"without the answer it continues with {before!r}, with the answer with {after!r}"
    if system and system in made.prompt and system not in made.text:
        return f"the system prompt is left out once an answer follows; {said}", "Put it into the first user's message."
    if tool and tool in made.prompt and tool not in made.text:
        return f"the declared tools are left out once an answer follows; {said}", f"{_MARKS} Or leave out the tools."
    if "</think>" in made.prompt[parting:]:
        return f"the reasoning of an earlier answer is left out once another one follows; {said}", _SINGLE
    if made.text.startswith(made.prompt.rstrip()):
        return f"the white space at the end of the generation prompt is left out once an answer follows; {said}", _MARKS
    if parting >= len(made.bare):
        return f"the generation prompt is not what it writes before an answer; {said}", _MARKS
    return said, f"{_MARKS} Or make rows of a single answer."


_MARKS = "Use a chat template that only appends, or one with {% generation %} marks around what the assistant says."
_SINGLE = f"Make rows of a single answer, or join answers that follow each other. Or: {_MARKS[0].lower()}{_MARKS[1:]}"


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…"
