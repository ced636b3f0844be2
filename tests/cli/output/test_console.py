"""What `keepstep run` says while it works, where a wrong word would lead a person astray."""

from __future__ import annotations

import pytest

from cli.output.console import INDENT, Console
from core.state import State
from events import kinds
from events.kinds import AnyEvent, EvaluationAbandoned, EvaluationDone
from tests.events.examples import CHECKPOINT, JOB, PARENT


def told(event: AnyEvent) -> str:
    """The lines about an event, without the time."""
    lines: list[str] = []
    Console(lines.append).tell(event, State())
    return "\n".join(line[len(INDENT) :] for line in "\n".join(lines).split("\n"))


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            kinds.AttemptFailed(job=JOB, attempt=3, failure="disk_full", message="the disk is full", retry_at=None),
            "attempt 3 ended for want of room",
        ),
        (
            kinds.StorageExhausted(message="the disk is full", wanted_bytes=8_400_000),
            "waiting for room on the disk: the disk is full\n→ make room: 8.4 MB must be free",
        ),
        (kinds.StorageFreed(free_bytes=2_000_000_000), "there is room on the disk again (2000.0 MB)"),
        (
            kinds.CheckpointQuarantined(checkpoint=CHECKPOINT, problem="a flipped bit", head=PARENT),
            f"{CHECKPOINT} is damaged and set aside (a flipped bit); going on from {PARENT}",
        ),
        (
            kinds.CheckpointQuarantined(checkpoint=CHECKPOINT, problem="a flipped bit", head=None),
            f"{CHECKPOINT} is damaged and set aside (a flipped bit); going on from the beginning",
        ),
        (
            kinds.FileDuplicate(job=JOB, name="two\nlines.jsonl"),
            "two\\nlines.jsonl was accepted before (job abababababab) and is not trained again; to retrain: "
            "`keepstep add --retrain`; see rejected/",
        ),
        (
            kinds.FileEnqueued(job=JOB, name="\x1b[31ma.jsonl", size_bytes=1, priority="low", retrain=True),
            "\\x1b[31ma.jsonl is in the queue, to be trained once more",
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
            "the worker failed in an evaluation (hang); the job goes on without",
        ),
        (kinds.JobHeld(job=JOB), "abababababab is held; the queue passes it over"),
        (kinds.JobReleased(job=JOB), "abababababab waits for its turn again"),
        (kinds.JobMoved(job=JOB, priority="low", before=None), "abababababab is moved to the back, priority low"),
        (
            kinds.JobMoved(job=JOB, priority="high", before=JOB),
            "abababababab is moved before abababababab, priority high",
        ),
        (
            kinds.JobRemoved(job=JOB, name="a.jsonl", keeps_data=False),
            "a.jsonl is taken out of the queue; its file goes to rejected/",
        ),
        (kinds.JobRemoved(job=JOB, name="a.jsonl", keeps_data=True), "a.jsonl is taken out of the queue"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_is_said_in_words(event: AnyEvent, words: str) -> None:
    """What happened, and what comes of it."""
    assert told(event) == words
