"""Options and helpers that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.home.paths import Home

if TYPE_CHECKING:
    from core.state import State
    from events.codec import Record
    from events.kinds import AnyEvent

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="The home. Default: KEEPSTEP_HOME, else the home around the current directory."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def read_state(home: Home) -> State:
    """The state now, read without a lock. Raises journal.errors.JournalError."""
    from cli.home.snapshot_reader import load_state

    return load_state(home)[0].state


def replay(home: Home) -> Iterator[tuple[State, Record, State]]:
    """Every record of the journal, with the state before and after it. Raises journal.errors.JournalError."""
    from cli.home.snapshot_reader import read_records
    from core.evolve import evolve
    from core.state import State

    state = State()
    for record in read_records(home):
        before, state = state, evolve(state, record.event)
        yield before, record, state


def delete_directories(home: Home, events: Sequence[AnyEvent]) -> None:
    """Delete what these events declare deleted; a running daemon does that itself. Raises OSError."""
    from cli.daemon.sweep import deleted_directory, discard
    from cli.home.identity import daemon_is_alive

    for event in events:
        if (directory := deleted_directory(home, event)) is not None and not daemon_is_alive(home):
            discard(home, directory)


def print_rows(
    rows: Sequence[dict[str, Any]],
    columns: dict[str, Callable[[dict[str, Any]], str]],
    *,
    empty: str,
    json: bool,
) -> None:
    """Print rows as JSON, or as a table: one column for each title, or `empty` if there are none."""
    from cli.output.terminal import print_json, print_listing

    if json:
        print_json(rows)
    elif not rows:
        print(empty)
    else:
        print_listing([*columns], [[cell(row) for cell in columns.values()] for row in rows])


def count(number: int, noun: str) -> str:
    """A number with its noun in the singular or the plural.

    >>> count(1, "backup"), count(2000, "backup")
    ('1 backup', '2,000 backups')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_size(size_bytes: float) -> str:
    """A size in its largest decimal unit.

    >>> format_size(1_250_000)
    '1.2 MB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes:.0f} bytes"
