"""Files that are dropped on the page: stored aside, checked as `keepstep data check` does, then queued or discarded.

A file comes into `run/uploads/ID/NAME`. Nothing trains it before the user queues it, which works like `keepstep add`.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from cli.commands.data.check import Wanted, as_json, examine, settings_for
from cli.config.model_files import weights_bytes
from cli.config.schema import load_config
from cli.errors import STORAGE_FAILED, UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.inbox.accept import accept_copy, finish_arrivals
from cli.inbox.ownership import safe_name
from cli.output.identical import duplicate_text
from core.topics.disk import bytes_wanted
from core.topics.disk_limits import limits_in_bytes
from events import kinds
from events.values import Priority
from journal import durable

GB = 10**9

KEPT_S = 86_400.0
"""An upload that nobody queued is deleted after a day, when the next monitor starts."""


class Uploads:
    """The uploads of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._directory = home.run / "uploads"

    def clean(self) -> None:
        """Delete uploads that are older than a day. Raises OSError."""
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if time.time() - path.lstat().st_mtime > KEPT_S:
                durable.remove_tree(path, storage=self._home.storage)

    async def save(self, name: str, chunks: AsyncIterator[bytes]) -> str:
        """Store the content under a new id. Raises UserError if the disk would become too full."""
        upload = secrets.token_hex(8)
        directory = self._directory / upload
        reserve = await run_in_threadpool(self._reserved_bytes)
        await run_in_threadpool(directory.mkdir, mode=0o700, parents=True)
        try:
            await self._write(directory / safe_name(name), chunks, reserve)
        except BaseException:
            durable.remove_tree(directory, storage=self._home.storage)
            raise
        return upload

    async def _write(self, path: Path, chunks: AsyncIterator[bytes], reserve: int) -> None:
        with path.open("xb") as file:
            async for chunk in chunks:
                if self._home.storage.free_bytes(self._home.root) - len(chunk) < reserve:
                    raise UserError(
                        f"{path.name} does not fit: {reserve / GB:.1f} GB of the disk are reserved for training",
                        "free disk space, then upload the file again",
                        STORAGE_FAILED,
                    )
                await run_in_threadpool(file.write, chunk)

    def check(self, upload: str) -> dict[str, Any]:
        """The report of `keepstep data check` on an upload. Raises UserError if it cannot be checked."""
        wanted = Wanted(home=self._home.root)
        (report,) = as_json(examine([self._path(upload)], settings_for(None, self._home.root), wanted))
        return report

    def queue(self, upload: str, priority: Priority) -> str:
        """Queue an upload. Returns what happened. Raises UserError, OSError, journal.errors.JournalError."""
        path = self._path(upload)
        with closing(EventStore.open(self._home)) as store:
            finish_arrivals(store)
            events = accept_copy(store, path, priority)
            state = store.state
        self.discard(upload)
        for event in events:
            if isinstance(event, kinds.FileDuplicate):
                return f"{event.name} {duplicate_text(event.job, state)}"
        return f"{path.name} is queued ({len(state.queue)} waiting)"

    def discard(self, upload: str) -> None:
        """Delete an upload. Raises UserError if there is none."""
        durable.remove_tree(self._path(upload).parent, storage=self._home.storage)

    def _path(self, upload: str) -> Path:
        if re.fullmatch(r"[0-9a-f]{16}", upload):
            directory = self._directory / upload
            for path in sorted(directory.iterdir()) if directory.is_dir() else ():
                return path
        raise UserError(f"there is no upload {upload!r}", "upload the file again")

    def _reserved_bytes(self) -> int:
        """Free space that an upload leaves: what the config reserves, and what the next checkpoint needs."""
        home = self._home
        config, state = load_config(home.config, storage=home.storage), load_state(home)[0].state
        limits = limits_in_bytes(
            state,
            config.disk,
            total_bytes=home.storage.total_bytes(home.root),
            model_bytes=weights_bytes(config.job.model, home.root) or 0,
        )
        return max(*limits, bytes_wanted(state))
