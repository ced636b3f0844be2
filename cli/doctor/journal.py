"""What `keepstep doctor` looks at in the journal, in what is folded from it, and in who works on it."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cli.commands.force_stop import daemon_process
from cli.daemon.orphans import workers_of
from cli.doctor.context import DoctorContext, Finding, Unknown, failed, passed, warned
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.snapshot_reader import witnesses
from cli.output.terminal import ago, duration
from journal import Survey, Verdict, last_position, read_line, survey
from journal.durable import open_to_read
from projections.snapshot import read_snapshot
from projections.status import read_status

if TYPE_CHECKING:
    import psutil

LATE_S = 60.0
"""A daemon beats every two seconds, and a large file that arrives may keep it for a while."""

LAST_BYTES = 1 << 20
"""Of a segment: far more than a record has."""

AHEAD_S = 5.0
"""Clocks of one machine differ by less between two processes."""


def journal(context: DoctorContext) -> Finding:
    """Every record, and what a start would find. Changes nothing."""
    home = context.home
    found = survey(home.journal, witnesses(home), storage=home.storage)
    if found.verdict is Verdict.TORN and context.alive:  # an append may just have been under way
        time.sleep(0.1)
        found = survey(home.journal, witnesses(home), storage=home.storage)
    if found.verdict is Verdict.DAMAGED:
        return failed(
            str(found.finding),
            "`keepstep journal verify` says what is lost; `keepstep journal repair --accept-loss` gives it up",
        )
    if found.verdict is Verdict.UNREADABLE:
        return failed(str(found.finding), "look at the disk (kernel log, cables), and touch nothing before")
    try:
        _ = context.state
    except Unknown as unknown:
        raise unknown.__cause__ or unknown from None  # its own words: a record of a newer keepstep, say
    if found.verdict is Verdict.TORN:
        said = f"the last append never finished, behind record {found.position.seq}; nobody was told that it had"
        return warned(said, "`keepstep run` keeps its bytes aside in journal/torn/ and goes on; nothing is lost")
    return passed(f"{found.records} records, every one valid; {_snapshot(context, found)}")


def _snapshot(context: DoctorContext, found: Survey) -> str:
    snapshot = read_snapshot(context.home.snapshot, storage=context.home.storage)
    if snapshot is None:
        return "no snapshot: a start reads all of them"
    after = found.position.seq - snapshot.seq
    return f"the snapshot is {after} behind and {ago(context.home.snapshot.stat().st_mtime).removesuffix(' ago')} old"


def clock(context: DoctorContext) -> Finding:
    """No record is of the future: then the clock was set back, and waits and schedules are wrong."""
    newest = _newest(context.home.journal)
    if newest is None:
        raise Unknown("the journal's last record")
    ahead_s = datetime.fromisoformat(newest).timestamp() - context.home.clock.now()
    if ahead_s > AHEAD_S:
        return warned(
            f"the last record is of {newest}, {duration(ahead_s)} in the future: the clock was set back",
            "`timedatectl` shows the clock; nothing is lost, but waits and schedules are off until then",
        )
    return passed(f"the last record is {duration(-ahead_s if ahead_s < 0 else 0.0)} old")


def _newest(directory: Path) -> str | None:
    """When the last record that can be read was written."""
    for path in sorted(directory.glob("*.jsonl"), reverse=True):
        with open_to_read(path) as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            rest = file.read()
        for line in reversed(rest.split(b"\n")):
            with suppress(ValueError):
                return read_line(line).at
    return None


def daemon(context: DoctorContext) -> Finding:
    """Who works here, and whether they do."""
    home, alive = context.home, context.alive
    if not alive:
        return _without_daemon(context)
    process = daemon_process(home)
    who = f"pid {process.pid}, since {duration(time.time() - process.create_time())}" if process else "another process"
    shown = read_status(home.status, storage=home.storage)
    if process is not None and process.status() == "stopped":
        return failed(f"the daemon ({who}) is stopped", f"`kill -CONT {process.pid}`")
    if shown is not None and home.clock.now() - shown.daemon.heartbeat_at > LATE_S:
        return failed(
            f"the daemon ({who}) was last heard of {ago(shown.daemon.heartbeat_at)}: it hangs",
            "`keepstep stop --now`, then `keepstep run`",
        )
    return _held(context) or passed(f"a daemon runs: {who}")


def _without_daemon(context: DoctorContext) -> Finding:
    state = context.state
    stale = "; its lock file blocks nobody" if context.home.daemon_lock.exists() else ""
    if state.daemon.status not in {"off", "off_paused"}:
        return warned(f"the daemon (pid {state.daemon.pid}) ended without a word{stale}", "`keepstep run` goes on")
    return _held(context) or passed("no daemon runs; `keepstep run` starts one")


def _held(context: DoctorContext) -> Finding | None:
    state = context.state
    if state.daemon.hold is not None:
        return warned(f"work waits for you: {state.daemon.hold.reason}", state.daemon.hold.advice)
    if state.daemon.status in {"paused", "off_paused", "pausing"}:
        return warned("work is paused", "`keepstep resume`")
    return None


def status_file(context: DoctorContext) -> Finding:
    """The view that people and scripts read is whole, and not behind."""
    home = context.home
    advice = "`keepstep doctor --fix`, or `keepstep journal replay`"
    shown = read_status(home.status, storage=home.storage)
    last = last_position(home.journal, storage=home.storage)
    if last.seq == 1 and not home.status.exists():
        return passed("nothing has been done here yet: there is nothing to show")
    if shown is None:
        what = "is damaged: its seal is not that of its content" if home.status.exists() else "is missing"
        return warned(f"{home.relative(home.status)} {what}; it is only a view", advice)
    if (shown.seq, shown.crc) != (last.seq, last.crc) and not context.alive:
        return warned(f"{home.relative(home.status)} shows record {shown.seq}, and the last is {last.seq}", advice)
    return passed(f"{home.relative(home.status)} shows record {shown.seq}")


def rebuild_status(context: DoctorContext) -> list[str]:
    """Write the views anew, from the journal. Raises UserError if that is not sound, and what opening it raises."""
    home = context.home
    sound = journal(context)
    if sound.level == "fail":
        raise UserError("the journal, which it is made from, is not sound", sound.advice)
    with closing(EventStore.open(home)) as store, store.exclusive():
        store.write_status()
        store.save_snapshot()
    return [f"rebuilt {home.relative(home.status)} and {home.relative(home.snapshot)} from the journal"]


def orphans(context: DoctorContext) -> Finding:
    """No worker of this home is left whose daemon is gone. By what it was started with, not by its name."""
    owner = daemon_process(context.home) if context.alive else None
    found = workers_of(context.home.root)
    left = [process for process in found if owner is None or owner.pid not in _ancestors(process)]
    if not left:
        return passed("no worker without a daemon" if not found else "the worker is the daemon's")
    numbers = " ".join(str(process.pid) for process in left)
    return failed(
        f"{len(left)} workers of this home have no daemon, and hold memory (pid {numbers.replace(' ', ', ')})",
        f"`kill -9 {numbers}`; what was committed is kept",
    )


def _ancestors(process: psutil.Process) -> set[int]:
    import psutil

    try:
        return {parent.pid for parent in process.parents()}
    except psutil.Error:
        return set()
