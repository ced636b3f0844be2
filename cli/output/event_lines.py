"""Each event as text for a person: what `keepstep run`, the log, hooks and `keepstep explain` show.

The first line of a text says what happened. Further lines add details, or advice after "→ ".
"""

from __future__ import annotations

from collections.abc import Iterator

from cli.output import evaluation_lines
from cli.output.correction_lines import correction_text
from cli.output.few_steps import few_steps_warning
from cli.output.identical import duplicate_text
from cli.output.terminal import number
from cli.text import printable
from core.job import Job
from core.state import State
from core.structures.situations import MemoryShortage
from core.topics.evaluation import samples
from core.topics.evaluation.replay_share import described as described_share
from core.topics.evaluation.validation import described
from core.topics.memory import used_by_others
from events import kinds
from events.kinds import (
    AnyEvent,
    BatchSkipped,
    Change,
    ConfigChanged,
    ConfigFixed,
    ConfigRefused,
    EvaluationAbandoned,
    EvaluationDone,
    MemoryLow,
    MemoryRecovered,
    MicrobatchSplit,
    OrphanEnded,
    OverheadMeasured,
    SamplesAbandoned,
    SamplesFailed,
    SamplesGenerated,
    SamplesPutOff,
    SamplesRequested,
)

MB, GB = 1e6, 1e9

ANSWERS_SHOWN = 3
"""Answers of a round in the output of a run."""

SLOW_BF16 = (
    'this processor is slow at bfloat16, so [training] precision = "bf16" computes in float32 here. Weights that '
    '[model] dtype = "bfloat16" loads stay in bfloat16 in memory.'
)
USE_FP32 = "to set what happens anyway: `keepstep config set training.precision fp32`"


def event_text(event: AnyEvent, state: State, job: Job | None) -> str | None:
    """The text about an event; None if there is nothing to say.

    `state`: after the event. `job`: the job that the daemon works on, or worked on last.
    """
    return (
        _queue_text(event, state, job)
        or _training_text(event, job)
        or _failure_text(event, job)
        or _machine_text(event, job)
        or _version_text(event, state)
        or correction_text(event)
    )


def _queue_text(event: AnyEvent, state: State, job: Job | None) -> str | None:
    match event:
        case kinds.FileEnqueued():
            return f"{printable(event.name)} is in the queue{', to be trained on again' if event.retrain else ''}"
        case kinds.FileDuplicate():
            return f"{printable(event.name)} {duplicate_text(event.job, state)}; see rejected/"
        case kinds.JobMoved():
            where = f"before {_queued_name(event.before, state)}" if event.before else "to the end of the queue"
            return f"{_queued_name(event.job, state)} is moved {where}, priority {event.priority}"
        case kinds.JobHeld():
            return f"{_queued_name(event.job, state)} is held; the queue skips it"
        case kinds.JobReleased():
            return f"{_queued_name(event.job, state)} is released and waits for its turn"
        case kinds.JobRemoved():
            where = "" if event.keeps_data else "; its file goes to rejected/"
            return f"{printable(event.name)} is removed from the queue{where}"
        case kinds.JobRejected():
            return f"{printable(event.name)}: rejected. {event.message}"
        case kinds.JobSkipped():
            is_restored = job is not None and job.id == event.job and job.until is not None
            return f"{_name(event.job, job)}: {'restored' if is_restored else 'skipped'}"
        case kinds.PauseRequested():
            return "pausing at the next step"
        case kinds.Resumed():
            return "resumed"
        case kinds.StopRequested():
            return "stopping after the next commit"
        case _:
            return None


def _training_text(event: AnyEvent, job: Job | None) -> str | None:
    match event:
        case kinds.AttemptStarted():
            replays = described_share(event.settings)
            text = f"{_name(event.job, job)}: attempt {event.attempt}; reading the file and loading the model"
            return f"{text}\n{replays}" if replays else text
        case kinds.JobPrepared(plan=plan):
            counts = (
                (plan.truncated_rows, "truncated"),
                (plan.split_rows, "split"),
                (plan.dropped_rows, "dropped as too long"),
                (plan.skipped_rows, "skipped as bad"),
                (plan.held_out_rows, "held out"),
                (plan.replayed_rows, "replayed from earlier files"),
            )
            report = f"`keepstep data report {event.job[:12]}`"
            warnings = f"\nwarnings: {', '.join(plan.warnings)}; see {report}" if plan.warnings else ""
            rows = "".join(f", {count} {what}" for count, what in counts if count)
            return (
                f"{_name(event.job, job)}: {plan.rows} rows{rows}, {plan.tokens} tokens ({plan.trained_tokens} "
                f"trained), {plan.padding_share:.1%} padding, {plan.epochs} × {plan.steps_per_epoch} steps{warnings}"
                f"{few_steps_warning(plan, job)}"
            )
        case kinds.TrainingStarted():
            changed = f" (environment changed: {'; '.join(event.changed)})" if event.changed else ""
            start = f"continues after step {event.step}" if event.step else "from the beginning"
            return f"{_name(event.job, job)}: training {start}{changed}{_parameters_text(event)}"
        case kinds.StepReached():
            return _step_text(event, job)
        case EvaluationDone():
            return described(event)
        case kinds.JobEvaluated():
            return evaluation_lines.job_text(event)
        case SamplesRequested():
            return "samples are requested for the next step"
        case SamplesGenerated():
            return "\n".join([samples.described(event), *_answer_lines(event)])
        case SamplesPutOff():
            return samples.put_off_text(event)
        case kinds.CheckpointCommitted():
            return f"committed {event.checkpoint} ({event.size_bytes / MB:.1f} MB)"
        case kinds.JobTrained():
            return f"{_name(event.job, job)}: trained"
        case _:
            return None


