"""The names of what is kept of encoded files (`gpu.data.plan.cache`), for whoever only gives it up: no numpy."""

from __future__ import annotations

import re
from pathlib import Path

from events.values import JobId
from gpu.artifacts.commit import STAGING
from journal.durable import is_directory
from journal.storage import REAL, Storage

KEY_CHARACTERS = 24
"""Of a SHA-256: no two keys of one file will ever meet in so many."""

_NAME = re.compile(rf"([0-9a-f]{{64}})-[0-9a-f]{{{KEY_CHARACTERS}}}")


def caches(place: Path, *, storage: Storage = REAL) -> list[Path]:
    """The directories in `place` whose names are given there, the unfinished ones included. Raises OSError."""
    if not storage.exists(place):
        return []
    paths = [place / name for name in sorted(storage.names(place)) if name.startswith(STAGING) or _NAME.fullmatch(name)]
    return [path for path in paths if is_directory(path, storage=storage)]


def job_of(path: Path) -> JobId | None:
    """The file that a cache is of; None of an unfinished one."""
    found = _NAME.fullmatch(path.name)
    return found[1] if found else None
