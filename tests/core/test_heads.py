"""Where the head goes: by a consolidation, by a person; and that the way back stays open."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from core import commands
from core.errors import IllegalEvent
from core.evolve import evolve
from core.versions import Checkpoint, DetachedCheckpoint
from events import versions
from events.kinds import AnyEvent
from tests.core.world import World, settings


def lived(*steps: int) -> World:
    """A world in which each file is learned and consolidated."""
    world = World()
    world.start()
    for count in steps:
        world.add(count)
        world.execute(commands.RequestConsolidation(description=f"{count} steps"))
        world.run()
    return world


def trained(world: World, steps: int) -> Checkpoint:
    world.add(steps)
    world.run()
    assert world.state.head is not None
    return world.state.head


def test_a_consolidation_moves_the_head_and_learning_begins_anew_beside_the_version() -> None:
    world = lived(4)
    state = world.state
    assert (state.base, state.head, state.global_step) == ("v001", None, 4)
    assert state.left == ()
    assert state.replay_ranges == ()
    assert [version.description for version in state.versions] == ["4 steps"]
    head = trained(world, 2)
    assert (head.global_step, head.parent) == (6, None)


def test_each_version_is_built_on_the_one_before() -> None:
    state = lived(2, 3, 4).state
    assert [(each.id, each.parent, each.global_step) for each in state.versions] == [
        ("v001", None, 2),
        ("v002", "v001", 5),
        ("v003", "v002", 9),
    ]
    assert [each.held.base for each in state.backups] == [None, "v001", "v002"]


def test_what_is_left_behind_can_be_gone_back_to() -> None:
    world = lived(2)
    head = trained(world, 3)
    world.execute(commands.RollBack())
    assert (world.state.base, world.state.head, world.state.global_step) == ("v001", None, 2)
    assert [left.checkpoint.id for left in world.state.left] == [head.id]
    other = trained(world, 2)
    assert other.global_step == 4
    world.execute(commands.MoveHead(checkpoint=head.id))
    assert world.state.head == head
    assert [left.checkpoint.id for left in world.state.left] == [other.id]
    assert trained(world, 1).parent == head.id


def test_rolled_back_again_and_again_it_ends_at_the_origin() -> None:
    world = lived(2, 2)
    world.execute(commands.RollBack())
    assert world.state.base == "v001"
    world.execute(commands.RollBack())
    assert (world.state.base, world.state.global_step, world.state.meaning) == (None, 0, None)  # type: ignore[comparison-overlap]
    assert "nothing to roll back" in str(world.refused(commands.RollBack()))
    world.execute(commands.MoveHead(version="v002"))
    assert world.state.global_step == 4
    assert world.state.meaning is not None


def test_a_version_behind_a_rollback_has_a_number_of_its_own() -> None:
    world = lived(2, 2)
    world.execute(commands.MoveHead(version="v001"))
    trained(world, 1)
    world.execute(commands.RequestConsolidation(description="another way"))
    world.run()
    assert [(each.id, each.parent) for each in world.state.versions][-1] == ("v003", "v001")


def given_up_behind_a_commit(world: World) -> None:
    """Some of the job's steps are committed; then its worker is lost as often as it takes."""
    for _ in world.steady():
        if world.state.head is not None:
            break
    for _ in range(5):
        world.lose_worker("code")
        world.now += 100
        world.turn()


def test_a_job_that_was_learned_in_part_begins_anew_behind_a_rollback() -> None:
    """Its committed steps are not in the head any more."""
    world = lived(2)
    job = world.add(6)
    world.config = settings(every_steps=2)
    given_up_behind_a_commit(world)
    failed = world.state.failed.get(job)
    assert failed is not None
    assert failed.committed_step == 2
    world.execute(commands.RollBack())
    failed = world.state.failed.get(job)
    assert failed is not None
    assert failed.committed_step == 0
    world.execute(commands.Retry(job=job))
    world.run()
    assert world.state.global_step == 8


