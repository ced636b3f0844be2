"""The prompts of a comparison: from the command line, from a file, or drawn from the validation set."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cli.config.plain_text import is_plain_text
from cli.config.validation_set import validation_file
from cli.errors import UserError
from cli.home.paths import Home
from events.generation import ChatMessage
from events.settings import DataSettings, JobSettings
from journal.durable import read_file

DRAWN = 3
"""Rows that are drawn from the validation set by default: as many as fit on a screen with their answers."""

FILE_BYTES_MAX = 1 << 24
"""Largest file with a prompt on each line: nobody reads the answers to more than 16 MB."""


class Prompt(NamedTuple):
    """A dialogue to answer, and the answer of the row that it comes from."""

    messages: tuple[ChatMessage, ...]
    expected: str | None = None

    @property
    def text(self) -> str:
        """The last message."""
        return self.messages[-1].content


def find_prompts(
    home: Home, settings: JobSettings, given: tuple[str, ...], file: Path | None, rows: int | None
) -> list[Prompt]:
    """The prompts that are `given`, then those of the `file`; without both, rows of the validation set.

    `rows`: draw this many from the file or the validation set. Raises UserError, OSError.
    """
    prompts = [Prompt((ChatMessage("user", text),)) for text in given]
    if file is not None:
        found = _prompts_of_file(file, settings.data)
        return [*prompts, *(found if rows is None else draw(found, rows))]
    if prompts:
        return prompts
    validation = validation_file(home, settings)
    if validation is None:
        raise UserError(
            "there is no prompt, and [data] validation names no validation set to draw some from",
            "write one or more: keepstep compare 'PROMPT' …; or a file of them: --file FILE",
        )
    return draw(_prompts_of_rows(validation, settings.data), DRAWN if rows is None else rows)


def draw(prompts: list[Prompt], count: int) -> list[Prompt]:
    """At most `count` of the prompts, chosen by their content, so that they are the same each time."""

    def key(prompt: Prompt) -> bytes:
        return hashlib.sha256(repr(prompt).encode(errors="backslashreplace")).digest()

    drawn = {*heapq.nsmallest(count, prompts, key=key)}
    return [prompt for prompt in dict.fromkeys(prompts) if prompt in drawn]


def _prompts_of_file(path: Path, settings: DataSettings) -> list[Prompt]:
    if not is_plain_text(path.name):
        return _prompts_of_rows(path, settings)
    try:
        lines = read_file(path, bytes_max=FILE_BYTES_MAX).decode().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}", "save it as UTF-8") from error
    found = [Prompt((ChatMessage("user", line),)) for line in lines if line.strip()]
    if not found:
        raise UserError(f"{path} has no prompt", "write one prompt on each line")
    return found


def _prompts_of_rows(path: Path, settings: DataSettings) -> list[Prompt]:
    from gpu.data.format.example import Example
    from gpu.data.format.rows import read_rows
    from gpu.data.problems import Problem
    from gpu.data.read.source import with_own_format

    found: list[Prompt] = []
    for row in read_rows(path, with_own_format(path, settings)):
        if isinstance(row, Problem):
            raise UserError(f"{path}: {row.message}", "`keepstep data check FILE` reports every problem of a data file")
        if isinstance(row, Example):
            found += _prompts_of_row(row.messages, row.train)
    if not found:
        raise UserError(
            f"{path} has no row with a prompt and an answer",
            "name a file of such rows, or a .txt file with one prompt on each line",
        )
    return found


def _prompts_of_row(messages: list[dict[str, object]], train: tuple[bool, ...]) -> Iterator[Prompt]:
    """Yield the prompt of the first trained answer; none for a row with tools, which a comparison cannot show."""
    index = next((index for index, is_trained in enumerate(train) if is_trained), 0)
    before = messages[:index]
    if not before or any(each["role"] == "tool" or each.get("tool_calls") for each in messages[: index + 1]):
        return
    yield Prompt(
        tuple(ChatMessage(each["role"], str(each["content"])) for each in before),  # type: ignore[arg-type]
        str(messages[index]["content"]),
    )
