"""What a worker reports, and what is found out about it: facts in, events out. A part of `decide`.

A fact of any attempt but the running one changes nothing. How an attempt that failed goes on is decided here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from core import commands, evaluation, policies
from core.errors import IllegalEvent, Refused
from core.evolve import evolve
from core.failures import EXPLANATIONS
from core.job import Job
from core.state import State
from events import kinds, worker
from events.kinds import AnyEvent
from events.values import Failure

Events = Sequence[AnyEvent]


def _running(state: State, fact: Any) -> Job | None:
    """The job that the fact is about; None if it comes from another attempt than the running one."""
    return state.current if fact.attempt == state.attempt else None


def _nothing(_state: State, _fact: object, _now: float) -> Events:
    return []


def _prepared(state: State, fact: worker.Prepared, now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    plan = fact.plan
    if job.begun and job.plan is not None:
        plan = replace(plan, warnings=job.plan.warnings)  # what is said of a file depends on what is known of others
    if job.begun and job.plan is not None and job.plan != plan:
        changed = ", ".join(name for name in plan.__struct_fields__ if getattr(job.plan, name) != getattr(plan, name))
        message = (
            f"{job.name} is trained up to step {job.committed_step} and cannot continue: from here on it would train "
            f"other tokens, or in another order ({changed} changed). The tokenizer, the data, or the rules by which "
            "this version of keepstep turns rows into tokens are not those that the job began under"
        )
        return _failed(state, job, fact.attempt, "plan", message, now)
    return [kinds.JobPrepared(job=job.id, attempt=fact.attempt, plan=plan)]


def _rejected(state: State, fact: worker.Rejected, now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    if job.begun:
        message = f"{job.name} was readable and is not any more: {fact.message}"
        return _failed(state, job, fact.attempt, "plan", message, now)
    return [
        kinds.JobRejected(
            job=job.id,
            attempt=fact.attempt,
            name=job.name,
            problem=fact.problem,
            line=fact.line,
            message=fact.message,
        )
    ]


def _loaded(state: State, fact: worker.Loaded, _now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    head = state.head
    return [
        kinds.TrainingStarted(
            job=job.id,
            attempt=fact.attempt,
            global_step=state.global_step,
            step=job.committed_step,
            checkpoint=head.id if head else None,
            environment=fact.environment,
            changed=policies.environment_changes(state.environment, fact.environment),
            trained=fact.trained,
        )
    ]


def _step(state: State, fact: worker.Step, _now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    reached = kinds.StepReached(
        job=job.id,
        attempt=fact.attempt,
        global_step=fact.global_step,
        step=fact.step,
        epoch=fact.epoch,
        loss=fact.loss,
        grad_norm=fact.grad_norm,
        learning_rate=fact.learning_rate,
        tokens=fact.tokens,
        seconds=fact.seconds,
    )
    expected = state.trail.at(fact.global_step)
    if expected is None or expected == (fact.loss, fact.grad_norm):
        return [reached]
    diverged = kinds.DivergenceDetected(
        job=job.id,
        attempt=fact.attempt,
        global_step=fact.global_step,
        step=fact.step,
        loss=fact.loss,
        grad_norm=fact.grad_norm,
        expected_loss=expected[0],
        expected_grad_norm=expected[1],
    )
    return [reached, diverged]


def _checkpoint_written(state: State, fact: worker.CheckpointWritten, _now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    events: list[AnyEvent] = [
        kinds.CheckpointCommitted(
            checkpoint=fact.checkpoint,
            job=job.id,
            attempt=fact.attempt,
            global_step=fact.global_step,
            step=fact.step,
            parent=fact.parent,
            size_bytes=fact.size_bytes,
            manifest_sha256=fact.manifest_sha256,
            reason=fact.reason,
        )
    ]
    after = evolve(state, events[0])
    if fact.step == job.goal:
        whole = job.plan is not None and fact.step == job.plan.steps_total
        events.append(
            kinds.JobTrained(job=job.id, attempt=fact.attempt, global_step=fact.global_step, checkpoint=fact.checkpoint)
            if whole
            else kinds.JobSkipped(job=job.id)
        )
    assert job.settings is not None  # every started attempt carries them
    cadence = job.settings.checkpoints
    events.extend(
        kinds.CheckpointPruned(checkpoint=checkpoint.id, size_bytes=checkpoint.size_bytes)
        for checkpoint in policies.checkpoints_to_prune(
            after.checkpoints, cadence.keep, cadence.keep_every_steps, after.base_step
        )
    )
    return events


def _checkpoint_bad(state: State, fact: worker.CheckpointBad, now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    if state.head is None or fact.checkpoint != state.head.id:
        message = f"the worker was to load {state.head.id if state.head else 'the base'}, not {fact.checkpoint}"
        return _failed(state, job, fact.attempt, "code", message, now)
    failed = kinds.AttemptFailed(
        job=job.id, attempt=fact.attempt, failure="checkpoint", message=fact.problem, retry_at=now
    )
    return [failed, *condemned(state, fact.checkpoint, fact.problem)]


def refuse_unless_idle(state: State) -> None:
    """Raises Refused unless a daemon is on and no attempt runs."""
    if state.attempt is not None:
        raise Refused(f"attempt {state.attempt} still runs")
    if state.daemon.status in {"off", "off_paused"}:
        raise Refused("no daemon runs in this home")


def _quarantine_checkpoint(state: State, command: commands.QuarantineCheckpoint, _now: float) -> Events:
    refuse_unless_idle(state)
    if all(command.checkpoint != checkpoint.id for checkpoint in state.checkpoints):
        raise Refused(f"{command.checkpoint} is not a checkpoint that the present branch stands on")
    return condemned(state, command.checkpoint, command.problem)


def condemned(state: State, checkpoint: str, problem: str) -> Events:
    """A checkpoint goes to quarantine. In the place of the head its newest ancestor takes over, or the base itself, if
    steps can still be run again from there."""
    left = [each.id for each in state.checkpoints if each.id != checkpoint]
    if not left and state.past_from > state.base_step:
        reason = f"{checkpoint} is damaged ({problem}), and no older checkpoint is left to go back to"
        if state.hold is not None and state.hold.reason == reason:
            return []
        advice = "put back an undamaged copy of its directory from a backup, then `keepstep resume`"
        return [kinds.DaemonHeld(reason=reason, advice=advice)]
    return [kinds.CheckpointQuarantined(checkpoint=checkpoint, problem=problem, head=left[-1] if left else None)]


def _yielded(state: State, fact: worker.Yielded, _now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    yielded = kinds.AttemptYielded(job=job.id, attempt=fact.attempt)
    return [yielded, kinds.JobSkipped(job=job.id)] if job.skip_requested else [yielded]


def _ended(state: State, fact: worker.Failed | commands.ReportWorkerLost, now: float) -> Events:
    """The worker failed, or is gone; either way this was its last word."""
    job = _running(state, fact)
    if job is None:
        return []
    abandoned = evaluation.abandoned(job, fact.attempt, fact.failure, fact.message) if fact.evaluating else ()
    return [*abandoned, *_failed(state, job, fact.attempt, fact.failure, fact.message, now)]


def impossible(state: State, fact: worker.Fact, error: IllegalEvent, now: float) -> Events:
    """The running worker said what cannot be: whatever else it would say, its attempt has failed."""
    job = _running(state, fact)
    assert job is not None  # the facts of other attempts lead to no events
    return _failed(state, job, fact.attempt, "code", f"the worker reported what cannot be: {error}", now)


def run_out_of_space(state: State, command: commands.ReportDiskFull, now: float) -> Events:
    """An attempt at a job ends, and room is waited for."""
    if state.attempt is None or state.current is None:
        return out_of_space(state, command.message, command.wanted_bytes)
    return _failed(state, state.current, state.attempt, "disk_full", command.message, now, command.wanted_bytes)


def out_of_space(state: State, message: str, wanted_bytes: int = 0) -> list[AnyEvent]:
    """Room is waited for: as much as the next checkpoint may take, or what is wanted beyond that."""
    if state.full is not None:
        return []
    return [kinds.StorageExhausted(message=message, wanted_bytes=max(wanted_bytes, policies.room_wanted(state)))]


def _find_room(state: State, command: commands.ReportDiskFree, _now: float) -> Events:
    if state.full is None or command.free_bytes < state.full.wanted_bytes:
        return []
    return [kinds.StorageFreed(free_bytes=command.free_bytes)]


def _failed(
    state: State, job: Job, attempt: int, failure: Failure, message: str, now: float, wanted_bytes: int = 0
) -> Events:
    """An attempt ended by itself: try again later, give the job up, or wait for a person, or for room on the disk."""
    then: list[AnyEvent]
    wait: float | None = None
    if job.skip_requested:  # whatever it died of, nobody wants it tried again
        then = [kinds.JobSkipped(job=job.id)]
    elif failure == "disk_full":
        then = []
    elif failure in policies.PERSON_NEEDED:
        advice = model_advice(state) if failure == "model" else EXPLANATIONS[failure].advice
        then = [kinds.DaemonHeld(reason=message, advice=advice)]
    else:
        wait = policies.retry_wait_s(job.failures + 1, attempt)
        abandoned = f"given up after {job.failures + 1} attempts without progress; the last: {message}"
        then = [] if wait is not None else [_give_up(job, abandoned)]
    return [
        kinds.AttemptFailed(
            job=job.id,
            attempt=attempt,
            failure=failure,
            message=message,
            retry_at=None if wait is None else now + wait,
        ),
        *then,
        *(out_of_space(state, message, wanted_bytes) if failure == "disk_full" else ()),
    ]


def model_advice(state: State) -> str:
    """What to do about a model that cannot be loaded or trained, in this state: what was trained fixes some settings,
    and advice to change those would be refused."""
    base = state.base or "the origin"
    if state.head is not None:
        job = state.current  # it keeps the head where it is; what it trained stays in the checkpoint that is left
        skip = f"`keepstep skip {job.id[:12]}` (add {job.name} again afterwards), " if job is not None else ""
        return (
            f"what was trained since {base} fixes [model] and [method]. To go on with it, put the model and the "
            f"libraries back as they were, then `keepstep resume`. To change these settings, leave it first: {skip}"
            "`keepstep versions rollback`; then do what the message says, then `keepstep resume`"
        )
    if state.versions:
        return (
            "do what the message says, then `keepstep resume`; the versions of this home fix [model] path, "
            "[model] dtype and [method] kind, and another home (`keepstep init`) takes others"
        )
    return EXPLANATIONS["model"].advice


def _give_up(job: Job, message: str) -> AnyEvent:
    """The end of a job that makes no progress; but never of committed steps that others were built on."""
    if job.until is None:
        return kinds.JobFailed(job=job.id, message=message)
    reason = f"committed steps of {job.name} are lost and cannot be run again: {message}"
    return kinds.DaemonHeld(reason=reason, advice="mend what stops it, then `keepstep resume`")


REPORTS: Mapping[type, Callable[[State, Any, float], Events]] = {
    commands.ReportWorkerLost: _ended,
    commands.QuarantineCheckpoint: _quarantine_checkpoint,
    commands.ReportDiskFull: run_out_of_space,
    commands.ReportDiskFree: _find_room,
    worker.BackedUp: _nothing,  # of a consolidation that is over; those of the running one: `consolidate.py`
    worker.Merged: _nothing,
    worker.Verified: _nothing,
    worker.VersionWritten: _nothing,
    worker.Hello: _nothing,
    worker.Heartbeat: _nothing,
    worker.Prepared: _prepared,
    worker.Rejected: _rejected,
    worker.Loaded: _loaded,
    worker.Step: _step,
    worker.CheckpointWritten: _checkpoint_written,
    worker.CheckpointBad: _checkpoint_bad,
    worker.Yielded: _yielded,
    worker.Failed: _ended,
}
