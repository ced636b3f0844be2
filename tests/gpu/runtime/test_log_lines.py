"""A line of the log: whole, harmless on a terminal, and without what looks like a secret."""

from __future__ import annotations

import json
import logging

import pytest

from gpu.runtime import log_lines
from gpu.runtime.log_lines import HIDDEN, LONGEST_TEXT, JsonLines, LogLine, secret_values, without_secrets


def record(message: str, **extra: object) -> logging.LogRecord:
    """What a logger would hand on."""
    made = logging.LogRecord("some.library", logging.WARNING, "x.py", 1, "%s", (message,), None)
    vars(made).update(extra)
    return made


def test_a_record_becomes_a_line_that_reads_back() -> None:
    """With what it carries next to its message."""
    line = JsonLines("worker").line(record("it is so", attempt=4, kind="resumed", trace="Traceback …"))
    assert (line.level, line.source, line.logger) == ("warning", "worker", "some.library")
    assert (line.message, line.attempt, line.kind, line.trace) == ("it is so", 4, "resumed", "Traceback …")
    assert line.at.endswith("Z")
    assert log_lines.decode(log_lines.encode(line)) == line


def test_an_exception_brings_its_trace() -> None:
    """As Python prints it."""
    try:
        int("no such thing")
    except ValueError as error:
        made = record("it failed", exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: invalid literal" in JsonLines("daemon").line(made).trace


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "a\x00b", "‮", "\u2028", "\x7f", "two\nlines\r", "\udcff"])
def test_nothing_in_a_line_moves_a_cursor_or_ends_the_line(text: str) -> None:
    """Control characters, C1 too, and signs that turn the direction, are escaped."""
    data = JsonLines("worker").format(record(text))
    assert data.isprintable()
    assert json.loads(data)["message"]


def test_a_long_text_keeps_its_end() -> None:
    """A trace has its point there."""
    line = JsonLines("worker").line(record("x" * 100_000 + "the end"))
    assert len(line.message) < LONGEST_TEXT + 100
    assert line.message.endswith("the end")
    assert "characters before this" in line.message


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("mailto://me:hunter2hunter@example.org", "hunter2hunter"),
        ("401 for hf_abcdefghijklmnopqrstuv", "hf_abcdefghijklmnopqrstuv"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123", "ghp_abcdefghijklmnopqrstuvwxyz0123"),
        ("Authorization: Bearer abc.def-ghi_jkl==", "abc.def-ghi_jkl"),
        ('{"api_key": "0123456789"}', "0123456789"),
        ("password=correct-horse next", "correct-horse"),
        ("HF_TOKEN: 'abcdefgh1234'", "abcdefgh1234"),
        ("sent x9y8z7x9y8z7 on", "x9y8z7x9y8z7"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, secret: str) -> None:
    """By its form, by the name before it, or as a value of the environment whose name says so."""
    values = secret_values({"MY_SECRET": "x9y8z7x9y8z7", "TOKEN_FILE": "/run/token", "HOME": "on", "API_KEY": "short"})
    assert values == ("x9y8z7x9y8z7",)
    hidden = without_secrets(text, values)
    assert secret not in hidden
    assert HIDDEN in hidden


@pytest.mark.parametrize(
    "text", ["4800 tokens (2400 of them learned)", "tokens/s: 100", "the tokenizer: tiny", "max_length = 1024"]
)
def test_ordinary_words_stay(text: str) -> None:
    """Of tokens there is much talk here."""
    assert without_secrets(text) == text


def test_other_text_is_not_a_log_line() -> None:
    """A library's print, half a line, another JSON object."""
    for data in (b"Segmentation fault", b'{"at":"2026', b'{"a":1}', b"\xff", b""):
        assert log_lines.decode(data) is None
    assert log_lines.decode(log_lines.encode(LogLine(at="", level="info", source="hook", message="m"))) is not None
