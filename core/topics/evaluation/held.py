"""Held versions: the head has not moved to them.

With `[versions] gate = "hold"`, a consolidation publishes the version and leaves the head where it is. The version is
held until it is promoted, by the gate or by a person, or deleted. Training continues from the head as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.errors import Refused
from core.structures.evaluations import Held
from core.structures.step_log import StepLog
from core.tables import DecideTable, Events, EvolveTable
from core.topics import retention
from core.topics.evaluation.gate import why_not_promoted
from core.transitions import VERSION, VersionStatus
from core.values import Version
from events import kinds
from events.codec import kind_of
from events.evaluation import Promoter
from events.event import Event

if TYPE_CHECKING:
    from core.state import State


# -- commands -------------------------------------------------------------------------------------------------------


def _promote(state: State, command: commands.PromoteVersion, _now: float) -> Events:
    version = existing_version(state, command.version)
    if version.id == state.head.base:
        raise Refused(f"the head is trained from {version.id} already")
    if state.evaluations.hold_of(version.id) is None:
        raise Refused(f"{version.id} is not held. To move the head to it: `keepstep versions restore {version.id}`")
    if state.attempts.current is not None:
        raise Refused("an attempt is running; `keepstep pause` first, or wait")
    if reason := why_not_promoted(state, version):
        raise Refused(f"{version.id} is not promoted: {reason}")
    return _promoted(state, version, "person")


def _discard(state: State, command: commands.DiscardVersion, now: float) -> Events:
    version = existing_version(state, command.version)
    if state.evaluations.hold_of(version.id) is None:
        raise Refused(f"{version.id} is not held. To delete it: `keepstep versions delete {version.id}`")
    return retention.delete_version(state, commands.DeleteVersion(version=version.id), now)


def existing_version(state: State, version_id: str) -> Version:
    """The version. Raises Refused if it does not exist."""
    version = state.retention.version(version_id)
    if version is None:
        raise Refused(f"there is no version {version_id}: `keepstep versions list --all`")
    return version


def _promoted(state: State, version: Version, by: Promoter) -> Events:
    """Move the head to the version. Prune what it was merged from: the version and its backup hold that."""
    return [kinds.VersionPromoted(version=version.id, by=by), *retention.prune(state.head.checkpoints)]


def gated(state: State, evaluated: str, reason: str) -> Events:
    """Promote the version that was evaluated, if it is held and there is no reason against it."""
    version = state.retention.version(evaluated)
    assert version is not None  # nobody may delete it while it is evaluated
    if state.evaluations.hold_of(version.id) is None:
        return []
    reason = reason or why_not_promoted(state, version)
    return [kinds.VersionHeld(version=version.id, reason=reason)] if reason else _promoted(state, version, "gate")


DECIDE: DecideTable = {
    commands.PromoteVersion: _promote,
    commands.DiscardVersion: _discard,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _moved(state: State, event: kinds.VersionHeld | kinds.VersionPromoted) -> tuple[Version, VersionStatus]:
    """The held version, and its status after the event by its table. Raises IllegalEvent."""
    held, version = state.evaluations.hold_of(event.version), state.retention.version(event.version)
    if held is None or version is None:
        raise illegal(event, "not held", f"{event.version} is not held")
    return version, version_status_after(held.status, event)


def version_status_after(status: VersionStatus, event: Event) -> VersionStatus:
    """The status of a held version after the event, by its table. Raises IllegalEvent."""
    after = VERSION[status].get(kind_of(event))
    if after is None:
        raise illegal(event, status)
    return after


def _held(state: State, event: kinds.VersionHeld) -> State:
    _, status = _moved(state, event)
    held = tuple(
        Held(each.version, status, event.reason) if each.version == event.version else each
        for each in state.evaluations.held
    )
    if state.attempts.current is not None:
        raise illegal(event, state.daemon.status, f"attempt {state.attempts.current} has not ended")
    pending = tuple(each for each in state.evaluations.pending if each.version != event.version)
    return replace(state, evaluations=replace(state.evaluations, held=held, pending=pending))


def _promoted_event(state: State, event: kinds.VersionPromoted) -> State:
    version, _ = _moved(state, event)
    if state.attempts.current is not None:
        raise illegal(event, state.daemon.status, f"attempt {state.attempts.current} has not ended")
    if reason := why_not_promoted(state, version):
        raise illegal(event, state.daemon.status, reason)
    head = state.head
    return replace(
        state,
        evaluations=state.evaluations.released(version.id),
        head=replace(
            head,
            base=version.id,
            base_step=head.global_step,
            checkpoints=(),
            detached=(*head.detached, *head.branch()),
        ),
        recovery=replace(state.recovery, replay_ranges=(), step_log=StepLog(head.global_step)),
    )


EVOLVE: EvolveTable = {
    kinds.VersionHeld: _held,
    kinds.VersionPromoted: _promoted_event,
}
