"""Print text, tables, reports and JSON: fitted to a terminal, as it is into a pipe or a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.layout import cell_lines, column_widths, fitted, terminal_width
from cli.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

GOOD, ATTENTION, BAD, NOTE = "color(28)", "color(166)", "color(160)", "color(31)"
"""Styles of rich: green, orange, red and blue. Each has a contrast of at least 3 on white and on black."""

_WORDS = {"bold": "1", "dim": "2"}
_BASIC = {GOOD: "32", ATTENTION: "33", BAD: "31", NOTE: "34"}
"""For terminals with 16 colors."""


class Row(NamedTuple):
    """A line of a report: its name, its text and its rich style."""

    name: str
    text: str
    style: str = ""


def say(text: str = "", *, error: bool = False, indent: int | None = None, flush: bool = False) -> None:
    """Print text. On a terminal its lines break between words, and paths are shortened. `error`: on stderr."""
    stream = sys.stderr if error else sys.stdout
    print(fitted(text, indent=indent) if stream.isatty() else text, file=stream, flush=flush)


def styled(text: str, style: str) -> str:
    """The text in this style, if standard output is a terminal that shows colors and NO_COLOR is not set."""
    colors = _colors()
    codes = ";".join(_code(word, colors) for word in style.split()) if colors else ""
    return f"\x1b[{codes}m{text}\x1b[0m" if codes else text


def _colors() -> int:
    """How many colors standard output shows: 0, 16 or 256. `NO_COLOR` (https://no-color.org) turns them off."""
    term = os.environ.get("TERM", "").lower()
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or term in {"", "dumb", "unknown"}:
        return 0
    return 256 if os.environ.get("COLORTERM") or "256" in term else 16


def _code(word: str, colors: int) -> str:
    """The code of a word of a style: https://en.wikipedia.org/wiki/ANSI_escape_code#SGR."""
    if word in _WORDS:
        return _WORDS[word]
    return f"38;5;{word[6:-1]}" if colors == 256 else _BASIC[word]


def print_report(rows: Sequence[Row]) -> None:
    """Print names in one column and texts in the other."""
    if sys.stdout.isatty():
        print(report_text(rows))
    else:
        _print_plainly([[printable(row.name), printable(row.text)] for row in rows])


def report_text(rows: Sequence[Row]) -> str:
    """The report for a terminal. `status` is too fast for a library of tables."""
    left = max((len(printable(row.name)) for row in rows), default=0)
    lines = []
    for row in rows:
        name = printable(row.name).ljust(left)
        for part in fitted(printable(row.text), columns=terminal_width() - left - 2).split("\n"):
            lines.append(f"{styled(name, 'dim') if name.strip() else name}  {styled(part, row.style)}".rstrip())
            name = " " * left
    return "\n".join(lines)


def print_listing(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with a header. On a terminal the widest columns become narrower until it fits; if it cannot fit,
    each row becomes a few lines."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _print_plainly([columns, *rows])
        return
    widths = column_widths([columns, *rows], terminal_width())
    if widths is None:
        for row in rows:
            print_report([Row(name, cell) for name, cell in zip(columns, row, strict=True) if cell])
            print()
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, header_style="dim", no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*(Text(cell_lines(cell, most)) for cell, most in zip(row, widths, strict=True)))
    _print(table)


def can_print(text: str) -> bool:
    """True if standard output has these characters in its encoding."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def has_colour() -> bool:
    """True if standard output is a terminal that shows colours; `NO_COLOR` and `TERM=dumb` turn them off."""
    return _colors() > 0


def print_json(what: Any) -> None:
    """Print a value as JSON, for scripts; times in ISO 8601, UTC."""
    import msgspec

    from cli.output.times import with_iso_times
    from events.text import in_all_texts

    plain = in_all_texts(with_iso_times(msgspec.to_builtins(what)))
    print(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())


def _print(what: RenderableType) -> None:
    from rich.console import Console

    Console(highlight=False).print(what)


def _print_plainly(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(most) for cell, most in zip(row, widths, strict=True)).rstrip())


def bar(share: float) -> str:
    """A bar of twenty blocks, and the percentage."""
    full = round(20 * max(0.0, min(1.0, share)))
    return "█" * full + "░" * (20 - full) + f" {100 * share:3.0f} %"


def number(value: object) -> str:
    """A journaled number with four decimals; NaN as NaN."""
    return f"{value:.4f}" if isinstance(value, float | int) else str(value)
