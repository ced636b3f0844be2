"""Output on a terminal."""

from __future__ import annotations

import pytest
from rich.color import Color

from cli.output import terminal
from cli.output.terminal import ATTENTION, BAD, GOOD, NOTE, Row, report_text, styled


@pytest.mark.parametrize("style", [ATTENTION, BAD, GOOD, NOTE])
@pytest.mark.parametrize("background", [0.0, 1.0])
def test_colors_are_readable_on_black_and_on_white(style: str, background: float) -> None:
    """The contrast of WCAG 2.1, section 1.4.3, is at least 3, as it asks for large text."""
    parts = [part / 255 for part in Color.parse(style).get_truecolor()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    lighter, darker = max(luminance, background), min(luminance, background)
    assert (lighter + 0.05) / (darker + 0.05) >= 3


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Standard output is a terminal of 40 columns with 256 colors."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(terminal, "terminal_width", lambda: 40)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("TERM", "xterm-256color", "\x1b[1;38;5;160mtext\x1b[0m"),
        ("TERM", "linux", "\x1b[1;31mtext\x1b[0m"),
        ("TERM", "dumb", "text"),
        ("NO_COLOR", "1", "text"),
    ],
)
def test_colors_are_those_that_the_terminal_has(
    variable: str, value: str, expected: str, on_terminal: pytest.MonkeyPatch
) -> None:
    on_terminal.setenv(variable, value)
    assert styled("text", f"bold {BAD}") == expected
    assert terminal.has_colour() == (expected != "text")


def test_texts_of_a_report_stand_in_one_column(on_terminal: pytest.MonkeyPatch) -> None:
    """A long one breaks between words, in its own column."""
    on_terminal.setenv("NO_COLOR", "1")
    rows = [Row("model", "some words that do not fit into one line"), Row("", "→ advice")]
    assert report_text(rows) == "model  some words that do not fit into\n       one line\n       → advice"
