"""The times in `keepstep status`: since when, expected end, and what keepstep waits for."""

from __future__ import annotations

import time

from msgspec import Struct

from cli.output.times import duration, local_clock, local_time, unix
from core.structures.situations import MemoryShortage
from projections.status import StatusView

DAY_S = 86_400.0


class Timing(Struct, frozen=True, kw_only=True):
    """Times are Unix times, in seconds; None: not known, or there is none."""

    since: float | None
    file_done_at: float | None
    all_done_at: float | None
    waits_for: str | None
    """"person", "disk", "memory", "retry", "files", "daemon"."""
    retry_at: float | None


def timing(view: StatusView, *, alive: bool) -> Timing:
    """The times of the present state. The expected end follows from the pace of the last steps."""
    job = view.job
    runs = alive and job is not None and job.attempt is not None and view.daemon.status == "working"
    now = time.time()
    return Timing(
        since=unix(view.daemon.since) if alive and view.daemon.since else None,
        file_done_at=now + job.eta_s if runs and job is not None and job.eta_s is not None else None,
        all_done_at=now + view.queue.eta_s if runs and view.queue.eta_s is not None else None,
        waits_for=_waits_for(view, alive=alive),
        retry_at=job.retry_at if job is not None and not runs else None,
    )


def timing_text(found: Timing) -> str:
    """The times as text; "" if none is known."""
    parts = []
    if found.since is not None:
        parts.append(f"since {_at(found.since)} ({duration(max(0.0, time.time() - found.since))})")
    if found.file_done_at is not None:
        parts.append(f"this file ends about {_at(found.file_done_at)}")
    if found.all_done_at is not None and found.all_done_at != found.file_done_at:
        parts.append(f"all files end about {_at(found.all_done_at)}")
    return ", ".join(parts)


def memory_health(short: MemoryShortage, running: str | None) -> str:
    """The health line while other processes use the memory."""
    from cli.output.event_lines import memory_text  # loads the state machine, which is rarely needed here

    until = f"{running} pauses after its next commit" if running is not None else "no job starts"
    return f"waiting for memory: {memory_text(short)}; {until} until memory is free"


def _waits_for(view: StatusView, *, alive: bool) -> str | None:
    job = view.job
    if view.hold is not None or view.daemon.status in {"paused", "off_paused", "pausing"}:
        return "person"
    if not alive:
        return "daemon"
    if view.full is not None:
        return "disk"
    if view.short is not None:
        return "memory"
    if job is not None:
        return "retry" if job.attempt is None and job.retry_at is not None else None
    return "files" if view.consolidation is None and view.daemon.status == "idle" else None


def _at(moment: float) -> str:
    """The local time, with its date unless it is within half a day."""
    return local_clock(moment) if abs(moment - time.time()) < DAY_S / 2 else local_time(moment)
