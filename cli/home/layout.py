"""The directories of a home and their modes.

A home is private to its owner (0700), or shared with a group (`keepstep init --group`): then the home is 2750 (new
files inherit the group through the setgid bit), and the inbox is 2770. The mode of the home decides, and
`journal.storage.Storage.mask` applies it to each file and directory that keepstep makes.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cli.errors import UserError
from cli.home.paths import Home
from cli.home.trust import is_trusted, user_name
from journal import durable
from journal.storage import is_shared_with_group, set_file_mask

GROUP_MODE = 0o2750
GROUP_INBOX_MODE = 0o2770


def make_directories(home: Home) -> list[Path]:
    """Make all missing directories of a home. A file in the place of a replaceable directory is moved aside.

    Returns the new paths of moved files. Raises UserError for a file in the place of another directory; OSError.
    """
    aside = []
    for path in (*home.directories(), *_caches(home)):
        if not durable.is_directory(path, storage=home.storage) and home.storage.lexists(path):
            if _is_own_link(home, path):
                continue
            if path not in replaceable(home):
                raise UserError(
                    f"{path} is not a directory; nothing was done", "move it elsewhere, then `keepstep doctor --fix`"
                )
            aside.append(durable.move_aside(path, storage=home.storage))
        if path not in _caches(home):
            durable.make_directory(path, storage=home.storage)
    return aside


def replaceable(home: Home) -> set[Path]:
    """The directories that hold only views, caches and incoming files."""
    return {home.inbox, *_lanes(home), home.status.parent, home.logs, home.run, home.reports, *_caches(home)}


def _lanes(home: Home) -> tuple[Path, Path]:
    return home.inbox / "high", home.inbox / "low"


def _caches(home: Home) -> tuple[Path, Path]:
    """Caches are made when they are first used."""
    return home.tokens.parent, home.tokens


def _is_own_link(home: Home, path: Path) -> bool:
    """True for a link to a directory, made by this user or root: the data may be on a larger disk.

    Raises UserError for a link of another user.
    """
    found = home.storage.stat(path)
    if not stat.S_ISLNK(found.st_mode) or not path.is_dir():
        return False
    if not is_trusted(found.st_uid):
        raise UserError(
            f"{path} is a link of {user_name(found.st_uid)} and is not followed; nothing was done",
            f"check where it leads, then remove it: rm {path}",
        )
    return True


# -- modes ----------------------------------------------------------------------------------------------------------


def grant_group(home: Home, group: str) -> None:
    """Share the home with a group: its members read all but the config, and fill the inbox. Raises UserError."""
    try:
        os.chown(home.root, -1, group_number(group))
    except PermissionError as error:
        raise UserError(f"you are not in the group {group}", "choose one of your groups: `id -Gn`") from error
    home.root.chmod(GROUP_MODE)
    set_file_mask(home.root)


def group_number(group: str) -> int:
    """The number of a group, given by name or number. Raises UserError if there is no such group."""
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise UserError(f"there is no group {group}", "list the groups with `getent group`") from error


def open_inbox(home: Home) -> None:
    """Let the group put files into the inbox, if the home is shared."""
    if is_shared_with_group(home.storage.stat(home.root).st_mode):
        for path in (home.inbox, *_lanes(home)):
            path.chmod(GROUP_INBOX_MODE)


def find_too_open(home: Home) -> Iterator[tuple[Path, int]]:
    """The files and directories of the home with too wide a mode, and the mode that each should have.

    Skips links, and files with a second name: the other name may belong to another program. Skips an inbox with the
    sticky bit: its owner opened it to all on purpose.
    """
    group = is_shared_with_group(home.root.stat().st_mode)
    allowed = 0o750 if group else 0o700
    yield from _too_open(home.root, allowed)
    yield from _too_open(home.config, 0o600)
    lanes = (home.inbox, *_lanes(home))
    for path in lanes:
        if path.exists() and not path.stat().st_mode & stat.S_ISVTX:
            yield from _too_open(path, 0o770 if group else 0o700)
    kept = (*home.directories(), home.journal, home.validation, home.questions, home.metrics, *_caches(home))
    for place in sorted({path for path in kept if path not in lanes}):
        yield from _too_open(place, allowed)
        for directory, below, files in os.walk(place):
            for name in (*below, *files):
                yield from _too_open(Path(directory, name), allowed)


def _too_open(path: Path, allowed: int) -> Iterator[tuple[Path, int]]:
    try:
        found = path.lstat()
    except OSError:  # it does not exist, or no longer
        return
    is_directory = stat.S_ISDIR(found.st_mode)
    if not is_directory and (not stat.S_ISREG(found.st_mode) or found.st_nlink > 1):
        return
    mode = stat.S_IMODE(found.st_mode)
    others = 0o077 & ~(allowed if is_directory else allowed & 0o640)
    if mode & others:
        yield path, mode & ~others


def restrict_modes(home: Home) -> list[Path]:
    """Restrict the modes that are too wide; the changed paths. Raises OSError."""
    closed = list(find_too_open(home))
    for path, mode in closed:
        path.chmod(mode)
    return [path for path, _ in closed]
