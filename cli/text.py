"""Text that is safe to print: file names and messages without anything that a terminal would act on."""

from __future__ import annotations

import os

JOINER = "\u200d"
"""The zero-width joiner: it joins several emoji into one, and a terminal does not act on it."""


def printable(text: str) -> str:
    """`text` on one line, with control characters escaped; file names may contain any character.

    >>> printable("two\\nlines \\x1b[31m ünï 🦶")
    'two\\\\nlines \\\\x1b[31m ünï 🦶'
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == JOINER else each.encode("unicode_escape").decode() for each in text
    )


def printable_lines(text: str) -> str:
    """`text` with its line breaks, and every other control character escaped; a tab becomes four spaces."""
    return "\n".join(printable(line) for line in text.replace("\t", "    ").split("\n"))


def shown_text(name: str) -> str:
    """The name of a file as keepstep journals and shows it. Control characters and bytes that are not UTF-8 are
    escaped. A name that is escaped already does not change, so a name that a user
    copies from the output is found.
    """
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))
