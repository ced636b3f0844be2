"""Reports of files with the same bytes: each says what became of the first file, whenever it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli import arrivals
from cli.arrivals import remove_job, settle_rejection
from cli.home import Home
from cli.ledger import Ledger
from core import commands
from events.kinds import FileEnqueued
from tests.cli.taking import take_from_inbox


class Killed(BaseException):
    """Stands for the process ending at that point."""


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with closing(Ledger.open(home)) as opened:
        yield opened


@pytest.fixture
def job(ledger: Ledger, drop: Callable[..., Path]) -> str:
    """Four files with the same bytes; the first is the job, and has no verdict."""
    (event,) = take_from_inbox(ledger, drop("a.jsonl", "row"), "normal")
    for name in ("b.jsonl", "b.jsonl", "c\nd.jsonl"):
        take_from_inbox(ledger, drop(name, "row"), "normal")
    assert isinstance(event, FileEnqueued)
    return event.job


def report(home: Home, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home.rejected / f"{name}.report.json").read_bytes())
    return found


def test_every_file_with_the_bytes_of_a_rejected_one_gets_its_reasons(home: Home, ledger: Ledger, job: str) -> None:
    """Whatever their names; a report that a person removed or replaced stays as it is."""
    (home.rejected / "b.jsonl.report.json").unlink()
    (home.rejected / "2-b.jsonl.report.json").write_text('{"problem": "duplicate", "job": "another"}')
    remove_job(ledger, job)
    assert report(home, "c\nd.jsonl")["problem"] == report(home, "a.jsonl")["problem"] == "removed"
    assert report(home, "2-b.jsonl") == {"problem": "duplicate", "job": "another"}
    assert not (home.rejected / "b.jsonl.report.json").exists()
    assert not list(home.reports.iterdir())


@pytest.mark.parametrize("point", ["report_written", "rejected_moved"])
def test_killed_while_a_rejection_is_settled_every_report_gets_its_reasons(
    point: str, home: Home, ledger: Ledger, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start settles it once more."""
    ledger.execute(commands.RemoveJob(job=job))

    def reached(name: str) -> None:
        if name == point:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(arrivals, "reached", reached)
        with pytest.raises(Killed):
            settle_rejection(ledger, job)
    assert report(home, "b.jsonl")["problem"] == "duplicate"
    with closing(Ledger.open(home)) as again:
        settle_rejection(again, job)
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
