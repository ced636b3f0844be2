"""What `keepstep doctor` looks at in the directory itself: what stands where, whose it is, and what lies about."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from cli.config.edit import CONFLICT_ADVICE, conflict_of
from cli.daemon.sweep import sweep_temporaries
from cli.doctor.context import DoctorContext, Finding, Unknown, failed, passed, warned
from cli.home.identity import DaemonLock, this_process
from cli.home.layout import find_too_open, make_directories, replaceable, restrict_modes
from cli.home.trust import user_name
from cli.hooks.runner import open_to_all
from cli.inbox.ownership import WRITABLE_BY_OTHERS
from cli.inbox.skipped_files import skipped_files
from cli.inbox.unfinished_names import is_unfinished
from journal import durable
from journal.lock import AppendLock
from journal.log import LOCK_NAME
from journal.storage import is_shared_with_group

FIX_LOCK_S = 2.0
"""A doctor waits for no append that hangs."""


def layout(context: DoctorContext) -> Finding:
    """Every directory of a home is there."""
    home = context.home
    places = [*home.directories(), home.journal]
    wrong = [path for path in (*places, home.tokens) if os.path.lexists(path) and not path.is_dir()]
    if wrong:
        if all(path in replaceable(home) for path in wrong):
            return failed(f"{wrong[0]} is not a directory", "`keepstep doctor --fix` moves it aside and makes one")
        return failed(f"{wrong[0]} is not a directory", "move it elsewhere, then `keepstep doctor --fix`")
    missing = [path for path in places if not path.exists()]
    if home.journal in missing:
        return failed(f"there is no journal: {home.journal} is missing", "bring it back from a backup of yours")
    if missing:
        names = ", ".join(home.relative(path) for path in missing)
        return warned(f"{names} missing", "`keepstep doctor --fix` makes what is missing")
    return passed(f"{home.root} is whole")


def make_missing(context: DoctorContext) -> list[str]:
    """Make the directories that are missing; never a journal: an empty one would be a lie."""
    home = context.home
    missing = [path for path in home.directories() if not path.exists()]
    aside = [f"moved aside: {home.relative(path)}" for path in make_directories(home)]
    return [*aside, *(f"made {home.relative(path)}" for path in missing)]


def permissions(context: DoctorContext) -> Finding:
    """Whoever runs the daemon may write where it writes, and nobody else may."""
    home, me = context.home, os.geteuid()
    places = [home.root, *home.directories(), home.journal]
    places += [path for path in (home.config, home.daemon_lock) if path.exists()]
    with contextlib.suppress(OSError):  # said as one of the places
        places += sorted(home.journal.iterdir())
    open_to_all = None
    for path in filter(os.path.lexists, places):
        found = path.stat()
        wanted = os.R_OK if path == home.config else os.R_OK | os.W_OK
        if not os.access(path, wanted | (os.X_OK if path.is_dir() else 0)):
            owner = user_name(found.st_uid)
            return failed(
                f"{path} may not be used by you; it belongs to {owner}",
                f"run keepstep as {owner}, or give it to whoever does",
            )
        if me == 0 and found.st_uid != 0:
            owner = user_name(found.st_uid)
            return warned(
                f"{path} belongs to {owner}, and you are root: what root makes in there, {owner} cannot change",
                f"run keepstep as {owner}",
            )
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            open_to_all = open_to_all or path
    if open_to_all is not None:
        return warned(f"anybody may write to {open_to_all}", f"chmod o-w {shlex.quote(str(open_to_all))}")
    closes = f"`keepstep doctor --fix --home {shlex.quote(str(home.root))}` closes it"
    if not is_shared_with_group(home.root.stat().st_mode) and home.root.stat().st_mode & 0o077:
        return warned(f"others may look into {home.root}: what is in it is to be private", closes)
    writable = [path for path, _ in find_too_open(home) if path.lstat().st_mode & WRITABLE_BY_OTHERS]
    if writable:
        return warned(f"others may write to {len(writable)} files and directories, such as {writable[0]}", closes)
    if is_shared_with_group(home.root.stat().st_mode):
        return passed(f"{user_name(me)} may read and write all of it; the group {home.root.group()} may read it")
    return passed(f"all of it may be read and written by {user_name(me)}, and by nobody else")


def close_to_others(context: DoctorContext) -> list[str]:
    """Narrow what others may read or write. Raises OSError."""
    closed = restrict_modes(context.home)
    if not closed:
        return []
    more = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
    return [f"closed to others: {closed[0]}{more}"]


def inbox(context: DoctorContext) -> Finding:
    """Whatever lies in the inbox can be taken, and nothing waits under the name of an unfinished file."""
    home = context.home
    found = skipped_files(home, alive=context.alive)
    if found:
        first, more = found[0], f", and {len(found) - 1} more" if len(found) > 1 else ""
        return warned(f"{first.path} {first.reason}{more}", "`keepstep status` lists them")
    lanes = [home.inbox / "high", home.inbox, home.inbox / "low"]
    names = [path for lane in lanes for path in _entries(lane) if is_unfinished(path.name) and path.name[0] != "."]
    if names:
        says = f"{len(names)} in the inbox are ignored for their names, such as {home.relative(names[0])}"
        return warned(says, "rename what is complete; delete what is not")
    return passed("everything in the inbox can be taken")


def hooks(context: DoctorContext) -> Finding:
    """What the config wants run and sent can be."""
    home, settings = context.home, context.config.hooks
    names = [name for name in settings.__struct_fields__ if name.startswith("on_") and getattr(settings, name)]
    for name in names:
        program = shlex.split(getattr(settings, name))[0]
        if shutil.which(home.root / program if "/" in program else program) is None:
            return warned(
                f"{name} cannot run: there is no program {program}", "mend [hooks], then `keepstep hooks test`"
            )
        if (found := open_to_all(program, home.root)) is not None:
            return warned(f"{name} does not run: anybody may write to {found}", f"chmod o-w {shlex.quote(str(found))}")
    if settings.notify and importlib.util.find_spec("apprise") is None:
        return warned("notifications cannot be sent without apprise", "`pip install 'keepstep[notify]'`")
    if settings.notify and home.config.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        advice = f"chmod 600 {shlex.quote(str(home.config))}"
        return warned(
            "others may read keepstep.toml, and the addresses of [hooks] notify have passwords in them", advice
        )
    if not names and not settings.notify:
        return passed("no hook is set")
    return passed(f"{', '.join([*names, *(['notify'] if settings.notify else [])])}; `keepstep hooks test` tries them")


def config(context: DoctorContext) -> Finding:
    """keepstep.toml can be used, and what was learned can go on under it."""
    path = context.home.config
    if not path.exists():
        advice = f"`keepstep init /tmp/new --model MODEL` writes one to copy to {shlex.quote(str(path))}"
        return failed(f"{path} is missing", advice)
    found = context.config.job  # raises what is wrong with it
    try:
        state = context.state
    except Unknown:
        return passed("keepstep.toml is sound; whether what was learned can go on under it is not known")
    conflict = conflict_of(state, found)
    if conflict is not None:
        return failed(
            f"what was learned cannot go on under keepstep.toml: {conflict}",
            CONFLICT_ADVICE,
        )
    job = state.training.current
    if job is not None and job.begun and job.settings is not None and job.settings != found:
        return passed(f"keepstep.toml is sound; {job.name} is finished under what it was begun with")
    return passed("keepstep.toml is sound")


def leftovers(context: DoctorContext) -> Finding:
    """Nothing unfinished lies about, and no order to stop that nobody carries out."""
    home = context.home
    if home.stop_file.exists() and not context.alive:
        advice = f"rm {shlex.quote(str(home.stop_file))}"
        return warned("there is a .stop: the next daemon will leave as soon as it is up", advice)
    found = list(_leftovers(context))
    if not found:
        return passed("nothing unfinished lies about")
    if context.alive:
        return passed(f"{len(found)} unfinished files; the daemon that runs may be at them")
    names = ", ".join(home.relative(path) for path in found[:3]) + (", …" if len(found) > 3 else "")
    says = f"{len(found)} left by processes that are gone: {names}"
    return warned(says, "`keepstep doctor --fix`, or `keepstep run`, removes them")


def remove_leftovers(context: DoctorContext) -> list[str]:
    """What a daemon that starts would remove, under the same locks. Raises UserError if one runs, LockBusy."""
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
    return [f"removed {home.relative(path)}" for path in before if not os.path.lexists(path)]


def _leftovers(context: DoctorContext) -> Iterator[Path]:
    """What `sweep_temporaries` removes."""
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
