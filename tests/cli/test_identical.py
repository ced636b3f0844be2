"""A file whose very bytes arrived before: what is said is what became of the first one."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from cli.home import Home
from cli.ledger import Ledger
from core import commands
from tests.cli.taking import take_from_inbox


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
    with closing(Ledger.open(home)) as ledger:
        take_from_inbox(ledger, drop("a.jsonl", "bad"), "normal")
        front = ledger.state.queue.front()
        assert front is not None
        ledger.execute(commands.RemoveJob(job=front.id))
        take_from_inbox(ledger, drop("b.jsonl", "bad"), "normal")
    report = json.loads((home.rejected / "b.jsonl.report.json").read_bytes())
    assert report["message"].startswith("this file is identical to a.jsonl, which was rejected: ")
