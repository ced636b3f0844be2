"""Print tables, reports and JSON: with rich on a terminal, as plain text into a pipe or a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType


class Row(NamedTuple):
    """A line of a report: its name, its text and its rich style."""

    name: str
    text: str
    style: str = ""


def print_report(rows: Sequence[Row]) -> None:
    """Print names in one column and texts in the other."""
    if sys.stdout.isatty():
        _print(report(rows))
    else:
        _print_plainly([[printable(row.name), printable(row.text)] for row in rows])


def report(rows: Sequence[Row]) -> RenderableType:
    """The report as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(row.name, Text(printable(row.text), row.style))
    return table


def print_listing(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with a header."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _print_plainly([columns, *rows])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
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
    if not sys.stdout.isatty():
        return False
    from rich.console import Console

    console = Console()
    return console.color_system is not None and not console.no_color


def print_json(what: Any) -> None:
    """Print a value as JSON, for scripts."""
    import msgspec

    from events.text import in_all_texts

    plain = in_all_texts(msgspec.to_builtins(what))
    print(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())


def _print(what: RenderableType) -> None:
    from rich.console import Console

    Console(highlight=False).print(what)


def _print_plainly(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def bar(share: float) -> str:
    """A bar of twenty blocks, and the percentage."""
    full = round(20 * max(0.0, min(1.0, share)))
    return "█" * full + "░" * (20 - full) + f" {100 * share:3.0f} %"


def number(value: object) -> str:
    """A journaled number with four decimals; NaN as NaN."""
    return f"{value:.4f}" if isinstance(value, float | int) else str(value)


def duration(seconds: float) -> str:
    """A duration in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ago(at: float) -> str:
    """The time since `at` (Unix time)."""
    return f"{duration(max(0.0, time.time() - at))} ago"


def local_time(at: float) -> str:
    """A Unix time in the local time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def local(at: str) -> str:
    """A time of the journal in the local time zone."""
    from datetime import UTC, datetime

    return datetime.fromisoformat(at).replace(tzinfo=UTC).astimezone().strftime("%m-%d %H:%M:%S")
