"""Where the head goes: by a consolidation, by a person; and that the way back stays open."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from core import commands
from core.errors import IllegalEvent
from core.evolve import evolve
from core.values import Checkpoint, DetachedCheckpoint
from events import kinds
from events.kinds import AnyEvent
from tests.core.situations import backed_up, lived, trained
from tests.core.world import World, settings


def test_a_consolidation_moves_the_head_and_training_starts_fresh_from_the_version() -> None:
    world = lived(4)
    state = world.state
    assert (state.head.base, state.head.checkpoint, state.head.global_step) == ("v001", None, 4)
    assert state.head.detached == ()
    assert state.recovery.replay_ranges == ()
    assert [version.description for version in state.retention.versions] == ["4 steps"]
    head = trained(world, 2)
    assert (head.global_step, head.parent) == (6, None)


def test_each_version_is_built_on_the_one_before() -> None:
    state = lived(2, 3, 4).state
    assert [(each.id, each.parent, each.global_step) for each in state.retention.versions] == [
        ("v001", None, 2),
        ("v002", "v001", 5),
        ("v003", "v002", 9),
    ]
    assert [each.held.base for each in state.retention.backups] == [None, "v001", "v002"]


def test_a_detached_checkpoint_can_be_restored() -> None:
    world = lived(2)
    head = trained(world, 3)
    world.execute(commands.RollBack())
    assert (world.state.head.base, world.state.head.checkpoint, world.state.head.global_step) == ("v001", None, 2)
    assert [left.checkpoint.id for left in world.state.head.detached] == [head.id]
    other = trained(world, 2)
    assert other.global_step == 4
    world.execute(commands.MoveHead(checkpoint=head.id))
    assert world.state.head.checkpoint == head
    assert [left.checkpoint.id for left in world.state.head.detached] == [other.id]
    assert trained(world, 1).parent == head.id


def test_rolled_back_again_and_again_it_ends_at_the_origin() -> None:
    world = lived(2, 2)
    world.execute(commands.RollBack())
    assert world.state.head.base == "v001"
    world.execute(commands.RollBack())
    assert (world.state.head.base, world.state.head.global_step, world.state.head.weight_settings) == (None, 0, None)  # type: ignore[comparison-overlap]
    assert "nothing to roll back" in str(world.refused(commands.RollBack()))
    world.execute(commands.MoveHead(version="v002"))
    assert world.state.head.global_step == 4
    assert world.state.head.weight_settings is not None


def test_a_version_after_a_rollback_has_its_own_number() -> None:
    world = lived(2, 2)
    world.execute(commands.MoveHead(version="v001"))
    trained(world, 1)
    world.execute(commands.RequestConsolidation(description="another way"))
    world.run()
    assert [(each.id, each.parent) for each in world.state.retention.versions][-1] == ("v003", "v001")


def fail_after_a_commit(world: World) -> None:
    """Some of the job's steps are committed; then its worker is lost as often as it takes."""
    for _ in world.steady():
        if world.state.head.checkpoint is not None:
            break
    for _ in range(5):
        world.lose_worker("code")
        world.now += 100
        world.turn()


def test_a_partly_trained_job_starts_again_after_a_rollback() -> None:
    """Its committed steps are not in the head any more."""
    world = lived(2)
    job = world.add(6)
    world.config = settings(every_steps=2)
    fail_after_a_commit(world)
    failed = world.state.outcomes.failed.get(job)
    assert failed is not None
    assert failed.committed_step == 2
    world.execute(commands.RollBack())
    failed = world.state.outcomes.failed.get(job)
    assert failed is not None
    assert failed.committed_step == 0
    world.execute(commands.Retry(job=job))
    world.run()
    assert world.state.head.global_step == 8


def test_one_that_waits_after_a_retry_does_too() -> None:
    world = lived(2)
    job = world.add(6)
    fail_after_a_commit(world)
    world.execute(commands.Retry(job=job))
    waiting = world.state.queue.get(job)
    assert waiting is not None
    assert waiting.committed_step == 2
    world.execute(commands.RollBack())
    waiting = world.state.queue.get(job)
    assert waiting is not None
    assert waiting.committed_step == 0


def test_the_head_is_not_moved_under_a_job_in_progress() -> None:
    world = lived(2)
    world.add(4)
    world.turn()
    assert "an attempt is running" in str(world.refused(commands.RollBack()))
    world.start()
    assert "is partly trained" in str(world.refused(commands.RollBack()))


def test_a_backed_up_head_is_restored_before_work_continues() -> None:
    world = lived(2)
    (backup,) = world.state.retention.backups
    world.execute(commands.MoveHead(backup=backup.id))
    assert (world.state.head.pending_restore, world.state.head.base) == (backup.id, None)
    assert world.state.head.checkpoint is not None
    refuse(world, kinds.CheckpointRestored(checkpoint="step-00000009-attempt-0009"))
    world.add(1)
    assert [type(effect).__name__ for effect in world.pending_effects()] == ["RestoreCheckpoint"]
    world.run()
    assert world.state.head.pending_restore is None
    assert world.state.head.global_step == 3


