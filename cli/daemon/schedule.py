"""What the daemon looks at from time to time: whether a night is due, how much room the disk has, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cli.config.schema import Config, zone_of
from cli.daemon.resource_monitor import ResourceMonitor
from cli.home.event_store import EventStore
from core.commands import MeasureDisk, MeasureMemory, RequestConsolidation
from core.decide import decide
from core.topics.consolidation_request import date_due
from events.kinds import AnyEvent
from events.settings import ConsolidationSettings


def ask_for_the_night(store: EventStore, settings: ConsolidationSettings) -> Sequence[AnyEvent]:
    """Journal that a consolidation is wanted, if the schedule says so now; what was journaled. Raises UserError."""
    if not settings.schedule:
        return ()
    night = date_due(settings, zone_of(settings), store.state, store.home.clock.now())
    if night is None:
        return ()
    return store.execute(
        RequestConsolidation(description=f"what was learned up to {night}", after_current=True, scheduled_for=night)
    )


def measure(store: EventStore, config: Config, room: ResourceMonitor, *, at_once: bool = False) -> Iterator[AnyEvent]:
    """Hold the limits of the config against disk and memory, every few seconds or `at_once`; what was journaled.

    Raises OSError.
    """
    if not room.is_due(at_once=at_once):
        return
    limits, state = config.disk, store.state
    if (
        limits.soft_gb or limits.hard_gb or state.disk.low or state.disk.full is not None
    ):  # they may have been lowered since
        yield from store.execute(MeasureDisk(free_bytes=room.free_bytes(), disk=limits, retention=config.retention))
    machine = room.machine()
    if machine is None:
        return
    store.show_machine(machine)
    memory = machine.memory
    command = MeasureMemory(
        total_bytes=memory.total_bytes,
        available_bytes=memory.available_bytes,
        worker_bytes=memory.worker_bytes,
        groups=tuple((each.total_bytes, each.available_bytes) for each in memory.groups),
        limits=config.memory,
    )
    if decide(store.state, command, machine.at):  # nearly never: the lock is for when there is something to say
        yield from store.execute(command)


def by_the_clock(store: EventStore, config: Config, room: ResourceMonitor) -> Iterator[AnyEvent]:
    """What schedule and limits of the config ask for now, and what the daemon costs; what was journaled.

    Raises UserError, OSError.
    """
    if store.state.daemon.status in {"idle", "working"}:
        yield from ask_for_the_night(store, config.consolidation)
    yield from measure(store, config, room)
    store.meter.lap("schedule and room")
    store.meter.turned(training=store.state.attempts.current is not None)
    if (cost := store.meter.due()) is not None:
        yield from store.execute(cost)
