"""Rows as text: what is trained is marked, and nothing acts on the terminal."""

from __future__ import annotations

import io

import pytest

from cli.commands.data import preview_text
from cli.commands.data.preview_text import TRAINED, print_preview, row_lines
from cli.output.terminal import can_print, has_colour
from gpu.data.examine.report import PreviewPart, PreviewPiece, PreviewRow, Reason


def row(*parts: PreviewPart, **fields: object) -> PreviewRow:
    piece = PreviewPiece(parts=parts, tokens=10, trained_tokens=4)
    return PreviewRow(**{"row": 3, "line": 3, "verdict": "trained", "pieces": (piece,), **fields})


def shown(found: PreviewRow) -> list[str]:
    return ["".join(span.text for span in line) for line in row_lines(found, "[[", "]]")]


QUESTION = PreviewPart(text="<|user|>2+2?\nQuick\n")
ANSWER = (PreviewPart(text="4\nfour", trained=True), PreviewPart(text="<|end|>", trained=True, special=True))


def test_brackets_enclose_what_is_trained_over_several_lines() -> None:
    assert shown(row(QUESTION, *ANSWER, PreviewPart(text="\n"), line=9)) == [
        "row 3 (line 9): 10 tokens, 4 of them trained",
        "  <|user|>2+2?",
        "  Quick",
        "  [[4",
        "  four<|end|>]]",
        "  ",
    ]


def test_control_characters_are_escaped() -> None:
    text = "\x1b[31mred\x07\t\u202eback\r"
    (_, line) = shown(row(PreviewPart(text=text, trained=True)))
    assert line == r"  [[\x1b[31mred\x07\t\u202eback\r]]"
    bad = row(verdict="rejected", pieces=(), reasons=(Reason(name="bad_field", message="a\x1b[2J", advice="Fix."),))
    assert shown(bad) == ["row 3: rejected", r"  reject bad_field: a\x1b[2J", "  → Fix."]


def test_gaps_say_what_is_left_out_and_close_the_brackets() -> None:
    gap = PreviewPart(omitted_characters=12_000, omitted_trained_characters=9_000)
    lines = shown(row(QUESTION, ANSWER[0], gap, ANSWER[1]))
    assert "  four]]" in lines
    assert "  … 12,000 characters left out, 9,000 of them trained …" in lines
    assert lines[-1] == "  [[<|end|>]]"


def test_rows_that_are_not_trained_say_why() -> None:
    source = (PreviewPart(text="{oops"),)
    reason = Reason(name="broken_json", message="broken JSON: {oops", advice="Correct it.")
    lines = shown(row(verdict="rejected", pieces=(), reasons=(reason,), source=source))
    assert lines[0] == "row 3: rejected"
    assert lines[-2:] == ["  as it stands in the file:", "  {oops"]
    assert shown(row(verdict="dropped", pieces=(), tokens=2000))[0].startswith("row 3: dropped: it has 2,000 tokens")
    assert shown(row(QUESTION, verdict="held_out"))[0] == "row 3: held out, so not trained; 10 tokens"
    assert shown(row(QUESTION, cut_tokens=5))[0].endswith("; 5 more are cut off")


def test_pieces_are_numbered() -> None:
    piece = PreviewPiece(parts=(QUESTION,), tokens=10, trained_tokens=0)
    lines = shown(row(pieces=(piece, piece), omitted_pieces=7))
    assert [line for line in lines if "piece" in line] == [
        "  piece 1 of 9: 10 tokens, 0 of them trained",
        "  piece 2 of 9: 10 tokens, 0 of them trained",
        "  … 7 more pieces; `--row 3` shows them",
    ]


@pytest.mark.parametrize(("prints_brackets", "first", "last"), [(True, "⟦", "⟧"), (False, "[[", "]]")])
def test_a_pipe_gets_brackets_that_its_encoding_has(
    prints_brackets: bool, first: str, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preview_text, "can_print", lambda _: prints_brackets)
    print_preview("a.jsonl", [row(QUESTION, *ANSWER)])
    printed = capsys.readouterr().out
    assert f"trained text is between {first} and {last}" in printed
    assert f"{first}4\n  four<|end|>{last}" in printed


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_the_encoding_of_the_output_decides_the_characters(
    encoding: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert can_print("⟦⟧") == expected
    assert can_print("[[]]")


@pytest.mark.parametrize(
    ("is_terminal", "variables", "expected"),
    [
        (True, {"TERM": "xterm-256color"}, True),
        (True, {"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm-256color"}, False),
    ],
)
def test_colour_needs_a_terminal_that_has_it(
    is_terminal: bool, variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    output = io.StringIO()
    monkeypatch.setattr(output, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdout", output)
    assert has_colour() == expected


def test_a_terminal_gets_colour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(preview_text, "has_colour", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    print_preview("a.jsonl", [row(QUESTION, *ANSWER)])
    printed = capsys.readouterr().out
    assert "trained text is bold green" in printed
    assert "\x1b[1;38;5;28m4" in printed
    assert "⟦" not in printed
    styles = {span.style for line in row_lines(row(QUESTION, *ANSWER), "", "") for span in line if span.text.strip()}
    assert TRAINED in styles
