"""Held versions: the head stays, training continues, and a person or the gate decides once."""

from __future__ import annotations

from datetime import UTC

import pytest

from core import commands
from core.errors import IllegalEvent
from core.evolve import evolve
from core.topics.consolidation_request import date_due
from core.topics.retention import enforce, versions_to_delete, why_version_stays
from events import kinds
from events.settings import ConsolidationSettings, RetentionSettings
from tests.core.topics.evaluation.test_versions import kinds_of, made
from tests.core.world import World

PROMOTE, DISCARD = commands.PromoteVersion(version="v001"), commands.DiscardVersion(version="v001")


def held() -> World:
    """A world whose first version is worse than the origin, and held."""
    world = made("hold", right=4)
    world.run()
    assert [each.version for each in world.state.evaluations.held] == ["v001"]
    return world


def consolidate(world: World) -> None:
    world.execute(commands.RequestConsolidation(description=""))
    world.run()


def test_a_good_version_is_promoted_and_its_checkpoints_are_pruned() -> None:
    """As a consolidation without a gate leaves the home."""
    world, plain = made("hold"), made(None)
    world.run()
    plain.run()
    assert world.state.head == plain.state.head
    assert kinds_of(world)[-2:] == ["VersionPromoted", "CheckpointPruned"]


def test_publication_and_the_move_of_the_head_are_two_steps() -> None:
    world = made("hold")
    before = world.state
    assert before.retention.version("v001") is not None
    assert before.head.base is None
    assert before.head.checkpoint is not None
    world.run()
    assert (world.state.head.base, world.state.head.checkpoint) == ("v001", None)


def test_a_held_version_keeps_the_adapter_and_says_why() -> None:
    world = held()
    (each,) = world.state.evaluations.held
    assert each.reason == "right answers fell from 10 to 4 of 10 (max_drop 0.05)"
    assert world.state.head.base is None
    assert world.state.head.checkpoint is not None
    assert world.state.head.checkpoint.id == "step-00000002-attempt-0001"


def test_a_person_promotes_it() -> None:
    world = held()
    world.execute(PROMOTE)
    assert (world.state.head.base, world.state.head.checkpoint) == ("v001", None)
    assert world.state.head.detached == ()
    assert world.state.evaluations.held == ()
    assert "already" in str(world.refused(PROMOTE))


def test_a_person_discards_it_and_the_adapter_stays() -> None:
    world = held()
    head = world.state.head
    world.execute(DISCARD)
    assert world.state.retention.versions == ()
    assert world.state.head == head
    assert "there is no version" in str(world.refused(DISCARD))


def test_a_version_that_is_not_held_is_neither_promoted_nor_discarded() -> None:
    world = made(None)
    world.run()
    world.execute(commands.MoveHead())
    assert "versions restore v001" in str(world.refused(PROMOTE))
    assert "versions delete v001" in str(world.refused(DISCARD))


def test_a_head_that_has_trained_on_is_not_left() -> None:
    world = held()
    world.add(3)
    world.run()
    reason = str(world.refused(PROMOTE))
    assert "has trained 3 steps since" in reason
    assert "versions restore v001" in reason
    world.execute(commands.MoveHead(version="v001"))
    assert world.state.evaluations.held == ()
    assert world.state.head.base == "v001"


def test_a_head_that_was_moved_and_moved_back_can_be_promoted() -> None:
    world = held()
    world.execute(commands.RollBack())
    assert "has moved" in str(world.refused(PROMOTE))
    world.execute(commands.MoveHead(checkpoint="step-00000002-attempt-0001"))
    world.execute(PROMOTE)
    assert world.state.head.base == "v001"


def test_a_head_on_another_version_has_moved() -> None:
    """However many steps it has."""
    world = held()
    world.add(3)
    world.run()
    world.right = 10
    consolidate(world)
    assert world.state.head.base == "v002"
    assert "the head has moved since" in str(world.refused(PROMOTE))


