"""When a consolidation begins, what ends it, and what is left of the wish for it."""

from __future__ import annotations

import pytest

from core import commands, effects
from core.state import State
from core.topics.attempts import ATTEMPTS_WITHOUT_PROGRESS, retry_wait_s
from events import kinds, messages
from events.codec import kind_of
from events.values import Failure
from tests.core.world import World


def waiting(*, after_current: bool = False, files: int = 1) -> World:
    """A world in which files were trained and a consolidation is asked for."""
    world = World()
    world.start()
    world.add(2)
    world.run()
    for _ in range(files - 1):
        world.add(2)
    world.execute(commands.RequestConsolidation(description="", after_current=after_current))
    return world


def kinds_since(world: World, count: int) -> list[str]:
    return [kind_of(event) for event in world.journal[count:]]


def test_it_starts_after_all_waiting_files_or_ahead_of_them() -> None:
    for after_current, first in ((False, "attempt_started"), (True, "consolidation_started")):
        world = waiting(after_current=after_current, files=2)
        before = len(world.journal)
        world.run()
        recorded = kinds_since(world, before)
        assert next(kind for kind in recorded if kind in {"attempt_started", "consolidation_started"}) == first
        assert "consolidation_finished" in recorded


def test_it_never_starts_while_a_job_is_in_progress() -> None:
    world = World()
    world.start()
    world.add(4)
    world.run_until(kinds.StepReached)
    world.execute(commands.RequestConsolidation(description="", after_current=True))
    assert "is still running" in str(world.refused(commands.StartConsolidation()))
    world.run()
    names = [kind_of(event) for event in world.journal]
    assert names.index("job_trained") < names.index("consolidation_started")


def test_every_stage_is_journaled_and_merged_checkpoints_are_pruned_last() -> None:
    world = waiting()
    before = len(world.journal)
    world.run()
    assert kinds_since(world, before) == [
        "consolidation_started",
        "backup_created",
        "consolidation_backed_up",
        "consolidation_merged",
        "consolidation_verified",
        "version_published",
        "consolidation_finished",
        "checkpoint_pruned",
    ]


def test_with_nothing_trained_it_is_refused_or_cancelled() -> None:
    world = World()
    world.start()
    ask = commands.RequestConsolidation(description="")
    assert "nothing was trained since the origin" in str(world.refused(ask))
    world.add(0)  # it will be rejected
    world.execute(ask)
    world.run()
    assert world.state.consolidation.request is None
    assert isinstance(world.journal[-1], kinds.ConsolidationCancelled)


def test_it_is_asked_for_once_and_can_be_taken_back_until_it_runs() -> None:
    world = waiting()
    assert "already requested" in str(world.refused(commands.RequestConsolidation(description="")))
    world.execute(commands.CancelConsolidation())
    assert "no consolidation is requested" in str(world.refused(commands.CancelConsolidation()))
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.ConsolidationStarted)
    assert "already running" in str(world.refused(commands.RequestConsolidation(description="")))
    assert "is being made" in str(world.refused(commands.CancelConsolidation()))


@pytest.mark.parametrize("stage", ["started", "backed_up", "merged", "verified"])
def test_a_daemon_that_is_gone_costs_the_attempt_and_not_the_request(stage: str) -> None:
    world = waiting()
    world.run_until(
        {
            "started": kinds.ConsolidationStarted,
            "backed_up": kinds.ConsolidationBackedUp,
            "merged": kinds.ConsolidationMerged,
            "verified": kinds.ConsolidationVerified,
        }[stage]
    )
    head = world.state.head.checkpoint
    world.start()
    assert world.state.head.checkpoint == head
    assert world.state.attempts.current is None
    assert world.state.consolidation.request is not None
    world.run()
    assert world.state.head.base == "v001"


def test_a_pause_ends_it_and_it_begins_again() -> None:
    world = waiting()
    world.run_until(kinds.ConsolidationBackedUp)
    world.execute(commands.Pause())
    world.run()
    assert world.state.daemon.status == "paused"
    assert world.state.head.base is None
    assert world.state.consolidation.request is not None
    world.execute(commands.Resume())
    world.run()
    assert world.state.head.base == "v001"
    assert len(world.state.retention.backups) == 2  # each attempt made its own


