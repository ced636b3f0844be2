"""Trust in homes: keepstep uses a home and its config only if this user or root owns them, or the user trusts it by
name.

A config names commands (`[hooks]`) and paths. In a directory below a home of another user, keepstep would otherwise run
the commands of that user, as root even with root's rights. Git has the same rule (`safe.directory`).
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
"""The variable with trusted homes of other users: paths separated by colons."""

TRUST_OPTION = "--trust-home"
"""The option that does the same for one call. It comes before the command."""

LINKS_FOLLOWED_MAX = 40
"""The limit of the kernel: more links are a cycle."""


class ForeignHome(UserError):
    """The home, or a file in it, belongs to a user who is not trusted."""


def is_trusted(uid: int) -> bool:
    """True if files of this user may control this process: its own user and root."""
    return uid in {os.geteuid(), 0}


def is_trusted_by_name(root: Path) -> bool:
    """True if KEEPSTEP_TRUST_HOME or `--trust-home` names this home."""
    named = filter(None, os.environ.get(TRUST, "").split(os.pathsep))
    return any(Path(each).expanduser().resolve() == root.resolve() for each in named)


def trust(home: Path) -> None:
    """Trust this home in this process and in those that it starts.

    Raises UserError for a path with a colon, which the variable cannot hold.
    """
    if os.pathsep in os.fspath(home):
        raise UserError(
            f"{TRUST_OPTION} takes no path with {os.pathsep!r}: {home}", "name the home by a link without it"
        )
    named = os.environ.get(TRUST)
    os.environ[TRUST] = os.pathsep.join(filter(None, (named, str(home.expanduser().absolute()))))


def refuse_foreign(root: Path, config: Path) -> None:
    """Raise ForeignHome if the home or its config belongs to neither the caller nor root, and is not trusted by
    name."""
    for path in (root, config):
        if os.path.lexists(path):
            refuse_owner(path, path.stat().st_uid, root)


def refuse_owner(path: Path, uid: int, root: Path) -> None:
    """Raise ForeignHome if `uid`, the owner of `path` in the home `root`, is not trusted."""
    if is_trusted(uid) or is_trusted_by_name(root):
        return
    owner, me = user_name(uid), user_name(os.geteuid())
    raise ForeignHome(
        f"{path} belongs to {owner}, and you are {me}: {owner} decides which commands run there and which files are "
        "written. Nothing was done",
        f"run keepstep as {owner}; or, if you trust {owner}: keepstep {TRUST_OPTION} {shlex.quote(str(root))} … "
        f"(for all commands: export {TRUST}={shlex.quote(str(root))})",
    )


def refuse_open_to_all(root: Path, config: Path) -> None:
    """Raise UserError if all users of the machine can change the home or its config."""
    for path in (root, config):
        found = path.stat()
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise open_to_all(path, root)


def open_to_all(path: Path, root: Path) -> UserError:
    """The error about a home or a config that all users of the machine can change."""
    return UserError(
        f"all users can write to {path}, and so run commands as you. Nothing was done",
        f"check keepstep.toml; then fix the modes: `keepstep doctor --fix --home {shlex.quote(str(root))}`",
    )


def resolve_link(path: Path) -> Path:
    """Follow the links at `path` to the file.

    A link of another user than this one or root is not followed: its owner would choose the file. Raises OSError.
    """
    if not hasattr(os, "O_PATH"):  # not Linux: a link cannot be opened to check its owner
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
    raise NotAFile(path, errno.ELOOP, "a cycle of links")


def user_name(uid: int) -> str:
    """The name of a user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
