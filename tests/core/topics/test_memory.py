"""Memory that others take: when work is held, when it continues, and that the worker's own size is no reason."""

from __future__ import annotations

import msgspec
import pytest

from core import commands, effects
from core.errors import IllegalEvent
from core.structures.situations import MemoryShortage
from core.topics.memory import ends_attempts, is_enough, is_short, left_to_others, used_by_others
from events import kinds, messages
from events.codec import kind_of
from events.kinds import MemoryLow, MemoryRecovered
from events.settings import MemorySettings
from tests.core.world import START, World

LIMITS = MemorySettings()


def measured(others: float, own: float = 0.0, *, limits: MemorySettings = LIMITS) -> commands.MeasureMemory:
    """A machine of 1000 bytes, by the shares of it that others and the worker use, in per cent."""
    used = round(10 * (others + own))
    return commands.MeasureMemory(
        total_bytes=1000, available_bytes=1000 - used, worker_bytes=round(10 * own), limits=limits
    )


@pytest.mark.parametrize(
    ("others", "own", "short"),
    [
        (0, 0, False),
        (85, 0, False),  # at the limit
        (86, 0, True),  # RAM above 85 %
        (80, 0, False),
        (40, 50, False),  # 90 % in use; others have 80 % of what the worker leaves
        (43, 50, True),  # 86 % of it
        (5, 90, False),  # a worker that needs nine tenths by itself
        (9, 90, False),  # 1 % is left, and others use hardly anything: waiting would change nothing
        (15, 84, False),  # as much as a system always uses
        (16, 83, True),  # more
        (0, 100, False),
        (2, 100, False),  # more than there is: what is shared is counted twice
    ],
)
def test_others_may_use_so_much_of_what_the_worker_leaves(others: float, own: float, short: bool) -> None:
    """And they are never waited for below what a system always uses."""
    assert is_short(measured(others, own)) is short


@pytest.mark.parametrize("own", range(0, 101, 10))
@pytest.mark.parametrize("others", range(0, 101, 5))
def test_a_lower_limit_never_lets_others_use_more(others: int, own: int) -> None:
    """Also far below a half, and whatever the worker needs by itself."""
    shares = [each / 100 for each in range(1, 101)]
    short = [
        is_short(measured(others, own, limits=MemorySettings(hold_above=each, resume_below=each / 2)))
        for each in shares
    ]
    assert short == sorted(short, reverse=True)


@pytest.mark.parametrize(
    ("others", "need", "enough"),
    [
        (75, 0, True),
        (76, 0, False),  # it hovers
        (86, 0, False),
        (37, 50, True),  # 75 % of the half that the worker will leave
        (38, 50, False),
        (13, 90, True),  # the floor, a little lower too
        (14, 90, False),
    ],
)
def test_work_resumes_when_the_workers_memory_fits_again(others: float, need: float, enough: bool) -> None:
    """Not as soon as the limit is kept: the worker has gone, and with it that was what broke the limit."""
    short = MemoryShortage(total_bytes=1000, available_bytes=0, worker_bytes=round(10 * need), since=0.0, grace_s=0.0)
    assert is_enough(measured(others), short) is enough


@pytest.mark.parametrize("own", range(0, 101, 5))
@pytest.mark.parametrize("others", range(0, 101, 5))
def test_what_was_held_is_not_enough_at_once(others: int, own: int) -> None:
    """No thrashing, whatever the figures: with the worker gone and others as they were, work stays held."""
    if others + own <= 100 and is_short(measured(others, own)):
        short = MemoryShortage(total_bytes=1000, available_bytes=0, worker_bytes=10 * own, since=0.0, grace_s=0.0)
        assert not is_enough(measured(others), short)
        assert not is_enough(measured(others, own), short)


@pytest.mark.parametrize("own", range(0, 101, 5))
@pytest.mark.parametrize("others", range(0, 101, 5))
def test_what_is_enough_is_not_short_with_the_worker_back(others: int, own: int) -> None:
    """The other way round: running work is not held again because of its size."""
    short = MemoryShortage(total_bytes=1000, available_bytes=0, worker_bytes=10 * own, since=0.0, grace_s=0.0)
    if others + own <= 100 and is_enough(measured(others), short):
        assert not is_short(measured(others, own))


def test_what_is_shared_makes_nobody_use_less_than_nothing() -> None:
    """The figures are of two moments."""
    assert used_by_others(total_bytes=100, available_bytes=50, worker_bytes=60) == 0
    assert left_to_others(0.5, LIMITS, total_bytes=100, worker_bytes=200) > 0


@pytest.mark.parametrize(("now", "ends"), [(0.0, False), (29.9, False), (30.0, True), (1e6, True), (-1.0, True)])
def test_a_running_attempt_continues_for_the_grace_period(now: float, ends: bool) -> None:
    """A clock that was set back must not make it last for ever."""
    short = MemoryShortage(total_bytes=1, available_bytes=0, worker_bytes=0, since=START, grace_s=30.0)
    assert ends_attempts(short, START + now) is ends
    assert not ends_attempts(None, START + now)


