"""Show answers and notes: answers on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.cells import cell_len

from cli.generate.process import Answer, LoadedModel
from cli.layout import terminal_width
from cli.output import terminal
from cli.text import printable, printable_lines
from gpu.runtime.streams import reader_is_gone


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner while the block runs, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False).status(what):
        yield


def say(note: str) -> None:
    """Print a sentence that is not part of an answer."""
    terminal.say(printable(note), error=True, flush=True)


HELD_CHARACTERS = 24
"""Longer words, and languages without spaces, are printed as they arrive."""


def say_loaded(loaded: LoadedModel) -> None:
    """Say which model answers, and whatever else the user should know of it."""
    model, report = loaded
    where = "GPU" if report.device == "cuda" else "CPU"
    say(f"[{model.name}: {model.description}; {where}, {report.dtype}]")
    if model.note:
        say(f"[{model.note}]")
    for note in report.notes:
        say(f"[{note}]")
    if not report.has_chat_template:
        say("[the model has no chat template: it continues the text as it is]")


class AnswerStream:
    """Prints an answer as it arrives. Calling it returns False if nobody reads it any more.

    On a terminal, lines break between words, and characters that the terminal would act on are escaped: a model may
    write anything.
    """

    def __init__(self) -> None:
        self._columns = terminal_width() if sys.stdout.isatty() else 0
        self._column = 0
        self._word = ""
        """Characters since the last space: where they go depends on the length of the whole word."""

    def __call__(self, text: str) -> bool:
        """Print a piece of the answer."""
        self._print(self._wrapped(printable_lines(text)) if self._columns else text)
        return not reader_is_gone()

    def end(self) -> None:
        """Print the last word and end the line."""
        self._print(f"{self._placed()}\n")

    def _print(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _wrapped(self, text: str) -> str:
        shown = ""
        for character in text:
            if character == "\n":
                shown += f"{self._placed()}\n"
                self._column = 0
            elif character == " ":
                shown += self._placed()
                if self._column < self._columns:
                    shown += " "
                    self._column += 1
            else:
                self._word += character
                if len(self._word) > HELD_CHARACTERS:
                    shown += self._placed()
        return shown

    def _placed(self) -> str:
        """The word that is complete now, on the next line if it does not fit on this one."""
        word, self._word = self._word, ""
        size = cell_len(word)
        breaks = self._column > 0 and self._column + size > self._columns
        self._column = (0 if breaks else self._column) + size
        if self._column > self._columns:  # the terminal breaks it
            self._column %= self._columns
        return f"\n{word}" if breaks else word


def say_finish(answer: Answer) -> None:
    """Say why an answer ends early, if it does."""
    if answer.finish == "length":
        say(f"[stopped after {answer.tokens} tokens; --max-tokens allows more]")
    elif answer.finish == "context":
        say("[stopped: the context of the model is full]")


def say_dropped(count: int) -> None:
    """Say that the oldest messages of a dialogue were left out."""
    what = "message was" if count == 1 else "messages were"
    say(f"[the dialogue no longer fits into the context of the model: its oldest {count} {what} left out]")
