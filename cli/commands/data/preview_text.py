"""Rows as the model sees them, on a terminal in colour, elsewhere with brackets around what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cli.commands.common import count
from cli.output.terminal import ATTENTION, BAD, GOOD, can_print, has_colour
from cli.text import printable

if TYPE_CHECKING:
    from gpu.data.examine.report import PreviewPart, PreviewRow, Reason

INDENT = "  "

TRAINED, SPECIAL, REJECTED, NOTE = f"bold {GOOD}", "color(31)", BAD, "dim"
"""Rich styles of parts."""


class Span(NamedTuple):
    """A text on one line, and its rich style."""

    text: str
    style: str = ""


Line = list[Span]


def print_preview(name: str, rows: Sequence[PreviewRow]) -> None:
    """Print the rows of a file that is called `name`."""
    if not rows:
        print(f"{name}: there is no row to show\n")
        return
    in_colour = has_colour()
    first, last = ("", "") if in_colour else ("⟦", "⟧") if can_print("⟦⟧") else ("[[", "]]")
    how = "bold green" if in_colour else f"between {first} and {last}"
    special = ", special tokens cyan" if in_colour else ""
    lines = [[Span(f"{name}: rows as the model sees them; trained text is {how}{special}", "bold")]]
    for row in rows:
        lines += [[Span("")], *row_lines(row, first, last)]
    if in_colour:
        _print_in_colour(lines)
    else:
        print("\n".join("".join(span.text for span in line).rstrip() for line in lines))
    print()


def row_lines(row: PreviewRow, first: str, last: str) -> Iterator[Line]:
    """The lines of a row. `first` and `last` stand around what is trained."""
    line = f" (line {row.line})" if row.line != row.row else ""
    style = REJECTED if row.verdict == "rejected" else "bold"
    yield [Span(f"row {row.row}{line}: {_verdict(row)}", style)]
    for kind, reasons in (("reject", row.reasons), ("warn", row.warnings)):
        for reason in reasons:
            yield from _reason_lines(kind, reason)
    for number, piece in enumerate(row.pieces, start=1):
        if len(row.pieces) + row.omitted_pieces > 1:
            of = len(row.pieces) + row.omitted_pieces
            yield [Span(f"{INDENT}piece {number} of {of}: {_tokens(piece.tokens, piece.trained_tokens)}", NOTE)]
        yield from _part_lines(piece.parts, first, last)
    if row.omitted_pieces:
        yield [Span(f"{INDENT}… {count(row.omitted_pieces, 'more piece')}; `--row {row.row}` shows them", NOTE)]
    if row.source:
        yield [Span(f"{INDENT}as it stands in the file:", NOTE)]
        yield from _part_lines(row.source, first, last)


def _verdict(row: PreviewRow) -> str:
    if row.verdict == "rejected":
        return "rejected"
    if row.verdict == "dropped":
        return f"dropped: it has {row.tokens:,} tokens, which is too long"
    tokens, trained = (sum(getattr(piece, name) for piece in row.pieces) for name in ("tokens", "trained_tokens"))
    if row.verdict == "held_out":
        return f"held out, so not trained; {tokens:,} tokens"
    cut = f"; {row.cut_tokens:,} more are cut off" if row.cut_tokens else ""
    return _tokens(tokens, trained) + cut


def _tokens(tokens: int, trained: int) -> str:
    return f"{tokens:,} tokens, {trained:,} of them trained"


def _reason_lines(kind: str, reason: Reason) -> Iterator[Line]:
    style = REJECTED if kind == "reject" else ATTENTION
    yield [Span(f"{INDENT}{kind} {reason.name}: {printable(reason.message)}", style)]
    if reason.advice:
        yield [Span(f"{INDENT}→ {printable(reason.advice)}", style)]


def _part_lines(parts: Sequence[PreviewPart], first: str, last: str) -> Iterator[Line]:
    """Parts as lines. Control characters are escaped; a line feed also begins a new line."""
    line: Line = [Span(INDENT)]
    is_open = False
    for part in parts:
        if part.omitted_characters:
            if is_open:
                line.append(Span(last))
                is_open = False
            yield line
            yield [Span(f"{INDENT}… {_omitted(part)} …", NOTE)]
            line = [Span(INDENT)]
            continue
        if part.trained != is_open:
            line.append(Span(first if part.trained else last))
            is_open = part.trained
        style = " ".join([TRAINED] * part.trained + [SPECIAL] * (part.special and not part.trained))
        before, *others = part.text.split("\n")
        line.append(Span(printable(before), style))
        for text in others:
            yield line
            line = [Span(INDENT), Span(printable(text), style)]
    if is_open:
        line.append(Span(last))
    yield line


def _omitted(part: PreviewPart) -> str:
    trained = f", {part.omitted_trained_characters:,} of them trained" if part.omitted_trained_characters else ""
    return f"{count(part.omitted_characters, 'character')} left out{trained}"


def _print_in_colour(lines: Sequence[Line]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        text = Text.assemble(*((span.text, span.style) for span in line))
        is_indented = text.plain.startswith(INDENT)
        console.print(Padding(text[len(INDENT) :], (0, 0, 0, len(INDENT))) if is_indented else text)
