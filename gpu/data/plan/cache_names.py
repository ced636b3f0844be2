"""Names of the entries of the token cache (`gpu.data.plan.cache`), for code that only deletes them: no numpy."""

from __future__ import annotations

import re
from pathlib import Path

from events.values import JobId
from gpu.artifacts.commit import STAGING
from journal.durable import is_directory
from journal.storage import REAL, Storage

KEY_CHARACTERS = 24
"""Characters of a SHA-256; no two keys of one file collide in so many."""

_NAME = re.compile(rf"([0-9a-f]{{64}})-[0-9a-f]{{{KEY_CHARACTERS}}}")


def cache_directories(place: Path, *, storage: Storage = REAL) -> list[Path]:
    """Return the directories of entries in `place`, unfinished ones included. Raises OSError."""
    if not storage.exists(place):
        return []
    paths = [place / name for name in sorted(storage.names(place)) if name.startswith(STAGING) or _NAME.fullmatch(name)]
    return [path for path in paths if is_directory(path, storage=storage)]


def job_of(path: Path) -> JobId | None:
    """Return the job whose file an entry holds; None for an unfinished entry."""
    found = _NAME.fullmatch(path.name)
    return found[1] if found else None
