"""Killed at any point of the gate: the evaluation, the promotion, a person's decision. It ends as if nothing happened.

With a worker that trains nothing, so that every point can be tried; then with the real one, at the points that tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from cli.home.paths import Home
from core.state import State
from events import kinds
from gpu.evaluation.results import read_results
from journal.failpoints import EVALUATION
from tests.crash.checks import records_of
from tests.crash.homes import log_of
from tests.crash.life import Life
from tests.crash.test_consolidation import command_killed, everything_is_there, killed, trained

SEED = 7
ENDS = {
    "promoted": ["journaled_version_promoted", "journaled_checkpoint_pruned", "pruned"],
    "held": ["journaled_version_held"],
}
"""What follows only in one of the two ends."""

ALWAYS = [
    *EVALUATION,
    "results_reported",
    "journaled_version_published",
    "journaled_consolidation_finished",
    "journaled_version_evaluation_started",
    "journaled_version_evaluated",
]

CASES = [(end, point) for end in ENDS for point in (*ALWAYS, *ENDS[end])]
QUICK = [("held", "evaluation_written"), ("promoted", "journaled_version_promoted")]
Copies = Callable[[str], Life]


def gated(life: Life, end: str) -> Life:
    """A life whose next version is promoted, or held: any answer that is lost counts, or none does."""
    drop = "1.0" if end == "promoted" else "0.0"
    assert life.command("config", "set", "versions.gate=hold", f"versions.max_drop={drop}") == 0
    return trained(life)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Copies:
    made: dict[str, Life] = {}

    def template(end: str) -> Life:
        if end not in made:
            made[end] = gated(Life.faked(tmp_path_factory.mktemp("template") / "home", Random(SEED)), end)
        return made[end]

    return template


@pytest.fixture
def after(templates: Copies, tmp_path: Path) -> Copies:
    return lambda end: templates(end).copied(tmp_path / "home")


def results_are_there(home: Home) -> State:
    """The results that the state names are on disk, every byte of them, and nothing else is."""
    state = everything_is_there(home)
    named = [*(each.results for each in state.evaluations.evaluated), *state.evaluations.jobs]
    assert {path.name for path in home.evaluations.iterdir()} == {f"{each.id}.json" for each in named}
    assert all(read_results(home.root, each) is not None for each in named)
    assert not state.evaluations.pending
    return state


def has_ended(state: State, end: str) -> None:
    """v001 is the base of the head, or it is held and nothing else has changed."""
    if end == "promoted":
        assert (state.head.base, state.head.checkpoint, state.evaluations.held) == ("v001", None, ())
    else:
        (held,) = state.evaluations.held
        assert held.version == "v001"
        assert "right answers fell" in held.reason
        assert state.head.base is None
        assert state.head.checkpoint is not None
        assert state.head.checkpoint.id == state.retention.versions[0].checkpoint


@pytest.mark.parametrize(
    ("end", "point"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.long) for case in CASES if case not in QUICK)],
)
def test_an_evaluation_that_is_killed_ends_in_the_same_decision(end: str, point: str, after: Copies) -> None:
    life = after(end)
    assert life.command("consolidate") == 0
    assert killed(life, point), f"{point} was never reached\n{log_of(life.home)}"
    life.to_the_end()
    has_ended(results_are_there(life.home), end)
    evaluated = [each for each in records_of(life.home) if isinstance(each.event, kinds.VersionEvaluated)]
    assert len(evaluated) == 1


@pytest.mark.parametrize("point", ["journaled_version_promoted", "journaled_checkpoint_pruned", "pruned"])
def test_a_person_promotes_or_does_not(point: str, after: Copies) -> None:
    life = held(after)
    assert command_killed(life, point, "versions", "promote", "v001")
    life.to_the_end()
    has_ended(results_are_there(life.home), "promoted")


@pytest.mark.parametrize("point", ["journaled_version_deleted", "pruned"])
def test_a_person_discards_or_does_not(point: str, after: Copies) -> None:
    life = held(after)
    assert command_killed(life, point, "versions", "discard", "v001", "--confirm")
    life.to_the_end()
    state = results_are_there(life.home)
    assert state.retention.versions == ()
    assert state.evaluations.held == ()
    assert state.head.checkpoint is not None


def held(after: Copies) -> Life:
    life = after("held")
    assert life.command("consolidate") == 0
    life.to_the_end()
    has_ended(life.state, "held")
    return life


def test_training_continues_on_the_adapter_while_a_version_is_held(after: Copies) -> None:
    """Then the version cannot be promoted as if nothing had happened; a restore moves the head to it."""
    life = trained(held(after))
    state = results_are_there(life.home)
    assert state.head.base is None
    assert state.head.global_step > state.retention.versions[0].global_step
    assert life.command("versions", "promote", "v001") == 1
    assert life.command("versions", "restore", "v001") == 0
    state = results_are_there(life.home)
    assert (state.head.base, state.evaluations.held) == ("v001", ())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_real_worker_is_killed_while_it_evaluates(tmp_path: Path) -> None:
    """A version that forgets is held, promoted by hand, and the next one is discarded."""
    life = Life.real(tmp_path / "home", Random(SEED))
    (life.home.root / "evaluation").mkdir()
    question = {"prompt": "What?", "expected": "nothing that it would say", "match": "exact"}
    (life.home.root / "evaluation" / "mine.jsonl").write_text(json.dumps(question) + "\n")
    settings = ("versions.gate=hold", "versions.max_forgetting=0.0", "evaluation.max_new_tokens=8")
    assert life.command("config", "set", "data.holdout=0.3", "training.learning_rate=0.02", *settings) == 0
    trained(life)
    assert life.command("consolidate") == 0
    for point in ("evaluated_rows", "evaluation_written", "results_reported"):
        assert killed(life, point), f"{point} was never reached\n{log_of(life.home)}"
        life.to_the_end()
        assert life.command("versions", "evaluate", "v001") == 0
    life.to_the_end()
    if results_are_there(life.home).evaluations.held:
        assert life.command("versions", "promote", "v001") == 0
    assert life.command("config", "set", "training.learning_rate=1.0", "training.max_grad_norm=0.0") == 0
    trained(life)
    assert life.command("consolidate") == 0
    life.to_the_end()
    assert [each.version for each in results_are_there(life.home).evaluations.held] == ["v002"]
    assert life.command("versions", "discard", "v002", "--confirm") == 0
    life.to_the_end()
    assert [each.id for each in results_are_there(life.home).retention.versions] == ["v001"]
