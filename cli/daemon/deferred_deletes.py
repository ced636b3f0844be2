"""Delete directories that the journal no longer names; retry each one that the disk does not release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cli.daemon.sweep import discard
from cli.errors import is_disk_full
from cli.home.paths import Home

RETRY_AFTER_S = 60.0
"""An open reader or an offline share takes minutes. The next start sweeps in any case."""


class DeferredDeletes:
    """Deletes directories and keeps a list of those that it could not delete."""

    def __init__(self, home: Home, write: Callable[[str], None]) -> None:
        self._home, self._write = home, write
        self.pending: dict[Path, float] = {}
        """When the next try of each is due; monotonic seconds."""

    def discard(self, directory: Path) -> int | None:
        """Delete a directory; return the bytes freed. If that fails, report it once, retry later and return None.

        Raises OSError only if the disk is full.
        """
        try:
            size_bytes = discard(self._home, directory)
        except OSError as error:
            if is_disk_full(error):
                raise
            if directory not in self.pending:
                reason = error.strerror or str(error)
                self._write(f"{self._home.relative(directory)} cannot be deleted yet ({reason}); keepstep tries again")
            self.pending[directory] = self._home.clock.monotonic() + RETRY_AFTER_S
            return None
        self.pending.pop(directory, None)
        return size_bytes

    def retry(self) -> None:
        """Delete the directories whose next try is due."""
        now = self._home.clock.monotonic()
        for directory in [directory for directory, at in self.pending.items() if at <= now]:
            self.discard(directory)
