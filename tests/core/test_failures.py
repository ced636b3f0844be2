"""What can go wrong is explained, every kind of it, in one place that the docs show."""

from __future__ import annotations

from typing import get_args

import pytest

from core.failures import EXPLANATIONS, Trouble
from core.topics.attempts import PERSON_NEEDED
from events import kinds
from events.values import Failure
from tests.core.world import World


def test_every_failure_is_explained() -> None:
    """With what it means, and with what a person can do."""
    failures, others = get_args(Trouble)
    assert failures == Failure
    assert set(EXPLANATIONS) == {*get_args(failures), *get_args(others)}
    assert all(meaning and advice for meaning, advice in EXPLANATIONS.values())


@pytest.mark.parametrize("failure", sorted(PERSON_NEEDED))
def test_a_hold_gives_the_advice_of_its_failure(failure: Failure) -> None:
    """What the status says and what `keepstep failures` says is the same."""
    world = World()
    world.start()
    world.add(2)
    world.run_until(kinds.JobPrepared)
    world.fails(failure)
    held = next(event for event in world.journal if isinstance(event, kinds.DaemonHeld))
    assert held.advice == EXPLANATIONS[failure].advice
    assert "`keepstep resume`" in held.advice
