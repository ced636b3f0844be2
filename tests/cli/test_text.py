"""Text is safe to print."""

from __future__ import annotations

import os

import pytest

from cli.text import printable, printable_lines, shown_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï 🦶 👩\u200d🚀", "plain ünï 🦶 👩\u200d🚀"),
        ("two\nlines \x1b[31m", "two\\nlines \\x1b[31m"),
        ("right-to-left \u202e", "right-to-left \\u202e"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_line_breaks_are_kept_and_tabs_are_expanded() -> None:
    assert printable_lines("a\tb\n\x1b[2J") == "a    b\n\\x1b[2J"


def test_a_shown_name_does_not_change_again() -> None:
    """A name that a user copies from the output is found."""
    shown = shown_text(os.fsdecode(b"a\xff\n.jsonl"))
    assert shown == "a\\xff\\n.jsonl"
    assert shown_text(shown) == shown
