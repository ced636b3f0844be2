"""Save a dialogue as a training row: a line of a .jsonl file, in the format of `messages`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cli.errors import UserError
from cli.home.paths import Home
from events.generation import ChatMessage
from journal.durable import fsync_directory

SUFFIX = ".jsonl"


def save_row(path: Path, messages: Sequence[ChatMessage], home: Home) -> None:
    """Append the dialogue to the file, which need not exist. Raises UserError."""
    if not any(each.role == "assistant" for each in messages):
        raise UserError("there is nothing to save: nothing was answered yet", "write a turn first")
    if not all(each.content.strip() for each in messages):
        raise UserError("an answer is empty, so it cannot be trained", "/reset starts again; then ask differently")
    if path.suffix != SUFFIX:
        raise UserError(f"{path} does not end in {SUFFIX}", f"for example: /save {path.stem or 'dialogues'}{SUFFIX}")
    target = path.expanduser().absolute()
    if any(target.resolve().is_relative_to(each.resolve()) for each in home.directories()):
        raise UserError(
            f"{path} is in a directory of the home, whose files keepstep takes or deletes",
            "choose another one; later, `keepstep add FILE` queues it",
        )
    row = msgspec.json.encode({"messages": messages}) + b"\n"
    try:
        with target.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":  # the last line of another program
                row = b"\n" + row
            file.write(row)
            file.flush()
            os.fsync(file.fileno())
        if not end:  # the file may be new
            fsync_directory(target.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", "choose another file") from error
