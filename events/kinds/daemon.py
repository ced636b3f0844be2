"""The home, the daemon that owns it, and its own upkeep."""

from __future__ import annotations

from typing import Literal

from events.event import Event


class HomeCreated(Event, frozen=True, kw_only=True, tag="home_created"):
    """The first record of every journal."""

    v: Literal[1] = 1
    home_id: str
    keepstep: str


class DaemonStarted(Event, frozen=True, kw_only=True, tag="daemon_started"):
    """A daemon took the home. Pids are reused, so the start time and the boot id identify it together with the pid."""

    v: Literal[1] = 1
    pid: int
    process_started_at: float
    boot_id: str
    host: str
    keepstep: str


class DaemonStopped(Event, frozen=True, kw_only=True, tag="daemon_stopped"):
    """The daemon stopped in good order; everything that it trained is committed."""

    v: Literal[1] = 1
    reason: str


class DaemonHeld(Event, frozen=True, kw_only=True, tag="daemon_held"):
    """keepstep stopped work by itself because a person is needed. `keepstep resume` continues."""

    v: Literal[1] = 1
    reason: str
    advice: str


class PauseRequested(Event, frozen=True, kw_only=True, tag="pause_requested"):
    """A person paused keepstep: work stops at the next step boundary, until a person resumes it."""

    v: Literal[1] = 1


class Resumed(Event, frozen=True, kw_only=True, tag="resumed"):
    """A person resumed work."""

    v: Literal[1] = 1


class StopRequested(Event, frozen=True, kw_only=True, tag="stop_requested"):
    """A person asked the daemon to commit and stop."""

    v: Literal[1] = 1


class JournalRepaired(Event, frozen=True, kw_only=True, tag="journal_repaired"):
    """A person discarded damaged records: all from `first_seq` to `last_seq`."""

    v: Literal[1] = 1
    first_seq: int
    last_seq: int
    problem: str


class LeftoverDeleted(Event, frozen=True, kw_only=True, tag="leftover_deleted"):
    """The daemon deleted a leftover: something half-written, or named by no record."""

    v: Literal[1] = 1
    path: str
    """Relative to the home."""
    size_bytes: int


class OrphanEnded(Event, frozen=True, kw_only=True, tag="orphan_ended"):
    """The daemon ended a worker of an earlier daemon of this home that was still running."""

    v: Literal[1] = 1
    pid: int
    started_at: float
    """Unix time, seconds. It identifies the process together with the pid."""
    command: str


class OverheadMeasured(Event, frozen=True, kw_only=True, tag="overhead_measured"):
    """CPU time that the daemon itself took since the last measurement; once a day."""

    v: Literal[1] = 1
    wall_s: float
    """Length of the measured period."""
    cpu_s: float
    """CPU seconds of the daemon's process, all threads, in that period."""
    training_s: float
    """The part of the period in which an attempt ran."""
    training_cpu_s: float
    """CPU seconds of the daemon's process in that part."""
    parts: dict[str, float]
    """CPU seconds by activity; their sum is `cpu_s`."""
