"""The progress that only people look at: troubles, speed, bytes."""

from __future__ import annotations

import pytest

from core import commands
from core.errors import IllegalEvent
from core.job import FEW_STEPS
from core.state import State
from events import kinds
from events.codec import Record
from events.kinds import AnyEvent
from projections.fold import ERRORS_SHOWN, SMOOTHING, _lasting, fold
from projections.progress import Folded, Progress
from projections.trouble import TERMINAL_CLOSED, Trouble
from tests.core.world import World, job_id, seen
from tests.events.examples import CHECKPOINT, JOB
from tests.projections.timeline import folded, records


def world(*files: int) -> World:
    """A running home with these files."""
    made = World()
    made.start()
    for steps in files:
        made.add(steps)
    return made


def test_the_fold_carries_the_machines_state() -> None:
    """It is the same state that `evolve` makes."""
    made = world(3, 0, 2)
    made.run()
    assert seen(folded(made).state) == seen(made.state)


def test_an_illegal_event_is_not_folded() -> None:
    """It raises, as in the core."""
    record = Record(seq=1, at="t1", durable=0, prev="", event=kinds.Resumed(), crc="")
    with pytest.raises(IllegalEvent):
        fold(Folded(), record)


TROUBLES: list[tuple[AnyEvent, str]] = [
    (
        kinds.JobRejected(job=JOB, attempt=1, name="a.jsonl", problem="empty", line=None, message="nothing in it"),
        "a.jsonl was rejected: nothing in it",
    ),
    (kinds.AttemptFailed(job=JOB, attempt=1, failure="code", message="it broke", retry_at=1.0), "it broke"),
    (kinds.DaemonHeld(reason="the config is broken", advice="fix it"), "the config is broken"),
    (kinds.StorageExhausted(message="the disk is full", wanted_bytes=1), "the disk is full"),
    (kinds.StorageFreed(free_bytes=1), ""),
    (kinds.AttemptFailed(job=JOB, attempt=1, failure="disk_full", message="the disk is full", retry_at=None), ""),
    (kinds.JournalRepaired(first_seq=8, last_seq=9, problem="rot"), "records 8 to 9 were abandoned by a repair: rot"),
    (
        kinds.CheckpointQuarantined(checkpoint=CHECKPOINT, problem="rot", head=None),
        f"{CHECKPOINT} was quarantined: rot",
    ),
    (
        kinds.AttemptInterrupted(job=JOB, attempt=4, reason="the daemon was gone"),
        "attempt 4 was interrupted: the daemon was gone",
    ),
    (kinds.Resumed(), ""),
    (kinds.JobSkipped(job=JOB), ""),
]


@pytest.mark.parametrize(("event", "words"), TROUBLES, ids=lambda value: type(value).__name__)
def test_what_goes_wrong_is_said_in_words(event: AnyEvent, words: str) -> None:
    """And what people asked for is no trouble."""
    from projections.fold import _trouble

    assert (_trouble(event, State()) or "") == words


def test_only_the_last_troubles_are_kept() -> None:
    """As many as fit on a screen, oldest first, each with its place in the journal."""
    made = world()
    for number in range(ERRORS_SHOWN + 2):
        made.execute(commands.ReportDiskFull(message=f"full {number}"))
        made.turn()
    troubles = folded(made).progress.troubles
    assert [trouble.message for trouble in troubles] == [f"full {number}" for number in range(2, ERRORS_SHOWN + 2)]
    last = records(made)[-2]  # the last of all says that there is room again
    assert (troubles[-1].seq, troubles[-1].at, troubles[-1].kind) == (last.seq, last.at, "storage_exhausted")


def test_a_full_disk_is_one_trouble() -> None:
    """The attempt that it ended is not a second one."""
    made = world(4)
    made.run_until(kinds.StepReached)
    made.fails("disk_full")
    assert [trouble.kind for trouble in folded(made).progress.troubles] == ["job_prepared", "storage_exhausted"]


def test_jobs_of_few_steps_are_one_trouble_once_each() -> None:
    """Many of them do not push failures out, and an attempt that starts again says nothing new."""
    made = world(2, 3)
    made.run_until(kinds.StepReached)
    made.lose_worker("killed")
    made.run_until(kinds.JobPrepared)
    troubles = folded(made).progress.troubles
    assert [trouble.kind for trouble in troubles] == ["job_prepared", "attempt_failed"]
    made.run()
    troubles = folded(made).progress.troubles
    assert [trouble.kind for trouble in troubles] == ["job_prepared"], "a success ends the failure, not the advice"
    assert troubles[-1].message == f"file-2.jsonl has only 3 steps; for more: `keepstep explain {job_id(2)[:12]}`"
    prepared = [record for record in records(made) if isinstance(record.event, kinds.JobPrepared)]
    assert len(prepared) == 3
    assert troubles[-1].seq == prepared[-1].seq


