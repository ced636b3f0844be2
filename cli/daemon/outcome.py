"""The end of a run of the daemon: its exit code, and the last message to the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cli.errors import REFUSED, STORAGE_FAILED, UserError
from cli.home.paths import Home
from cli.text import printable
from core.state import State


def exit_code(
    state: State,
    write: Callable[[str], None],
    *,
    storage_failure: str | None,
    failed_jobs: Iterable[str],
    until_idle: bool,
) -> int:
    """The exit code of a run that has ended.

    `storage_failure`: why storage failed; None: it did not. `failed_jobs`: the jobs that failed permanently in this
    run, if the caller waits for all jobs. Raises UserError if a person is needed.
    """
    if storage_failure is not None:
        advice = "look at the disk (kernel log, mount options); then `keepstep resume` and `keepstep run`"
        raise UserError(storage_failure, advice, STORAGE_FAILED)
    if until_idle and state.daemon.hold is not None:
        raise UserError(state.daemon.hold.reason, state.daemon.hold.advice, REFUSED)
    names = [printable(job.name) for job in map(state.outcomes.failed.get, failed_jobs) if job is not None]
    if not names:
        return 0
    files = "1 file" if len(names) == 1 else f"{len(names)} files"
    write(
        f"{files} failed and will not be tried again: {', '.join(names)}; "
        "`keepstep explain NAME` says why, `keepstep retry NAME` tries again"
    )
    return REFUSED


def inode_of(home: Home) -> tuple[int, int] | None:
    """Device and inode of the directory at the path of the home; None: there is none."""
    try:
        found = home.storage.stat(home.root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def refuse_moved(home: Home, inode: tuple[int, int] | None) -> None:
    """Raises UserError if the path of the home leads to no directory, or not to the one that the daemon started in."""
    if inode_of(home) != inode:
        raise UserError(
            f"the home was moved or removed while its daemon ran: {home.root} is another directory now, or none; the "
            "daemon ends. Nothing that was committed is lost",
            "start the daemon where the home is now: `keepstep run --home DIRECTORY`",
        )
