"""Commands in, events out: what each leads to, and the reason with which each is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
from msgspec.structs import replace

from core import commands
from core.commands import AnyCommand
from core.decide import DECIDE, decide
from core.errors import Refused
from events import kinds
from tests.core.world import START, World, job_id, settings

START_DAEMON = commands.StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep="")
HOLD = commands.HoldWork(reason="the config is broken", advice="fix it")
QUARANTINE = commands.QuarantineCheckpoint(checkpoint="step-00000002-attempt-0001", problem="rot")
ADD = commands.AddFile(job=job_id(1), name="again.jsonl", size_bytes=1, priority="normal", known=False)


def off() -> World:
    """No daemon."""
    return World()


def idle() -> World:
    """A daemon and nothing to do."""
    world = World()
    world.start()
    return world


def waiting() -> World:
    """Two jobs wait."""
    world = idle()
    world.add(4)
    world.add(4)
    return world


def training() -> World:
    """The first of two jobs is being trained, two steps of it are committed."""
    world = waiting()
    world.run_until(kinds.CheckpointCommitted)
    return world


def paused() -> World:
    """Paused while nothing runs."""
    world = idle()
    world.execute(commands.Pause())
    return world


def stopping() -> World:
    """Asked to stop while an attempt runs."""
    world = training()
    world.execute(commands.Stop(alive=True))
    return world


def failed() -> World:
    """The first job failed permanently."""
    world = training()
    for _ in range(5):
        world.lose_worker()
        world.now += 100
        world.turn()
    return world


def full() -> World:
    """A job waits for room on the disk."""
    world = waiting()
    world.runs_out()
    return world


def skipping() -> World:
    """The running job is to end at the next step."""
    world = training()
    world.execute(commands.Skip())
    return world


def running_again() -> World:
    """The head was lost while the first job was in progress."""
    world = training()
    world.start()
    world.execute(QUARANTINE)
    return world


@pytest.mark.parametrize(
    ("situation", "command", "reason"),
    [
        (off, commands.CreateHome(home_id="x", keepstep="0"), "has a journal already"),
        (paused, commands.Pause(), "already paused. To resume: `keepstep resume`"),
        (idle, commands.Resume(), "is not paused"),
        (off, commands.Stop(alive=True), "no daemon runs in this home, so there is nothing to stop"),
        (training, commands.Stop(alive=False), "no daemon runs"),
        (stopping, commands.Stop(alive=True), "is already stopping"),
        (idle, commands.Skip(), "no job is in progress"),
        (waiting, commands.Skip(), "no job is in progress"),
        (waiting, commands.Skip(job=job_id(9)), "no job 000000000000 waits or runs"),
        (skipping, commands.Skip(), "file-1.jsonl is already being skipped"),
        (failed, commands.Skip(job=job_id(1)), "file-1.jsonl has failed; there is nothing to skip"),
        (running_again, commands.Skip(), "runs again to restore committed steps; it cannot be skipped"),
        (waiting, commands.Retry(job=job_id(1)), "has not failed"),
        (idle, commands.PruneCheckpoints(keep=1), "nothing to prune: 0 checkpoints are kept"),
        (training, commands.PruneCheckpoints(keep=1), "nothing to prune: 1 checkpoints are kept"),
        (off, commands.StopDaemon(reason="r"), "no daemon runs"),
        (training, commands.StopDaemon(reason="r"), "attempt 1 is still running"),
        (off, HOLD, "no daemon runs"),
        (training, HOLD, "attempt 1 is still running"),
        (training, QUARANTINE, "attempt 1 is still running"),
        (off, QUARANTINE, "no daemon runs"),
        (idle, QUARANTINE, "is not a checkpoint of the current branch"),
        (full, commands.StartAttempt(job=job_id(1), settings=settings()), "while the disk is full: the disk is full"),
        (idle, commands.StartAttempt(job=job_id(1), settings=settings()), "is not the next one"),
        (waiting, commands.StartAttempt(job=job_id(2), settings=settings()), "is not the next one"),
        (training, commands.StartAttempt(job=job_id(1), settings=settings()), "is not the next one"),
        (paused, commands.StartAttempt(job=job_id(1), settings=settings()), "is not the next one"),
    ],
)
def test_a_refusal_says_why(situation: Callable[[], World], command: AnyCommand, reason: str) -> None:
    """The reason is for the person who asked; nothing is journaled."""
    world = situation()
    state, length = world.state, len(world.journal)
    with pytest.raises(Refused) as caught:
        world.execute(command)
    assert reason in str(caught.value)
    assert world.state is state
    assert len(world.journal) == length


def test_only_a_checkpoint_of_this_branch_is_quarantined() -> None:
    """Whatever else lies in `checkpoints/` is a leftover, and no reason to delete anything."""
    world = training()
    world.start()
    assert "is not a" in str(world.refused(replace(QUARANTINE, checkpoint="step-00000009-attempt-0009")))
    assert world.refused(QUARANTINE) is None


def test_a_person_may_delete_all_but_the_head() -> None:
    """At any time, also while the next is being trained; never the head."""
    world = waiting()
    world.run_until(kinds.CheckpointCommitted, 2)
    head = world.state.head.checkpoint
    world.execute(commands.PruneCheckpoints(keep=0))
    assert world.state.head.checkpoints == (head,)
    world.run()
    world.check_timeline()


def test_a_job_after_steps_that_run_again_is_skipped_later() -> None:
    """What was committed is restored first, whatever a person wants with the jobs after it."""
    world = idle()
    world.config = settings(keep=9)
    world.add(2)
    world.add(4)
    world.run_until(kinds.CheckpointCommitted, 2)
    for _ in range(2):
        world.start()
        assert world.state.head.checkpoint is not None
        world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot"))
    assert [job.name for job in world.state.training.in_progress] == ["file-1.jsonl", "file-2.jsonl", "file-2.jsonl"]
    assert "cannot be skipped" in str(world.refused(commands.Skip(job=job_id(2))))


def test_a_begun_job_after_them_has_to_wait() -> None:
    """A job in progress that has committed nothing yet is not in the queue any more."""
    world = idle()
    world.add(2)
    world.add(4)
    world.run_until(kinds.AttemptStarted, 2)
    world.start()
    assert world.state.head.checkpoint is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot"))
    assert "skip it when they are done" in str(world.refused(commands.Skip(job=job_id(2))))


def test_every_command_is_decided_on() -> None:
    """The topics leave none out, and no two handle the same."""
    assert set(DECIDE) == set(get_args(commands.AnyCommand))


@pytest.mark.parametrize("situation", [off, idle, waiting, training, paused, stopping, failed, skipping, full])
def test_a_daemon_can_always_start(situation: Callable[[], World]) -> None:
    """However the one before ended; an attempt that lost its daemon is interrupted first."""
    world = situation()
    events = world.start()
    assert isinstance(events[-1], kinds.DaemonStarted)
    assert world.state.attempts.current is None


def test_an_interrupted_job_that_was_to_be_skipped_is_skipped() -> None:
    """The wish of a person outlives the daemon."""
    world = skipping()
    kinds_seen = [type(event) for event in world.start()]
    assert kinds_seen == [kinds.AttemptInterrupted, kinds.JobSkipped, kinds.DaemonStarted]


def test_known_bytes_are_a_duplicate() -> None:
    """Whether the disk knows them, or a job of them is in progress, or their rejection is not settled."""
    (event,) = decide(idle().state, replace(ADD, known=True), START)
    assert isinstance(event, kinds.FileDuplicate)
    (event,) = decide(waiting().state, ADD, START)
    assert isinstance(event, kinds.FileDuplicate)
    world = idle()
    world.add(0)
    world.run_until(kinds.JobRejected)
    assert len(world.state.outcomes.rejections)
    (event,) = decide(world.state, ADD, START)
    assert isinstance(event, kinds.FileDuplicate)


def test_a_begun_job_keeps_its_settings() -> None:
    """Whatever the config file says by now."""
    world = training()
    world.start()
    world.config = settings(seed=2)
    world.turn()
    started = next(event for event in reversed(world.journal) if isinstance(event, kinds.AttemptStarted))
    assert started.settings == settings()


def test_a_job_that_has_committed_nothing_takes_the_settings_of_now() -> None:
    """So a mistake in the config is fixed by an edit of the config."""
    world = waiting()
    world.turn()
    world.start()
    world.config = settings(seed=2)
    world.turn()
    assert world.state.training.current is not None
    assert world.state.training.current.settings == settings(seed=2)


def test_the_same_hold_is_journaled_once() -> None:
    """The daemon may find the same trouble every turn."""
    world = idle()
    assert len(world.execute(HOLD)) == 1
    assert world.execute(HOLD) == []


def test_a_rejection_that_is_settled_is_not_settled_again() -> None:
    """A move that is carried out twice is journaled once."""
    assert idle().execute(commands.RecordRejectedMoved(job=job_id(1), path="x")) == []


def test_deleted_leftovers_are_recorded() -> None:
    """It is a fact, whatever the state."""
    assert off().execute(commands.RecordLeftoverDeleted(path="x", size_bytes=1)) == [
        kinds.LeftoverDeleted(path="x", size_bytes=1)
    ]