def test_a_restored_checkpoint_takes_its_old_place_again() -> None:
    """Its name no longer stands for something damaged: a sweep would remove the good copy."""
    world = World()
    world.start()
    world.add(1)
    world.run()
    head = world.state.head.checkpoint
    assert head is not None
    held = DetachedCheckpoint(base=None, checkpoint=head, weight_settings=world.state.head.weight_settings)
    world.execute(
        commands.RecordBackup(backup="manual-0001", reason="r", held=held, size_bytes=1, manifest_sha256="cc" * 32)
    )
    world.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="a flipped bit"))
    world.run()
    assert world.state.recovery.quarantined == (head.id,)
    world.execute(commands.MoveHead(backup="manual-0001"))
    assert world.state.recovery.quarantined == (head.id,)  # as long as the copy is not there
    world.run()
    assert world.state.head.checkpoint == head
    assert world.state.recovery.quarantined == ()  # type: ignore[comparison-overlap]


def test_a_restored_checkpoint_leaves_other_damaged_ones_quarantined() -> None:
    """The sweep still has to remove those."""
    world = World()
    world.start()
    heads: list[Checkpoint] = []
    for _ in range(2):
        head = trained(world, 1) if not heads else world.state.head.checkpoint
        assert head is not None
        heads.append(head)
        held = DetachedCheckpoint(base=None, checkpoint=head, weight_settings=world.state.head.weight_settings)
        backup = f"manual-000{len(heads)}"
        world.execute(
            commands.RecordBackup(backup=backup, reason="r", held=held, size_bytes=1, manifest_sha256="cc" * 32)
        )
        world.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="a flipped bit"))
        world.run()
    first, second = heads
    assert [*world.state.recovery.quarantined] == [first.id, second.id]
    world.execute(commands.MoveHead(backup="manual-0001"))
    world.run()
    assert [*world.state.recovery.quarantined] == [second.id]


def test_what_the_head_was_moved_from_while_it_was_copied_keeps_its_own_meaning() -> None:
    """Somebody moves it back to the origin, where nothing means anything yet; or gives the checkpoint up as well."""
    world = World()
    world.start()
    world.add(1)
    world.run()
    head, meaning = world.state.head.checkpoint, world.state.head.weight_settings
    assert head is not None
    assert meaning is not None
    held = DetachedCheckpoint(base=None, checkpoint=head, weight_settings=meaning)
    made = commands.RecordBackup(backup="manual-0001", reason="r", held=held, size_bytes=1, manifest_sha256="cc" * 32)
    world.execute(commands.RollBack())
    assert world.state.head.weight_settings is None
    world.execute(made)
    assert [backup.held.weight_settings for backup in world.state.retention.backups] == [meaning]
    world.execute(commands.DeleteVersion(version=head.id))
    assert "had moved away from" in str(world.refused(replace(made, backup="manual-0002")))


def test_a_head_that_was_never_restored_is_not_detached() -> None:
    """It stands in its backup, and nowhere else."""
    world = lived(2)
    (backup,) = world.state.retention.backups
    world.execute(commands.MoveHead(backup=backup.id))
    world.execute(commands.MoveHead(version="v001"))
    assert world.state.head.detached == ()
    assert world.state.head.pending_restore is None
    world.execute(commands.MoveHead(backup=backup.id))
    world.run()
    assert world.state.head.checkpoint is not None


def test_a_bad_checkpoint_on_a_version_is_run_again_from_the_version() -> None:
    world = lived(2)
    head = trained(world, 2)
    world.start()
    world.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="a flipped bit"))
    assert (world.state.head.checkpoint, world.state.head.base, world.state.head.global_step) == (None, "v001", 2)
    world.run()
    assert world.state.head.global_step == 4
    assert not world.lost


