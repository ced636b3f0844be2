"""Checks of `keepstep doctor`: the directories of the home, permissions, inbox, hooks, config, leftover files."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from cli.commands.common import count
from cli.config.locks import find_conflicts
from cli.daemon.sweep import sweep_temporaries
from cli.doctor.context import DoctorContext, Finding, Unreadable, failed, passed, warned
from cli.home.identity import DaemonLock, this_process
from cli.home.layout import find_too_open, make_directories, replaceable, restrict_modes
from cli.home.trust import user_name
from cli.inbox.ownership import WRITABLE_BY_OTHERS
from cli.inbox.skipped_files import skipped_files
from cli.inbox.unfinished_names import is_unfinished
from gpu.evaluation.program import open_to_all
from journal import durable
from journal.lock import AppendLock
from journal.log import LOCK_NAME
from journal.storage import is_shared_with_group

FIX_LOCK_S = 2.0
"""Short, so that `doctor --fix` does not wait for an append that hangs."""


def layout(context: DoctorContext) -> Finding:
    """Check that every directory of the home exists."""
    home = context.home
    places = [*home.directories(), home.journal]
    wrong = [path for path in (*places, home.tokens) if os.path.lexists(path) and not path.is_dir()]
    if wrong:
        if all(path in replaceable(home) for path in wrong):
            return failed(f"{wrong[0]} is not a directory", "`keepstep doctor --fix` moves it aside and makes one")
        return failed(f"{wrong[0]} is not a directory", "move it elsewhere, then `keepstep doctor --fix`")
    missing = [path for path in places if not path.exists()]
    if home.journal in missing:
        return failed(f"the journal {home.journal} is missing", "restore it from a backup of the home")
    if missing:
        names = ", ".join(home.relative(path) for path in missing)
        return warned(f"missing: {names}", "`keepstep doctor --fix` creates them")
    return passed(f"{home.root} is complete")


def make_missing_directories(context: DoctorContext) -> list[str]:
    """Create missing directories, except the journal: an empty one would hide the loss."""
    home = context.home
    missing = [path for path in home.directories() if not path.exists()]
    moved = [f"moved aside: {home.relative(path)}" for path in make_directories(home)]
    return [*moved, *(f"created {home.relative(path)}" for path in missing)]


def permissions(context: DoctorContext) -> Finding:
    """Check that the user of the daemon may write to the home, and that nobody else may."""
    home, me = context.home, os.geteuid()
    places = [home.root, *home.directories(), home.journal]
    places += [path for path in (home.config, home.daemon_lock) if path.exists()]
    with contextlib.suppress(OSError):  # reported as one of the places
        places += sorted(home.journal.iterdir())
    open_to_all = None
    for path in filter(os.path.lexists, places):
        found = path.stat()
        wanted = os.R_OK if path == home.config else os.R_OK | os.W_OK
        if not os.access(path, wanted | (os.X_OK if path.is_dir() else 0)):
            owner = user_name(found.st_uid)
            return failed(
                f"you may not use {path}: it belongs to {owner}",
                f"run keepstep as {owner}, or change the owner: `chown`",
            )
        if me == 0 and found.st_uid != 0:
            owner = user_name(found.st_uid)
            return warned(
                f"{path} belongs to {owner}, and you are root: {owner} could not change the files that root creates",
                f"run keepstep as {owner}",
            )
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            open_to_all = open_to_all or path
    if open_to_all is not None:
        return warned(f"any user may write to {open_to_all}", f"chmod o-w {shlex.quote(str(open_to_all))}")
    restrict = f"`keepstep doctor --fix --home {shlex.quote(str(home.root))}` restricts it"
    if not is_shared_with_group(home.root.stat().st_mode) and home.root.stat().st_mode & 0o077:
        return warned(f"other users may read {home.root}, which should be private", restrict)
    writable = [path for path, _ in find_too_open(home) if path.lstat().st_mode & WRITABLE_BY_OTHERS]
    if writable:
        return warned(f"other users may write to {len(writable)} files, such as {writable[0]}", restrict)
    if is_shared_with_group(home.root.stat().st_mode):
        return passed(f"{user_name(me)} may read and write the home; the group {home.root.group()} may read it")
    return passed(f"only {user_name(me)} may read and write the home")


def restrict_permissions(context: DoctorContext) -> list[str]:
    """Restrict what other users may read or write. Raises OSError."""
    closed = restrict_modes(context.home)
    if not closed:
        return []
    more = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
    return [f"restricted to you: {closed[0]}{more}"]


def inbox(context: DoctorContext) -> Finding:
    """Check that every file in the inbox can be accepted, and that none has the name of an unfinished file."""
    home = context.home
    found = skipped_files(home, alive=context.alive)
    if found:
        first, more = found[0], f", and {len(found) - 1} more" if len(found) > 1 else ""
        return warned(f"{first.path} {first.reason}{more}", "`keepstep status` lists them")
    lanes = [home.inbox / "high", home.inbox, home.inbox / "low"]
    names = [path for lane in lanes for path in _entries(lane) if is_unfinished(path.name) and path.name[0] != "."]
    if names:
        message = f"{len(names)} in the inbox are ignored because of their names, such as {home.relative(names[0])}"
        return warned(message, "rename the complete files; delete the others")
    return passed("every file in the inbox can be accepted")


def hooks(context: DoctorContext) -> Finding:
    """Check that the programs of the hooks exist, and that notifications can be sent."""
    home, settings = context.home, context.config.hooks
    names = [name for name in settings.__struct_fields__ if name.startswith("on_") and getattr(settings, name)]
    for name in names:
        program = shlex.split(getattr(settings, name))[0]
        if shutil.which(home.root / program if "/" in program else program) is None:
            return warned(
                f"{name} cannot run: there is no program {program}", "fix [hooks], then `keepstep hooks test`"
            )
        if (found := open_to_all(program, home.root)) is not None:
            return warned(f"{name} does not run: any user may write to {found}", f"chmod o-w {shlex.quote(str(found))}")
    if settings.notify and importlib.util.find_spec("apprise") is None:
        return warned("notifications cannot be sent without apprise", "`pip install 'keepstep[notify]'`")
    if settings.notify and home.config.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        advice = f"chmod 600 {shlex.quote(str(home.config))}"
        return warned(
            "other users may read keepstep.toml, and the addresses of [hooks] notify contain passwords", advice
        )
    if not names and not settings.notify:
        return passed("no hook is set")
    return passed(f"{', '.join([*names, *(['notify'] if settings.notify else [])])}; `keepstep hooks test` tries them")


def config(context: DoctorContext) -> Finding:
    """Check that keepstep.toml is valid, and that it fits the trained weights."""
    path = context.home.config
    if not path.exists():
        advice = f"`keepstep init /tmp/new --model MODEL` writes one to copy to {shlex.quote(str(path))}"
        return failed(f"{path} is missing", advice)
    found = context.config.job  # raises if it is invalid
    try:
        state = context.state
    except Unreadable:
        return passed("keepstep.toml is valid; whether it fits the trained weights is not known")
    for error in find_conflicts(context.home, state, found, reads=context.deep):
        return failed(error.reason, error.advice)
    job = state.training.current
    if job is not None and job.begun and job.settings is not None and job.settings != found:
        return passed(f"keepstep.toml is valid; {job.name} finishes with the settings that it started with")
    return passed("keepstep.toml is valid")


def questions(context: DoctorContext) -> Finding:
    """Check that every question in evaluation/ can be asked."""
    from gpu.evaluation.question_files import read_questions

    found = read_questions(context.home.root, storage=context.home.storage)
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        return warned(f"not asked: {found.problems[0].text}{more}", "`keepstep config check` lists them all")
    if not found.questions:
        return passed("no question is in evaluation/")
    return passed(f"{count(len(found.questions), 'question')} in evaluation/ can be asked")


def leftovers(context: DoctorContext) -> Finding:
    """Check that no leftover files and no leftover .stop exist."""
    home = context.home
    if home.stop_file.exists() and not context.alive:
        advice = f"rm {shlex.quote(str(home.stop_file))}"
        return warned("there is a .stop file: the next daemon would stop at once", advice)
    found = list(_leftovers(context))
    if not found:
        return passed("no leftover files")
    if context.alive:
        return passed(f"{len(found)} unfinished files; the running daemon may be writing them")
    names = ", ".join(home.relative(path) for path in found[:3]) + (", …" if len(found) > 3 else "")
    message = f"{len(found)} left by processes that have ended: {names}"
    return warned(message, "`keepstep doctor --fix` or `keepstep run` deletes them")


def remove_leftovers(context: DoctorContext) -> list[str]:
    """Delete what a starting daemon deletes, under the same locks. Raises UserError if a daemon runs, LockBusy."""
    home = context.home
    before = list(_leftovers(context))
    if not before:
        return []
    lock = DaemonLock(home)
    lock.take(this_process())
    try:
        append_lock = AppendLock(home.storage, home.journal / LOCK_NAME, FIX_LOCK_S)
        try:
            with append_lock:
                sweep_temporaries(home)
        finally:
            append_lock.close()
    finally:
        lock.release()
    return [f"deleted {home.relative(path)}" for path in before if not os.path.lexists(path)]


def _leftovers(context: DoctorContext) -> Iterator[Path]:
    """The files that `sweep_temporaries` deletes."""
    home = context.home
    for directory in (home.status.parent, home.rejected):
        yield from (path for path in _entries(directory) if durable.is_temporary(path.name))
    prefixes = (f".{home.journal.name}.", f".{home.config.name}.")
    yield from (
        path for path in _entries(home.root) if durable.is_temporary(path.name) and path.name.startswith(prefixes)
    )
    if not context.alive:
        yield from (path for path in _entries(home.run) if path.name.startswith("worker-") and path.suffix == ".sock")


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
