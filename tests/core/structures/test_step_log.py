"""The step log: one list, many prefixes."""

from __future__ import annotations

from core.state import State
from core.structures.step_log import StepLog


def grown(*losses: float) -> StepLog:
    """A trail of these."""
    trail = StepLog()
    for loss in losses:
        trail = trail.extended((loss, 0.0))
    return trail


def losses(trail: StepLog) -> list[object]:
    """What it holds, in order."""
    return [bits[0] for bits in (trail.at(trail.base + step) for step in range(1, trail.length + 1)) if bits]


def test_a_trail_gives_back_what_each_step_gave() -> None:
    """And nothing for steps before and after it."""
    trail = grown(1.0, 2.0)
    assert [trail.at(step) for step in range(4)] == [None, (1.0, 0.0), (2.0, 0.0), None]


def test_a_longer_trail_leaves_the_shorter_one_as_it_was() -> None:
    """They share a list, and each sees its own part of it."""
    short = grown(1.0)
    long = short.extended((2.0, 0.0))
    assert short.at(2) is None
    assert long.at(2) == (2.0, 0.0)


def test_two_futures_of_one_trail_do_not_mix() -> None:
    """The second copies; a step that was looked ahead at and is then taken for good copies nothing."""
    past = grown(1.0)
    ahead, other, same = past.extended((2.0, 0.0)), past.extended((3.0, 0.0)), past.extended((2.0, 0.0))
    assert (losses(ahead), losses(other), losses(same)) == ([1.0, 2.0], [1.0, 3.0], [1.0, 2.0])
    assert same.bits is ahead.bits


def test_replacing_a_step_leaves_the_old_trail_as_it_was() -> None:
    """After a divergence the new bits are what the next run is held against."""
    old = grown(1.0, 2.0, 3.0)
    new = old.replaced(2, (9.0, 0.0))
    assert (losses(old), losses(new)) == ([1.0, 2.0, 3.0], [1.0, 9.0, 3.0])


def test_a_trail_is_cut_at_both_ends() -> None:
    """Pruning cuts the beginning, the end of a job cuts what was not committed."""
    trail = grown(1.0, 2.0, 3.0, 4.0)
    middle = trail.between(1, 3)
    assert (middle.base, losses(middle)) == (1, [2.0, 3.0])
    assert losses(middle.until(2)) == [2.0]
    assert losses(trail.between(4, 4)) == []
    assert losses(middle.between(0, 9)) == [2.0, 3.0]


def test_a_new_state_starts_with_an_empty_trail() -> None:
    """Whatever other states of the process have grown from the same default."""
    assert State().recovery.step_log.extended((1.0, 1.0)).at(1) == (1.0, 1.0)
    assert State().recovery.step_log.at(1) is None
    assert State().recovery.step_log.extended((2.0, 2.0)).at(1) == (2.0, 2.0)
