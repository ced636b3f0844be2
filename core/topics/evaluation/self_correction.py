"""Self-correction: rounds of answers while a job trains, the files that follow from them, and the guards.

Rounds change nothing of what is trained; a file that follows is queued like any other, and only its job trains. So a
worker that hangs or dies in a round costs the rounds of its job, as with samples.

Guards against collapse (https://arxiv.org/abs/2305.17493): prompts come from files that people added, never from own
ones; each version gets at most one file; after that, nothing is answered until a newer version is the base. Gold rows
keep the answers of people in each file (https://arxiv.org/abs/2404.01413). When answers get worse or alike, or the gate
of versions objects, self-correction stops until a person resumes it.

    answered, answered, …   rounds; their rows are counted
    file_started            enough rows: the intent names the rounds. The daemon writes the file when nothing trains
    file_queued             the outcome
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict, replace

from core import commands
from core.checks import illegal, journaled, move_current_job, reporting_job
from core.effect import Effect
from core.errors import Refused
from core.job import Job
from core.tables import DecideTable, Events, EvolveTable
from core.topics.evaluation.validation import is_at_fault
from events import kinds, messages
from events.self_correction import CorrectionPlan, SelfCorrectionSettings, planned_rows
from events.values import Failure, JobId, VersionId

if TYPE_CHECKING:
    from core.state import State

WINDOW = 3
"""Rounds whose mean is compared: one round has few prompts, and its share of right answers varies by chance."""

ORIGIN = ""
"""Stands for the base of weights that no version precedes."""


class Figures(Struct, frozen=True):
    """What the guards compare."""

    pass_rate: float
    distinct: float


class SelfCorrection(Struct, frozen=True, omit_defaults=True):
    """Rounds and files over the life of the home."""

    rounds: int = 0
    """The number of the last round."""
    first: int = 0
    """The first round whose rows wait for a file; 0: none does."""
    waiting: int = 0
    """Rows that wait for a file."""
    files: int = 0
    """The number of the last file."""
    building: kinds.SelfCorrectionFileStarted | None = None
    """The file that is to be written and queued."""
    own: tuple[JobId, ...] = ()
    """The jobs of all files, at most one for each version: their rows are never asked."""
    bases: tuple[str, ...] = ()
    """The versions (or ORIGIN) that have had their file."""
    stopped: str = ""
    """Why it stopped; "": it did not."""
    recent: tuple[Figures, ...] = ()
    """Those of the last rounds since it began or was resumed."""
    best: Figures | None = None
    """The highest means of a window."""
    round_s: float | None = None
    """Seconds of a round, measured or estimated; None: unknown."""
    at_trained_s: float = 0.0
    """`Attempts.trained_s` at the last round."""
    spent_s: float = 0.0
    """Seconds of all rounds."""

    def without_waiting(self) -> SelfCorrection:
        """Forget the rows that wait: the head left the weights that gave those answers."""
        return replace(self, first=0, waiting=0)


class MakeCorrectionFile(Effect, frozen=True, kw_only=True):
    """Write this file and queue it; then `RecordCorrectionFile`."""

    file: kinds.SelfCorrectionFileStarted


# -- policy ---------------------------------------------------------------------------------------------------------


def why_not_now(state: State) -> str | None:
    """Why no prompt is answered now, a sentence; None: the next round may come."""
    own, base = state.self_correction, state.head.base or ORIGIN
    if own.stopped:
        return f"it stopped: {own.stopped}. To start it again: `keepstep self-correction resume`"
    if own.building is not None:
        return f"{own.building.name} is to be queued first"
    waiting = state.job(own.own[-1]) if own.own else None
    if waiting is not None:
        return f"{waiting.name} is to be trained first"
    if base in own.bases:
        of = f"{base} has had its file" if base != ORIGIN else "the first base has had its file"
        return f"{of}; the next answers follow after the next version (`keepstep consolidate`)"
    if not _sources(state):
        return "there is no trained file to take prompts from"
    return None


def correction_plan(state: State, job: Job) -> CorrectionPlan | None:
    """What the attempt at the job may do; None: nothing. The daemon adds the settings."""
    if job.until is not None or job.evaluation.correction_abandoned or why_not_now(state) is not None:
        return None
    return CorrectionPlan(
        settings=SelfCorrectionSettings(),
        sources=_sources(state),
        corrected_to=job.evaluation.corrected_step,
        trained_s=state.attempts.trained_s - state.self_correction.at_trained_s,
        round_s=state.self_correction.round_s,
    )


def _sources(state: State) -> tuple[JobId, ...]:
    return tuple(job for job in state.outcomes.trained if job not in state.self_correction.own)


def abandoned(job: Job, attempt: int, failure: Failure, message: str) -> Events:
    """What follows a failure in a round, besides what follows every failure."""
    if not is_at_fault(job, failure) or job.status != "training":
        return []
    return [kinds.SelfCorrectionAbandoned(job=job.id, attempt=attempt, failure=failure, message=message)]


def concern_of(own: SelfCorrection, settings: SelfCorrectionSettings) -> kinds.SelfCorrectionStopped | None:
    """The reason to stop after a round; None: there is none. `own`: with that round."""
    mean, best = _mean(own.recent), own.best
    if mean is None or best is None:
        return None
    if best.pass_rate - mean.pass_rate > settings.pass_rate_drop:
        message = (
            f"{mean.pass_rate:.0%} of its answers were right in the last {WINDOW} rounds, after {best.pass_rate:.0%} "
            f"before; [self_correction] pass_rate_drop allows a fall of {settings.pass_rate_drop:.0%}"
        )
        return kinds.SelfCorrectionStopped(cause="pass_rate", message=message)
    if best.distinct - mean.distinct > settings.distinct_drop:
        message = (
            f"its answers become alike: {mean.distinct:.0%} of their token pairs differ in the last {WINDOW} rounds, "
            f"after {best.distinct:.0%} before; [self_correction] distinct_drop allows a fall of "
            f"{settings.distinct_drop:.0%}"
        )
        return kinds.SelfCorrectionStopped(cause="distinct", message=message)
    return None


def stopped_by_gate(state: State, version: VersionId, worse: str) -> Events:
    """What follows for self-correction, if it has made rows, when a version is worse than the one before."""
    own = state.self_correction
    if own.stopped or not (own.own or own.waiting or own.building):
        return []
    return [kinds.SelfCorrectionStopped(cause="gate", message=f"{version} is worse than the version before: {worse}")]


def _mean(recent: tuple[Figures, ...]) -> Figures | None:
    if len(recent) < WINDOW:
        return None
    return Figures(
        sum(each.pass_rate for each in recent) / len(recent), sum(each.distinct for each in recent) / len(recent)
    )


def described(event: kinds.SelfCorrectionAnswered) -> str:
    """The result of a round, in a sentence."""
    kl = f", KL to {event.base or 'the first base'} {event.kl:.3g}" if event.kl is not None else ""
    return (
        f"self-correction after step {event.step}: {event.right} of {event.answers} own answers right, "
        f"{event.rows} rows{kl} ({event.seconds:.1f} s)"
    )


def put_off_text(event: kinds.SelfCorrectionPutOff) -> str:
    """Why no prompts were answered, and when they will be."""
    then = (
        f"the next round follows after step {event.next_step}" if event.next_step else "this job ends before the next"
    )
    return (
        f"no self-correction after step {event.step}: a round takes about {event.round_s:.2g} s, more than "
        f"{100 * event.cost_max:.2g} % of the training since the last one; {then}"
    )


# -- commands and reports of the worker -----------------------------------------------------------------------------


def _answered(state: State, report: messages.SelfCorrected, _now: float) -> Events:
    job, own = reporting_job(state, report), state.self_correction
    if job is None or why_not_now(state) is not None:
        return []
    head = state.head.checkpoint
    rows = len(planned_rows(report.settings, [(own.rounds + 1, report.prompts)]))
    event = kinds.SelfCorrectionAnswered(
        job=job.id,
        round=own.rounds + 1,
        base=state.head.base,
        checkpoint=head.id if head is not None else None,
        rows=rows,
        **asdict(report),
    )
    after = _with_round(state, event)
    if (stop := concern_of(after, report.settings)) is not None:
        return [event, stop]
    if after.waiting < report.settings.queue_every:
        return [event]
    number = own.files + 1
    started = kinds.SelfCorrectionFileStarted(
        number=number,
        name=f"self-correction-{number:04d}.jsonl",
        first_round=after.first,
        last_round=event.round,
        base=state.head.base,
        settings=report.settings,
        replay=_sources(state),
    )
    return [event, started]


def _record_file(state: State, command: commands.RecordCorrectionFile, _now: float) -> Events:
    building = state.self_correction.building
    is_open = building is not None and building.number == command.queued.number
    return [command.queued] if is_open else []


def _stop(state: State, command: commands.StopSelfCorrection, _now: float) -> Events:
    if state.self_correction.stopped:
        return []
    return [kinds.SelfCorrectionStopped(cause=command.cause, message=command.message)]


def _resume(state: State, _command: commands.ResumeSelfCorrection, _now: float) -> Events:
    if not state.self_correction.stopped:
        raise Refused("self-correction has not stopped itself; `keepstep self-correction` shows what it does")
    return [kinds.SelfCorrectionResumed()]


DECIDE: DecideTable = {
    messages.SelfCorrected: _answered,
    messages.SelfCorrectionPutOff: journaled(kinds.SelfCorrectionPutOff),
    messages.SelfCorrectionFailed: journaled(kinds.SelfCorrectionFailed),
    commands.RecordCorrectionFile: _record_file,
    commands.StopSelfCorrection: _stop,
    commands.ResumeSelfCorrection: _resume,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _with_round(state: State, event: kinds.SelfCorrectionAnswered) -> SelfCorrection:
    """The slice after a round."""
    own = state.self_correction
    figures = Figures(event.right / event.answers if event.answers else 0.0, event.distinct)
    recent = (*own.recent, figures)[-WINDOW:]
    mean, best = _mean(recent), own.best
    if mean is not None:
        best = mean if best is None else Figures(*map(max, zip(_pair(best), _pair(mean), strict=True)))
    return replace(
        own,
        rounds=event.round,
        first=own.first or (event.round if event.rows else 0),
        waiting=own.waiting + event.rows,
        recent=recent,
        best=best,
        round_s=event.seconds,
        at_trained_s=state.attempts.trained_s,
        spent_s=own.spent_s + event.seconds,
    )


def _pair(figures: Figures) -> tuple[float, float]:
    return figures.pass_rate, figures.distinct


def _self_correction_answered(state: State, event: kinds.SelfCorrectionAnswered) -> State:
    job = _at_reached_step(state, event)
    if event.round != state.self_correction.rounds + 1:
        raise illegal(event, job.status, f"round {event.round} does not follow {state.self_correction.rounds}")
    return _with_step(state, job, event.step, _with_round(state, event))


def _self_correction_failed(state: State, event: kinds.SelfCorrectionFailed) -> State:
    own = state.self_correction
    after = replace(own, at_trained_s=state.attempts.trained_s, spent_s=own.spent_s + event.seconds)
    return _with_step(state, _at_reached_step(state, event), event.step, after)


def _self_correction_put_off(state: State, event: kinds.SelfCorrectionPutOff) -> State:
    job = _at_reached_step(state, event)
    own = replace(state.self_correction, round_s=event.round_s)
    return replace(state, training=state.training.with_current(job), self_correction=own)


def _self_correction_abandoned(state: State, event: kinds.SelfCorrectionAbandoned) -> State:
    job = move_current_job(state, event)
    found = replace(job, evaluation=replace(job.evaluation, correction_abandoned=True))
    return replace(state, training=state.training.with_current(found))


def _with_step(state: State, job: Job, step: int, own: SelfCorrection) -> State:
    found = replace(job, evaluation=replace(job.evaluation, corrected_step=step))
    return replace(state, training=state.training.with_current(found), self_correction=own)


Outcome = kinds.SelfCorrectionAnswered | kinds.SelfCorrectionPutOff | kinds.SelfCorrectionFailed


def _at_reached_step(state: State, event: Outcome) -> Job:
    job, reached = move_current_job(state, event), state.attempts.reached
    if (event.global_step, event.step) != (reached.global_step, reached.step):
        raise illegal(event, job.status, f"step {event.global_step} is not the one that was reached")
    return job


def _file_started(state: State, event: kinds.SelfCorrectionFileStarted) -> State:
    own = state.self_correction
    if own.building is not None or event.number != own.files + 1:
        raise illegal(event, "building" if own.building else "idle", f"file {event.number} does not follow")
    return replace(state, self_correction=replace(own.without_waiting(), building=event))


def _file_queued(state: State, event: kinds.SelfCorrectionFileQueued) -> State:
    own = state.self_correction
    if own.building is None or own.building.number != event.number:
        raise illegal(event, "idle", f"file {event.number} was not started")
    return replace(
        state,
        self_correction=replace(
            own,
            files=event.number,
            building=None,
            own=(*own.own, event.job),
            bases=(*own.bases, own.building.base or ORIGIN),
        ),
    )


def _stopped(state: State, event: kinds.SelfCorrectionStopped) -> State:
    if state.self_correction.stopped:
        raise illegal(event, "stopped")
    return replace(state, self_correction=replace(state.self_correction, stopped=event.message))


def _resumed(state: State, event: kinds.SelfCorrectionResumed) -> State:
    if not state.self_correction.stopped:
        raise illegal(event, "not stopped")
    return replace(state, self_correction=replace(state.self_correction, stopped="", recent=(), best=None))


EVOLVE: EvolveTable = {
    kinds.SelfCorrectionAnswered: _self_correction_answered,
    kinds.SelfCorrectionPutOff: _self_correction_put_off,
    kinds.SelfCorrectionFailed: _self_correction_failed,
    kinds.SelfCorrectionAbandoned: _self_correction_abandoned,
    kinds.SelfCorrectionFileStarted: _file_started,
    kinds.SelfCorrectionFileQueued: _file_queued,
    kinds.SelfCorrectionStopped: _stopped,
    kinds.SelfCorrectionResumed: _resumed,
}


# -- effects --------------------------------------------------------------------------------------------------------


def correction_files(state: State) -> tuple[MakeCorrectionFile, ...]:
    """The file to write and queue before anything else starts."""
    own = state.self_correction
    return (MakeCorrectionFile(file=own.building),) if own.building is not None and not own.stopped else ()
