"""A data file, line by line, to rows that can be learned from; and what is said when a line cannot.

One JSON object a line, in UTF-8. Blank lines are skipped. All rows of a file have one format: that of its first row,
or the one that the settings name. Every refusal names the line, what is wrong with it, and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from events.settings import DataSettings
from gpu.errors import RowRejected

EXCERPT_CHARACTERS = 80
"""Enough to recognise a line, short enough to stay on one."""

ROLES = ("system", "user", "assistant")

KNOWN_FORMATS = (
    "messages (role, content)",
    "prompt + completion",
    "instruction (+ input) + output",
    "text",
    "or name your own fields in keepstep.toml: [data] prompt = …, completion = …",
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """The format `messages`."""

    line: int
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer: `prompt`/`completion`, `instruction`/`output`, or mapped fields."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """The format `text`: all of it is learned."""

    line: int
    text: str


Row = Conversation | Pair | Text


def read_rows(path: Path, settings: DataSettings) -> Iterator[Row]:
    """The rows of the file at `path`. Raises RowRejected, and OSError."""
    chosen: str | None = None
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            chosen = chosen or recognised(line, data, settings)
            row = parse(line, data, chosen, settings) if chosen is not None else None
            if row is not None:
                yield row
    if chosen is None:
        raise RowRejected(
            "empty_file", None, "The file has no rows. Put one JSON object on each line, then add it again."
        )


def recognised(line: int, data: bytes, settings: DataSettings) -> str | None:
    """The format of a row, which is then that of all; None if there is none on this line. Raises RowRejected."""
    text = _text(line, data)
    return _format(line, _object(line, text), settings) if text.strip() else None


def parse(line: int, data: bytes, chosen: str, settings: DataSettings) -> Row | None:
    """The row on a line; None if it is blank. Raises RowRejected."""
    text = _text(line, data)
    return _row(line, _object(line, text), chosen, settings) if text.strip() else None


def excerpt(text: str) -> str:
    """The beginning of `text`, fit for a message."""
    flat = " ".join(text.split())
    return flat if len(flat) <= EXCERPT_CHARACTERS else flat[: EXCERPT_CHARACTERS - 1] + "…"


def reject(problem: str, line: int, what: str, seen: str, advice: str) -> RowRejected:
    """The refusal of a line, in the words that a person reads."""
    return RowRejected(problem, line, f"Line {line}: {what}: {excerpt(seen)}\n{advice}")


def _text(line: int, data: bytes) -> str:
    if b"\0" in data:
        raise _not_text(line, "it contains NUL bytes", data)
    try:
        # A byte order mark is what some editors begin a file with; it means nothing in UTF-8.
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_text(line, f"byte {error.start + 1} of the line is not UTF-8", data) from error


def _not_text(line: int, why: str, data: bytes) -> RowRejected:
    return reject(
        "not_text",
        line,
        f"this is not text, {why}",
        repr(data[:EXCERPT_CHARACTERS])[2:-1],
        "keepstep reads JSON Lines in UTF-8. Convert the file (compressed? UTF-16? a spreadsheet?), then add it again.",
    )


def _object(line: int, text: str) -> dict[str, Any]:
    advice = "Each line must be one whole JSON object. Correct the line or remove it, then add the file again."
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"broken JSON at column {error.colno} ({error.msg})"
        raise reject("broken_json", line, what, text, advice) from error
    except (ValueError, RecursionError) as error:
        raise reject("broken_json", line, f"broken JSON ({error})", text, advice) from error
    if not isinstance(fields, dict):
        what = f"this is {_kind(fields)}, not a JSON object"
        raise reject("not_an_object", line, what, text, 'A row looks like {"prompt": "…", "completion": "…"}.')
    return fields


def _format(line: int, fields: dict[str, Any], settings: DataSettings) -> str:
    if settings.prompt is not None or settings.completion is not None:
        return "prompt_completion"
    if settings.format != "auto":
        return settings.format
    if "messages" in fields:
        return "messages"
    if {"prompt", "completion"} <= fields.keys():
        return "prompt_completion"
    if {"instruction", "output"} <= fields.keys():
        return "instruction"
    if "text" in fields:
        return "text"
    raise reject(
        "unknown_format",
        line,
        "rows of no known format; the fields are",
        ", ".join(map(str, fields)) or "none",
        f"Known formats: {'; '.join(KNOWN_FORMATS)}.",
    )


def _row(line: int, fields: dict[str, Any], chosen: str, settings: DataSettings) -> Row:
    if chosen == "messages":
        return Conversation(line, _messages(line, fields))
    if chosen == "text":
        return Text(line, _string(line, fields, "text"))
    if chosen == "instruction":
        instruction = _string(line, fields, "instruction")
        extra = _string(line, fields, "input") if fields.get("input") is not None else ""
        prompt = f"{instruction}\n\n{extra}" if extra else instruction
        return Pair(line, prompt, _string(line, fields, "output"))
    prompt = _string(line, fields, settings.prompt or "prompt")
    return Pair(line, prompt, _string(line, fields, settings.completion or "completion"))


def _string(line: int, fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise reject(
            "missing_field",
            line,
            f"the field {name!r} is missing; there are",
            ", ".join(map(str, fields)) or "none",
            "All rows of a file need the same fields. Correct the line or remove it, then add the file again.",
        )
    return _checked(line, fields[name], f"the field {name!r}", "bad_field")


def _checked(line: int, value: Any, what: str, problem: str) -> str:
    """`value`, if it is a string of whole characters."""
    if not isinstance(value, str):
        shown = json.dumps(value, ensure_ascii=False)
        raise reject(problem, line, f"{what} must be a string, it is {_kind(value)}", shown, "Correct the line.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        advice = "An escape such as \\ud83d must be followed by its second half. Correct the line."
        raise reject("not_text", line, f"{what} contains half a character", ascii(value), advice) from error
    return value


def _messages(line: int, fields: dict[str, Any]) -> list[dict[str, str]]:
    def bad(what: str, seen: Any) -> RowRejected:
        advice = 'Expected: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.'
        return reject("bad_messages", line, what, json.dumps(seen, ensure_ascii=False), advice)

    if "messages" not in fields:
        raise bad("the field 'messages' is missing; the row is", fields)
    turns = fields["messages"]
    if not isinstance(turns, list) or not turns:
        raise bad(f"'messages' must be a list with something in it, it is {_kind(turns)}", turns)
    messages = []
    for place, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise bad(f"message {place} must be an object, it is {_kind(turn)}", turn)
        if turn.get("role") not in ROLES:
            raise bad(f"message {place} needs a 'role' out of {', '.join(ROLES)}", turn)
        if turn.get("tool_calls"):
            raise bad(f"message {place} has 'tool_calls', which cannot be learned from yet", turn)
        content = _checked(line, turn.get("content"), f"the content of message {place}", "bad_messages")
        messages.append({"role": str(turn["role"]), "content": content})
    return messages


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    if isinstance(value, list) and not value:
        return "an empty list"
    return names.get(type(value), "a number")
