"""How a run of the daemon ends: its exit code, and what the person at the keyboard is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cli.errors import REFUSED, STORAGE_FAILED, UserError
from cli.home.paths import Home
from cli.output.terminal import printable
from core.state import State


def exit_code(
    state: State, broken: str | None, abandoned: Iterable[str], write: Callable[[str], None], *, until_idle: bool
) -> int:
    """The exit code of a run that has left.

    `broken`: what the disk did not take or give. `abandoned`: the jobs that failed for good in this run, if
    somebody waits for all of them. Raises UserError if a person is needed.
    """
    if broken is not None:
        advice = "look at the disk (kernel log, mount options); then `keepstep resume` and `keepstep run`"
        raise UserError(broken, advice, STORAGE_FAILED)
    if until_idle and state.daemon.hold is not None:
        raise UserError(state.daemon.hold.reason, state.daemon.hold.advice, REFUSED)
    names = [printable(job.name) for job in map(state.outcomes.failed.get, abandoned) if job is not None]
    if not names:
        return 0
    files = "1 file" if len(names) == 1 else f"{len(names)} files"
    write(
        f"{files} failed and will not be tried again: {', '.join(names)}; "
        "`keepstep explain NAME` says why, `keepstep retry NAME` tries again"
    )
    return REFUSED


def inode_of(home: Home) -> tuple[int, int] | None:
    """Which directory stands at the path of the home; None: none does."""
    try:
        found = home.storage.stat(home.root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def refuse_moved(home: Home, inode: tuple[int, int] | None) -> None:
    """Raises UserError if another directory, or none, stands at the path of the home than when the daemon started."""
    if inode_of(home) != inode:
        raise UserError(
            f"the home was moved or removed while its daemon ran: {home.root} is another directory now, or none; the "
            "daemon ends. Nothing that was committed is lost",
            "start it where the home is now: `keepstep run --home DIRECTORY`",
        )