def test_one_that_waits_after_a_retry_does_too() -> None:
    world = lived(2)
    job = world.add(6)
    given_up_behind_a_commit(world)
    world.execute(commands.Retry(job=job))
    waiting = world.state.queue.get(job)
    assert waiting is not None
    assert waiting.committed_step == 2
    world.execute(commands.RollBack())
    waiting = world.state.queue.get(job)
    assert waiting is not None
    assert waiting.committed_step == 0


def test_the_head_is_not_moved_under_a_job_that_is_in_hand() -> None:
    world = lived(2)
    world.add(4)
    world.turn()
    assert "something runs" in str(world.refused(commands.RollBack()))
    world.start()
    assert "is learned in part" in str(world.refused(commands.RollBack()))


def test_what_a_backup_holds_is_brought_back_before_anything_goes_on() -> None:
    world = lived(2)
    (backup,) = world.state.backups
    world.execute(commands.MoveHead(backup=backup.id))
    assert (world.state.fetch, world.state.base) == (backup.id, None)
    assert world.state.head is not None
    refuse(world, versions.CheckpointRestored(checkpoint="step-00000009-attempt-0009"))
    world.add(1)
    assert [type(effect).__name__ for effect in world.pending_effects()] == ["RestoreCheckpoint"]
    world.run()
    assert world.state.fetch is None
    assert world.state.global_step == 3


def test_what_was_set_aside_and_is_brought_back_stands_in_its_place_again() -> None:
    """Its name is no word for something damaged any more: whoever sweeps would carry the good copy away."""
    world = World()
    world.start()
    world.add(1)
    world.run()
    head = world.state.head
    assert head is not None
    held = DetachedCheckpoint(base=None, checkpoint=head, meaning=world.state.meaning)
    world.execute(
        commands.RecordBackup(backup="manual-0001", reason="r", held=held, size_bytes=1, manifest_sha256="cc" * 32)
    )
    world.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="a flipped bit"))
    world.run()
    assert world.state.quarantined == (head.id,)
    world.execute(commands.MoveHead(backup="manual-0001"))
    assert world.state.quarantined == (head.id,)  # as long as the copy is not there
    world.run()
    assert world.state.head == head
    assert world.state.quarantined == ()  # type: ignore[comparison-overlap]


def test_what_the_head_was_moved_from_while_it_was_copied_keeps_its_own_meaning() -> None:
    """Somebody moves it back to the origin, where nothing means anything yet; or gives the checkpoint up as well."""
    world = World()
    world.start()
    world.add(1)
    world.run()
    head, meaning = world.state.head, world.state.meaning
    assert head is not None
    assert meaning is not None
    held = DetachedCheckpoint(base=None, checkpoint=head, meaning=meaning)
    made = commands.RecordBackup(backup="manual-0001", reason="r", held=held, size_bytes=1, manifest_sha256="cc" * 32)
    world.execute(commands.RollBack())
    assert world.state.meaning is None
    world.execute(made)
    assert [backup.held.meaning for backup in world.state.backups] == [meaning]
    world.execute(commands.DeleteVersion(version=head.id))
    assert "was moved away from" in str(world.refused(replace(made, backup="manual-0002")))


def test_a_head_that_was_never_brought_back_is_not_left_behind() -> None:
    """It stands in its backup, and nowhere else."""
    world = lived(2)
    (backup,) = world.state.backups
    world.execute(commands.MoveHead(backup=backup.id))
    world.execute(commands.MoveHead(version="v001"))
    assert world.state.left == ()
    assert world.state.fetch is None
    world.execute(commands.MoveHead(backup=backup.id))
    world.run()
    assert world.state.head is not None


def test_a_bad_checkpoint_beside_a_version_is_run_again_from_the_version() -> None:
    world = lived(2)
    head = trained(world, 2)
    world.start()
    world.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="a flipped bit"))
    assert (world.state.head, world.state.base, world.state.global_step) == (None, "v001", 2)
    world.run()
    assert world.state.global_step == 4
    assert not world.lost


