"""The files in the inbox that are skipped. The daemon writes them to `status/inbox.json` for `status` and `doctor`.

A view: rewritten as a whole and not synced. Without a daemon, the commands scan the inbox themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from cli.home.paths import Home
from events.text import visible
from journal.durable import read_file, write_atomically

if TYPE_CHECKING:
    from cli.home.event_store import EventStore


class SkippedFile(Struct, frozen=True):
    """An entry in the inbox, and why it is skipped."""

    path: str
    """Relative to the home; bytes that are not UTF-8 are written out."""
    reason: str


def write_skipped_files(store: EventStore, skipped_files: Mapping[Path, str]) -> None:
    """Write the view, under the append lock like all views."""
    from cli.home.event_store import writing_view  # here, not above: `status` does not need it

    home = store.home
    shown = [SkippedFile(visible(home.relative(path)), visible(reason)) for path, reason in skipped_files.items()]
    with store.exclusive(), writing_view(home):
        write_atomically(home.skipped_files, msgspec.json.encode(shown), sync=False, storage=home.storage)


def skipped_files(home: Home, *, alive: bool) -> Sequence[SkippedFile]:
    """The entries that are skipped now: as a running daemon sees them, else as this process does."""
    if alive:
        try:
            return msgspec.json.decode(read_file(home.skipped_files, storage=home.storage), type=list[SkippedFile])
        except (OSError, msgspec.MsgspecError, UnicodeError):
            return ()  # the daemon has not scanned yet
    from cli.inbox.watcher import find_skipped

    return [SkippedFile(visible(home.relative(path)), why) for path, why in find_skipped(home).items()]
