"""How often each example of each file was trained, worked out again from the journal and the data.

The journal says which steps of a file reached the head, in which order, and which of them were passed over; the plan
says which lines of the file each step trains. So every line of a file of N epochs must have been come by N times:
trained each time but those at which its batch was skipped. Of a file that was skipped the steps up to the skip count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cli.commands.lineage import read_lineage
from cli.home.paths import Home
from events import kinds
from events.event import Event
from gpu.data.processes.row_locator import locate
from gpu.ipc.protocol import LocateRows, TrainedJob
from projections.lineage import Part


class ReplayRange(NamedTuple):
    """Steps of a job that reached the head, after one and up to another, and which of these changed nothing."""

    after: int
    until: int
    skipped: frozenset[int]


class Job(NamedTuple):
    """What was planned for a file, and what was done."""

    name: str
    epochs: int
    steps_total: int
    skipped: bool
    replay_ranges: Sequence[ReplayRange]
    steps_of: Mapping[int, Sequence[int]]
    """For each line the steps that the plan has it in."""


class Account(NamedTuple):
    """What came of it: how many examples, how often they were trained and left out, and what is wrong."""

    jobs: int
    examples: int
    trained: int
    skipped: int
    wrong: list[str]


def account(jobs: Sequence[Job]) -> Account:
    """Hold each example against what it should have been."""
    examples = trained = skipped = 0
    wrong: list[str] = []
    for job in jobs:
        end = max((replay_range.until for replay_range in job.replay_ranges), default=0)
        if not job.skipped and end != job.steps_total:
            wrong.append(f"{job.name}: {end} of {job.steps_total} steps reached the head")
        for line, planned in job.steps_of.items():
            times, aside = _times(planned, job.replay_ranges)
            examples, trained, skipped = examples + 1, trained + times, skipped + aside
            due = sum(step <= end for step in planned) if job.skipped else job.epochs
            if times + aside != due:
                wrong.append(f"{job.name}, line {line}: trained {times} times, skipped {aside}, to be {due} in all")
    return Account(len(jobs), examples, trained, skipped, wrong)


def _times(planned: Sequence[int], replay_ranges: Sequence[ReplayRange]) -> tuple[int, int]:
    """How often a line was trained, and how often it was passed over."""
    passed = [
        step in replay_range.skipped
        for replay_range in replay_ranges
        for step in planned
        if replay_range.after < step <= replay_range.until
    ]
    return passed.count(False), passed.count(True)


def jobs_of(home: Home, events: Sequence[Event]) -> list[Job]:
    """Every file that was accepted and not refused, as plan and journal have it."""
    parts = read_lineage(home, None).parts
    refused = {event.job for event in events if isinstance(event, kinds.JobRejected)}
    skipped = {event.job for event in events if isinstance(event, kinds.JobSkipped)}
    accepted = {event.job: event.name for event in events if isinstance(event, kinds.FileEnqueued)}
    return [
        _job(home, name, [part for part in parts if part.job == job], skipped=job in skipped)
        for job, name in accepted.items()
        if job not in refused and not (job in skipped and not any(part.job == job for part in parts))
    ]


def _job(home: Home, name: str, parts: Sequence[Part], *, skipped: bool) -> Job:
    if not parts:
        return Job(
            name=name, epochs=0, steps_total=1, skipped=False, replay_ranges=(), steps_of={}
        )  # nothing was trained
    last = parts[-1]
    lines = range(1, 1 + home.data_file(last.job).read_bytes().count(b"\n"))
    asked = TrainedJob(
        job=last.job, settings=last.settings, tokenizer_sha256=last.plan.tokenizer_sha256, lines=tuple(lines)
    )
    (located,) = locate(LocateRows(home=str(home.root), trained=(asked,))).located
    assert not located.problem, f"{name}: {located.problem}"
    assert located.batches_sha256 == last.plan.batches_sha256, f"{name} is planned otherwise now"
    return Job(
        name=name,
        epochs=last.plan.epochs,
        steps_total=last.plan.steps_total,
        skipped=skipped,
        replay_ranges=[ReplayRange(part.step_from, part.step_to, frozenset(part.course.skipped)) for part in parts],
        steps_of=dict(zip(lines, located.steps, strict=True)),
    )
