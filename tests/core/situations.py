"""Situations that several tests start from."""

from __future__ import annotations

from core import commands
from core.values import Checkpoint, DetachedCheckpoint
from events import kinds
from events.event import Event
from tests.core.world import START, World


def lived(*steps: int) -> World:
    """A world in which each file is trained and consolidated."""
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
    assert world.state.head.checkpoint is not None
    return world.state.head.checkpoint


def backed_up(days: list[float]) -> World:
    """A world with backups of these ages, in days."""
    world = lived()
    trained(world, 1)
    state = world.state
    assert state.head.checkpoint is not None
    assert state.head.weight_settings is not None
    for number, age in enumerate(days, 1):
        world.now = START - age * 86_400.0
        held = DetachedCheckpoint(
            base=None, checkpoint=state.head.checkpoint, weight_settings=state.head.weight_settings
        )
        world.execute(
            commands.RecordBackup(
                backup=f"manual-{number:04d}", reason="", held=held, size_bytes=7, manifest_sha256="ab" * 32
            )
        )
    world.now = START
    return world


def checkpoint(step: int) -> Checkpoint:
    """A checkpoint at this step."""
    return Checkpoint(
        id=f"{step}", job="", attempt=1, global_step=step, step=step, parent=None, size_bytes=1, manifest_sha256=""
    )


def at_work(until: type[Event] = kinds.CheckpointCommitted, *, steps: int = 6) -> World:
    """A world whose job has come so far."""
    world = World()
    world.start()
    world.add(steps)
    world.run_until(until)
    return world


def tags(events: list[kinds.AnyEvent]) -> list[str]:
    """Their kinds."""
    return [type(event).__name__ for event in events]
