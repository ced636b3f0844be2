"""`keepstep explain`: the history of one thing, its present state, and what happens next."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from cli.arguments.resolve import ID_SHOWN, Candidate, resolve
from cli.commands.common import count, format_size, replay
from cli.diagnosis.failures import logs_of
from cli.errors import UserError
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.home.snapshot_reader import read_records
from cli.output.console import Console
from cli.output.terminal import print_json, say
from cli.output.times import duration, local
from cli.text import printable_lines, shown_text
from core.job import Job
from core.state import State
from core.topics.head import nothing_trained
from events import kinds
from events.codec import Record
from events.values import is_checkpoint_id, is_version_id
from projections.lineage import Lineage, Part
from projections.timeline import (
    CheckpointTimeline,
    Describe,
    FailureTimeline,
    JobTimeline,
    StepTimeline,
    Timeline,
    VersionTimeline,
)

SHOWN = 60
"""Last lines shown. `--json` has them all."""


class Summary(NamedTuple):
    """The end of an explanation: what the thing is now, and what happens next."""

    title: str
    now: str
    next: str


def show_explanation(home: Home, wanted: str, *, json: bool) -> None:
    """`keepstep explain`. Raises UserError if the journal knows no such thing, journal.errors.JournalError."""
    console = Console(lambda _: None)
    wanted = full_name(shown_text(wanted), read_records(home))
    timeline = timeline_of(wanted, console.text)
    state = State()
    for before, record, state in replay(home):
        timeline.observe(before, state, record)
    summary = summarize(timeline, state, wanted, alive=daemon_is_alive(home))
    if json:
        moments = [msgspec.to_builtins(moment) for moment in timeline.entries]
        print_json({**summary._asdict(), "moments": moments})
        return
    say(printable_lines(summary.title))
    earlier = len(timeline.entries) - SHOWN
    if earlier > 0:
        say(f"  … {earlier} earlier lines; `--json` prints all")
    for moment in timeline.entries[-SHOWN:]:
        first, *more = printable_lines(moment.text).split("\n")
        say("\n".join([f"  {local(moment.at)}  {first}", *(f"      {line}" for line in more)]), indent=6)
    say(f"now   {printable_lines(summary.now)}", indent=6)
    say(f"next  {printable_lines(summary.next)}", indent=6)


def full_name(wanted: str, records: Iterable[Record]) -> str:
    """The id that `wanted` names among everything in the journal; a failure or the number of a step as it is.

    Raises UserError if nothing or several things match.
    """
    number = wanted.removeprefix("crash-")
    is_whole = is_version_id(wanted) or is_checkpoint_id(wanted)
    if is_whole or (number.isdecimal() and (number != wanted or len(number) < ID_SHOWN)):
        return wanted
    advice = "name a file, the first digits of a job's id, crash-SEQ, a step, a checkpoint or a version"
    return resolve(wanted, named_things(records), what="job", advice=advice)


def named_things(records: Iterable[Record]) -> Iterator[Candidate]:
    """The jobs, checkpoints and versions of the journal."""
    for record in records:
        match record.event:
            case kinds.FileEnqueued(job=job, name=name) | kinds.FileDuplicate(job=job, name=name):
                yield Candidate(job, name)
            case kinds.CheckpointCommitted(checkpoint=checkpoint):
                yield Candidate(checkpoint)
            case kinds.ConsolidationStarted(version=version):
                yield Candidate(version, numbers=(int(version[1:]),))


def timeline_of(wanted: str, say: Describe) -> Timeline:
    """The timeline of a thing, by the form of its name; a name of no known form is a job."""
    number = wanted.removeprefix("crash-")
    if wanted != number and number.isdecimal():
        return FailureTimeline(say, seq=int(number))
    if is_version_id(wanted):
        return VersionTimeline(say, version=wanted)
    if is_checkpoint_id(wanted):
        return CheckpointTimeline(say, checkpoint=wanted)
    if wanted.isdecimal() and len(wanted) < 12:  # longer numbers are first digits of a job's id
        return StepTimeline(say, step=int(wanted))
    return JobTimeline(say, wanted=wanted)


def summarize(teller: Timeline, state: State, wanted: str, *, alive: bool) -> Summary:
    """Describe what the thing is now, and what happens next. Raises UserError if it is unknown or ambiguous."""
    if not teller.found:
        raise UserError(f"there is no {_kind(teller)} {wanted} in the journal", _lookup_advice(teller, state))
    match teller:
        case JobTimeline():
            return _of_a_job(teller, state, alive=alive)
        case FailureTimeline():
            return _of_a_failure(teller, state, alive=alive)
        case StepTimeline():
            return _of_a_step(teller, state)
        case CheckpointTimeline():
            return _of_a_checkpoint(teller, state)
        case VersionTimeline():
            return _of_a_version(teller, state)
        case _:
            raise AssertionError(teller)


def _kind(teller: Timeline) -> str:
    kinds = {
        JobTimeline: "job",
        FailureTimeline: "failure",
        StepTimeline: "step",
        CheckpointTimeline: "checkpoint",
        VersionTimeline: "version",
    }
    return kinds[type(teller)]


def _lookup_advice(teller: Timeline, state: State) -> str:
    match teller:
        case FailureTimeline():
            return "`keepstep failures --all` lists them"
        case StepTimeline():
            if not state.head.global_step:
                return nothing_trained(state)
            return f"the last committed step is {state.head.global_step}"
        case CheckpointTimeline():
            return "`keepstep checkpoints` lists them"
        case VersionTimeline():
            return "`keepstep versions list --all` lists them"
        case _:
            return "name a file, the first digits of a job's id, crash-SEQ, a step, a checkpoint or a version"


# -- one summary for each kind --------------------------------------------------------------------------------------


def _of_a_job(teller: JobTimeline, state: State, *, alive: bool) -> Summary:
    ((job, name),) = teller.jobs.items()
    title = f"{name}, job {job[:12]}"
    found = state.job(job)
    place = _trained_in(teller.lineage, state, job)
    if found is None:
        last = teller.entries[-1].text if teller.entries else "known"
        return Summary(title, place or f"finished: {last.splitlines()[0]}", "nothing; it is finished")
    committed = f"; {place}" if place else ""
    if state.outcomes.failed.get(job) is not None:
        return Summary(title, f"failed{committed}", f"nothing; to try again: keepstep retry {job[:12]}")
    if state.training.current is not None and state.training.current.id == job:
        return Summary(title, f"in progress: {found.status}{committed}", _next_of_job(state, found, alive=alive))
    position = next((n for n, waiting in enumerate(state.queue, 1) if waiting.id == job), 1)
    now = f"number {position} of {len(state.queue)} in the queue{committed}"
    return Summary(title, now, _next_in_general(state, alive=alive))


def _next_of_job(state: State, job: Job, *, alive: bool) -> str:
    if state.attempts.current is not None and alive:
        goal = f" of {job.goal}" if job.goal is not None else ""
        return f"attempt {state.attempts.current} continues after step {state.attempts.reached.step}{goal}"
    if job.retry_at is not None and alive and state.daemon.hold is None:
        return f"the next attempt starts in {duration(max(0.0, job.retry_at - time.time()))}"
    return _next_in_general(state, alive=alive)


def _next_in_general(state: State, *, alive: bool) -> str:
    """Describe what an unfinished thing waits for."""
    if state.daemon.hold is not None:
        return f"waiting for you: {state.daemon.hold.reason}; {state.daemon.hold.advice}"
    if state.disk.full is not None:
        return f"waiting for disk space: {format_size(state.disk.full.wanted_bytes)} must be free"
    if state.daemon.status in {"paused", "off_paused", "stopping_paused"}:
        return "paused; to continue: keepstep resume" + ("" if alive else ", then keepstep run")
    return "its turn comes" if alive else f"`keepstep run` continues after step {state.head.global_step}"


def _trained_in(lineage: Lineage, state: State, job: str) -> str:
    """The weights that were trained on the job, in words."""
    head = lineage.until(state.head.global_step)
    words = [f"{_steps(head.parts, job)} in the head"] if _has(head.parts, job) else []
    existing = {version.id for version in state.retention.versions}
    made = [name for name, branch in lineage.published.items() if _has(branch.parts, job) and name in existing]
    if made:
        words.append(f"in {', '.join(made)}")
    if not words and any(_has(branch.parts, job) for branch in lineage.left):
        return "no longer in the weights: the head was moved away"
    return ", ".join(words)


def _has(parts: Sequence[Part], job: str) -> bool:
    return any(part.job == job for part in parts)


def _steps(parts: Sequence[Part], job: str) -> str:
    mine = [part for part in parts if part.job == job]
    first, last = mine[0].step_from + 1, mine[-1].step_to
    total = mine[-1].plan.steps_total
    if (first, last) == (1, total):
        return f"all {total} steps are" if total > 1 else "its one step is"
    return f"steps {first} to {last} of {total} are"


def _of_a_failure(teller: FailureTimeline, state: State, *, alive: bool) -> Summary:
    failure = next(each for each in teller.failures.found if each.seq == teller.seq)
    title = f"{failure.name}, {failure.failure}: {failure.meaning}"
    lost = f"{count(failure.steps_lost, 'step')} not committed" if failure.steps_lost else "nothing was lost"
    last = teller.entries[-1]
    job = state.job(failure.job) if failure.job is not None else None
    now = f"{lost}; the events above followed" if last.seq > failure.seq else f"{lost}; nothing followed yet"
    if failure.job is not None and state.outcomes.failed.get(failure.job) is not None:
        then = f"to try the job again: keepstep retry {failure.job[:12]}"
    elif job is not None and job is state.training.current:
        then = _next_of_job(state, job, alive=alive)
    else:
        then = "nothing; it is over" if state.daemon.hold is None else _next_in_general(state, alive=alive)
    logs = f"; traceback: `{logs}`" if (logs := logs_of(failure)) is not None else ""
    return Summary(title, now, f"{then}. If it happens again: {failure.advice}{logs}")


def _of_a_step(teller: StepTimeline, state: State) -> Summary:
    step, timeline = teller.step, teller.lineage
    branch = timeline.until(step)
    part = branch.parts[-1] if branch.parts and branch.parts[-1].global_to >= step else None
    if part is None or step > state.head.global_step:
        return Summary(f"step {step}", "not committed", "it runs again, unless the head was moved away")
    number = part.step_from + step - part.global_from
    title = f"step {step}: step {number} of {part.plan.steps_total} of {part.name}"
    holders = [
        checkpoint.id for checkpoint in state.head.checkpoints if checkpoint.global_step >= step > state.head.base_step
    ]
    made = [version.id for version in state.retention.versions if version.global_step >= step]
    held = [*holders[:1], *(made[:1] if step <= state.head.base_step or not holders else ())]
    now = f"in the head; first in {held[0]}" if held else "in the head"
    return Summary(title, now, f"to rebuild its weights: keepstep checkout --step {step}")


def _of_a_checkpoint(teller: CheckpointTimeline, state: State) -> Summary:
    name = teller.checkpoint
    title = f"checkpoint {name}"
    if state.head.checkpoint is not None and state.head.checkpoint.id == name:
        return Summary(title, "the head: the next step starts from it", "the next commit becomes the head")
    if any(each.id == name for each in state.head.checkpoints):
        return Summary(title, "kept, older than the head", "retention deletes it in time")
    if any(each.checkpoint.id == name for each in state.head.detached):
        return Summary(
            title, "detached: the head was moved away", f"to go back to it: keepstep versions restore {name}"
        )
    backups = [backup.id for backup in state.retention.backups if backup.held.checkpoint.id == name]
    copies = f"; its copy is {', '.join(backups)}" if backups else ""
    if name in state.recovery.quarantined:
        return Summary(title, f"damaged, in quarantine/{copies}", "nothing; its steps run again")
    then = f"to restore it: keepstep backup restore {backups[0]}" if backups else "nothing"
    return Summary(title, f"deleted; newer checkpoints are kept{copies}", then)


def _of_a_version(teller: VersionTimeline, state: State) -> Summary:
    name = teller.version
    version, title = state.retention.version(name), f"version {name}"
    if state.consolidation.running is not None and state.consolidation.running.version == name:
        return Summary(
            title,
            f"in progress: {state.consolidation.running.status.replace('_', ' ')}",
            "if it is good, it is published",
        )
    if version is None:
        if name in teller.lineage.published:
            return Summary(title, "deleted", "nothing")
        requested = state.consolidation.request is not None
        return Summary(title, "never finished", "the consolidation starts again" if requested else "nothing")
    parts = teller.lineage.published[name].parts
    files = ", ".join(dict.fromkeys(part.name for part in parts))
    status = "the base of the head" if state.head.base == name else "kept"
    held = state.evaluations.hold_of(name)
    if held is not None:
        status = f"held: {held.reason}" if held.reason else "held until it is evaluated"
    then = (
        f"to move the head to it: keepstep versions promote {name}; to delete it: keepstep versions discard {name}"
        if held is not None
        else "the next version follows it"
        if state.head.base == name
        else f"to go back to it: keepstep versions restore {name}"
    )
    return Summary(title, f"{status}; step {version.global_step}, made of {files}", then)