def test_advice_about_a_short_job_takes_no_failure_away() -> None:
    made = world(4, 3)
    made.run_until(kinds.StepReached)
    made.lose_worker("killed")
    made.execute(commands.Skip(job=None))
    made.run_until(kinds.JobPrepared)
    troubles = folded(made).progress.troubles
    assert [trouble.kind for trouble in troubles] == ["attempt_failed", "job_prepared"]
    assert troubles[-1].message.startswith("file-2.jsonl has only 3 steps")


def test_jobs_of_enough_steps_are_no_trouble() -> None:
    made = world(FEW_STEPS)
    made.run()
    assert folded(made).progress.troubles == ()


def test_the_time_of_the_present_status_is_kept() -> None:
    """When the daemon began to do what it does now."""
    made = world(2)
    made.run_until(kinds.StepReached)
    started = next(record for record in records(made) if isinstance(record.event, kinds.AttemptStarted))
    assert folded(made).progress.doing_since == started.at


def step(seconds: float, tokens: int, number: int) -> AnyEvent:
    """A step of this speed."""
    return kinds.StepReached(
        job=f"{1:064x}",
        attempt=1,
        global_step=number,
        step=number,
        epoch=1,
        loss=1.0,
        grad_norm=1.0,
        learning_rate=0.1,
        tokens=tokens,
        seconds=seconds,
    )


def test_the_speed_follows_the_steps_smoothly() -> None:
    """The first step sets it, each later one moves it by a tenth of the difference."""
    made = world(5)
    made.run_until(kinds.TrainingStarted)
    for event in (step(1.0, 100, 1), step(2.0, 200, 2)):
        made.happens(event)
    pace = folded(made).progress.pace
    assert pace is not None
    assert pace.seconds_per_step == pytest.approx(1.0 + SMOOTHING)
    assert pace.tokens_per_step == pytest.approx(100 + SMOOTHING * 100)


def test_a_new_attempt_measures_its_own_speed() -> None:
    """Its speed may be another, and nothing was reached yet."""
    made = world(5)
    made.run_until(kinds.StepReached)
    made.start()
    made.run_until(kinds.AttemptStarted)
    progress = folded(made).progress
    assert (progress.pace, progress.last_step) == (None, None)


def test_bytes_count_from_when_the_queue_was_last_empty() -> None:
    """Finished files stay in the sum until everything is done; then a new count begins."""
    made = world(1, 2)
    sizes = [200, 300]
    assert folded(made).progress.bytes_total == sum(sizes)
    made.run_until(kinds.JobTrained)
    assert folded(made).progress.bytes_done == sizes[0]
    made.run()
    assert folded(made).progress.bytes_done == sum(sizes)
    made.add(3)
    assert (folded(made).progress.bytes_total, folded(made).progress.bytes_done) == (400, 0)


@pytest.mark.parametrize("end", ["trained", "rejected", "skipped", "failed"])
def test_a_file_is_done_however_it_ends(end: str) -> None:
    """What nobody waits for any more is not waited for."""
    made = world(0 if end == "rejected" else 2)
    if end == "skipped":
        made.execute(commands.Skip(job=f"{1:064x}"))
    if end == "failed":
        for _ in range(5):
            made.now += 100
            made.turn()
            made.lose_worker()
    made.run()
    progress = folded(made).progress
    assert progress.bytes_done == progress.bytes_total > 0


def test_a_retried_file_counts_again() -> None:
    """Alone, it begins a new count; next to others, it is added to theirs."""
    for others in (0, 1):
        made = world(2)
        for _ in range(5):
            made.now += 100
            made.turn()
            made.lose_worker()
        for _ in range(others):
            made.add(1)
        made.execute(commands.Retry(job=f"{1:064x}"))
        progress = folded(made).progress
        assert (progress.bytes_total, progress.bytes_done) == (300 + 200 * others, 0)


def test_steps_that_are_run_again_add_no_bytes() -> None:
    """Their file was counted when it was done the first time."""
    made = world(4)
    made.run()
    assert made.state.head.checkpoint is not None
    made.execute(commands.QuarantineCheckpoint(checkpoint=made.state.head.checkpoint.id, problem="rot"))
    made.run()
    progress = folded(made).progress
    assert progress.bytes_done == progress.bytes_total == 500


def test_a_success_ends_the_troubles_before_it() -> None:
    """Those that it proves to be over, and those of earlier runs; a file that was rejected in this run stays."""
    made = world(FEW_STEPS)
    made.run_until(kinds.StepReached)
    made.lose_worker()
    kind = "attempt_failed"
    assert [trouble.kind for trouble in folded(made).progress.troubles] == [kind]
    made.run()
    assert not folded(made).progress.troubles
    troubles = (Trouble(1, "", "job_rejected", "old"), Trouble(8, "", "job_rejected", "new"), Trouble(9, "", kind, ""))
    assert _lasting(Progress(troubles=troubles, started_seq=5)) == troubles[1:2]


def test_the_reason_of_a_stop_is_remembered_until_the_next_start() -> None:
    """So that a closed terminal is not taken for a crash."""
    made = world()
    made.execute(commands.StopDaemon(reason=TERMINAL_CLOSED))
    assert folded(made).progress.stop_reason == TERMINAL_CLOSED
    made.start()
    assert folded(made).progress.stop_reason == ""
