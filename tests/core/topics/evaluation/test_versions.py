"""Evaluations of versions: when they run, what ends them, and that training does not depend on them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from core import commands, effects
from core.errors import IllegalEvent, Refused
from core.evolve import evolve
from events import kinds, messages
from events.settings import Gate, VersionSettings
from tests.core.world import World


def made(gate: Gate | None = "warn", **changes: int) -> World:
    """A world that has published a version, which is not evaluated yet."""
    world = World()
    world.gate = gate
    world.right = changes.get("right", 10)
    world.start()
    world.add(2)
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.ConsolidationFinished)
    return world


def kinds_of(world: World, since: int = 0) -> list[str]:
    return [type(event).__name__ for event in world.journal[since:]]


def test_an_evaluation_comes_before_the_next_job() -> None:
    """So that the gate decides before the head moves on."""
    world = made()
    world.add(2)
    world.run()
    started = [name for name in kinds_of(world) if name in {"VersionEvaluationStarted", "AttemptStarted"}]
    assert started == ["AttemptStarted", "VersionEvaluationStarted", "AttemptStarted"]


def test_a_version_without_a_gate_is_not_evaluated() -> None:
    """As before there were evaluations of versions."""
    world = made(None)
    world.run()
    assert "VersionEvaluationStarted" not in kinds_of(world)
    assert world.state.evaluations == World().state.evaluations


def test_a_worse_version_with_a_warning_keeps_the_head() -> None:
    world = made("warn", right=4)
    world.run()
    (event,) = [each for each in world.journal if isinstance(each, kinds.VersionEvaluated)]
    assert event.worse == "right answers fell from 10 to 4 of 10 (max_drop 0.05)"
    assert world.state.head.base == "v001"
    assert world.state.evaluations.held == ()


def test_a_gate_that_is_off_judges_nothing() -> None:
    world = made("off", right=4)
    world.run()
    (event,) = [each for each in world.journal if isinstance(each, kinds.VersionEvaluated)]
    assert event.worse == ""


@pytest.mark.parametrize("failure", ["code", "hang", "killed", "out_of_memory"])
def test_a_failure_is_tried_once_more_and_then_no_more(failure: str) -> None:
    """The next job waits for the second attempt, and then trains."""
    world = made("hold")
    world.add(2)
    for number in (1, 2):
        world.run_until(kinds.VersionEvaluationStarted)
        world.lose_worker(failure)
        assert world.state.evaluations.is_pending("v001") == (number == 1)
        if number == 1:
            (wait,) = world.pending_effects()
            assert isinstance(wait, effects.WaitUntil)
    (held,) = world.state.evaluations.held
    assert held.reason == f"its evaluation failed: a failure: {failure}"
    assert world.state.head.base is None
    world.run()
    assert kinds_of(world)[-1] == "JobTrained"


def test_a_model_that_cannot_be_loaded_is_not_tried_again() -> None:
    world = made("warn")
    world.run_until(kinds.VersionEvaluationStarted)
    world.fails("model")
    assert not world.state.evaluations.is_pending("v001")


def test_a_pause_ends_it_and_it_starts_again() -> None:
    """Nothing has failed."""
    world = made("hold")
    world.run_until(kinds.VersionEvaluationStarted)
    world.execute(commands.Pause())
    world.run()
    (pending,) = world.state.evaluations.pending
    assert pending.failures == 0
    world.execute(commands.Resume())
    world.run()
    assert world.state.head.base == "v001"


def test_a_daemon_that_is_gone_is_no_failure() -> None:
    world = made("hold")
    for _ in range(4):
        world.run_until(kinds.VersionEvaluationStarted)
        world.start()
    world.run()
    assert world.state.head.base == "v001"


def test_a_full_disk_is_waited_for() -> None:
    world = made("hold")
    world.run_until(kinds.VersionEvaluationStarted)
    world.runs_out()
    assert world.state.disk.full is not None
    (pending,) = world.state.evaluations.pending
    assert pending.failures == 0
    world.free_bytes = 2**40
    world.run()
    assert world.state.head.base == "v001"


def test_a_report_that_cannot_be_true_is_a_failure() -> None:
    """The results of another evaluation."""
    world = made("hold")
    world.run_until(kinds.VersionEvaluationStarted)
    world.turn()
    assert world.worker is not None
    while world.worker.act():
        pass
    fact = world.worker.outbox.popleft()
    assert isinstance(fact, messages.VersionEvaluated)
    events = world.execute(replace(fact, results=replace(fact.results, id="v001-attempt-0001")))
    assert [type(event).__name__ for event in events] == ["VersionEvaluationFailed"]


def test_a_late_report_changes_nothing() -> None:
    world = made("hold")
    world.run()
    fact = next(each for each in world.facts if isinstance(each, messages.VersionEvaluated))
    assert world.execute(fact) == []


def test_a_person_asks_for_an_evaluation_of_any_version() -> None:
    world = made(None)
    world.run()
    world.execute(commands.RequestEvaluation(version="v001"))
    assert "already requested" in str(world.refused(commands.RequestEvaluation(version="v001")))
    world.run()
    assert world.state.evaluations.results_of("v001") is not None
    assert world.state.head.base == "v001"
    assert "there is no version" in str(world.refused(commands.RequestEvaluation(version="v009")))


def test_nothing_is_evaluated_next_to_a_job() -> None:
    world = made()
    world.run()
    world.add(4)
    world.run_until(kinds.StepReached)
    world.execute(commands.RequestEvaluation(version="v001"))
    with pytest.raises(Refused, match="still running"):
        world.execute(commands.StartEvaluation(settings=VersionSettings()))
    world.run()
    names = kinds_of(world)
    assert names.index("JobTrained") < len(names) - 1 - names[::-1].index("VersionEvaluationStarted")


def test_the_parents_results_are_sent_if_there_are_any() -> None:
    world = made("off")
    world.run()
    world.add(2)
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.VersionEvaluationStarted)
    (effect,) = world.pending_effects()
    assert isinstance(effect, effects.SendToWorker)
    assert isinstance(effect.message, messages.EvaluateVersion)
    assert (effect.message.version, effect.message.parent) == ("v002", "v001")
    assert effect.message.parent_results == world.state.evaluations.results_of("v001")


def test_an_illegal_event_changes_nothing() -> None:
    world = made("hold")
    for event in (
        kinds.VersionEvaluationRequested(version="v001"),
        kinds.VersionEvaluationRequested(version="v009"),
        kinds.VersionEvaluationFailed(attempt=9, version="v001", failure=None, message="", retry=True, retry_at=None),
    ):
        with pytest.raises(IllegalEvent):
            evolve(world.state, event)


@pytest.mark.parametrize("change", [{"attempt": 99}, {"parent": "v009"}, {"version": "v009"}])
def test_an_evaluation_starts_as_it_must_or_not_at_all(change: dict[str, Any]) -> None:
    world = made("hold")
    before = world.state
    world.run_until(kinds.VersionEvaluationStarted)
    event = next(each for each in world.journal if isinstance(each, kinds.VersionEvaluationStarted))
    assert evolve(before, event).evaluations.running is not None
    with pytest.raises(IllegalEvent):
        evolve(before, replace(event, **change))


@pytest.mark.parametrize("change", [{"attempt": 99}, {"version": "v009"}])
def test_only_the_running_evaluation_ends(change: dict[str, Any]) -> None:
    world = made("hold")
    world.run_until(kinds.VersionEvaluationStarted)
    event = kinds.VersionEvaluationFailed(
        attempt=world.state.attempts.last, version="v001", failure=None, message="", retry=True, retry_at=None
    )
    assert evolve(world.state, event).evaluations.running is None
    with pytest.raises(IllegalEvent):
        evolve(world.state, replace(event, **change))


@pytest.mark.parametrize(
    "event", [kinds.VersionHeld(version="v001", reason="worse"), kinds.VersionPromoted(version="v001", by="person")]
)
def test_nothing_is_decided_while_the_evaluation_runs(event: kinds.VersionHeld | kinds.VersionPromoted) -> None:
    world = made("hold")
    evolve(world.state, event)
    world.run_until(kinds.VersionEvaluationStarted)
    with pytest.raises(IllegalEvent, match="has not ended"):
        evolve(world.state, event)
