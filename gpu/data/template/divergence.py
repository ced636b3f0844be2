"""Locate an answer that a chat template begins differently than its own prompt for it.

The prompt is what a model is given before it answers; the text is the conversation with the answer. Usually the prompt
is the beginning of the text. Two kinds of templates differ, and keepstep understands both:

1. The prompt ends with an opening that an answer does not have: `<think>` and a line break in DeepSeek-R1 and QwQ. The
   answer then begins where prompt and text diverge, as in TRL. Such a template may remove the reasoning from an answer
   that has it. If the answer begins with the opening, it is inserted into the text unchanged.
2. The assistant's turns since the last question are written differently once another one follows: Qwen3 drops their
   reasoning. The answer then follows the prompt, which is what a model is given.

Any other difference (a system prompt that only the last message gets, a count of messages) belongs to the row's
context. Then nobody can tell what a model would see, and the row is refused with the cause and a way out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

EXCERPT_CHARACTERS = 30
"""Characters of a difference that a message shows."""

_OPENING = re.compile(r"\s*(<.*>\s*)?", re.DOTALL)
"""Matches what an answer may lack: white space and tags, such as an open or empty block of reasoning."""


class AnswerRenderings(NamedTuple):
    """One answer, rendered in several ways."""

    bare: str
    """The messages before the answer."""
    question: str
    """The messages up to the last one that is not the assistant's or a tool's."""
    prompt: str
    """The messages before the answer, with the generation prompt."""
    text: str
    """The messages before the answer, and the answer."""
    probe: str
    """The same with `placeholder` in place of the answer."""


class LocatedAnswer(NamedTuple):
    """A text, and the character at which the answer begins in it."""

    text: str
    start: int


def locate_answer(made: AnswerRenderings, content: str, placeholder: str) -> LocatedAnswer | None:
    """Return where the answer with this content begins; None if that cannot be told."""
    parts_late = made.text.startswith(made.bare) and made.prompt.startswith(made.bare)
    if parts_late and (found := _after_header(made, content, placeholder)) is not None:
        return found
    return _after_prompt(made, content)


def _after_header(made: AnswerRenderings, content: str, placeholder: str) -> LocatedAnswer | None:
    """Handle a prompt that ends with an opening that the text does not have, or has only in part."""
    shared = made.prompt[: common_prefix(made.prompt, made.probe)]
    if not made.text.startswith(shared):
        shared = made.prompt[: common_prefix(made.prompt, made.text)]
    header, opening = shared[len(made.bare) :], made.prompt[len(shared) :]
    if not header.strip() or not _OPENING.fullmatch(opening):
        return None
    if content.strip() in made.text[len(made.bare) :]:
        return LocatedAnswer(made.text, len(shared))
    before, written, after = made.probe[len(shared) :].partition(placeholder)
    if before or not written or not opening.strip() or not content.startswith(opening.strip()):
        return None
    text = shared + content + after
    return LocatedAnswer(text, common_prefix(made.prompt, text))


def _after_prompt(made: AnswerRenderings, content: str) -> LocatedAnswer | None:
    """Handle a prompt and a text that diverge after the last question, if the answer has its own role header."""
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
    return LocatedAnswer(made.prompt + answer, len(made.prompt))


def explain_divergence(made: AnswerRenderings, system: str, tool: str) -> tuple[str, str]:
    """Explain why the answer could not be located, and return the way out.

    `system`: the system prompt; `tool`: the name of a declared tool; "" if there is none.
    """
    parting = common_prefix(made.prompt, made.text)
    before, after = (_excerpt(each[parting:]) for each in (made.prompt, made.text))
    difference = f"without the answer it continues with {before!r}, with the answer with {after!r}"
    if system and system in made.prompt and system not in made.text:
        return (
            f"the template omits the system prompt once an answer follows; {difference}"
        ), "Put the system prompt into the first user message."
    if tool and tool in made.prompt and tool not in made.text:
        return (
            f"the template omits the declared tools once an answer follows; {difference}"
        ), f"{_MARKS} Or remove the tools."
    if "</think>" in made.prompt[parting:]:
        return f"the template omits the reasoning of an earlier answer once another one follows; {difference}", _SINGLE
    if made.text.startswith(made.prompt.rstrip()):
        return (
            f"the template omits white space at the end of the generation prompt once an answer follows; {difference}"
        ), _MARKS
    if parting >= len(made.bare):
        return f"the generation prompt differs from what the template writes before an answer; {difference}", _MARKS
    return difference, f"{_MARKS} Or write rows with a single answer."


_MARKS = "Use a chat template that only appends, or one with {% generation %} marks around what the assistant writes."
_SINGLE = f"Write rows with a single answer, or join consecutive answers. Or: {_MARKS[0].lower()}{_MARKS[1:]}"


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…"


def common_prefix(ids: Sequence[object], others: Sequence[object]) -> int:
    """Return the number of tokens, or characters, that both begin with."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(ids), len(others)))