def working() -> World:
    """In the middle of a file."""
    world = World()
    world.start()
    world.add(6)
    world.run_until(kinds.StepReached)
    return world


def recorded(world: World, command: commands.MeasureMemory) -> list[str]:
    """The kinds of what follows."""
    return [kind_of(event) for event in world.execute(command)]


def test_low_memory_is_reported_once_and_ends_the_attempt_after_a_commit_if_it_lasts() -> None:
    """And continues from there, each step trained once."""
    world = working()
    assert recorded(world, measured(90)) == ["memory_low"]
    assert recorded(world, measured(95)) == []
    assert effects.SendToWorker(message=messages.Yield(attempt=1)) not in world.pending_effects()
    world.now += 30
    assert world.pending_effects() == (effects.SendToWorker(message=messages.Yield(attempt=1)),)
    world.run()
    assert world.state.attempts.current is None
    assert world.state.head.checkpoint is not None
    assert world.pending_effects() == ()
    assert recorded(world, measured(80)) == []
    assert recorded(world, measured(60)) == ["memory_recovered"]
    world.run()
    world.check_timeline()
    assert world.state.outcomes.counts.trained == 1


def test_what_becomes_better_in_time_touches_nothing() -> None:
    """A breath of the machine's."""
    world = working()
    world.execute(measured(90))
    assert recorded(world, measured(50)) == ["memory_recovered"]
    world.now += 1000
    world.run()
    assert world.state.attempts.last == 1
    assert world.state.outcomes.counts.trained == 1


def test_a_consolidation_makes_way_and_is_made_later() -> None:
    """The wish for it stands."""
    world = working()
    world.run()
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.ConsolidationStarted)
    world.execute(measured(90))
    world.now += 30
    world.run()
    assert world.state.consolidation.running is None
    world.execute(measured(10))
    world.run()
    assert world.state.head.base == "v001"


def test_nothing_is_begun_meanwhile() -> None:
    """Neither by the machine nor by a command that came too late to know; a person's stop is obeyed."""
    world = World()
    world.start()
    job = world.add(1)
    world.execute(measured(90))
    assert world.pending_effects() == ()
    assert "memory is short" in str(world.refused(commands.StartAttempt(job=job, settings=world.config)))
    world.execute(commands.Stop(alive=True))
    assert world.pending_effects() == (effects.StopProcess(),)


def test_turned_off_memory_is_never_short_and_held_work_continues() -> None:
    """`hold_above = 0`."""
    off = MemorySettings(hold_above=0.0)
    world = working()
    assert recorded(world, measured(99, limits=off)) == []
    world.execute(measured(90))
    assert recorded(world, measured(99, limits=off)) == ["memory_recovered"]


def test_what_is_known_already_is_illegal_and_changes_nothing() -> None:
    """Low twice, or recovered from nothing."""
    world = working()
    before = world.state
    with pytest.raises(IllegalEvent):
        world.happens(MemoryRecovered(available_bytes=1))
    assert world.state is before
    world.execute(measured(90))
    before = world.state
    with pytest.raises(IllegalEvent):
        world.happens(MemoryLow(total_bytes=1, available_bytes=1, worker_bytes=1, grace_s=1.0, at=1.0))
    assert world.state is before


def within(world: World, machine: float, group: float, own: float = 0.0) -> list[str]:
    """A machine of 1000 bytes and a group that may have 100, by the shares that others and the worker use of each."""
    used = round(group + own)
    command = msgspec.structs.replace(measured(machine), groups=((100, 100 - used),), worker_bytes=round(own))
    return recorded(world, command)


def test_memory_is_short_where_it_is_short_in_the_control_group_alone() -> None:
    """Half the machine is free; what is wanted again is what the group lacked."""
    world = World()
    world.start()
    assert within(world, 50, 85) == []
    assert within(world, 50, 86) == ["memory_low"]
    assert world.state.memory.shortage is not None
    assert (world.state.memory.shortage.total_bytes, world.state.memory.shortage.available_bytes) == (100, 14)
    assert within(world, 50, 76) == []
    assert within(world, 50, 75) == ["memory_recovered"]


def test_the_machine_is_no_reason_to_wait_longer_for_the_group() -> None:
    """It stands at 80 %, which is not short; were it, or were it to become so by the worker, it would be one."""
    world = World()
    world.start()
    assert within(world, 80, 90) == ["memory_low"]
    assert within(world, 86, 10) == []
    assert within(world, 80, 10) == ["memory_recovered"]
    assert within(world, 83, 52, 40) == ["memory_low"]
    assert within(world, 83, 10) == []  # others may have 85 % of what the worker's 40 leave: 816
    assert within(world, 81, 10) == ["memory_recovered"]


def test_the_worker_is_no_other_in_its_group_either() -> None:
    """Nine tenths of a container are its own."""
    world = World()
    world.start()
    assert within(world, 20, 5, 90) == []
