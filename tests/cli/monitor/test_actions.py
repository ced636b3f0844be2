"""Actions of the page: the same events as the commands."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from starlette.testclient import TestClient

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.monitor.actions import ACTIONS


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
