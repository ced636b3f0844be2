"""What may be deleted, what stays in any case, and what retention does by itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands
from core.decide import decide
from core.topics.retention import checkpoints_to_prune
from events import kinds
from events.settings import (
    CheckpointSettings,
    RetentionSettings,
)
from tests.core.situations import backed_up, checkpoint, lived, trained
from tests.core.world import World

DAY = 86_400.0


@pytest.mark.parametrize(
    ("version", "reason"),
    [("v003", "the head was trained from it"), ("v002", "v003 was built on it"), ("v009", "there is no version v009")],
)
def test_a_version_that_is_needed_is_not_deleted(version: str, reason: str) -> None:
    assert reason in str(lived(1, 1, 1).refused(commands.DeleteVersion(version=version)))


def test_one_that_a_detached_checkpoint_needs_is_not_deleted_before_it() -> None:
    world = lived(1, 1)
    head = trained(world, 1)
    world.execute(commands.MoveHead(version="v001"))
    assert f"{head.id} was trained from it" in str(world.refused(commands.DeleteVersion(version="v002")))
    world.execute(commands.DeleteVersion(version=head.id))
    world.execute(commands.DeleteVersion(version="v002"))
    assert [version.id for version in world.state.retention.versions] == ["v001"]
    assert world.state.head.detached == ()


def test_a_detached_checkpoint_keeps_no_version_but_its_own() -> None:
    world = lived(1, 1)
    trained(world, 1)
    world.execute(commands.MoveHead(version="v001"))
    trained(world, 1)
    world.execute(commands.RequestConsolidation(description="another way"))
    world.run()
    world.execute(commands.MoveHead(version="v001"))
    world.execute(commands.DeleteVersion(version="v003"))
    assert [version.id for version in world.state.retention.versions] == ["v001", "v002"]


def test_retention_keeps_the_newest_versions_and_what_is_stood_on() -> None:
    world = lived(1, 1, 1, 1)
    world.execute(commands.Retain(retention=RetentionSettings(versions=2, backups=9)))
    assert [version.id for version in world.state.retention.versions] == ["v003", "v004"]
    world = lived(1, 1, 1, 1)
    world.execute(commands.MoveHead(version="v001"))
    world.execute(commands.Retain(retention=RetentionSettings(versions=1, backups=9)))
    assert [version.id for version in world.state.retention.versions] == ["v001", "v004"]


def test_by_default_no_version_goes() -> None:
    world = lived(1, 1, 1)
    assert world.execute(commands.Retain(retention=RetentionSettings())) == []


def left(world: World) -> list[str]:
    return [backup.id[-1] for backup in world.state.retention.backups]


def test_of_backups_the_newest_stay_and_the_young() -> None:
    world = backed_up([50, 40, 20, 10, 1])
    world.execute(commands.Retain(retention=RetentionSettings(backups=2, days=30)))
    assert left(world) == ["3", "4", "5"]
    world = backed_up([50, 40])
    assert world.execute(commands.Retain(retention=RetentionSettings(backups=2, days=30))) == []


def test_a_person_may_delete_all_backups_but_the_newest() -> None:
    world = backed_up([50, 40, 20])
    assert "no backup is older than 60 days" in str(world.refused(commands.DeleteBackups(older_than_days=60)))
    would = decide(world.state, commands.DeleteBackups(older_than_days=30), world.now)
    assert would == [kinds.BackupDeleted(backup=f"manual-000{number}", size_bytes=7, by="person") for number in (1, 2)]
    world.execute(commands.DeleteBackups(older_than_days=0))
    assert left(world) == ["3"]


def test_a_backup_that_the_head_is_restored_from_stays() -> None:
    world = backed_up([50, 1])
    trained(world, 1)
    world.execute(commands.MoveHead(backup="manual-0001"))
    assert world.state.head.pending_restore == "manual-0001"
    assert world.refused(commands.DeleteBackups(older_than_days=0)) is not None


def test_a_checkpoint_after_each_multiple_of_some_steps_stays() -> None:
    world = lived()
    world.config = replace(
        world.config, checkpoints=CheckpointSettings(every_steps=2, every_seconds=0, keep=1, keep_every_steps=5)
    )
    trained(world, 17)
    assert [checkpoint.global_step for checkpoint in world.state.head.checkpoints] == [6, 10, 16, 17]


@pytest.mark.parametrize(
    ("steps", "keep", "pruned"),
    [
        ([], 2, []),
        ([1], 1, []),
        ([1, 2], 1, [1]),
        ([1, 2, 3, 4], 2, [1, 2]),
        ([1, 2], 5, []),
        ([1, 2], 0, [1]),
    ],
)
def test_the_newest_stay_and_the_head_always(steps: list[int], keep: int, pruned: list[int]) -> None:
    """Oldest first; whatever `keep` says, the newest is never deleted."""
    assert [each.global_step for each in checkpoints_to_prune([checkpoint(step) for step in steps], keep)] == pruned
