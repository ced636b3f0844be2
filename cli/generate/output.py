"""Show answers and notes: answers on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cli.generate.process import Answer, LoadedModel
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
    sys.stderr.write(f"{printable(note)}\n")
    sys.stderr.flush()


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


def show_text(text: str) -> bool:
    """Print a piece of an answer. False if nobody reads it any more.

    On a terminal, characters that it would act on are escaped: a model may write anything.
    """
    sys.stdout.write(printable_lines(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
    return not reader_is_gone()


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
