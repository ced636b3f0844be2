"""Trouble while a version is evaluated: it is tried once more, and no version or file is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from events import kinds
from tests.crash.homes import state_of
from tests.drills.drill import Drill, Row

Drills = Callable[..., Drill]
Record = Callable[[Row], None]


def gated(drills: Drills) -> Drill:
    """A home with a version to make, that the gate lets pass."""
    home = drills(a="ok ok")
    home.start()
    home.ended()
    home.command("config", "set", "versions.gate=hold", "versions.max_drop=1.0")
    (home.home.root / "evaluation").mkdir()
    (home.home.root / "evaluation" / "a.jsonl").write_text('{"prompt": "?", "expected": "!"}\n')
    home.command("consolidate")
    return home


@pytest.mark.parametrize(
    ("trouble", "failure"), [("parent_evaluated:1:hang", "hang"), ("parent_evaluated:1:segv", "code")]
)
def test_a_worker_that_fails_once_is_replaced(trouble: str, failure: str, drills: Drills, record: Record) -> None:
    """The second attempt evaluates the version, and the gate promotes it."""
    home = gated(drills)
    home.start(trouble)
    home.ended()
    event, at = home.first(kinds.VersionEvaluationFailed)
    assert isinstance(event, kinds.VersionEvaluationFailed)
    assert (event.failure, event.retry) == (failure, True)
    _, evaluated = home.first(kinds.VersionEvaluated)
    assert state_of(home.home).head.base == "v001"
    detected = f"`{failure}`: {event.message.partition(': the worker')[0]}"
    did = f"ended, started again; evaluated {evaluated - at:.1f} s later, and promoted"
    name = "worker stuck in the evaluation of a version"
    if failure == "code":
        name = "worker killed by SIGSEGV in the evaluation of a version"
    record(Row(name, detected, f"{at - home.troubled_at():.0f} s", home.lost(), did))
