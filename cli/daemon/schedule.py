"""Periodic work of the daemon: nightly consolidations, the limits on disk and memory, the daemon's own cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cli.config.checks.together import time_zone
from cli.config.schema import Config
from cli.daemon.resource_monitor import ResourceMonitor
from cli.home.event_store import EventStore
from core.commands import MeasureDisk, MeasureMemory, RequestConsolidation
from core.decide import decide
from core.topics.consolidation_request import date_due
from events.kinds import AnyEvent
from events.settings import ConsolidationSettings


def request_nightly_consolidation(store: EventStore, settings: ConsolidationSettings) -> Sequence[AnyEvent]:
    """Request a consolidation if the schedule of the config has one due; return what was journaled.

    Raises UserError.
    """
    if not settings.schedule:
        return ()
    night = date_due(settings, time_zone(settings), store.state, store.home.clock.now())
    if night is None:
        return ()
    description = f"what was trained up to {night}"
    return store.execute(RequestConsolidation(description=description, after_current=True, scheduled_for=night))


def check_resources(
    store: EventStore, config: Config, monitor: ResourceMonitor, *, at_once: bool = False
) -> Iterator[AnyEvent]:
    """Compare disk and memory with the limits of the config, every few seconds or `at_once`; yield what was journaled.

    Raises OSError.
    """
    if not monitor.is_due(at_once=at_once):
        return
    limits, state = config.disk, store.state
    if (
        limits.soft_gb or limits.hard_gb or state.disk.low or state.disk.full is not None
    ):  # a limit may have been removed since
        yield from _execute_if_needed(store, monitor.disk_command(config), store.home.clock.now())
    machine = monitor.machine()
    if machine is None:
        return
    store.write_machine_view(machine)
    memory = machine.memory
    command = MeasureMemory(
        total_bytes=memory.total_bytes,
        available_bytes=memory.available_bytes,
        worker_bytes=memory.worker_bytes,
        groups=tuple((each.total_bytes, each.available_bytes) for each in memory.groups),
        limits=config.memory,
    )
    yield from _execute_if_needed(store, command, machine.at)


def _execute_if_needed(store: EventStore, command: MeasureDisk | MeasureMemory, now: float) -> Sequence[AnyEvent]:
    """Execute a measurement. Usually nothing follows from it, and then the append lock is not taken."""
    return store.execute(command) if decide(store.state, command, now) else ()


def run_scheduled(store: EventStore, config: Config, monitor: ResourceMonitor) -> Iterator[AnyEvent]:
    """Do the periodic work that is due; yield what was journaled. Raises UserError, OSError."""
    if store.state.daemon.status in {"idle", "working"}:
        yield from request_nightly_consolidation(store, config.consolidation)
    yield from check_resources(store, config, monitor)
    store.meter.lap("schedule and resources")
    store.meter.end_turn(training=store.state.attempts.current is not None)
    if (cost := store.meter.take_report()) is not None:
        yield from store.execute(cost)
