"""The rows that any format is parsed into.

The main form is an `Example`: messages, and for each whether it is trained. `Text` and `Tokenised` have no messages.
A row that cannot be trained is a `BadRow`, with all of its problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpu.data.problems import Problem


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, as chat templates take it."""

    line: int
    """Line on which the row begins, from 1; in a Parquet file the number of the row."""
    messages: list[dict[str, Any]]
    """`role` (system, user, assistant, tool) and `content`, a string; where the row has them, `reasoning_content`,
    `tool_calls` (their `arguments` an object), `tool_call_id` and `name`. Other keys are dropped."""
    train: tuple[bool, ...]
    """For each message, True if it is trained; only an assistant's message can be."""
    tools: list[dict[str, Any]] | None = None
    """The declared functions as JSON schema, for the template."""
    plain: bool = False
    """True if the row is a prompt and a completion that are strings: it can be trained without a chat template."""
    template_kwargs: dict[str, Any] | None = None
    """Arguments that the row gives the chat template."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is trained whole."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A row that comes as token ids."""

    line: int
    ids: list[int]
    trained: list[bool]
    """One for each token."""


Row = Example | Text | Tokenised


def askable(row: object) -> Example | None:
    """Return the row if its last message is an answer in text that is trained, to a prompt in text; None for all
    others."""
    if not isinstance(row, Example) or not row.train[-1]:
        return None
    last = row.messages[-1]
    has_prompt = any(str(message["content"]).strip() for message in row.messages[:-1])
    return row if has_prompt and not last.get("tool_calls") and str(last["content"]).strip() else None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be trained."""

    line: int
    raw: bytes
    """Bytes of the row as they stand in the file, so that the user can correct it; b"" for binary containers."""
    problems: tuple[Problem, ...]