@pytest.mark.parametrize(
    "event",
    [
        kinds.HeadMoved(version="v009", checkpoint=None, backup=None),
        kinds.HeadMoved(version=None, checkpoint="step-00000009-attempt-0009", backup=None),
        kinds.VersionDeleted(version="v002", size_bytes=1, by="person"),
        kinds.VersionDeleted(version="v009", size_bytes=1, by="person"),
        kinds.BackupDeleted(backup="manual-0009", size_bytes=1, by="person"),
        kinds.CheckpointRestored(checkpoint="step-00000009-attempt-0009"),
        kinds.ConsolidationCancelled(message="m"),
        kinds.ConsolidationMerged(attempt=9, applied=None, in_place=None),
        kinds.ConsolidationStarted(
            attempt=9, version="v003", parent="v002", checkpoint="step-00000009-attempt-0009", backup="manual-0001"
        ),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(event: AnyEvent) -> None:
    state = lived(2, 2).state
    with pytest.raises(IllegalEvent):
        evolve(state, event)
    assert state.head.base == "v002"


def consolidating() -> World:
    """A world in the middle of one."""
    world = lived(2)
    trained(world, 2)
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.ConsolidationStarted)
    return world


def test_nothing_moves_the_head_or_begins_another_while_one_runs() -> None:
    world = consolidating()
    refuse(world, kinds.HeadMoved(version=None, checkpoint=None, backup=None))
    assert "an attempt is running" in str(world.refused(commands.RollBack()))
    started = next(event for event in reversed(world.journal) if isinstance(event, kinds.ConsolidationStarted))
    refuse(world, replace(started, attempt=world.state.attempts.last + 1))
    aborted = kinds.ConsolidationAborted(attempt=world.state.attempts.last, failure=None, message="m", retry_at=None)
    assert evolve(world.state, aborted).attempts.current is None
    refuse(world, replace(aborted, attempt=world.state.attempts.last + 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempt": 99},
        {"checkpoint": "step-00000099-attempt-0099"},
        {"parent": None},
        {"version": "v009"},
    ],
)
def test_one_begins_as_it_must_or_not_at_all(wrong: dict[str, Any]) -> None:
    world = lived(2)
    head = trained(world, 2)
    world.execute(commands.RequestConsolidation(description=""))
    right = kinds.ConsolidationStarted(
        attempt=world.state.attempts.last + 1,
        version="v002",
        parent="v001",
        checkpoint=head.id,
        backup="before-v002-attempt-0004",
    )
    assert evolve(world.state, right).consolidation.running is not None
    refuse(world, replace(right, **wrong))


def refuse(world: World, event: AnyEvent) -> None:
    with pytest.raises(IllegalEvent):
        evolve(world.state, event)


def test_of_several_detached_checkpoints_the_named_one_is_restored() -> None:
    world = lived(2)
    heads = []
    for _ in range(3):
        heads.append(trained(world, 1).id)
        world.execute(commands.RollBack())
    assert [left.checkpoint.id for left in world.state.head.detached] == heads
    world.execute(commands.MoveHead(checkpoint=heads[1]))
    assert world.state.head.checkpoint is not None
    assert world.state.head.checkpoint.id == heads[1]
    assert [left.checkpoint.id for left in world.state.head.detached] == [heads[0], heads[2]]


def test_a_backup_of_what_the_branch_still_has_does_not_detach_it() -> None:
    """What the head is moved to is the head, and nothing else besides."""
    world = lived()
    first = trained(world, 2)
    meaning = world.state.head.weight_settings
    assert meaning is not None
    held = DetachedCheckpoint(base=None, checkpoint=first, weight_settings=meaning)
    world.execute(commands.RecordBackup(backup="manual-0001", reason="", held=held, size_bytes=1, manifest_sha256=""))
    second = trained(world, 1)
    assert [each.id for each in world.state.head.checkpoints] == [first.id, second.id]
    world.execute(commands.MoveHead(backup="manual-0001"))
    assert [each.id for each in world.state.head.checkpoints] == [first.id]
    assert [left.checkpoint.id for left in world.state.head.detached] == [second.id]
    refuse(world, kinds.HeadMoved(version=None, checkpoint=second.id, backup="manual-0001"))


def test_moving_the_head_to_where_it_stands_or_to_nothing_is_refused() -> None:
    world = lived(1, 1)
    for command, reason in (
        (commands.MoveHead(version="v002"), "is already there"),
        (commands.MoveHead(version="v007"), "there is no version v007"),
        (commands.MoveHead(checkpoint="step-00000001-attempt-0001"), "there is no detached checkpoint"),
        (commands.MoveHead(backup="manual-0001"), "there is no backup manual-0001"),
    ):
        assert reason in str(world.refused(command))


def test_moving_the_head_cancels_a_requested_consolidation() -> None:
    world = lived(1)
    trained(world, 1)
    world.execute(commands.RequestConsolidation(description=""))
    world.execute(commands.RollBack())
    assert world.state.consolidation.request is None


def test_a_detached_checkpoint_is_restored_with_the_base_that_it_was_trained_on() -> None:
    world = lived()
    first = trained(world, 1)
    world.execute(commands.MoveHead())
    trained(world, 1)
    world.execute(commands.RequestConsolidation(description=""))
    world.run()
    second = trained(world, 1)
    world.execute(commands.RollBack())
    assert [(each.checkpoint.id, each.base) for each in world.state.head.detached] == [
        (first.id, None),
        (second.id, "v001"),
    ]
    world.execute(commands.MoveHead(checkpoint=second.id))
    assert (world.state.head.base, world.state.head.checkpoint) == ("v001", second)


def test_a_detached_checkpoint_in_a_backup_need_not_be_restored() -> None:
    world = backed_up([1])
    head = world.state.head.checkpoint
    world.execute(commands.MoveHead())
    world.execute(commands.MoveHead(backup="manual-0001"))
    assert world.state.head.checkpoint == head
    assert world.state.head.pending_restore is None
