"""`keepstep versions promote`, `discard` and `evaluate`: what people say, what they see, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.errors import UserError
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core.errors import Refused
from core.state import State
from tests.cli.commands.test_checkpoints import keepstep

Run = Callable[..., list[str]]
Drop = Callable[..., Path]


def state(home: Home) -> State:
    return load_state(home)[0].state


def refusal(home: Home, *arguments: str) -> str:
    """The reason and the advice of a command that is refused."""
    ended = CliRunner().invoke(app, [*arguments, "--home", str(home.root)])
    assert isinstance(ended.exception, Refused | UserError)
    return f"{ended.exception} {getattr(ended.exception, 'advice', '')}"


@pytest.fixture
def held(home: Home, drop: Drop, run: Run) -> Home:
    """A home whose first version is held; what it answers is worse than what the origin does."""
    (home.root / "evaluation").mkdir()
    (home.root / "evaluation" / "a.jsonl").write_text('{"prompt": "?", "expected": "!"}\n')
    assert keepstep(home, "config", "set", "versions.gate=hold", "versions.max_drop=0.0")[0] == 0
    drop("a.jsonl", "ok ok ok ok a")
    run()
    assert keepstep(home, "consolidate")[0] == 0
    said = "\n".join(run())
    assert "v001 is held: right answers fell" in said
    return home


def test_a_held_version_is_listed_and_promoted(held: Home) -> None:
    code, said = keepstep(held, "versions", "list")
    assert code == 0
    assert "v001 (held)" in said
    code, said = keepstep(held, "versions", "promote", "1")
    assert (code, said.splitlines()[0]) == (0, "training continues from v001")
    assert "versions restore origin" in said
    assert state(held).head.base == "v001"
    assert "already" in refusal(held, "versions", "promote", "v001")


def test_a_damaged_version_is_not_promoted(held: Home) -> None:
    next((held.versions / "v001").glob("weights*")).write_text("")
    assert "v001 is damaged" in refusal(held, "versions", "promote", "v001")
    assert state(held).head.base is None


def test_a_held_version_is_discarded_after_a_confirmation(held: Home) -> None:
    assert "nothing was deleted" in refusal(held, "versions", "discard", "v001")
    head = state(held).head
    code, said = keepstep(held, "versions", "discard", "v001", "--confirm", "--json")
    assert (code, json.loads(said)) == (0, {"version": "v001", "discarded": True})
    assert not (held.versions / "v001").exists()
    assert state(held).head == head


def test_an_evaluation_is_requested_and_made_by_the_next_run(held: Home, run: Run) -> None:
    code, said = keepstep(held, "versions", "evaluate", "v001")
    assert (code, "by the next `keepstep run`" in said) == (0, True)
    assert "already requested" in refusal(held, "versions", "evaluate", "v001")
    assert any(line.find("evaluated v001") >= 0 for line in run())


def test_nothing_to_evaluate_is_refused_with_advice(home: Home, drop: Drop, run: Run) -> None:
    drop("a.jsonl", "ok ok ok ok a")
    run()
    assert keepstep(home, "consolidate")[0] == 0
    assert "evaluating" not in "\n".join(run())
    error = refusal(home, "versions", "evaluate", "v001")
    assert "there is nothing to evaluate a version on" in error
    assert "mine.jsonl" in error
