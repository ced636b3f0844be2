"""What lies in the inbox and is not taken: the daemon shows it in `status/inbox.json`, for `status` and `doctor`.

A view: it is written whole and not synced. Without a daemon the commands look for themselves.
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
from journal.writer import FULL

if TYPE_CHECKING:
    from cli.home.event_store import EventStore


class SkippedFile(Struct, frozen=True):
    """A thing in the inbox, and why it stays there."""

    path: str
    """Relative to the home; bytes that are not UTF-8 are written out."""
    reason: str


def write_skipped_files(store: EventStore, skipped_files: Mapping[Path, str]) -> None:
    """Write the view, under the append lock as all views. A full disk, or a deleted status directory, leaves
    the old one."""
    home = store.home
    shown = [SkippedFile(visible(home.relative(path)), visible(reason)) for path, reason in skipped_files.items()]
    try:
        with store.exclusive():
            write_atomically(home.skipped_files, msgspec.json.encode(shown), sync=False, storage=home.storage)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in FULL:
            raise


def skipped_files(home: Home, *, alive: bool) -> Sequence[SkippedFile]:
    """What is not taken now: as the daemon sees it, with its rights; without one, as this process does."""
    if alive:
        try:
            return msgspec.json.decode(read_file(home.skipped_files, storage=home.storage), type=list[SkippedFile])
        except (OSError, msgspec.MsgspecError, UnicodeError):
            return ()  # it has not looked yet
    from cli.inbox.watcher import not_taken_now

    return [SkippedFile(visible(home.relative(path)), why) for path, why in not_taken_now(home).items()]