def _answer_lines(event: SamplesGenerated) -> Iterator[str]:
    """The first prompts and answers, each on one short line."""
    for each in event.answers[:ANSWERS_SHOWN]:
        mark = "✓" if each.match else "✗"
        prompt, answer = (" ".join(printable(text).split()) for text in (each.prompt, each.answer))
        yield f"  {mark} {_shortened(prompt, 28)} → {_shortened(answer, 32) or '(nothing)'}"
    if len(event.answers) > ANSWERS_SHOWN:
        yield f"  all {len(event.answers)}: `keepstep samples --step {event.global_step}`"


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1].rstrip()}…"


def _failure_text(event: AnyEvent, job: Job | None) -> str | None:
    match event:
        case MicrobatchSplit():
            return (
                f"step {event.step} does not fit into memory; it runs again with each micro-batch in {event.parts} "
                "parts"
            )
        case BatchSkipped():
            return f"step {event.step}: {event.message}; its batch is skipped: {rows_text(event)}"
        case EvaluationAbandoned():
            return f"the worker failed in an evaluation ({event.failure}); the job continues without evaluations"
        case SamplesFailed():
            return f"no samples after step {event.step}: {event.message}; training continues"
        case SamplesAbandoned():
            return (
                f"the worker failed while it generated samples ({event.failure}); the job continues without them. For "
                "some after all: `keepstep samples now`"
            )
        case kinds.DivergenceDetected():
            return (
                f"step {event.global_step} ran again and gave another result: loss {event.loss}, before "
                f"{event.expected_loss}"
            )
        case kinds.AttemptInterrupted():
            return f"attempt {event.attempt} was interrupted: {event.reason}; training continues from the last commit"
        case kinds.AttemptFailed(failure="disk_full"):
            return f"attempt {event.attempt} ended because the disk is full"
        case kinds.AttemptFailed():
            return f"attempt {event.attempt} failed ({event.failure}): {event.message}"
        case kinds.JobFailed():
            return f"{_name(event.job, job)}: {event.message}"
        case kinds.DaemonHeld():
            return f"waiting for you: {event.reason}\n→ {event.advice}"
        case kinds.CheckpointQuarantined():
            head = event.head or "the beginning"
            return f"{event.checkpoint} is damaged ({event.problem}) and quarantined; training continues from {head}"
        case kinds.LeftoverDeleted():
            return f"deleted leftover {event.path}"
        case OrphanEnded():
            return f"ended a worker that an earlier daemon left running (pid {event.pid})"
        case _:
            return None


def _machine_text(event: AnyEvent, job: Job | None) -> str | None:
    match event:
        case kinds.StorageExhausted():
            return f"waiting for disk space: {event.message}\n→ free {event.wanted_bytes / MB:.1f} MB on the disk"
        case kinds.StorageFreed():
            return f"there is enough disk space again ({event.free_bytes / MB:.1f} MB free)"
        case kinds.StorageLow():
            return f"disk space is low ({event.free_bytes / GB:.2f} GB free): old checkpoints and backups are deleted"
        case kinds.StorageRecovered():
            return f"disk space is no longer low ({event.free_bytes / GB:.2f} GB free)"
        case MemoryLow():
            return (
                f"waiting for memory: {memory_text(event)}; after {event.grace_s:.0f} s of this, the running attempt "
                "ends at its next commit"
            )
        case MemoryRecovered():
            return f"there is enough memory again ({event.available_bytes / GB:.1f} GB available)"
        case ConfigChanged():
            which = "keepstep.toml was changed"
            if event.job is not None:
                which = f"{_name(event.job, job)} is the first job under a changed keepstep.toml"
            return f"{which}: {changes_text(event.changes)}"
        case ConfigRefused():
            return f"keepstep.toml was changed and is not used: {event.reason}\n→ {event.advice}"
        case ConfigFixed():
            return "keepstep.toml can be used again"
        case OverheadMeasured():
            share = f"{event.training_cpu_s / event.training_s:.2%} of the training time, " if event.training_s else ""
            return f"the daemon itself used {share}{event.cpu_s:.1f} CPU seconds in all"
        case _:
            return None


