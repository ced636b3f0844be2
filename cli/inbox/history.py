"""Find jobs by the names of all files that ever arrived, including duplicates."""

from __future__ import annotations

from collections.abc import Iterator

from cli.home.paths import Home
from cli.output.terminal import shown_text
from events.codec import decode_record
from events.kinds import FileDuplicate, FileEnqueued
from journal import history


def find_jobs(home: Home, name: str) -> Iterator[str]:
    """The jobs of files that arrived under this name, or whose SHA-256 begins with it. Reads the whole journal."""
    for record in history(home.journal, decode_record, storage=home.storage):
        event = record.event
        if isinstance(event, FileEnqueued | FileDuplicate) and (
            event.name == shown_text(name) or (len(name) >= 6 and event.job.startswith(name))
        ):
            yield event.job
