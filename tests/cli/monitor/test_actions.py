"""Actions of the page: the same events as the commands."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from starlette.testclient import TestClient

from cli.daemon.loop import Daemon
from cli.daemon.ports import RealPorts
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.monitor.actions import ACTIONS
from core import commands


def test_an_action_is_journaled_as_the_command_is(home: Home, owner: TestClient) -> None:
    answer = owner.post("/api/actions/move", json={"job": "waiting-held.jsonl", "priority": "high"})
    assert answer.status_code == 200, answer.text
    answer = owner.post("/api/actions/release", json={"job": "waiting-held.jsonl"})
    assert answer.status_code == 200, answer.text
    with closing(EventStore.open(home)) as store:
        assert next(job.name for job in store.state.queue) == "waiting-held.jsonl"
        assert store.state.queue.held == 0


@pytest.mark.parametrize(
    ("action", "body", "says"),
    [
        ("hold", {"job": "nothing.jsonl"}, "no unfinished job"),
        ("hold", {}, "needs a job"),
        ("move", {"job": "waiting.jsonl", "priority": "urgent"}, "priority"),
        ("move", {"unknown": 1}, "unknown"),
        ("explode", {}, "there is no action"),
        ("pause", "x" * 20_000, "larger than"),
    ],
)
def test_a_wrong_action_is_refused_with_a_reason(owner: TestClient, action: str, body: Any, says: str) -> None:
    answer = owner.post(f"/api/actions/{action}", json=body)
    assert answer.status_code == 409
    assert says in answer.json()["error"]


@pytest.mark.parametrize("action", sorted({*ACTIONS} - {"stop", "move", "hold", "release", "retry", "remove", "skip"}))
def test_an_action_without_a_job_says_what_happened(owner: TestClient, action: str) -> None:
    answer = owner.post(f"/api/actions/{action}")
    assert answer.status_code in {200, 409}
    assert answer.json().get("done") or answer.json()["error"]


def settle(home: Home, owner: TestClient) -> None:
    """End what is in progress: a paused daemon notices that the attempt is gone, and the job is skipped."""
    with closing(EventStore.open(home)) as store:
        store.execute(commands.Pause())
    Daemon(home, until_idle=True, write=lambda _: None, ports=RealPorts(home, "tests.harness.worker")).run()
    assert owner.post("/api/actions/skip", json={"job": "in-progress.jsonl"}).status_code == 200


def head(home: Home) -> tuple[str | None, str | None]:
    with closing(EventStore.open(home)) as store:
        found = store.state.head
        return found.base, found.checkpoint.id if found.checkpoint else None


def test_a_move_of_the_head_is_explained_first_and_then_done(home: Home, owner: TestClient) -> None:
    settle(home, owner)
    before = head(home)
    answer = owner.post("/api/actions/restore", json={"target": "v001", "preview": True})
    assert answer.status_code == 200, answer.text
    assert "Training will continue from v001." in answer.json()["done"]
    assert "is kept and can be restored" in answer.json()["done"]
    assert head(home) == before, "a preview changes nothing"
    answer = owner.post("/api/actions/restore", json={"target": "v001"})
    assert answer.json()["done"] == "training continues from v001"
    assert head(home) == ("v001", None)
    answer = owner.post("/api/actions/rollback", json={"preview": True})
    assert "Training will continue from the origin." in answer.json()["done"]


@pytest.mark.parametrize(
    ("action", "body", "says"),
    [
        ("restore", {}, "needs a target"),
        ("restore", {"target": "v099"}, "v099"),
        ("restore", {"target": "v001", "preview": True}, "an attempt is running"),
        ("rollback", {"preview": True}, "an attempt is running"),
    ],
)
def test_a_move_that_is_not_possible_is_refused_with_a_reason(
    owner: TestClient, action: str, body: Any, says: str
) -> None:
    answer = owner.post(f"/api/actions/{action}", json=body)
    assert answer.status_code == 409
    assert says in answer.json()["error"]
