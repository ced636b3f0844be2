"""What stands where in a home, who may read it, and what becomes of something else that stands in its place.

A home is for its owner alone (0700), or for its owner and a group that `keepstep init --group` let in: then the home is
2750 (the setgid bit hands the group on to whatever is made in it), and the inbox is 2770. The mode of the home decides;
`journal.storage.Storage.mask` is what follows from it for each file and directory that keepstep makes.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cli.errors import UserError
from cli.home.paths import Home
from cli.home.trust import is_trusted, name_of
from journal import durable
from journal.storage import is_shared_with_group, set_file_mask

GROUP_MODE = 0o2750
GROUP_INBOX_MODE = 0o2770


def make_directories(home: Home) -> list[Path]:
    """Make every directory of a home that is missing. What stood in the place of one that can be made again, and was
    none, is moved aside: where it is now.

    Raises UserError for the others: what is missing there was not made by keepstep alone; OSError.
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
    """The directories that hold nothing but views, caches, and what is on its way."""
    return {home.inbox, *_lanes(home), home.status.parent, home.logs, home.run, home.reports, *_caches(home)}


def _lanes(home: Home) -> tuple[Path, Path]:
    return home.inbox / "high", home.inbox / "low"


def _caches(home: Home) -> tuple[Path, Path]:
    """Made by whoever fills them."""
    return home.tokens.parent, home.tokens


def _is_own_link(home: Home, path: Path) -> bool:
    """Whether a link to a directory stands there, made by the caller or root: the data may be on a larger disk.

    Raises UserError for a link of anybody else.
    """
    found = home.storage.stat(path)
    if not stat.S_ISLNK(found.st_mode) or not path.is_dir():
        return False
    if not is_trusted(found.st_uid):
        raise UserError(
            f"{path} is a link that {name_of(found.st_uid)} made, and is not followed; nothing was done",
            f"look where it leads, then remove it: rm {path}",
        )
    return True


# -- modes ----------------------------------------------------------------------------------------------------------


def let_group_in(home: Home, group: str) -> None:
    """Open the home to the members of a group: they read all but the config, and fill the inbox. Raises UserError."""
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        os.chown(home.root, -1, number)
    except KeyError as error:
        raise UserError(f"there is no group {group}", "`getent group` lists those that there are") from error
    except PermissionError as error:
        raise UserError(f"you are not in the group {group}", "choose one of yours: `id -Gn`") from error
    home.root.chmod(GROUP_MODE)
    set_file_mask(home.root)


def open_inbox(home: Home) -> None:
    """Let the group of the home put files into its inbox, if the group was let in."""
    if is_shared_with_group(home.storage.stat(home.root).st_mode):
        for path in (home.inbox, *_lanes(home)):
            path.chmod(GROUP_INBOX_MODE)


def too_open(home: Home) -> Iterator[tuple[Path, int]]:
    """Everything of the home that others may do more with than they should, and the mode that it should have.

    Links are passed over, and files with a second name: the other name may not be ours. So is an inbox with a sticky
    bit, which its owner opened to all on purpose.
    """
    group = is_shared_with_group(home.root.stat().st_mode)
    allowed = 0o750 if group else 0o700
    yield from _too_open(home.root, allowed)
    yield from _too_open(home.config, 0o600)
    lanes = (home.inbox, *_lanes(home))
    for path in lanes:
        if path.exists() and not path.stat().st_mode & stat.S_ISVTX:
            yield from _too_open(path, 0o770 if group else 0o700)
    kept = (*home.directories(), home.journal, home.validation, *_caches(home))
    for place in sorted({path for path in kept if path not in lanes}):
        yield from _too_open(place, allowed)
        for directory, below, files in os.walk(place):
            for name in (*below, *files):
                yield from _too_open(Path(directory, name), allowed)


def _too_open(path: Path, allowed: int) -> Iterator[tuple[Path, int]]:
    try:
        found = path.lstat()
    except OSError:  # not there, or gone meanwhile
        return
    is_directory = stat.S_ISDIR(found.st_mode)
    if not is_directory and (not stat.S_ISREG(found.st_mode) or found.st_nlink > 1):
        return
    mode = stat.S_IMODE(found.st_mode)
    others = 0o077 & ~(allowed if is_directory else allowed & 0o640)
    if mode & others:
        yield path, mode & ~others


def close(home: Home) -> list[Path]:
    """Narrow what is too open; what was narrowed. Raises OSError."""
    closed = list(too_open(home))
    for path, mode in closed:
        path.chmod(mode)
    return [path for path, _ in closed]
