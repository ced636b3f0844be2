"""The cursor of each writer: `status/report/NAME.json`. It can be deleted; the writer then sends everything again."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from cli.home.paths import Home
from journal import START, Position, durable
from projections.checksum import read_checked, with_checksum
from projections.metrics import Group


class Sent(Struct, frozen=True):
    """The points of a group that a tool has."""

    seq: int = 0
    """The record of the last one."""
    step: int = -1
    """Its global step."""


class Progress(Struct, frozen=True, kw_only=True):
    """What a tool has, and the last error."""

    position: Position = START
    """Place in the journal, to notice that the journal is another one."""
    sent: dict[Group, Sent] = {}
    run: str = ""
    """The name of the run; it stays when the home is moved."""
    generation: int = 1
    """Number of the run: a tool that cannot overwrite gets another run after a rollback, or a rebuild."""
    place: str = ""
    """Where the user finds the points."""
    done_at: float = 0.0
    """Unix time of the last success; 0: never."""
    error: str | None = None
    failed_at: float = 0.0
    """Unix time of the first error since the last success."""


def install_advice(name: str) -> str:
    """How to install the package of a tool."""
    return f"install it: `pip install 'keepstep[{name}]'`"


def progress_file(home: Home, name: str) -> Path:
    """The cursor of a writer."""
    return home.report_progress / f"{name}.json"


def rebuild_file(home: Home, name: str) -> Path:
    """A file that asks the writer to send everything again."""
    return home.report_progress / f"{name}.rebuild"


def lock_file(home: Home, name: str) -> Path:
    """The lock that the process of a writer holds."""
    return home.run / f"report-{name}.lock"


def read_progress(home: Home, name: str) -> Progress:
    """The cursor; the beginning if it is missing or damaged."""
    return read_checked(progress_file(home, name), _decoder, home.storage) or Progress()


def write_progress(home: Home, name: str, progress: Progress) -> None:
    """Replace the cursor, without a sync: an older one only makes the writer send more again. Raises OSError."""
    path = progress_file(home, name)
    durable.make_directory(path.parent, storage=home.storage)
    data = with_checksum(msgspec.json.format(msgspec.json.encode(progress), indent=2))
    durable.write_atomically(path, data, sync=False, storage=home.storage)


def failing(home: Home) -> dict[str, Progress]:
    """The writers whose last try failed."""
    found = {}
    with suppress(OSError):
        for path in sorted(home.report_progress.glob("*.json")):
            progress = read_progress(home, path.stem)
            if progress.error is not None:
                found[path.stem] = progress
    return found


def forget_errors(home: Home, kept: Collection[str]) -> None:
    """Forget the errors of writers that no longer run. Never raises OSError."""
    for name, progress in failing(home).items():
        if name not in kept:
            with suppress(OSError):
                write_progress(home, name, replace(progress, error=None, failed_at=0.0))


_decoder: msgspec.json.Decoder[Progress] = msgspec.json.Decoder(Progress)
