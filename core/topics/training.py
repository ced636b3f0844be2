"""A running job: prepared, loaded, trained step by step, and committed checkpoint by checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict, replace

from core.checks import illegal, move_current_job, reporting_job
from core.compatibility import weight_settings
from core.effect import SendToWorker
from core.job import Evaluation, Job
from core.tables import DecideTable, Events, EvolveTable
from core.topics import attempts, recovery, retention
from core.topics.attempts import Attempts, Progress
from core.topics.evaluation import jobs, samples, validation
from core.values import Checkpoint
from events import kinds, messages
from events.course import Course
from events.kinds import AnyEvent
from events.settings import JobSettings

if TYPE_CHECKING:
    from core.state import State


class Training(Struct, frozen=True, gc=False):
    """The jobs that have started, and what they run on."""

    in_progress: tuple[Job, ...] = ()
    """Jobs taken from the queue and not finished; the first is the current one. There is more than one only while
    replay ranges run again."""
    environment: dict[str, str] = {}
    """Device, libraries and arithmetic when training last started."""

    @property
    def current(self) -> Job | None:
        """The current job."""
        return self.in_progress[0] if self.in_progress else None

    def with_current(self, job: Job) -> Training:
        """Replace the current job."""
        return replace(self, in_progress=(job, *self.in_progress[1:]))


# -- reports of the worker ------------------------------------------------------------------------------------------


def _nothing(_state: State, _report: object, _now: float) -> Events:
    return []


def _prepared(state: State, report: messages.Prepared, now: float) -> Events:
    job = reporting_job(state, report)
    if job is None:
        return []
    plan = report.plan
    if job.begun and job.plan is not None:
        plan = replace(plan, warnings=job.plan.warnings)  # warnings about a file depend on the other files known
    if job.begun and job.plan is not None and job.plan != plan:
        changed = ", ".join(name for name in plan.__struct_fields__ if getattr(job.plan, name) != getattr(plan, name))
        message = (
            f"{job.name} is trained up to step {job.committed_step} and cannot continue: from here on it would train "
            f"other tokens, or in another order ({changed} changed). The tokenizer, the data, or the rules by which "
            "this version of keepstep turns rows into tokens are not those that the job began under"
        )
        return attempts.fail(state, job, "plan", message, now)
    return [kinds.JobPrepared(job=job.id, attempt=report.attempt, plan=plan)]


def _rejected(state: State, report: messages.Rejected, now: float) -> Events:
    job = reporting_job(state, report)
    if job is None:
        return []
    if job.begun:
        return attempts.fail(state, job, "plan", f"{job.name} can no longer be read: {report.message}", now)
    return [kinds.JobRejected(job=job.id, name=job.name, **asdict(report))]


def _loaded(state: State, report: messages.Loaded, _now: float) -> Events:
    job = reporting_job(state, report)
    if job is None:
        return []
    head = state.head.checkpoint
    return [
        kinds.TrainingStarted(
            job=job.id,
            attempt=report.attempt,
            global_step=state.head.global_step,
            step=job.committed_step,
            checkpoint=head.id if head else None,
            environment=report.environment,
            changed=environment_changes(state.training.environment, report.environment),
            trained=report.trained,
        )
    ]


def environment_changes(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """What differs from the environment of the last training, in words; nothing before the first training."""
    if not before:
        return ()
    return tuple(
        f"{name}: {before.get(name, 'none')} → {now.get(name, 'none')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def _step(state: State, report: messages.Step, _now: float) -> Events:
    job = reporting_job(state, report)
    if job is None:
        return []
    reached = kinds.StepReached(job=job.id, **asdict(report))
    return [reached, *recovery.divergence(state, reached)]


def _checkpoint_written(state: State, report: messages.CheckpointWritten, _now: float) -> Events:
    """Commit it, end the job if that was its last step, and prune the checkpoints that retention no longer keeps."""
    job = reporting_job(state, report)
    if job is None:
        return []
    assert job.settings is not None  # every started attempt has them
    committed = kinds.CheckpointCommitted(job=job.id, **asdict(report))
    events: list[AnyEvent] = [committed]
    if report.step == job.goal:
        whole = job.plan is not None and report.step == job.plan.steps_total
        events.append(
            kinds.JobTrained(
                job=job.id, attempt=report.attempt, global_step=report.global_step, checkpoint=report.checkpoint
            )
            if whole
            else kinds.JobSkipped(job=job.id)
        )
    keep = job.settings.checkpoints
    checkpoints = (*state.head.checkpoints, _checkpoint(committed))
    pruned = retention.checkpoints_to_prune(checkpoints, keep.keep, keep.keep_every_steps, state.head.base_step)
    return [*events, *retention.prune(pruned)]


DECIDE: DecideTable = {
    messages.Hello: _nothing,
    messages.Heartbeat: _nothing,
    messages.Prepared: _prepared,
    messages.Rejected: _rejected,
    messages.Loaded: _loaded,
    messages.Step: _step,
    messages.CheckpointWritten: _checkpoint_written,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _job_prepared(state: State, event: kinds.JobPrepared) -> State:
    job = move_current_job(state, event)
    if job.plan not in (None, event.plan):
        job = replace(job, course=Course(), evaluation=Evaluation())
    training = state.training.with_current(replace(job, plan=event.plan))
    if job.plan == event.plan:
        return replace(state, training=training)
    step_log = state.recovery.step_log.until(state.head.global_step)
    return replace(state, training=training, recovery=replace(state.recovery, step_log=step_log))


def _training_started(state: State, event: kinds.TrainingStarted) -> State:
    job = move_current_job(state, event)
    if (event.global_step, event.step) != (state.head.global_step, job.committed_step):
        raise illegal(event, job.status, f"step {event.global_step} is not the head ({state.head.global_step})")
    training = state.training.with_current(replace(job, environment=event.environment))
    return replace(state, training=replace(training, environment=event.environment))


def _step_reached(state: State, event: kinds.StepReached) -> State:
    # Written out, without the helpers: a journal is mostly steps, and replay is as fast as this function.
    attempts_, in_progress = state.attempts, state.training.in_progress
    reached = attempts_.reached
    if event.attempt != attempts_.current or not in_progress or in_progress[0].status != "training":
        raise illegal(event, state.daemon.status, f"attempt {event.attempt} is not training")
    if event.job != in_progress[0].id:
        raise illegal(event, "training", f"job {event.job[:12]} is not the current one")
    global_step = event.global_step
    if global_step != reached.global_step + 1 or event.step != reached.step + 1:
        raise illegal(event, "training", f"step {global_step} does not follow step {reached.global_step}")
    trained_s = attempts_.trained_s + event.seconds
    attempts_ = Attempts(attempts_.current, attempts_.last, Progress(global_step, event.step), trained_s)
    log = state.recovery.step_log
    if global_step - log.base <= log.length:
        return replace(state, attempts=attempts_)
    longer = log.extended((event.loss, event.grad_norm))
    return replace(state, attempts=attempts_, recovery=replace(state.recovery, step_log=longer))


def _checkpoint_committed(state: State, event: kinds.CheckpointCommitted) -> State:
    job, head = move_current_job(state, event), state.head
    head_id = head.checkpoint.id if head.checkpoint else None
    if event.parent != head_id:
        raise illegal(event, job.status, f"its parent is {event.parent}, the head is {head_id}")
    if not head.global_step < event.global_step <= state.attempts.reached.global_step:
        raise illegal(event, job.status, f"step {event.global_step} is not among the steps reached since the head")
    if event.step - job.committed_step != event.global_step - head.global_step:
        raise illegal(event, job.status, f"step {event.step} of the job is not step {event.global_step}")
    assert job.settings is not None  # every started attempt has them
    committed = replace(job, committed_step=event.step, failures=0, trained_from=True)
    return replace(
        state,
        training=state.training.with_current(committed),
        recovery=replace(state.recovery, replay_ranges=recovery.lengthened(state, committed, event)),
        head=replace(
            head,
            checkpoints=(*head.checkpoints, _checkpoint(event)),
            weight_settings=weight_settings(job.settings),
        ),
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


EVOLVE: EvolveTable = {
    kinds.JobPrepared: _job_prepared,
    kinds.TrainingStarted: _training_started,
    kinds.StepReached: _step_reached,
    kinds.CheckpointCommitted: _checkpoint_committed,
}


# -- effects --------------------------------------------------------------------------------------------------------


def carries_optimizer(settings: JobSettings, step: int) -> bool:
    """True if a job that continues after its `step` keeps AdamW's moments: always, unless it starts there and the
    config says `optimizer = "reset"`."""
    return settings.training.optimizer == "carry" or step > 0


def messages_of_the_attempt(state: State) -> tuple[SendToWorker, ...]:
    """The next message to the worker of the running attempt."""
    job, attempt, head = state.training.current, state.attempts.current, state.head
    assert job is not None  # an attempt is always at the current job, which was started with settings
    assert attempt is not None
    assert job.settings is not None
    if job.status == "preparing":
        prepare = messages.Prepare(attempt=attempt, job=job.id, name=job.name, settings=job.settings)
        return (SendToWorker(message=prepare),)
    if job.status != "ready":
        return ()
    assert job.goal is not None  # it is planned
    train = messages.Train(
        attempt=attempt,
        base=head.base,
        checkpoint=head.checkpoint.id if head.checkpoint else None,
        global_step=head.global_step,
        step=job.committed_step,
        until=job.goal,
        carry_optimizer=carries_optimizer(job.settings, job.committed_step),
        course=job.course,
        evaluates=validation.evaluates(job),
        evaluated_to=job.evaluation.step,
        environment=job.environment,
        samples=samples.budget(state, job),
        suites=jobs.suites(state, job),
    )
    return (SendToWorker(message=train),)