def test_retention_keeps_a_held_version_that_the_head_passed() -> None:
    world = held()
    world.add(3)
    world.run()
    world.right = 10
    consolidate(world)
    assert versions_to_delete(world.state, 1) == []
    world.execute(DISCARD)
    assert [each.id for each in world.state.retention.versions] == ["v002"]


def test_retention_keeps_the_parent_until_the_version_is_evaluated() -> None:
    world = made("warn")
    world.run()
    world.add(2)
    world.run()
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.ConsolidationFinished)
    assert world.state.head.base == "v002"
    assert versions_to_delete(world.state, 1) == []
    world.run()
    assert [each.id for each in versions_to_delete(world.state, 1)] == ["v001"]


def test_nothing_is_promoted_next_to_a_job() -> None:
    world = held()
    world.add(4)
    world.run_until(kinds.AttemptStarted)
    assert "an attempt is running" in str(world.refused(PROMOTE))
    world.start()
    assert "partly trained" in str(world.refused(PROMOTE))


def test_two_versions_are_held_at_once_and_one_of_them_is_promoted() -> None:
    """The later one holds everything; the earlier one can then only be discarded or restored."""
    world = held()
    world.add(2)
    world.run()
    consolidate(world)
    assert [each.version for each in world.state.evaluations.held] == ["v001", "v002"]
    assert [version.parent for version in world.state.retention.versions] == [None, None]
    world.execute(commands.PromoteVersion(version="v002"))
    assert world.state.head.base == "v002"
    assert "has moved since" in str(world.refused(PROMOTE))
    world.execute(DISCARD)
    assert [version.id for version in world.state.retention.versions] == ["v002"]


def test_the_same_weights_are_not_made_into_another_version() -> None:
    """By a person, by a request that waits for files, or by the schedule."""
    world = held()
    assert "is held" in str(world.refused(commands.RequestConsolidation(description="")))
    daily = ConsolidationSettings(schedule="00:00")
    tomorrow = world.now + 86_400
    assert date_due(daily, UTC, world.state, tomorrow) is None
    world.execute(DISCARD)
    assert date_due(daily, UTC, world.state, tomorrow) is None
    world.add(2)
    world.run()
    assert date_due(daily, UTC, world.state, tomorrow) is not None


def test_a_discarded_version_can_be_asked_for_again() -> None:
    world = held()
    world.execute(DISCARD)
    world.right = 10
    consolidate(world)
    assert world.state.head.base == "v002"


def test_retention_deletes_no_held_version_and_nothing_that_an_evaluation_needs() -> None:
    world = made("off")
    world.run()
    world.gate, world.right = "hold", 4
    world.add(2)
    world.run()
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.ConsolidationFinished)
    assert enforce(world.state, RetentionSettings(versions=1), world.now) == []
    world.run()
    assert versions_to_delete(world.state, 1) == []
    version = world.state.retention.version("v001")
    assert version is not None
    assert why_version_stays(world.state, version) is not None


def test_a_running_evaluation_keeps_its_version_and_the_parent() -> None:
    world = made("hold")
    world.run_until(kinds.VersionEvaluationStarted)
    assert "the evaluation of v001 is running" in str(world.refused(DISCARD))
    with pytest.raises(IllegalEvent):
        evolve(world.state, kinds.VersionDeleted(version="v001", size_bytes=1, by="person"))


def test_an_evaluation_that_says_nothing_holds() -> None:
    """There is nothing to evaluate the version on."""
    world = made("hold")
    world.measures = False
    world.run()
    (each,) = world.state.evaluations.held
    assert "there is nothing to evaluate it on" in each.reason


def test_a_version_is_held_at_once_if_there_is_nothing_to_evaluate_it_on() -> None:
    """No attempt starts, so no worker."""
    world = made("hold")
    world.has_suites = False
    world.run()
    (each,) = world.state.evaluations.held
    assert "there is nothing to evaluate it on" in each.reason
    assert world.state.evaluations.pending == ()
    assert "VersionEvaluationStarted" not in kinds_of(world)


def test_a_second_evaluation_decides_again() -> None:
    world = held()
    world.right = 10
    world.execute(commands.RequestEvaluation(version="v001"))
    world.run()
    assert world.state.head.base == "v001"