def _version_text(event: AnyEvent, state: State) -> str | None:
    match event:
        case kinds.ConsolidationRequested():
            return f"consolidation requested{f': {event.description}' if event.description else ''}"
        case kinds.ConsolidationCancelled():
            return f"consolidation cancelled: {event.message}"
        case kinds.ConsolidationStarted():
            return f"consolidating {event.checkpoint} into {event.version}"
        case kinds.ConsolidationBackedUp():
            return "verified the backup"
        case kinds.ConsolidationMerged():
            share = applied_text(event.applied, event.in_place)
            return f"merged{f': {share}' if share else ''}"
        case kinds.ConsolidationVerified():
            return (
                f"verified: its logits differ by {event.difference:.2%} from those of base and checkpoint (rounding "
                f"explains up to {event.tolerance:.1%})"
            )
        case kinds.VersionPublished():
            return f"published versions/{event.version} ({event.size_bytes / MB:.1f} MB)"
        case kinds.ConsolidationAborted(failure=None):
            return f"the consolidation was interrupted: {event.message}; it starts again"
        case kinds.ConsolidationAborted():
            return f"the consolidation failed ({event.failure}): {event.message}"
        case kinds.ConsolidationFinished(promoted=False):
            return f'the head does not move to {event.version} before it is evaluated ([versions] gate = "hold")'
        case kinds.HeadMoved():
            on = f" on {event.version}" if event.version and event.checkpoint else ""
            return f"training continues from {event.checkpoint or event.version or 'the origin'}{on}"
        case kinds.CheckpointRestored():
            return f"restored {event.checkpoint} from its backup"
        case kinds.VersionDeleted():
            return f"deleted {event.version} ({event.size_bytes / MB:.1f} MB)"
        case kinds.BackupCreated():
            return f"backed up {event.checkpoint} as {event.backup} ({event.size_bytes / MB:.1f} MB)"
        case kinds.BackupDeleted():
            return f"deleted backup {event.backup} ({event.size_bytes / MB:.1f} MB)"
        case _:
            return evaluation_lines.version_text(event, state)


# -- parts of texts -------------------------------------------------------------------------------------------------


def rows_text(event: BatchSkipped) -> str:
    """The rows of a skipped batch, by file and line."""
    own = [f"lines {', '.join(map(str, event.lines))} of the file"] if event.lines else []
    return "; ".join([*own, *(f"{', '.join(map(str, lines))} of {job[:12]}" for job, lines in event.earlier.items())])


def memory_text(short: MemoryLow | MemoryShortage) -> str:
    """How much memory other processes used when the shortage began."""
    others = used_by_others(
        total_bytes=short.total_bytes, available_bytes=short.available_bytes, worker_bytes=short.worker_bytes
    )
    worker = f", the worker {short.worker_bytes / GB:.1f} GB" if short.worker_bytes else ""
    return f"other processes use {others / GB:.1f} of {short.total_bytes / GB:.1f} GB{worker}"


def changes_text(changes: tuple[Change, ...]) -> str:
    """Changed keys with their old and new values."""
    return ", ".join(f"{each.key} {each.before or 'unset'} → {each.now or 'unset'}" for each in changes)


def applied_text(applied: float | None, in_place: float | None) -> str:
    """The share of the training that the stored weights of a version contain; "" if nothing was trained."""
    if applied is None or in_place is None:
        return ""
    return f"{applied:.1%} of the training is in the weights (merging in place would have kept {in_place:.1%})"


def held_jobs_text(count: int) -> str:
    """The text about jobs that wait for `keepstep queue release`."""
    jobs = "1 job is" if count == 1 else f"{count} jobs are"
    return f"{jobs} held and not trained; see `keepstep queue`, and release with `keepstep queue release`"


def is_skipped(event: kinds.StepReached) -> bool:
    """True for a step without an update, because its batch is skipped."""
    return not event.tokens and event.loss == "NaN"


def _step_text(event: kinds.StepReached, job: Job | None) -> str:
    total = (job.goal if job is not None else None) or "?"
    if is_skipped(event):
        return f"step {event.step}/{total}  no update: its batch is skipped"
    rate = event.tokens / event.seconds if event.seconds > 0 else 0.0
    return f"step {event.step}/{total}  loss {number(event.loss)}  lr {event.learning_rate:.2e}  {rate:.0f} tokens/s"


def _parameters_text(event: kinds.TrainingStarted) -> str:
    """A line about the trained parameters, at the first step of a job; else ""."""
    trained = event.trained
    if trained is None or event.step:
        return ""
    count = f"{trained.parameters:,} parameters ({trained.share:.2%} of the model)"
    if not trained.layers:
        return f"\ntrains {count}: every weight"
    layers = ", ".join(f"{name} × {amount}" for name, amount in trained.layers.items())
    return f"\ntrains {count}: adapters on {sum(trained.layers.values())} layers ({layers})"


def _name(job_id: str, job: Job | None) -> str:
    return printable(job.name) if job is not None and job.id == job_id else job_id[:12]


def _queued_name(job: str, state: State) -> str:
    found = state.queue.get(job)
    return printable(found.name) if found is not None else job[:12]
