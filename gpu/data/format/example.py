"""What a row of any format is turned into, and what is said of one that cannot be.

There is one internal form: messages, and for each whether it is learned. `Text` and `Tokenised` are for rows that have
no messages. A row that cannot be learned from is a `BadRow`, with all that is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EXCERPT_CHARACTERS = 80
"""Enough to recognise a row, short enough to stay on one line."""


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, as chat templates take it."""

    line: int
    """Where the row begins in the file, from 1; of a Parquet file the number of the row."""
    messages: list[dict[str, Any]]
    """`role` (system, user, assistant, tool) and `content`, a string; where the row has them, `reasoning_content`,
    `tool_calls` (their `arguments` an object), `tool_call_id` and `name`. Other keys are not carried over."""
    train: tuple[bool, ...]
    """For each message whether it is learned; never true but of an assistant's."""
    tools: list[dict[str, Any]] | None = None
    """The declared functions, as JSON schema; for the template."""
    plain: bool = False
    """Made of a prompt and a completion that are strings: it can be trained without a chat template, too."""
    template_kwargs: dict[str, Any] | None = None
    """Arguments that the row gives the chat template."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is learned whole."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Token ids that somebody else made."""

    line: int
    ids: list[int]
    trained: list[bool]
    """One for each token."""


Row = Example | Text | Tokenised


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a row, or with a file as a whole."""

    name: str
    """That scripts can match: `broken_json`, `missing_messages_list`, …"""
    line: int | None
    """None: of the file as a whole."""
    what: str
    """What is wrong, as a clause: "the field 'prompt' is missing; there are"."""
    seen: str = ""
    """What stands there; shown as an excerpt."""
    advice: str = ""
    """What to do, as a sentence."""
    column: int | None = None
    """From 1, in characters; None where it has no place within the line."""

    @property
    def message(self) -> str:
        """In the words that a person reads; a second line has the advice."""
        where = (
            "" if self.line is None else f"Line {self.line}" + (f", column {self.column}: " if self.column else ": ")
        )
        said = f"{where}{self.what}: {excerpt(self.seen)}" if self.seen else f"{where}{self.what}"
        return f"{said}\n{self.advice}" if self.advice else said


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be learned from."""

    line: int
    raw: bytes
    """As it stands in the file, so that it can be put aside and mended; b"" where the file is no text."""
    problems: tuple[Problem, ...]


def excerpt(text: str) -> str:
    """The beginning of `text`, on one line, fit for a message."""
    flat = " ".join(text[: 8 * EXCERPT_CHARACTERS].split())
    whole = len(flat) <= EXCERPT_CHARACTERS and len(text) <= 8 * EXCERPT_CHARACTERS
    return flat if whole else flat[: EXCERPT_CHARACTERS - 1] + "…"
