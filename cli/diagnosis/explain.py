"""`keepstep explain`: the story of one thing, told from the journal, up to what it is now and what happens next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from cli.diagnosis.failures import logs_of, steps
from cli.errors import UserError
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.output.console import Console
from cli.output.terminal import duration, local, print_json
from cli.text import printable_lines, shown_text
from core.evolve import evolve
from core.job import Job
from core.state import State
from events.codec import decode_record
from events.values import is_checkpoint_id, is_version_id
from journal import history
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
"""Lines of a story: what a person reads. `--json` has them all."""


class Ending(NamedTuple):
    """What a story leads up to."""

    title: str
    now: str
    next: str


def explain(home: Home, wanted: str, *, json: bool) -> None:
    """Tell it. Raises UserError where the journal knows no such thing, journal.errors.JournalError."""
    console = Console(lambda _: None)
    wanted = shown_text(wanted)
    timeline = timeline_for(wanted, console.text)
    state = State()
    for record in history(home.journal, decode_record, storage=home.storage):
        before, state = state, evolve(state, record.event)
        timeline.observe(before, state, record)
    ending = ending_of(timeline, state, wanted, alive=daemon_is_alive(home))
    if json:
        moments = [msgspec.to_builtins(moment) for moment in timeline.entries]
        print_json({**ending._asdict(), "moments": moments})
        return
    print(printable_lines(ending.title))
    left = len(timeline.entries) - SHOWN
    if left > 0:
        print(f"  … {left} lines before these; `--json` has them")
    for moment in timeline.entries[-SHOWN:]:
        first, *more = printable_lines(moment.text).split("\n")
        print("\n".join([f"  {local(moment.at)}  {first}", *(f"{' ' * 18}{line}" for line in more)]))
    print(f"now   {printable_lines(ending.now)}")
    print(f"next  {printable_lines(ending.next)}")


def timeline_for(wanted: str, say: Describe) -> Timeline:
    """Who tells of it: by the form of its name; whatever has none of these forms is a job."""
    number = wanted.removeprefix("crash-")
    if wanted != number and number.isdecimal():
        return FailureTimeline(say, seq=int(number))
    if is_version_id(wanted):
        return VersionTimeline(say, version=wanted)
    if is_checkpoint_id(wanted):
        return CheckpointTimeline(say, checkpoint=wanted)
    if wanted.isdecimal() and len(wanted) < 12:  # longer ones are the beginning of a job's number
        return StepTimeline(say, step=int(wanted))
    return JobTimeline(say, wanted=wanted)


def ending_of(timeline: Timeline, state: State, wanted: str, *, alive: bool) -> Ending:
    """What it is now, and what happens next. Raises UserError where it is not known, or is not one thing."""
    if not timeline.found:
        raise UserError(f"the journal knows no {_kind(timeline)} {wanted}", _where_to_look(timeline, state))
    match timeline:
        case JobTimeline():
            return _of_a_job(timeline, state, wanted, alive=alive)
        case FailureTimeline():
            return _of_a_crash(timeline, state, alive=alive)
        case StepTimeline():
            return _of_a_step(timeline, state)
        case CheckpointTimeline():
            return _of_a_checkpoint(timeline, state)
        case VersionTimeline():
            return _of_a_version(timeline, state)
        case _:
            raise AssertionError(timeline)


def _kind(timeline: Timeline) -> str:
    kinds = {
        JobTimeline: "job",
        FailureTimeline: "crash",
        StepTimeline: "step",
        CheckpointTimeline: "checkpoint",
        VersionTimeline: "version",
    }
    return kinds[type(timeline)]


def _where_to_look(timeline: Timeline, state: State) -> str:
    match timeline:
        case FailureTimeline():
            return "`keepstep crashes --all` names them"
        case StepTimeline():
            if not state.head.global_step:
                return "nothing is committed yet"
            return f"step {state.head.global_step} is committed; name one up to that"
        case CheckpointTimeline():
            return "`keepstep checkpoints` names those that are there"
        case VersionTimeline():
            return "`keepstep versions list --all` names them"
        case _:
            return "name a file, the first digits of a job's id, crash-SEQ, a step, a checkpoint or a version"


# -- how each of them ends ------------------------------------------------------------------------------------------


def _of_a_job(timeline: JobTimeline, state: State, wanted: str, *, alive: bool) -> Ending:
    if len(timeline.jobs) > 1:
        ids = ", ".join(job[:12] for job in timeline.jobs)
        raise UserError(f"several files are called {wanted!r}", f"name the first digits of one: {ids}")
    ((job, name),) = timeline.jobs.items()
    title = f"{name}, job {job[:12]}"
    found = state.job(job)
    where = _where_it_is(timeline.lineage, state, job)
    if found is None:
        last = timeline.entries[-1].text if timeline.entries else "known"
        return Ending(title, where or f"done with: {last.splitlines()[0]}", "nothing; it is finished")
    committed = f"; {where}" if where else ""
    if state.outcomes.failed.get(job) is not None:
        return Ending(title, f"failed{committed}", f"nothing by itself; `keepstep retry {job[:12]}` brings it back")
    if state.training.current is not None and state.training.current.id == job:
        return Ending(title, f"in hand, {found.status}{committed}", _next_of(state, found, alive=alive))
    place = next((n for n, waiting in enumerate(state.queue, 1) if waiting.id == job), 1)
    return Ending(title, f"number {place} of {len(state.queue)} in the queue{committed}", _general(state, alive=alive))


def _next_of(state: State, job: Job, *, alive: bool) -> str:
    if state.attempts.current is not None and alive:
        goal = f" of {job.goal}" if job.goal is not None else ""
        return f"attempt {state.attempts.current} goes on behind step {state.attempts.reached.step}{goal}"
    if job.retry_at is not None and alive and state.daemon.hold is None:
        return f"it is tried again in {duration(max(0.0, job.retry_at - time.time()))}"
    return _general(state, alive=alive)


def _general(state: State, *, alive: bool) -> str:
    """What anything waits for that is not finished."""
    if state.daemon.hold is not None:
        return f"waiting for you: {state.daemon.hold.reason}; {state.daemon.hold.advice}"
    if state.disk.full is not None:
        return f"waiting for room on the disk: {state.disk.full.wanted_bytes / 1e6:.1f} MB must be free"
    if state.daemon.status in {"paused", "off_paused", "stopping_paused"}:
        return "paused; `keepstep resume` goes on" + ("" if alive else ", then `keepstep run`")
    return "its turn comes by itself" if alive else f"`keepstep run` goes on from step {state.head.global_step}"


def _where_it_is(lineage: Lineage, state: State, job: str) -> str:
    """Which weights have something of the job in them."""
    head = lineage.until(state.head.global_step)
    words = [f"its {_steps(head.parts, job)} in the weights of the head"] if _has(head.parts, job) else []
    standing = {version.id for version in state.retention.versions}
    made = [name for name, branch in lineage.published.items() if _has(branch.parts, job) and name in standing]
    if made:
        words.append(f"in {', '.join(made)}")
    if not words and any(_has(branch.parts, job) for branch in lineage.left):
        return "what it taught was left behind when the head was moved"
    return ", ".join(words)


def _has(parts: Sequence[Part], job: str) -> bool:
    return any(part.job == job for part in parts)


def _steps(parts: Sequence[Part], job: str) -> str:
    mine = [part for part in parts if part.job == job]
    first, last = mine[0].step_from + 1, mine[-1].step_to
    total = mine[-1].plan.steps_total
    if (first, last) == (1, total):
        return f"{total} steps are" if total > 1 else "one step is"
    return f"steps {first} to {last} of {total} are"


def _of_a_crash(timeline: FailureTimeline, state: State, *, alive: bool) -> Ending:
    crash = next(crash for crash in timeline.failures.found if crash.seq == timeline.seq)
    title = f"{crash.name}, {crash.failure}: {crash.meaning}"
    lost = f"{steps(crash.steps_lost)} had not been committed" if crash.steps_lost else "nothing was lost by it"
    later = timeline.entries[-1]
    waits = state.job(crash.job) if crash.job is not None else None
    now = f"{lost}; what followed is above" if later.seq > crash.seq else f"{lost}; nothing followed yet"
    if crash.job is not None and state.outcomes.failed.get(crash.job) is not None:
        then = f"`keepstep retry {crash.job[:12]}` brings the job back"
    elif waits is not None and waits is state.training.current:
        then = _next_of(state, waits, alive=alive)
    else:
        then = "it is over" if state.daemon.hold is None else _general(state, alive=alive)
    logs = f"; its trace: `{logs}`" if (logs := logs_of(crash)) is not None else ""
    return Ending(title, now, f"{then}. What you can do if it comes again: {crash.advice}{logs}")


def _of_a_step(timeline: StepTimeline, state: State) -> Ending:
    step, lineage = timeline.step, timeline.lineage
    branch = lineage.until(step)
    part = branch.parts[-1] if branch.parts and branch.parts[-1].global_to >= step else None
    if part is None or step > state.head.global_step:
        return Ending(f"step {step}", "it is not committed", "it is run again, or was left behind when the head moved")
    number = part.step_from + step - part.global_from
    title = f"step {step}: step {number} of {part.plan.steps_total} of {part.name}"
    holders = [
        checkpoint.id for checkpoint in state.head.checkpoints if checkpoint.global_step >= step > state.head.base_step
    ]
    made = [version.id for version in state.retention.versions if version.global_step >= step]
    held = [*holders[:1], *(made[:1] if step <= state.head.base_step or not holders else ())]
    now = f"in the weights of the head; first in {held[0]}" if held else "in the weights of the head"
    return Ending(title, now, f"`keepstep checkout --step {step}` brings its weights back")


def _of_a_checkpoint(timeline: CheckpointTimeline, state: State) -> Ending:
    name = timeline.checkpoint
    title = f"checkpoint {name}"
    if state.head.checkpoint is not None and state.head.checkpoint.id == name:
        return Ending(title, "the head: what the next step starts from", "the next commit follows it")
    if any(each.id == name for each in state.head.checkpoints):
        return Ending(title, "kept, behind the head", "retention gives it up in time")
    if any(each.checkpoint.id == name for each in state.head.detached):
        return Ending(
            title, "left behind when the head was moved", f"`keepstep versions restore {name}` goes back to it"
        )
    backups = [backup.id for backup in state.retention.backups if backup.held.checkpoint.id == name]
    copies = f"; its copy is {', '.join(backups)}" if backups else ""
    if name in state.recovery.quarantined:
        return Ending(title, f"damaged, in quarantine/{copies}", "nothing; its steps are run again")
    later = "`keepstep backup restore` brings it back" if backups else "nothing; `keepstep checkout` runs to its step"
    return Ending(title, f"given up: what came after it is kept{copies}", later)


def _of_a_version(timeline: VersionTimeline, state: State) -> Ending:
    name = timeline.version
    version, title = state.retention.version(name), f"version {name}"
    if state.consolidation.running is not None and state.consolidation.running.version == name:
        return Ending(
            title,
            f"being made: {state.consolidation.running.status.replace('_', ' ')}",
            "it is published, if it is good",
        )
    if version is None:
        gone = name in timeline.lineage.published
        wanted = "it is begun again when its time comes" if state.consolidation.request is not None else "nothing"
        return Ending(title, "given up" if gone else "never finished", "nothing" if gone else wanted)
    parts = timeline.lineage.published[name].parts
    files = ", ".join(dict.fromkeys(part.name for part in parts))
    stands = "what is trained beside" if state.head.base == name else "kept"
    then = (
        "the next version follows it"
        if state.head.base == name
        else f"`keepstep versions restore {name}` goes back to it"
    )
    return Ending(title, f"{stands}; step {version.global_step}, made of {files}", then)
