"""What may be given up, what stays whatever anybody says, and what retention does by itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands, policies
from core.decide import decide
from core.versions import DetachedCheckpoint
from events import kinds, versions
from events.codec import kind_of
from events.settings import CheckpointSettings, DiskSettings, RetentionSettings
from tests.core.test_heads import lived, trained
from tests.core.world import START, World

DAY = policies.DAY_S


@pytest.mark.parametrize(
    ("version", "reason"),
    [("v003", "the head stands on it"), ("v002", "v003 is built on it"), ("v009", "there is no version v009")],
)
def test_a_version_that_is_needed_is_not_deleted(version: str, reason: str) -> None:
    assert reason in str(lived(1, 1, 1).refused(commands.DeleteVersion(version=version)))


def test_one_that_something_left_behind_needs_is_not_deleted_before_that() -> None:
    world = lived(1, 1)
    head = trained(world, 1)
    world.execute(commands.MoveHead(version="v001"))
    assert f"{head.id} was learned beside it" in str(world.refused(commands.DeleteVersion(version="v002")))
    world.execute(commands.DeleteVersion(version=head.id))
    world.execute(commands.DeleteVersion(version="v002"))
    assert [version.id for version in world.state.versions] == ["v001"]
    assert world.state.left == ()


def test_retention_keeps_the_newest_versions_and_what_is_stood_on() -> None:
    world = lived(1, 1, 1, 1)
    world.execute(commands.Retain(retention=RetentionSettings(versions=2, backups=9)))
    assert [version.id for version in world.state.versions] == ["v003", "v004"]
    world = lived(1, 1, 1, 1)
    world.execute(commands.MoveHead(version="v001"))
    world.execute(commands.Retain(retention=RetentionSettings(versions=1, backups=9)))
    assert [version.id for version in world.state.versions] == ["v001", "v004"]


def test_by_default_no_version_goes() -> None:
    world = lived(1, 1, 1)
    assert world.execute(commands.Retain(retention=RetentionSettings())) == []


def backed_up(days: list[float]) -> World:
    """A world with backups of these ages, in days."""
    world = lived()
    trained(world, 1)
    state = world.state
    assert state.head is not None
    assert state.meaning is not None
    for number, age in enumerate(days, 1):
        world.now = START - age * DAY
        held = DetachedCheckpoint(base=None, checkpoint=state.head, meaning=state.meaning)
        world.execute(
            commands.RecordBackup(
                backup=f"manual-{number:04d}", reason="", held=held, size_bytes=7, manifest_sha256="ab" * 32
            )
        )
    world.now = START
    return world


def left(world: World) -> list[str]:
    return [backup.id[-1] for backup in world.state.backups]


def test_of_backups_the_newest_stay_and_the_young() -> None:
    world = backed_up([50, 40, 20, 10, 1])
    world.execute(commands.Retain(retention=RetentionSettings(backups=2, days=30)))
    assert left(world) == ["3", "4", "5"]
    world = backed_up([50, 40])
    assert world.execute(commands.Retain(retention=RetentionSettings(backups=2, days=30))) == []


def test_a_person_may_give_up_all_backups_but_the_newest() -> None:
    world = backed_up([50, 40, 20])
    assert "no backup is older than 60 days" in str(world.refused(commands.DeleteBackups(older_than_days=60)))
    would = decide(world.state, commands.DeleteBackups(older_than_days=30), world.now)
    assert would == [
        versions.BackupDeleted(backup=f"manual-000{number}", size_bytes=7, by="person") for number in (1, 2)
    ]
    world.execute(commands.DeleteBackups(older_than_days=0))
    assert left(world) == ["3"]


def test_a_backup_that_the_head_is_brought_back_from_stays() -> None:
    world = backed_up([50, 1])
    trained(world, 1)
    world.execute(commands.MoveHead(backup="manual-0001"))
    assert world.state.fetch == "manual-0001"
    assert world.refused(commands.DeleteBackups(older_than_days=0)) is not None


def test_moving_the_head_to_where_it_stands_or_to_nothing_is_refused() -> None:
    world = lived(1, 1)
    for command, reason in (
        (commands.MoveHead(version="v002"), "stands there already"),
        (commands.MoveHead(version="v007"), "there is no version v007"),
        (commands.MoveHead(checkpoint="step-00000001-attempt-0001"), "no checkpoint that was left behind"),
        (commands.MoveHead(backup="manual-0001"), "there is no backup manual-0001"),
    ):
        assert reason in str(world.refused(command))


def test_a_head_that_is_moved_takes_the_wish_for_a_consolidation_with_it() -> None:
    world = lived(1)
    trained(world, 1)
    world.execute(commands.RequestConsolidation(description=""))
    world.execute(commands.RollBack())
    assert world.state.consolidation_request is None


GB = 10**9


def measured(world: World, free_gb: float, *, soft: float = 0.0, hard: float = 0.0) -> list[str]:
    disk = DiskSettings(soft_gb=soft, hard_gb=hard)
    order = commands.MeasureDisk(free_bytes=int(free_gb * GB), disk=disk, retention=RetentionSettings())
    return [kind_of(event) for event in world.execute(order)]


def test_below_the_soft_limit_what_may_go_goes_at_once_and_it_is_said_once() -> None:
    world = lived(1)
    trained(world, 5)
    assert len(world.state.checkpoints) == 2
    assert measured(world, 3, soft=4) == ["storage_low", "checkpoint_pruned"]
    assert world.state.low
    assert measured(world, 3, soft=4) == []
    assert measured(world, 4.1, soft=4) == []  # it hovers
    assert measured(world, 5, soft=4) == ["storage_recovered"]
    assert not world.state.low


def test_what_is_learned_meanwhile_is_given_up_too() -> None:
    world = backed_up([3, 2, 1])
    assert measured(world, 3, soft=4) == ["storage_low", "backup_deleted", "backup_deleted"]
    trained(world, 6)
    assert measured(world, 3, soft=4) == ["checkpoint_pruned"]


def test_below_the_hard_limit_work_ends_and_waits_for_room() -> None:
    world = lived()
    world.add(6)
    world.run_until(kinds.CheckpointCommitted)
    assert measured(world, 1, hard=2) == ["attempt_failed", "storage_exhausted"]
    assert world.state.full is not None
    assert world.state.full.wanted_bytes >= 2.2 * GB
    assert "hard_gb" in world.state.full.message
    world.free_bytes = 2 * GB
    world.turn()
    assert world.state.full is not None
    world.free_bytes = 3 * GB
    world.run()
    assert world.state.global_step == 6
    assert not world.lost


def test_a_hard_limit_that_is_lowered_is_not_waited_for_any_more() -> None:
    """What was wanted under the old one might never be free."""
    world = lived()
    world.add(6)
    world.run_until(kinds.CheckpointCommitted)
    assert measured(world, 1, hard=1000) == ["attempt_failed", "storage_exhausted"]
    assert measured(world, 1, hard=1000) == []
    assert measured(world, 1, hard=2) == ["storage_exhausted"]
    assert world.state.full is not None
    assert world.state.full.wanted_bytes == int(2.2 * GB)
    assert "wants 2 left" in world.state.full.message
    assert measured(world, 1, hard=0) == ["storage_exhausted"]
    assert measured(world, 1, hard=0) == []
    world.free_bytes = 1 * GB
    world.run()
    assert world.state.global_step == 6
    assert not world.lost


def test_a_soft_limit_that_is_turned_off_is_no_want_of_room() -> None:
    """Nothing is low any more."""
    world = lived(1)
    trained(world, 5)
    measured(world, 3, soft=4)
    assert measured(world, 3, soft=0) == ["storage_recovered"]


def test_a_consolidation_ends_below_the_hard_limit_too_and_is_made_when_there_is_room() -> None:
    world = lived()
    trained(world, 1)
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(versions.ConsolidationStarted)
    assert measured(world, 1, hard=2) == ["consolidation_aborted", "storage_exhausted"]
    world.free_bytes = 3 * GB
    world.run()
    assert world.state.base == "v001"


def test_a_checkpoint_behind_each_multiple_of_some_steps_stays() -> None:
    world = lived()
    world.config = replace(
        world.config, checkpoints=CheckpointSettings(every_steps=2, every_seconds=0, keep=1, keep_every_steps=5)
    )
    trained(world, 17)
    assert [checkpoint.global_step for checkpoint in world.state.checkpoints] == [6, 10, 16, 17]


def test_what_was_left_behind_is_gone_back_to_beside_what_it_was_learned_beside() -> None:
    world = lived()
    first = trained(world, 1)
    world.execute(commands.MoveHead())
    trained(world, 1)
    world.execute(commands.RequestConsolidation(description=""))
    world.run()
    second = trained(world, 1)
    world.execute(commands.RollBack())
    assert [(each.checkpoint.id, each.base) for each in world.state.left] == [(first.id, None), (second.id, "v001")]
    world.execute(commands.MoveHead(checkpoint=second.id))
    assert (world.state.base, world.state.head) == ("v001", second)


def test_what_a_backup_holds_and_was_left_behind_need_not_be_brought_back() -> None:
    world = backed_up([1])
    head = world.state.head
    world.execute(commands.MoveHead())
    world.execute(commands.MoveHead(backup="manual-0001"))
    assert world.state.head == head
    assert world.state.fetch is None
