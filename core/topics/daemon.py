"""The home and the daemon that owns it: start, pause, resume, stop, hold, and its own upkeep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict, replace

from core import commands
from core.checks import hold, illegal, move_daemon, refuse_unless_idle
from core.effect import Effect
from core.errors import Refused
from core.structures.situations import Hold
from core.tables import DecideTable, Events, EvolveTable
from core.topics.running import running_topic
from core.transitions import OFF, PAUSED, STOPPING, DaemonStatus
from events import kinds
from events.event import Event

if TYPE_CHECKING:
    from core.state import State


class Home(Struct, frozen=True):
    """The home that the journal belongs to."""

    id: str = ""
    repaired: bool = False
    """A repair discarded records, and no attempt has started since. The discarded records may have named files that no
    record names now."""


class Daemon(Struct, frozen=True):
    """The process that owns the home; pid and start time together identify it."""

    status: DaemonStatus = "off"
    pid: int = 0
    process_started_at: float = 0.0
    """Unix time, seconds."""
    boot_id: str = ""
    host: str = ""
    first_started_at: float = 0.0
    """When the first daemon of this home started. Unix time, seconds."""
    hold: Hold | None = None


class StopProcess(Effect, frozen=True, kw_only=True):
    """The daemon was asked to stop and nothing runs: journal `daemon_stopped` and exit."""


# -- commands -------------------------------------------------------------------------------------------------------


def _create_home(state: State, command: commands.CreateHome, _now: float) -> Events:
    if state.home.id:
        raise Refused("this home has a journal already")
    return [kinds.HomeCreated(home_id=command.home_id, keepstep=command.keepstep)]


def _start_daemon(state: State, command: commands.StartDaemon, _now: float) -> Events:
    return [*running_topic(state).interrupted(state), kinds.DaemonStarted(**asdict(command))]


def _stop_daemon(state: State, command: commands.StopDaemon, _now: float) -> Events:
    refuse_unless_idle(state)
    return [kinds.DaemonStopped(reason=command.reason)]


def _pause(state: State, _command: commands.Pause, _now: float) -> Events:
    if state.daemon.status in PAUSED:
        raise Refused("keepstep is already paused. To resume: `keepstep resume`")
    return [kinds.PauseRequested()]


def _resume(state: State, _command: commands.Resume, _now: float) -> Events:
    if state.daemon.status not in PAUSED:
        raise Refused("keepstep is not paused")
    return [kinds.Resumed()]


def _stop(state: State, command: commands.Stop, _now: float) -> Events:
    if state.daemon.status in OFF or not command.alive:
        raise Refused("no daemon runs in this home, so there is nothing to stop")
    if state.daemon.status in STOPPING:
        raise Refused("the daemon is already stopping")
    return [kinds.StopRequested()]


def _hold_work(state: State, command: commands.HoldWork, _now: float) -> Events:
    refuse_unless_idle(state)
    return hold(state, command.reason, command.advice)


def _record_leftover_deleted(_state: State, command: commands.RecordLeftoverDeleted, _now: float) -> Events:
    return [kinds.LeftoverDeleted(**asdict(command))]


def _record_orphan(_state: State, command: commands.RecordOrphan, _now: float) -> Events:
    return [kinds.OrphanEnded(**asdict(command))]


def _record_overhead(_state: State, command: commands.RecordOverhead, _now: float) -> Events:
    return [kinds.OverheadMeasured(**asdict(command))]


DECIDE: DecideTable = {
    commands.CreateHome: _create_home,
    commands.StartDaemon: _start_daemon,
    commands.StopDaemon: _stop_daemon,
    commands.Pause: _pause,
    commands.Resume: _resume,
    commands.Stop: _stop,
    commands.HoldWork: _hold_work,
    commands.RecordLeftoverDeleted: _record_leftover_deleted,
    commands.RecordOrphan: _record_orphan,
    commands.RecordOverhead: _record_overhead,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _home_created(state: State, event: kinds.HomeCreated) -> State:
    if state.home.id:
        raise illegal(event, "a home", "the journal has its first record already")
    return replace(state, home=replace(state.home, id=event.home_id))


def _daemon_started(state: State, event: kinds.DaemonStarted) -> State:
    _refuse_attempt(state, event)
    moved = move_daemon(state, event)
    daemon = replace(
        moved.daemon,
        pid=event.pid,
        process_started_at=event.process_started_at,
        boot_id=event.boot_id,
        host=event.host,
        first_started_at=state.daemon.first_started_at or event.process_started_at,
    )
    return replace(moved, daemon=daemon)


def _daemon_stopped(state: State, event: kinds.DaemonStopped) -> State:
    _refuse_attempt(state, event)
    return move_daemon(state, event)


def _refuse_attempt(state: State, event: Event) -> None:
    if state.attempts.current is not None:
        raise illegal(event, state.daemon.status, f"attempt {state.attempts.current} has not ended")


def _daemon_held(state: State, event: kinds.DaemonHeld) -> State:
    moved = move_daemon(state, event)
    return replace(moved, daemon=replace(moved.daemon, hold=Hold(event.reason, event.advice)))


def _resumed(state: State, event: kinds.Resumed) -> State:
    moved = move_daemon(state, event)
    return replace(moved, daemon=replace(moved.daemon, hold=None))


def _journal_repaired(state: State, _event: kinds.JournalRepaired) -> State:
    return replace(state, home=replace(state.home, repaired=True))


def _unchanged(state: State, _event: Event) -> State:
    return state


EVOLVE: EvolveTable = {
    kinds.HomeCreated: _home_created,
    kinds.DaemonStarted: _daemon_started,
    kinds.DaemonStopped: _daemon_stopped,
    kinds.DaemonHeld: _daemon_held,
    kinds.PauseRequested: move_daemon,
    kinds.Resumed: _resumed,
    kinds.StopRequested: move_daemon,
    kinds.JournalRepaired: _journal_repaired,
    kinds.LeftoverDeleted: _unchanged,
    kinds.OrphanEnded: _unchanged,
    kinds.OverheadMeasured: _unchanged,
}
