"""The limits in [disk]: the soft one and the hard one."""

from __future__ import annotations

from typing import Literal

from core import commands
from core.topics.disk import MARGIN_BYTES
from core.topics.disk_limits import limits_in_bytes
from events import kinds
from events.codec import kind_of
from events.settings import (
    DiskSettings,
    RetentionSettings,
)
from tests.core.situations import backed_up, lived, trained
from tests.core.world import World

GB = 10**9


Limit = float | Literal["auto"]


def measured(
    world: World, free_gb: float, *, soft: Limit = 0.0, hard: Limit = 0.0, total_gb: float = 0, model_gb: float = 0
) -> list[str]:
    order = commands.MeasureDisk(
        free_bytes=int(free_gb * GB),
        total_bytes=int(total_gb * GB),
        model_bytes=int(model_gb * GB),
        disk=DiskSettings(soft_gb=soft, hard_gb=hard),
        retention=RetentionSettings(),
    )
    return [kind_of(event) for event in world.execute(order)]


def test_below_the_soft_limit_what_may_go_goes_at_once_and_it_is_said_once() -> None:
    world = lived(1)
    trained(world, 5)
    assert len(world.state.head.checkpoints) == 2
    assert measured(world, 3, soft=4) == ["storage_low", "checkpoint_pruned"]
    assert world.state.disk.low
    assert measured(world, 3, soft=4) == []
    assert measured(world, 4.1, soft=4) == []  # it hovers
    assert measured(world, 5, soft=4) == ["storage_recovered"]
    assert not world.state.disk.low


def test_what_is_trained_meanwhile_is_abandoned_too() -> None:
    world = backed_up([3, 2, 1])
    assert measured(world, 3, soft=4) == ["storage_low", "backup_deleted", "backup_deleted"]
    trained(world, 6)
    assert measured(world, 3, soft=4) == ["checkpoint_pruned"]


def test_below_the_hard_limit_work_ends_and_waits_for_room() -> None:
    world = lived()
    world.add(6)
    world.run_until(kinds.CheckpointCommitted)
    assert measured(world, 1, hard=2) == ["attempt_failed", "storage_exhausted"]
    assert world.state.disk.full is not None
    assert world.state.disk.full.wanted_bytes >= 2.2 * GB
    assert "hard_gb" in world.state.disk.full.message
    world.free_bytes = 2 * GB
    world.turn()
    assert world.state.disk.full is not None
    world.free_bytes = 3 * GB
    world.run()
    assert world.state.head.global_step == 6
    assert not world.lost


def test_a_hard_limit_that_is_lowered_is_not_waited_for_any_more() -> None:
    """What was wanted under the old one might never be free."""
    world = lived()
    world.add(6)
    world.run_until(kinds.CheckpointCommitted)
    assert measured(world, 1, hard=1000) == ["attempt_failed", "storage_exhausted"]
    assert measured(world, 1, hard=1000) == []
    assert measured(world, 1, hard=2) == ["storage_exhausted"]
    assert world.state.disk.full is not None
    assert world.state.disk.full.wanted_bytes == int(2.2 * GB)
    assert "hard_gb = 2" in world.state.disk.full.message
    assert measured(world, 1, hard=0) == ["storage_exhausted"]
    assert measured(world, 1, hard=0) == []
    world.free_bytes = 1 * GB
    world.run()
    assert world.state.head.global_step == 6
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
    world.run_until(kinds.ConsolidationStarted)
    assert measured(world, 1, hard=2) == ["consolidation_aborted", "storage_exhausted"]
    world.free_bytes = 3 * GB
    world.run()
    assert world.state.head.base == "v001"


def test_automatic_limits_follow_from_the_sizes_of_what_the_home_has() -> None:
    """Before the first version, the model stands for one; before the first backup, a checkpoint does."""
    world = lived()
    auto = DiskSettings(soft_gb="auto", hard_gb="auto")
    empty = limits_in_bytes(world.state, auto, total_bytes=0, model_bytes=7)
    assert empty == (2 * MARGIN_BYTES + 7, MARGIN_BYTES)
    trained(world, 3)
    checkpoint = max(each.size_bytes for each in world.state.head.checkpoints) + MARGIN_BYTES
    assert limits_in_bytes(world.state, auto, total_bytes=0, model_bytes=7) == (2 * checkpoint + 7, checkpoint)
    assert limits_in_bytes(world.state, auto, total_bytes=1000 * GB, model_bytes=7).soft == 50 * GB
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.VersionPublished)
    (version,), (backup,) = world.state.retention.versions, world.state.retention.backups
    soft = MARGIN_BYTES + version.size_bytes + backup.size_bytes
    assert limits_in_bytes(world.state, auto, total_bytes=0, model_bytes=7) == (soft, MARGIN_BYTES)
    off = DiskSettings(soft_gb=1.5, hard_gb=0.0)
    assert limits_in_bytes(world.state, off, total_bytes=1000 * GB, model_bytes=7) == (1.5 * GB, 0)


def test_automatic_limits_delete_and_wait_as_given_ones_do() -> None:
    world = lived(1)
    trained(world, 5)
    assert measured(world, 49, soft="auto", total_gb=1000) == ["storage_low", "checkpoint_pruned"]
    assert measured(world, 56, soft="auto", total_gb=1000) == ["storage_recovered"]
    assert measured(world, 0.001, hard="auto") == ["storage_exhausted"]
    assert world.state.disk.full is not None
    assert 'hard_gb = "auto" (0.01 GB)' in world.state.disk.full.message
