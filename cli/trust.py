"""Whose word counts: a home and its config are obeyed only if they are of the caller, of root, or trusted by name.

A home names commands (`[hooks]`) and paths. Whoever is below a directory of somebody else would otherwise run and write
what that other person wants, and root would do so as root. Git has the same rule (`safe.directory`).
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from pathlib import Path

from cli.errors import UserError
from journal.storage import NotAFile

TRUST = "KEEPSTEP_TRUST_HOME"
"""The variable that names homes of other users that are obeyed all the same: their paths, with colons between them."""

TRUST_OPTION = "--trust-home"
"""The option of every command that does the same for one call. It stands before the command's name."""

LINKS_FOLLOWED_MAX = 40
"""As the kernel has it: more is a circle."""


class Foreign(UserError):
    """A home, or something in it, belongs to a user who is not trusted."""


def is_trusted(uid: int) -> bool:
    """Whether what belongs to this user may decide what this process does."""
    return uid in {os.geteuid(), 0}


def is_trusted_by_name(root: Path) -> bool:
    """Whether the environment, or `--trust-home`, names this home as one to obey, whoever it belongs to."""
    named = filter(None, os.environ.get(TRUST, "").split(os.pathsep))
    return any(Path(each).expanduser().resolve() == root.resolve() for each in named)


def trust(home: Path) -> None:
    """Name this home, for this process and those that it starts, as one to obey whoever it belongs to.

    Raises UserError for a path that the variable cannot carry.
    """
    if os.pathsep in os.fspath(home):
        raise UserError(
            f"{TRUST_OPTION} takes no path with {os.pathsep!r}: {home}", "name the home by a link without it"
        )
    named = os.environ.get(TRUST)
    os.environ[TRUST] = os.pathsep.join(filter(None, (named, str(home.expanduser().absolute()))))


def refuse_foreign(root: Path, config: Path) -> None:
    """Raise Foreign if the home or its config belongs to neither the caller nor root, and is not trusted by name."""
    for path in (root, config):
        if os.path.lexists(path):
            refuse_owner(path, path.stat().st_uid, root)


def refuse_owner(path: Path, uid: int, root: Path) -> None:
    """Raise Foreign if `path`, which decides for the home at `root`, belongs to somebody who is not trusted."""
    if is_trusted(uid) or is_trusted_by_name(root):
        return
    owner, me = name_of(uid), name_of(os.geteuid())
    raise Foreign(
        f"{path} belongs to {owner}, and you are {me}: {owner} decides there which commands run and which files are "
        "written. Nothing was done",
        f"run keepstep as {owner}; or, if you trust {owner}: keepstep {TRUST_OPTION} {shlex.quote(str(root))} … "
        f"(for all commands: export {TRUST}={shlex.quote(str(root))})",
    )


def refuse_open_to_all(root: Path, config: Path) -> None:
    """Raise UserError if any user of the machine may change the home or its config."""
    for path in (root, config):
        found = path.stat()
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise open_to_all(path, root)


def open_to_all(path: Path, root: Path) -> UserError:
    """What is said of a home or a config that every user of the machine may write to."""
    return UserError(
        f"anybody may write to {path}, and so have commands run as you. Nothing was done",
        f"look at keepstep.toml; then `keepstep doctor --fix --home {shlex.quote(str(root))}` closes it",
    )


def followed(path: Path) -> Path:
    """The file that a person names, who may name it by a link: `path`, or what its own links lead to.

    A link that is neither of this user nor of root is not followed: its owner would choose the file. Raises OSError.
    """
    if not hasattr(os, "O_PATH"):  # not Linux: a link cannot be held while it is read
        return path
    for _ in range(LINKS_FOLLOWED_MAX):
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISLNK(found.st_mode):
                return path
            if not is_trusted(found.st_uid):
                raise NotAFile(path, errno.ELOOP, "a link that another user made")
            path = path.parent / os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
    raise NotAFile(path, errno.ELOOP, "a circle of links")


def name_of(uid: int) -> str:
    """A user, as people call them."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