def failing(world: World, failure: Failure) -> None:
    world.run_until(kinds.ConsolidationBackedUp)
    world.fails(failure)


def test_a_failure_is_tried_again_later_and_permanent_in_the_end() -> None:
    world = waiting()
    for count in range(1, ATTEMPTS_WITHOUT_PROGRESS):
        failing(world, "code")
        assert world.state.consolidation.request is not None
        assert world.state.consolidation.request.failures == count
        assert world.state.consolidation.request.retry_at == world.now + (
            retry_wait_s(count, world.state.attempts.last) or 0.0
        )
    failing(world, "code")
    assert world.state.consolidation.request is None
    assert isinstance(world.journal[-1], kinds.ConsolidationCancelled)
    assert world.state.head.checkpoint is not None
    world.add(1)
    world.run()
    assert world.state.head.global_step == 3


@pytest.mark.parametrize("failure", ["preflight", "model"])
def test_a_failure_that_time_does_not_fix_is_final_at_once(failure: Failure) -> None:
    world = waiting()
    failing(world, failure)
    assert world.state.consolidation.request is None


def test_a_full_disk_is_waited_out() -> None:
    world = waiting()
    world.run_until(kinds.ConsolidationStarted)
    world.runs_out()
    assert world.state.disk.full is not None
    assert [type(effect) for effect in world.pending_effects()] == [effects.AwaitDiskSpace]
    world.free_bytes = 2**40
    world.run()
    assert world.state.head.base == "v001"


def test_a_bad_head_is_quarantined_and_run_again_first() -> None:
    world = waiting()
    assert world.state.head.checkpoint is not None
    world.spoiled.add(world.state.head.checkpoint.id)
    world.run()
    recorded = [kind_of(event) for event in world.journal]
    assert "checkpoint_quarantined" in recorded
    assert recorded.index("consolidation_aborted") < recorded.index("consolidation_finished")
    assert world.state.head.base == "v001"
    assert not world.lost


def test_files_are_trained_while_a_failed_consolidation_waits() -> None:
    world = waiting(after_current=True)
    failing(world, "code")
    world.add(1)
    (first, *_) = world.pending_effects()
    assert isinstance(first, effects.BeginAttempt)


def test_a_worker_that_says_what_cannot_be_has_failed() -> None:
    world = waiting()
    world.run_until(kinds.ConsolidationStarted)
    attempt = world.state.attempts.current or 0
    world.execute(messages.Verified(attempt=attempt, difference=0.0, tolerance=0.1))
    assert world.state.attempts.current is None
    aborted = next(event for event in reversed(world.journal) if isinstance(event, kinds.ConsolidationAborted))
    assert aborted.failure == "code"


def test_words_of_a_consolidation_that_is_over_change_nothing() -> None:
    world = waiting()
    world.run()
    before = world.state
    for fact in [fact for fact in world.facts if isinstance(fact, messages.Merged | messages.VersionWritten)]:
        assert world.execute(fact) == []
    assert world.state is before
    assert isinstance(before, State)


@pytest.mark.parametrize("known", [True, False])
def test_a_checkpoint_that_is_not_the_head_is_not_quarantined_on_a_workers_report(known: bool) -> None:
    world = World()
    world.start()
    world.add(4)
    world.run()
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.ConsolidationStarted)
    checkpoints = world.state.head.checkpoints
    bad = checkpoints[0].id if known else "step-00000009-attempt-0009"
    attempt = world.state.attempts.current or 0
    before = len(world.journal)
    world.execute(messages.CheckpointBad(attempt=attempt, checkpoint=bad, problem="a flipped bit"))
    assert kinds_since(world, before)[0] == "consolidation_aborted"
    assert "checkpoint_quarantined" not in kinds_since(world, before)
    aborted = next(event for event in reversed(world.journal) if isinstance(event, kinds.ConsolidationAborted))
    assert aborted.failure == "code"
    assert world.state.head.checkpoints == checkpoints
