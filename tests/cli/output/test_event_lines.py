"""The text of each event names what happened, and what to do."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cli.output.console import INDENT, Console
from cli.output.event_lines import event_text
from core.state import State
from events import kinds
from events.kinds import (
    AnyEvent,
    Change,
    ConfigChanged,
    ConfigFixed,
    ConfigRefused,
    EvaluationAbandoned,
    EvaluationDone,
    MemoryLow,
    MemoryRecovered,
)
from tests.core.world import World
from tests.events.examples import CHECKPOINT, JOB, PARENT

GB = 10**9


def printed(event: AnyEvent) -> str:
    """The printed lines about an event, without the time."""
    lines: list[str] = []
    Console(lines.append).print_event(event, State())
    return "\n".join(line[len(INDENT) :] for line in "\n".join(lines).split("\n"))


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            kinds.AttemptFailed(job=JOB, attempt=3, failure="disk_full", message="the disk is full", retry_at=None),
            "attempt 3 ended because the disk is full",
        ),
        (
            kinds.StorageExhausted(message="the disk is full", wanted_bytes=8_400_000),
            "waiting for disk space: the disk is full\n→ free 8.4 MB on the disk",
        ),
        (kinds.StorageFreed(free_bytes=2_000_000_000), "there is enough disk space again (2000.0 MB free)"),
        (
            kinds.CheckpointQuarantined(checkpoint=CHECKPOINT, problem="a flipped bit", head=PARENT),
            f"{CHECKPOINT} is damaged (a flipped bit) and quarantined; training continues from {PARENT}",
        ),
        (
            kinds.CheckpointQuarantined(checkpoint=CHECKPOINT, problem="a flipped bit", head=None),
            f"{CHECKPOINT} is damaged (a flipped bit) and quarantined; training continues from the beginning",
        ),
        (
            kinds.FileDuplicate(job=JOB, name="two\nlines.jsonl"),
            "two\\nlines.jsonl was accepted before (job abababababab) and is not trained again; to retrain: "
            "`keepstep add --retrain`; see rejected/",
        ),
        (
            kinds.FileEnqueued(job=JOB, name="\x1b[31ma.jsonl", size_bytes=1, priority="low", retrain=True),
            "\\x1b[31ma.jsonl is in the queue, to be trained on again",
        ),
        (
            EvaluationDone(
                job=JOB,
                attempt=3,
                global_step=12,
                step=6,
                rows=8,
                tokens=80,
                loss=2.25,
                training_loss=1.5,
                seconds=0.1,
                concern="wide_gap",
            ),
            "validation loss 2.2500 after step 6 (training loss 1.5000, gap +0.75); it has risen, very far above the "
            "training loss: the model memorizes the file",
        ),
        (
            EvaluationAbandoned(job=JOB, attempt=3, failure="hang", message="m"),
            "the worker failed in an evaluation (hang); the job continues without evaluations",
        ),
        (kinds.JobHeld(job=JOB), "abababababab is held; the queue skips it"),
        (kinds.JobReleased(job=JOB), "abababababab is released and waits for its turn"),
        (
            kinds.JobMoved(job=JOB, priority="low", before=None),
            "abababababab is moved to the end of the queue, priority low",
        ),
        (
            kinds.JobMoved(job=JOB, priority="high", before=JOB),
            "abababababab is moved before abababababab, priority high",
        ),
        (
            kinds.JobRemoved(job=JOB, name="a.jsonl", keeps_data=False),
            "a.jsonl is removed from the queue; its file goes to rejected/",
        ),
        (kinds.JobRemoved(job=JOB, name="a.jsonl", keeps_data=True), "a.jsonl is removed from the queue"),
        (
            MemoryLow(total_bytes=100 * GB, available_bytes=5 * GB, worker_bytes=10 * GB, grace_s=30.0, at=0.0),
            "waiting for memory: other processes use 85.0 of 100.0 GB, the worker 10.0 GB; after 30 s of this, the "
            "running attempt ends at its next commit",
        ),
        (MemoryRecovered(available_bytes=50 * GB), "there is enough memory again (50.0 GB available)"),
        (
            ConfigChanged(job=JOB, changes=(Change("training.epochs", "1", "2"), Change("data.prompt", "", '"q"'))),
            "abababababab is the first job under a changed keepstep.toml: training.epochs 1 → 2, data.prompt unset → "
            '"q"',
        ),
        (
            ConfigChanged(job=None, changes=(Change("disk.soft_gb", "0.0", "1.0"),)),
            "keepstep.toml was changed: disk.soft_gb 0.0 → 1.0",
        ),
        (ConfigRefused(reason="r", advice="a"), "keepstep.toml was changed and is not used: r\n→ a"),
        (ConfigFixed(), "keepstep.toml can be used again"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_is_printed_in_words(event: AnyEvent, text: str) -> None:
    """What happened, with figures and names."""
    assert printed(event) == text


def test_a_job_that_is_skipped_is_not_taken_for_the_one_that_is_worked_on() -> None:
    """That one runs lost steps again; its own end is a restoration."""
    made = World()
    made.start()
    made.add(4)
    made.run_until(kinds.StepReached)
    assert made.state.training.current is not None
    current = replace(made.state.training.current, until=3)
    assert event_text(kinds.JobSkipped(job=JOB), State(), current) == f"{JOB[:12]}: skipped"
    assert event_text(kinds.JobSkipped(job=current.id), State(), current) == f"{current.name}: restored"
