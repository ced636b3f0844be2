"""Events in, state out.

`evolve` is total over legal events and raises on illegal ones before anything is built, so the state it was given
stays what it was. Each event kind has one function below; the status changes themselves stand in `transitions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from core import policies
from core.changes import CHANGES
from core.detours import DETOURS
from core.evaluation import EVALUATION
from core.heads import HEADS
from core.job import Evaluation, Job
from core.meaning import meaning_of
from core.memory import MEMORY
from core.moves import current_job, daemon_moved, illegal, running_job
from core.replay_ranges import forgotten, lengthened, run_again
from core.state import Counts, DiskFull, Hold, Progress, Rejection, State
from core.transitions import ENDS_ATTEMPT, JOB
from core.upkeep import UPKEEP
from core.versions import Checkpoint
from core.waiting import WAITING
from events import kinds
from events.codec import kind_of
from events.course import Course
from events.event import Event
from events.kinds import AnyEvent


def evolve(state: State, event: AnyEvent) -> State:
    """The state after `event`. Raises IllegalEvent, leaving `state` as it was."""
    return _HANDLERS[type(event)](state, event)


# -- the daemon ---------------------------------------------------------------------------------------------------


def _home_created(state: State, event: kinds.HomeCreated) -> State:
    if state.home_id:
        raise illegal(event, "a home", "the journal has its first record already")
    return replace(state, home_id=event.home_id)


def _daemon_started(state: State, event: kinds.DaemonStarted) -> State:
    if state.attempt is not None:
        raise illegal(event, state.daemon.status, f"attempt {state.attempt} has not been ended")
    moved = daemon_moved(state, event)
    return replace(
        moved,
        first_started_at=state.first_started_at or event.process_started_at,
        daemon=replace(
            moved.daemon,
            pid=event.pid,
            process_started_at=event.process_started_at,
            boot_id=event.boot_id,
            host=event.host,
        ),
    )


def _daemon_stopped(state: State, event: kinds.DaemonStopped) -> State:
    if state.attempt is not None:
        raise illegal(event, state.daemon.status, f"attempt {state.attempt} has not been ended")
    return daemon_moved(state, event)


def _daemon_held(state: State, event: kinds.DaemonHeld) -> State:
    return replace(daemon_moved(state, event), hold=Hold(event.reason, event.advice))


def _resumed(state: State, event: kinds.Resumed) -> State:
    return replace(daemon_moved(state, event), hold=None)


def _storage_exhausted(state: State, event: kinds.StorageExhausted) -> State:
    return replace(state, full=DiskFull(event.message, event.wanted_bytes))


def _storage_freed(state: State, event: kinds.StorageFreed) -> State:
    if state.full is None:
        raise illegal(event, state.daemon.status, "the disk was not full")
    return replace(state, full=None)


def _storage_low(state: State, event: kinds.StorageLow) -> State:
    if state.low:
        raise illegal(event, state.daemon.status, "that is known already")
    return replace(state, low=True)


def _storage_recovered(state: State, event: kinds.StorageRecovered) -> State:
    if not state.low:
        raise illegal(event, state.daemon.status, "there was no want of room")
    return replace(state, low=False)


# -- jobs: out of hand ------------------------------------------------------------------------------------------------


def _job_skipped(state: State, event: kinds.JobSkipped) -> State:
    counts = replace(state.counts, skipped=state.counts.skipped + 1)
    current = state.current
    if current is not None and current.id == event.job:  # it may wait in the queue too, if a part of it is run again
        return _finished(state, event, counts if current.until is None else state.counts)
    if state.queue.get(event.job) is not None:
        return replace(state, queue=state.queue.remove(event.job), counts=counts)
    raise illegal(event, "settled", f"job {event.job[:12]} neither waits nor is in hand")


def _job_rejected(state: State, event: kinds.JobRejected) -> State:
    keeps_data = current_job(state, event).trained_from
    moved = _finished(state, event, replace(state.counts, rejected=state.counts.rejected + 1))
    if keeps_data:
        return moved
    rejection = Rejection(event.name, event.problem, event.line, event.message)
    return replace(moved, rejections=moved.rejections.insert(event.job, rejection))


def _job_trained(state: State, event: kinds.JobTrained) -> State:
    job = running_job(state, event)
    head = state.head
    if head is None or head.id != event.checkpoint or job.goal != job.committed_step:
        raise illegal(event, job.status, "its last step is not committed")
    again = job.until is not None  # counted when it was trained the first time
    trained = (*(each for each in state.trained if each != job.id), job.id)[-policies.REPLAYED_FILES :]
    finished = _finished(state, event, replace(state.counts, trained=state.counts.trained + (not again)))
    return finished if again else replace(finished, trained=trained)


def _job_failed(state: State, event: kinds.JobFailed) -> State:
    job = current_job(state, event)
    status = JOB[job.status].get("job_failed")
    if status is None:
        raise illegal(event, job.status)
    return replace(
        state,
        begun=state.begun[1:],
        failed=state.failed.insert(job.id, replace(job, status=status, retry_at=None, skip_requested=False)),
        trail=state.trail.until(state.global_step),
    )


def _job_retried(state: State, event: kinds.JobRetried) -> State:
    job = state.failed.get(event.job)
    if job is None:
        raise illegal(event, "not failed", f"job {event.job[:12]}")
    # What is run again may stand on other weights now.
    evaluated = min(job.evaluation.step, job.committed_step - 1)
    evaluation = replace(job.evaluation, abandoned=False, step=evaluated)
    again = replace(job, status=JOB[job.status]["job_retried"], failures=0, strikes=0, evaluation=evaluation)
    return replace(state, failed=state.failed.remove(job.id), queue=state.queue.push(again))


def _finished(state: State, event: Event, counts: Counts) -> State:
    """The current job leaves; if it was running, so does its attempt."""
    job = current_job(state, event)
    status = JOB[job.status].get(kind_of(event))
    if status is None:
        raise illegal(event, job.status)
    if state.attempt is not None:
        state = daemon_moved(state, event, "attempt_ended")
    return replace(
        state,
        attempt=None,
        reached=Progress(),
        begun=state.begun[1:],
        counts=counts,
        # Behind a stretch that was run again, what followed it the first time is run again as well.
        trail=state.trail.until(state.global_step) if job.until is None else state.trail,
    )


# -- the current job, and its attempt -------------------------------------------------------------------------------


def _with_current(state: State, job: Job, **changes: Any) -> State:
    return replace(state, begun=(job, *state.begun[1:]), **changes)


def _attempt_started(state: State, event: kinds.AttemptStarted) -> State:
    job = state.current or state.queue.front()
    if job is None or job.id != event.job:
        raise illegal(event, "idle", f"job {event.job[:12]} is not the next one")
    if event.attempt != state.attempts + 1:
        raise illegal(event, job.status, f"attempt {event.attempt} does not follow attempt {state.attempts}")
    status = JOB[job.status].get("attempt_started")
    if status is None:
        raise illegal(event, job.status)
    working = daemon_moved(state, event)
    same = job.settings == event.settings  # if not, its next steps are not the ones that were reached before
    course = job.course if same else Course()
    evaluation = job.evaluation if same else Evaluation()
    settings = state.settings if job.begun else event.settings
    job = replace(job, status=status, settings=event.settings, course=course, evaluation=evaluation, retry_at=None)
    return replace(
        working,
        settings=settings,
        begun=(job, *state.begun[1:]),
        queue=state.queue if state.begun else state.queue.remove(job.id),
        attempt=event.attempt,
        attempts=event.attempt,
        reached=Progress(state.global_step, job.committed_step),
        repaired=False,  # whatever nothing named was set aside before this
        full=None,  # an earlier keepstep went on without saying that there was room
        trail=state.trail if same else state.trail.until(state.global_step),
    )


def _job_prepared(state: State, event: kinds.JobPrepared) -> State:
    job = running_job(state, event)
    trail = state.trail if job.plan == event.plan else state.trail.until(state.global_step)
    same = job.plan is None or job.plan == event.plan
    course = job.course if same else Course()
    evaluation = job.evaluation if same else Evaluation()
    return _with_current(state, replace(job, plan=event.plan, course=course, evaluation=evaluation), trail=trail)


def _training_started(state: State, event: kinds.TrainingStarted) -> State:
    job = running_job(state, event)
    if (event.global_step, event.step) != (state.global_step, job.committed_step):
        raise illegal(event, job.status, f"step {event.global_step} is not the head ({state.global_step})")
    training = replace(job, environment=event.environment)
    return _with_current(state, training, environment=event.environment)


def _step_reached(state: State, event: kinds.StepReached) -> State:
    # Written out, without the helpers: a journal is mostly steps, and replay is as fast as this function.
    reached = state.reached
    if event.attempt != state.attempt or not state.begun or state.begun[0].status != "training":
        raise illegal(event, state.daemon.status, f"attempt {event.attempt} is not training")
    if event.job != state.begun[0].id:
        raise illegal(event, "training", f"job {event.job[:12]} is not the current one")
    global_step = event.global_step
    if global_step != reached.global_step + 1 or event.step != reached.step + 1:
        raise illegal(event, "training", f"step {global_step} does not follow step {reached.global_step}")
    trail = state.trail
    if global_step - trail.base > trail.length:
        trail = trail.extended((event.loss, event.grad_norm))
    return replace(state, reached=Progress(global_step, event.step), trail=trail)


def _divergence_detected(state: State, event: kinds.DivergenceDetected) -> State:
    job = running_job(state, event)
    if state.trail.at(event.global_step) is None:
        raise illegal(event, job.status, f"step {event.global_step} has not been reached before")
    return replace(state, trail=state.trail.replaced(event.global_step, (event.loss, event.grad_norm)))


def _attempt_ended(state: State, event: kinds.AttemptInterrupted | kinds.AttemptYielded) -> State:
    job = running_job(state, event)
    return _with_current(daemon_moved(state, event, "attempt_ended"), job, attempt=None, reached=Progress())


def _attempt_failed(state: State, event: kinds.AttemptFailed) -> State:
    ended = _attempt_ended(state, event)  # type: ignore[arg-type]  # the three attempt_* events share these fields
    job = ended.begun[0]
    # A bad checkpoint is no fault of the job's, nor is what waits for a person.
    failures = job.failures + (event.failure != "checkpoint" and event.retry_at is not None)
    return _with_current(ended, replace(job, failures=failures, retry_at=event.retry_at))


def _job_skip_requested(state: State, event: kinds.JobSkipRequested) -> State:
    job = current_job(state, event)
    if "job_skip_requested" not in JOB[job.status]:
        raise illegal(event, job.status)
    return _with_current(state, replace(job, skip_requested=True))


# -- checkpoints ----------------------------------------------------------------------------------------------------


def _checkpoint_committed(state: State, event: kinds.CheckpointCommitted) -> State:
    job = running_job(state, event)
    head_id = state.head.id if state.head else None
    if event.parent != head_id:
        raise illegal(event, job.status, f"its parent is {event.parent}, the head is {head_id}")
    if not state.global_step < event.global_step <= state.reached.global_step:
        raise illegal(event, job.status, f"step {event.global_step} is not among the steps reached since the head")
    if event.step - job.committed_step != event.global_step - state.global_step:
        raise illegal(event, job.status, f"step {event.step} of the job is not step {event.global_step}")
    committed = replace(job, committed_step=event.step, failures=0, trained_from=True)
    assert job.settings is not None  # every started attempt carries them
    return _with_current(
        state,
        committed,
        checkpoints=(*state.checkpoints, _checkpoint(event)),
        replay_ranges=lengthened(state, committed, event),
        meaning=meaning_of(job.settings),
    )


def _checkpoint(event: kinds.CheckpointCommitted) -> Checkpoint:
    return Checkpoint(
        id=event.checkpoint,
        job=event.job,
        attempt=event.attempt,
        global_step=event.global_step,
        step=event.step,
        parent=event.parent,
        size_bytes=event.size_bytes,
        manifest_sha256=event.manifest_sha256,
    )


def _checkpoint_pruned(state: State, event: kinds.CheckpointPruned) -> State:
    left = tuple(each for each in state.left if each.checkpoint.id != event.checkpoint)
    if len(left) < len(state.left):
        return replace(state, left=left)
    kept = _without(state, event.checkpoint)
    if len(kept) == len(state.checkpoints) or state.checkpoints[-1].id == event.checkpoint:
        raise illegal(event, "pruning", f"{event.checkpoint} is not a checkpoint behind the head")
    pruned = replace(state, checkpoints=kept)
    return forgotten(pruned) if state.checkpoints[0].id == event.checkpoint else pruned


def _without(state: State, checkpoint: str) -> tuple[Checkpoint, ...]:
    return tuple(each for each in state.checkpoints if each.id != checkpoint)


def _checkpoint_quarantined(state: State, event: kinds.CheckpointQuarantined) -> State:
    kept = _without(state, event.checkpoint)
    if len(kept) == len(state.checkpoints) or state.attempt is not None:
        raise illegal(event, state.daemon.status, f"{event.checkpoint} is not a checkpoint of this branch at rest")
    if event.head != (kept[-1].id if kept else None):
        raise illegal(event, state.daemon.status, f"{event.head} is not the newest of those that are left")
    if not kept and state.past_from > state.base_step:
        raise illegal(event, state.daemon.status, f"the steps up to {state.past_from} cannot be run again")
    left = replace(state, checkpoints=kept, quarantined=(*state.quarantined, event.checkpoint))
    if state.past_from > state.base_step:
        left = forgotten(left)  # before anything was pruned, the base itself lies behind the oldest
    return run_again(left, left.global_step)  # behind an ancestor nothing: the head stays


_HANDLERS: Mapping[type[Event], Callable[[State, Any], State]] = {
    kinds.HomeCreated: _home_created,
    kinds.DaemonStarted: _daemon_started,
    kinds.DaemonStopped: _daemon_stopped,
    kinds.DaemonHeld: _daemon_held,
    kinds.PauseRequested: daemon_moved,
    kinds.Resumed: _resumed,
    kinds.StopRequested: daemon_moved,
    kinds.AttemptStarted: _attempt_started,
    kinds.JobPrepared: _job_prepared,
    kinds.JobRejected: _job_rejected,
    kinds.TrainingStarted: _training_started,
    kinds.StepReached: _step_reached,
    kinds.DivergenceDetected: _divergence_detected,
    kinds.CheckpointCommitted: _checkpoint_committed,
    kinds.CheckpointPruned: _checkpoint_pruned,
    kinds.CheckpointQuarantined: _checkpoint_quarantined,
    kinds.JobTrained: _job_trained,
    kinds.AttemptInterrupted: _attempt_ended,
    kinds.AttemptYielded: _attempt_ended,
    kinds.AttemptFailed: _attempt_failed,
    kinds.JobFailed: _job_failed,
    kinds.JobRetried: _job_retried,
    kinds.JobSkipRequested: _job_skip_requested,
    kinds.JobSkipped: _job_skipped,
    kinds.StorageExhausted: _storage_exhausted,
    kinds.StorageFreed: _storage_freed,
    kinds.StorageLow: _storage_low,
    kinds.StorageRecovered: _storage_recovered,
    **WAITING,
    **HEADS,
    **DETOURS,
    **EVALUATION,
    **UPKEEP,
    **MEMORY,
    **CHANGES,
}

assert all(issubclass(kind, Event) for kind in _HANDLERS)
assert set(ENDS_ATTEMPT) <= {kind_of(kind) for kind in _HANDLERS}
