"""Checks of `keepstep doctor`: the journal, the clock, the daemon, the status file, orphaned workers."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cli.commands.common import count
from cli.commands.force_stop import daemon_process
from cli.daemon.worker.orphans import workers_of
from cli.doctor.context import DoctorContext, Finding, Unreadable, failed, passed, warned
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.snapshot_reader import witnesses
from cli.output.times import ago, duration
from journal import Survey, Verdict, last_position, read_line, survey
from journal.durable import open_to_read
from projections.snapshot import read_snapshot
from projections.status import read_status

if TYPE_CHECKING:
    import psutil

LATE_S = 60.0
"""A heartbeat is due every two seconds; a large arriving file may delay it."""

LAST_BYTES = 1 << 20
"""The end of a segment that is read; far longer than a record."""

AHEAD_S = 5.0
"""Allowed difference; two processes of one machine differ by less."""


def journal(context: DoctorContext) -> Finding:
    """Check every record, as the start of a daemon does."""
    home = context.home
    found = survey(home.journal, witnesses(home), storage=home.storage)
    if found.verdict is Verdict.TORN and context.alive:  # another process may be appending
        time.sleep(0.1)
        found = survey(home.journal, witnesses(home), storage=home.storage)
    if found.verdict is Verdict.DAMAGED:
        return failed(
            str(found.finding),
            "`keepstep journal verify` lists the lost records; `keepstep journal repair --accept-loss` drops them",
        )
    if found.verdict is Verdict.UNREADABLE:
        return failed(str(found.finding), "check the disk first (kernel log, cables), and change nothing before")
    try:
        _ = context.state
    except Unreadable as unknown:
        raise unknown.__cause__ or unknown from None  # its own message, such as: a record of a newer keepstep
    if found.verdict is Verdict.TORN:
        message = f"the append after record {found.position.seq} was interrupted and never acknowledged"
        return warned(message, "`keepstep run` moves its bytes to journal/torn/ and continues; nothing is lost")
    return passed(f"{count(found.records, 'record')}, all valid; {_snapshot(context, found)}")


def _snapshot(context: DoctorContext, found: Survey) -> str:
    snapshot = read_snapshot(context.home.snapshot, storage=context.home.storage)
    if snapshot is None:
        return "no snapshot: a start reads all records"
    missing = found.position.seq - snapshot.seq
    lag = f"lacks the last {count(missing, 'record')}" if missing else "is up to date"
    return f"the snapshot {lag}, written {ago(context.home.snapshot.stat().st_mtime)}"


def clock(context: DoctorContext) -> Finding:
    """Check that no record is from the future: then the clock was set back, and schedules are wrong."""
    newest = _newest(context.home.journal)
    if newest is None:
        raise Unreadable("the journal's last record")
    ahead_s = datetime.fromisoformat(newest).timestamp() - context.home.clock.now()
    if ahead_s > AHEAD_S:
        return warned(
            f"the last record is from {newest}, {duration(ahead_s)} in the future: the clock was set back",
            "`timedatectl` shows the clock; nothing is lost, but retries and schedules are late until then",
        )
    return passed(f"the last record is {duration(-ahead_s if ahead_s < 0 else 0.0)} old")


def _newest(directory: Path) -> str | None:
    """The time of the last readable record."""
    for path in sorted(directory.glob("*.jsonl"), reverse=True):
        with open_to_read(path) as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            rest = file.read()
        for line in reversed(rest.split(b"\n")):
            with suppress(ValueError):
                return read_line(line).at
    return None


def daemon(context: DoctorContext) -> Finding:
    """Check that the daemon, if one runs, is alive and not held."""
    home, alive = context.home, context.alive
    if not alive:
        return _without_daemon(context)
    process = daemon_process(home)
    who = f"pid {process.pid}, since {duration(time.time() - process.create_time())}" if process else "another process"
    shown = read_status(home.status, storage=home.storage)
    if process is not None and process.status() == "stopped":
        return failed(f"the daemon ({who}) is suspended", f"`kill -CONT {process.pid}`")
    is_its_own = shown is not None and (process is None or shown.daemon.pid == process.pid)  # else it has just started
    if shown is not None and is_its_own and home.clock.now() - shown.daemon.heartbeat_at > LATE_S:
        return failed(
            f"the daemon ({who}) hangs: its last heartbeat was {ago(shown.daemon.heartbeat_at)}",
            "`keepstep stop --now`, then `keepstep run`",
        )
    return _held(context) or passed(f"the daemon runs: {who}")


def _without_daemon(context: DoctorContext) -> Finding:
    state = context.state
    stale = "; its lock file blocks no other daemon" if context.home.daemon_lock.exists() else ""
    if state.daemon.status not in {"off", "off_paused"}:
        return warned(f"the daemon (pid {state.daemon.pid}) died{stale}", "`keepstep run` continues its work")
    return _held(context) or passed("no daemon runs; `keepstep run` starts one")


def _held(context: DoctorContext) -> Finding | None:
    state = context.state
    if state.daemon.hold is not None:
        return warned(f"keepstep waits for you: {state.daemon.hold.reason}", state.daemon.hold.advice)
    if state.daemon.status in {"paused", "off_paused", "pausing"}:
        return warned("training is paused", "`keepstep resume`")
    return None


def status_file(context: DoctorContext) -> Finding:
    """Check that the status file is intact and up to date."""
    home = context.home
    advice = "`keepstep doctor --fix`, or `keepstep journal replay`"
    shown = read_status(home.status, storage=home.storage)
    last = last_position(home.journal, storage=home.storage)
    if last.seq == 1 and not home.status.exists():  # an earlier keepstep made this home, or `init` was killed
        return passed("this home is new: there is no status file yet")
    if shown is None:
        what = "is damaged: its checksum is wrong" if home.status.exists() else "is missing"
        return warned(f"{home.relative(home.status)} {what}; it can be rebuilt", advice)
    if (shown.seq, shown.crc) != (last.seq, last.crc) and not context.alive:
        return warned(f"{home.relative(home.status)} shows record {shown.seq}; the last one is {last.seq}", advice)
    return passed(f"{home.relative(home.status)} shows record {shown.seq}")


def rebuild_status_file(context: DoctorContext) -> list[str]:
    """Rebuild the views from the journal. Raises UserError if the journal is damaged, JournalError."""
    home = context.home
    found = journal(context)
    if found.level == "fail":
        raise UserError("the journal is damaged, so nothing can be rebuilt from it", found.advice)
    with closing(EventStore.open(home)) as store, store.exclusive():
        store.write_status()
        store.save_snapshot()
    return [f"rebuilt {home.relative(home.status)} and {home.relative(home.snapshot)} from the journal"]


def orphans(context: DoctorContext) -> Finding:
    """Check that no worker outlived its daemon. Workers are known by their command line, not their name."""
    owner = daemon_process(context.home) if context.alive else None
    found = workers_of(context.home.root)
    left = [process for process in found if owner is None or owner.pid not in _ancestors(process)]
    if not left:
        return passed("no worker without a daemon" if not found else "the worker belongs to the daemon")
    numbers = " ".join(str(process.pid) for process in left)
    return failed(
        f"{count(len(left), 'worker')} of this home without a daemon hold memory (pid {numbers.replace(' ', ', ')})",
        f"`kill -9 {numbers}`; committed steps are kept",
    )


def _ancestors(process: psutil.Process) -> set[int]:
    import psutil

    try:
        return {parent.pid for parent in process.parents()}
    except psutil.Error:
        return set()
