"""A full disk: when work stops, and when it resumes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from core import commands
from core.state import State
from core.structures.situations import DiskFull
from core.topics.disk import MARGIN_BYTES, Disk, bytes_wanted
from core.topics.head import Head
from events import kinds
from tests.core.situations import checkpoint
from tests.core.test_decide import full, idle, off, paused, running_again, waiting
from tests.core.world import ROOMY, World, job_id


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [((), MARGIN_BYTES), ((10,), MARGIN_BYTES + 20), ((10, 70, 30), MARGIN_BYTES + 140)],
)
def test_room_is_wanted_for_twice_the_largest_checkpoint_that_is_kept(sizes: tuple[int, ...], wanted: int) -> None:
    """And a margin for all the rest; before the first commit, for that alone."""
    kept = tuple(replace(checkpoint(step), size_bytes=size) for step, size in enumerate(sizes, 1))
    assert bytes_wanted(State(head=Head(checkpoints=kept))) == wanted


@pytest.mark.parametrize("situation", [off, idle, waiting, paused, running_again])
def test_a_full_disk_is_journaled_once(situation: Callable[[], World]) -> None:
    """With a daemon or without one; with the room that is wanted. Nobody is asked, and nothing else changes."""
    world = situation()
    before, wanted = world.state, bytes_wanted(world.state)
    assert world.runs_out() == [kinds.StorageExhausted(message="the disk is full", wanted_bytes=wanted)]
    assert world.runs_out() == []
    assert world.state == replace(before, disk=Disk(full=DiskFull("the disk is full", wanted)))


@pytest.mark.parametrize("situation", [off, idle, full, paused])
def test_room_is_found_when_it_is_enough(situation: Callable[[], World]) -> None:
    """And only on a disk that was full."""
    world = situation()
    assert world.execute(commands.ReportDiskFree(free_bytes=ROOMY)) == (
        [kinds.StorageFreed(free_bytes=ROOMY)] if situation is full else []
    )
    assert world.state.disk.full is None


def test_a_byte_too_little_is_no_room() -> None:
    """As much as was said when it was full, whatever would be wanted now."""
    world = full()
    assert world.state.disk.full is not None
    wanted = world.state.disk.full.wanted_bytes
    assert world.execute(commands.ReportDiskFree(free_bytes=wanted - 1)) == []
    assert world.execute(commands.ReportDiskFree(free_bytes=wanted)) == [kinds.StorageFreed(free_bytes=wanted)]


def test_a_full_disk_outlives_the_daemon() -> None:
    """The next one waits on, and finds room itself."""
    world = full()
    world.start()
    assert world.state.disk.full is not None
    world.run()
    assert world.ends == {}
    world.free_bytes = ROOMY
    world.run()
    assert world.ends == {job_id(1): ["JobTrained"], job_id(2): ["JobTrained"]}
