"""`keepstep versions evaluate --tasks`: the scores are journaled and shown; what is missing is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.commands.models import tasks
from cli.errors import UserError
from cli.home.paths import Home
from cli.home.snapshot_reader import read_evaluation
from events.evaluation import TaskScore
from gpu.ipc.protocol import Refusal, TasksRequest, TasksRun
from tests.cli.commands.test_checkpoints import keepstep
from tests.homes.old_home import HERE, unpack

SCORE = TaskScore(task="sums", metric="acc", value=0.5, stderr=0.05, samples=100, higher_is_better=True)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(unpack(HERE / "before-renaming.tar.zst", tmp_path))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TasksRequest]:
    """The orders to the process; it answers with SCORE, or refuses a task named "bad"."""
    orders: list[TasksRequest] = []

    def answer(_: str, order: TasksRequest, **__: Any) -> bytes:
        orders.append(order)
        if "bad" in order.tasks:
            return msgspec.json.encode(Refusal(problem="there is no task bad"))
        return msgspec.json.encode(TasksRun(scores=(SCORE,), seconds=1.5, device="cpu", harness="0.4.13"))

    monkeypatch.setattr(tasks, "ask", answer)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return orders


def test_scores_are_journaled_and_shown_with_the_version(home: Home, asked: list[TasksRequest]) -> None:
    code, text = keepstep(home, "versions", "evaluate", "v002", "--tasks", "sums, more", "--limit", "100")
    assert (code, text.splitlines()[-1]) == (0, "sums: acc 0.5000 ± 0.0500 (100 samples)")
    (order,) = asked
    assert (order.tasks, order.limit, Path(order.model)) == (("sums", "more"), 100, home.versions / "v002")
    (version,) = read_evaluation(home).versions
    assert (version.version, version.tasks) == ("v002", (SCORE,))
    assert "sums: acc 0.5000 ± 0.0500 (100 samples)" in keepstep(home, "versions", "show", "v002")[1]


def test_nothing_is_journaled_when_a_task_cannot_be_run(home: Home, asked: list[TasksRequest]) -> None:
    with pytest.raises(UserError, match=r"v002 was not evaluated: there is no task bad"):
        tasks.evaluate_tasks(home, "v002", ("bad",), None, 1, "cpu", json=True)
    with pytest.raises(UserError, match=r"there is no file nothing\.yaml"):
        tasks.evaluate_tasks(home, "v002", ("nothing.yaml",), None, 1, "cpu", json=True)
    assert read_evaluation(home).versions == []
    assert len(asked) == 1


def test_a_missing_package_is_named_with_its_extra(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as refused:
        tasks.evaluate_tasks(home, "v002", ("sums",), None, 1, "cpu", json=False)
    assert refused.value.advice == "`pip install 'keepstep[lm-eval]'`"
