"""`keepstep home move`: move a home, also to another file system.

    1  lock      no daemon runs, and no command writes
    2  copy      to a staging directory next to the destination; a move within a file system is one rename instead
    3  verify    every byte of the copy against the original
    4  publish   rename the copy to its final name
    5  retire    rename the old home, so that no command finds it, then delete it

A crash before 4 leaves the old home as it was. A crash after 4 leaves two complete homes: the same command, run again,
verifies the new one and retires the old one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cli.commands.common import format_size
from cli.commands.homes.size import size_of
from cli.errors import STORAGE_FAILED, UserError
from cli.home.backups import backup_lock_held
from cli.home.event_store import EventStore
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import CONFIG_MODE, Home
from cli.output.terminal import print_json, say
from core.state import State
from journal import durable

STAGING, RETIRED = ".moving-", ".moved-"
"""Prefixes of a copy that is not complete, and of an old home that is being deleted."""


def move_home(home: Home, destination: Path, *, json: bool) -> None:
    """`keepstep home move`. Raises UserError, OSError, journal.errors.JournalError."""
    old, new = home.root.resolve(), destination.expanduser().absolute()
    new = new.parent.resolve() / new.name
    _refuse_destination(old, new)
    lock = DaemonLock(home)
    lock.take(this_process())
    try:
        with backup_lock_held(home), closing(EventStore.open(home)) as store, store.exclusive():
            _refuse_paths(old, store.state)
            renamed = not new.exists() and _rename(old, new)
            if not renamed:
                _copy(old, new)
                _retire(old)
    finally:
        lock.release()
    changed = _update_config(old, new)
    if json:
        print_json({"from": str(old), "to": str(new), "copied": not renamed, "changed_settings": changed})
        return
    say(f"moved to {new}{'' if renamed else '; every byte was verified'}")
    for key in changed:
        say(f"  keepstep.toml: {key} now leads to the new place")
    say(f"  → check it: `keepstep doctor --home {new}`")


def _refuse_destination(old: Path, new: Path) -> None:
    if not new.parent.is_dir():
        raise UserError(f"{new.parent} is not a directory; nothing was moved", f"make it first: mkdir -p {new.parent}")
    if new == old or new.is_relative_to(old):
        raise UserError(f"{new} is the home itself or is in it; nothing was moved", "choose a path outside of it")
    if (new.exists() or new.is_symlink()) and not _is_copy_of(old, new):
        raise UserError(f"{new} exists already; nothing was moved", "name a path that does not exist")


def _is_copy_of(old: Path, new: Path) -> bool:
    """True if an earlier move to `new` copied the home and did not retire the old one."""
    first = "journal/00000001.jsonl"
    try:
        return bool(ours := (old / first).read_bytes()[:4096]) and (new / first).read_bytes()[:4096] == ours
    except OSError:
        return False


def _refuse_paths(old: Path, state: State) -> None:
    """Raise UserError for what a move would break: a service, links, and a job that has stored a path in the home."""
    from cli.supervision.unit import unit_name

    units = (Path("/etc/systemd/system"), Path.home() / ".config/systemd/user")
    if any((directory / unit_name(old)).exists() for directory in units):
        raise UserError(
            f"a service runs the daemon in {old}; nothing was moved",
            "`keepstep service uninstall`, move the home, then `keepstep service install`",
        )
    for path in _paths(old):
        if not path.is_symlink():
            continue
        target = path.readlink()
        inside = (path.parent / target).resolve().is_relative_to(old)
        if target.is_absolute() == inside:
            how = "an absolute path into the home" if inside else "a relative path out of the home"
            raise UserError(
                f"{path} is a link with {how}, which would lead elsewhere; nothing was moved",
                f"make the link {'relative' if inside else 'absolute'} first",
            )
    for job in state.training.in_progress:
        if job.begun and job.settings is not None and _is_below(job.settings.model.path, old):
            raise UserError(
                f"{job.name} is partly trained from {job.settings.model.path}, a path in this home; nothing was moved",
                "let it end with `keepstep run`, or end it with `keepstep skip`; then move the home",
            )


def _rename(old: Path, new: Path) -> bool:
    """Rename the home; False if the destination is on another file system. Raises OSError."""
    try:
        old.rename(new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    for parent in {old.parent, new.parent}:
        durable.fsync_directory(parent)
    return True


def _copy(old: Path, new: Path) -> None:
    """Copy the home to its new place and verify every byte. Raises UserError, OSError."""
    staging = new.with_name(f"{STAGING}{new.name}")
    if not new.exists():
        if staging.exists():  # left by a move that was killed
            durable.remove_tree(staging)
        needed, free = size_of(old), shutil.disk_usage(new.parent).free
        if free < needed:
            reason = f"{new.parent} has {format_size(free)} free, and the home has {format_size(needed)}"
            raise UserError(
                f"{reason}; nothing was moved", "`keepstep home size` says what can be freed", STORAGE_FAILED
            )
        try:
            _copy_tree(old, staging)
            _verify(old, staging)
            staging.rename(new)
        except BaseException:
            if staging.exists():
                durable.remove_tree(staging)
            raise
        durable.fsync_directory(new.parent)
    else:
        _verify(old, new)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a file, a link or a directory with its content; the copy is on disk when this returns."""
    found = source.lstat()
    if stat.S_ISLNK(found.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISDIR(found.st_mode):
        durable.make_directory(target)
        for each in sorted(source.iterdir()):
            _copy_tree(each, target / each.name)
        durable.fsync_directory(target)
    elif stat.S_ISREG(found.st_mode):
        durable.copy_durably(source, target)
    else:
        return  # a socket or a pipe of a process that has ended
    os.chown(target, found.st_uid if os.geteuid() == 0 else -1, found.st_gid, follow_symlinks=False)
    shutil.copystat(source, target, follow_symlinks=False)


def _verify(old: Path, new: Path) -> None:
    """Compare every name, link and byte. Raises UserError if one differs; the old home stays."""
    for path in _paths(old):
        copy = new / path.relative_to(old)
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            same = copy.is_symlink() and copy.readlink() == path.readlink()
        elif stat.S_ISREG(mode):
            same = copy.is_file() and _sha256(copy) == _sha256(path)
        else:
            same = not stat.S_ISDIR(mode) or copy.is_dir()
        if not same:
            raise UserError(
                f"{copy} differs from {path}; the home stays where it is",
                f"check the disk of {new.parent}. If {new} is an unused copy, remove it; then try again",
                STORAGE_FAILED,
            )


def _sha256(path: Path) -> bytes:
    with durable.open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _paths(root: Path) -> Iterator[Path]:
    """Everything below `root`; links are not followed."""
    for directory, names, files in os.walk(root):
        yield from (Path(directory, name) for name in (*names, *files))


def _retire(old: Path) -> None:
    """Take its name from the old home, then delete it."""
    retired = old.with_name(f"{RETIRED}{old.name}")
    if retired.exists():
        durable.remove_tree(retired)
    old.rename(retired)
    durable.fsync_directory(old.parent)
    durable.remove_tree(retired)


def _update_config(old: Path, new: Path) -> list[str]:
    """Rewrite the values of keepstep.toml that are paths in the old home. Returns their keys."""
    import tomlkit

    config = Home(new).config
    document = tomlkit.parse(config.read_text(encoding="utf-8"))
    changed = []
    for section, table in document.items():
        if not isinstance(table, dict):
            continue
        for key, value in table.items():
            if isinstance(value, str) and _is_below(value, old):
                table[key] = str(new / Path(value).relative_to(old))
                changed.append(f"{section}.{key}")
    if changed:
        durable.write_atomically(config, tomlkit.dumps(document).encode(), mode=CONFIG_MODE, sync=True)
    return changed


def _is_below(path: str, root: Path) -> bool:
    return Path(path).is_absolute() and Path(path).is_relative_to(root)
