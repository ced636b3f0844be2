"""Reports of files with the same bytes: each says what became of the first file, whenever it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox import accept, rejection_reports
from cli.inbox.accept import finish_rejection, remove_job
from core import commands
from events.kinds import FileEnqueued
from tests.cli.taking import take_from_inbox
from tests.harness.locks import is_locked
from tests.harness.syncs import Syncs


class Killed(BaseException):
    """Stands for the process ending at that point."""


@pytest.fixture
def store(home: Home) -> Iterator[EventStore]:
    with closing(EventStore.open(home)) as opened:
        yield opened


@pytest.fixture
def job(store: EventStore, drop: Callable[..., Path]) -> str:
    """Four files with the same bytes; the first is the job, and has no verdict."""
    (event,) = take_from_inbox(store, drop("a.jsonl", "row"), "normal")
    for name in ("b.jsonl", "b.jsonl", "c\nd.jsonl"):
        take_from_inbox(store, drop(name, "row"), "normal")
    assert isinstance(event, FileEnqueued)
    return event.job


def report(home: Home, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home.rejected / f"{name}.report.json").read_bytes())
    return found


def test_every_file_with_the_bytes_of_a_rejected_one_gets_its_reasons(home: Home, store: EventStore, job: str) -> None:
    """Whatever their names; a report that a person removed or replaced stays as it is."""
    (home.rejected / "b.jsonl.report.json").unlink()
    (home.rejected / "2-b.jsonl.report.json").write_text('{"problem": "duplicate", "job": "another"}')
    remove_job(store, job)
    assert report(home, "c\nd.jsonl")["problem"] == report(home, "a.jsonl")["problem"] == "removed"
    assert report(home, "2-b.jsonl") == {"problem": "duplicate", "job": "another"}
    assert not (home.rejected / "b.jsonl.report.json").exists()
    assert not list(home.reports.iterdir())


@pytest.mark.parametrize("point", ["report_written", "rejected_moved"])
def test_killed_while_a_rejection_is_settled_every_report_gets_its_reasons(
    point: str, home: Home, store: EventStore, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start settles it once more."""
    store.execute(commands.RemoveJob(job=job))

    def reached(name: str) -> None:
        if name == point:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(accept, "failpoint", reached)
        with pytest.raises(Killed):
            finish_rejection(store, job)
    assert report(home, "b.jsonl")["problem"] == "duplicate"
    with closing(EventStore.open(home)) as again:
        finish_rejection(again, job)
    assert report(home, "b.jsonl")["problem"] == "removed"


def test_a_report_is_true_after_the_first_file_is_trained(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]
) -> None:
    """It says how things stood when the file arrived."""
    drop("a.jsonl", "ok")
    drop("b.jsonl", "ok")
    run()
    said = report(home, "b.jsonl")
    assert said["problem"] == "duplicate"
    assert "identical to a.jsonl, which was in progress when this file arrived" in said["message"]


def test_two_bad_files_that_come_together_are_rejected_for_the_same_reasons(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]
) -> None:
    """The second arrives before anybody has judged the first: its report gets the verdict on the first."""
    drop("a.jsonl", "ok reject")
    drop("b.jsonl", "ok reject")
    said = run()
    first, second = (json.loads((home.rejected / f"{name}.jsonl.report.json").read_bytes()) for name in "ab")
    assert first["line"] == 2
    assert (second["problem"], second["line"], second["job"]) == (first["problem"], first["line"], first["job"])
    assert second["message"] == f"this file is identical to a.jsonl, which was rejected: {first['message']}"
    assert (second["file"], second["first"]) == ("b.jsonl", "a.jsonl")
    assert not [line for line in said if "accepted before" in line]
    drop("c.jsonl", "ok reject")
    assert any("c.jsonl: rejected" in line for line in run()), "the first one is gone: this one is judged by itself"


def test_what_was_rejected_is_said_to_be_rejected(home: Home, drop: Callable[..., Path]) -> None:
    """While the first one's file has not been moved yet, the second one is known by it."""
    with closing(EventStore.open(home)) as store:
        take_from_inbox(store, drop("a.jsonl", "bad"), "normal")
        front = store.state.queue.front()
        assert front is not None
        store.execute(commands.RemoveJob(job=front.id))
        take_from_inbox(store, drop("b.jsonl", "bad"), "normal")
    report = json.loads((home.rejected / "b.jsonl.report.json").read_bytes())
    assert report["message"].startswith("this file is identical to a.jsonl, which was rejected: ")


def test_reports_that_wait_for_a_verdict_survive_a_power_cut(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which reports depend on a job, and then the verdict in each of them."""
    syncs, job, note = Syncs(monkeypatch), "a" * 64, home.reports / ("a" * 64 + ".duplicates")
    reports = [home.rejected / f"{name}.report.json" for name in ("b", "c")]
    for path in reports:
        path.write_text(json.dumps({"problem": "duplicate", "job": job}))
        rejection_reports.note_duplicate(home, job, path)
        assert syncs.lacks(note) == []
    rejection_reports.reject_duplicates(home, job, "a.jsonl", {"problem": "no_rows", "message": "it is empty"})
    assert syncs.lacks(*reports) == []


def test_a_file_is_rejected_while_no_other_command_writes(
    home: Home, store: EventStore, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command and the daemon may try it at once."""
    move, locks = accept.move_to_rejected, []

    def moved(*arguments: Any) -> Path:
        locks.append(is_locked(home.journal / "lock"))
        return move(*arguments)

    monkeypatch.setattr(accept, "move_to_rejected", moved)
    remove_job(store, job)
    assert locks == [True]
