"""Every file that ever arrived, by the names that it had: also those of later files with the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cli.arrivals import shown_name
from cli.home import Home
from events.codec import decode_record
from events.kinds import FileDuplicate, FileEnqueued
from journal import history


def forms_of(name: str) -> tuple[str, ...]:
    """A name as a person gives it, and as the journal has it: bytes that are no text, and line feeds, written out."""
    return name, shown_name(Path(name))


def arrived(home: Home, name: str) -> Iterator[str]:
    """The jobs of files that ever arrived under this name, or whose SHA-256 begins so. Reads the whole journal."""
    forms = forms_of(name)
    for record in history(home.journal, decode_record, storage=home.storage):
        event = record.event
        if isinstance(event, FileEnqueued | FileDuplicate) and (
            event.name in forms or (len(name) >= 6 and event.job.startswith(name))
        ):
            yield event.job