@pytest.mark.parametrize(
    "event",
    [
        versions.HeadMoved(version="v009", checkpoint=None, backup=None),
        versions.HeadMoved(version=None, checkpoint="step-00000009-attempt-0009", backup=None),
        versions.VersionDeleted(version="v002", size_bytes=1, by="person"),
        versions.VersionDeleted(version="v009", size_bytes=1, by="person"),
        versions.BackupDeleted(backup="manual-0009", size_bytes=1, by="person"),
        versions.CheckpointRestored(checkpoint="step-00000009-attempt-0009"),
        versions.ConsolidationCancelled(message="m"),
        versions.ConsolidationMerged(attempt=9, applied=None, in_place=None),
        versions.ConsolidationStarted(
            attempt=9, version="v003", parent="v002", checkpoint="step-00000009-attempt-0009", backup="manual-0001"
        ),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(event: AnyEvent) -> None:
    state = lived(2, 2).state
    with pytest.raises(IllegalEvent):
        evolve(state, event)
    assert state.base == "v002"


def consolidating() -> World:
    """A world in the middle of one."""
    world = lived(2)
    trained(world, 2)
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(versions.ConsolidationStarted)
    return world


def test_nothing_moves_the_head_or_begins_another_while_one_runs() -> None:
    world = consolidating()
    refuse(world, versions.HeadMoved(version=None, checkpoint=None, backup=None))
    assert "something runs" in str(world.refused(commands.RollBack()))
    started = next(event for event in reversed(world.journal) if isinstance(event, versions.ConsolidationStarted))
    refuse(world, replace(started, attempt=world.state.attempts + 1))
    aborted = versions.ConsolidationAborted(attempt=world.state.attempts, failure=None, message="m", retry_at=None)
    assert evolve(world.state, aborted).attempt is None
    refuse(world, replace(aborted, attempt=world.state.attempts + 1))


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
    right = versions.ConsolidationStarted(
        attempt=world.state.attempts + 1,
        version="v002",
        parent="v001",
        checkpoint=head.id,
        backup="before-v002-attempt-0004",
    )
    assert evolve(world.state, right).consolidation is not None
    refuse(world, replace(right, **wrong))


def refuse(world: World, event: AnyEvent) -> None:
    with pytest.raises(IllegalEvent):
        evolve(world.state, event)


def test_of_several_that_were_left_behind_the_one_that_is_named_is_gone_back_to() -> None:
    world = lived(2)
    heads = []
    for _ in range(3):
        heads.append(trained(world, 1).id)
        world.execute(commands.RollBack())
    assert [left.checkpoint.id for left in world.state.left] == heads
    world.execute(commands.MoveHead(checkpoint=heads[1]))
    assert world.state.head is not None
    assert world.state.head.id == heads[1]
    assert [left.checkpoint.id for left in world.state.left] == [heads[0], heads[2]]


def test_a_backup_of_what_the_branch_still_has_does_not_leave_it_behind() -> None:
    """What the head is moved to is the head, and nothing else besides."""
    world = lived()
    first = trained(world, 2)
    meaning = world.state.meaning
    assert meaning is not None
    held = DetachedCheckpoint(base=None, checkpoint=first, meaning=meaning)
    world.execute(commands.RecordBackup(backup="manual-0001", reason="", held=held, size_bytes=1, manifest_sha256=""))
    second = trained(world, 1)
    assert [each.id for each in world.state.checkpoints] == [first.id, second.id]
    world.execute(commands.MoveHead(backup="manual-0001"))
    assert [each.id for each in world.state.checkpoints] == [first.id]
    assert [left.checkpoint.id for left in world.state.left] == [second.id]
    refuse(world, versions.HeadMoved(version=None, checkpoint=second.id, backup="manual-0001"))
