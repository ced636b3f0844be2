"""Workers that die, and a file that kills every one of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from events import kinds
from events.values import Failure
from tests.crash.homes import state_of
from tests.drills.drill import Drill, Row

Drills = Callable[..., Drill]
Record = Callable[[Row], None]

DEATHS: list[tuple[str, str, Failure, str]] = [
    ("worker killed by SIGKILL", "SIGKILL", "killed", "killed by SIGKILL"),
    ("worker killed by SIGSEGV", "segv", "code", "a crash in native code"),
    ("worker killed by SIGABRT", "SIGABRT", "code", "a crash in native code"),
    ("worker ends itself with `os._exit(7)`", "exit", "code", "ended with exit code 7"),
    ("worker dies of an error of the GPU driver", "driver", "driver", "its last words are the GPU driver's"),
    ("socket that sends garbage", "garbage", "code", "not a message"),
]


@pytest.mark.parametrize(("drill", "what", "failure", "said"), DEATHS, ids=[each[1] for each in DEATHS])
def test_a_worker_that_dies_is_replaced(
    drill: str, what: str, failure: Failure, said: str, drills: Drills, record: Record
) -> None:
    """At once it is known, and named for what it was; the job continues after its last commit."""
    home = drills(a="ok ok ok ok ok", b="ok ok")
    home.start(f"step:4:{what}", pace_s=0.2)
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == failure
    assert said in event.message
    after_s = at - home.troubled_at()
    assert after_s < 5.0
    _, begun = home.first(kinds.TrainingStarted, since=at)
    assert state_of(home.home).outcomes.counts.trained == 2
    detected = f"`{failure}`: {event.message.partition('; see')[0].partition('. The other')[0]}"
    did = f"a new worker, {begun - at:.1f} s later, after the last commit"
    record(Row(drill, detected, f"{after_s:.1f} s", home.lost(), did))


def test_nothing_waits_a_day_because_the_clock_was_set_back(drills: Drills, record: Record) -> None:
    """A time to wait for that lies further ahead than any wait is none. (Jumps of all kinds: `tests/simulation`.)"""
    home = drills(a="ok ok ok ok ok")
    home.start("step:4:SIGKILL", pace_s=0.2)
    home.until(lambda: home.events(kinds.AttemptFailed))
    home.clock.touch()
    set_at = time.monotonic()
    home.until(lambda: len(home.events(kinds.TrainingStarted)) == 2, 20.0)
    after_s = time.monotonic() - set_at
    home.ended()
    assert state_of(home.home).outcomes.counts.trained == 1
    detected = "the time to wait for is further ahead than any wait"
    did = "continued at once; the deadlines of the worker are by a clock that nobody sets"
    record(Row("clock set back a day while a job waits", detected, f"{after_s:.1f} s", home.lost(), did))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_file_that_kills_thirty_workers_costs_only_itself(drills: Drills, record: Record) -> None:
    """Failed permanently after five, restored by a person five times: the others are trained, the file is kept."""
    home = drills(a="ok ok ok", b="ok die", c="ok ok ok")
    began = time.monotonic()
    for count in range(1, 7):
        home.start()
        home.ended(code=1)
        assert len(home.events(kinds.JobFailed)) == count
        if count == 1:
            first_s = time.monotonic() - began
            assert state_of(home.home).outcomes.counts.trained == 2
        if count < 6:
            home.command("retry", "b.jsonl")
    failed = home.events(kinds.AttemptFailed)
    assert len(failed) == 30
    (job,) = {event.job for event in failed if isinstance(event, kinds.AttemptFailed)}
    assert home.home.data_file(job).exists()
    assert state_of(home.home).outcomes.counts.trained == 2
    home.again()
    did = (
        f"five attempts in {first_s:.0f} s, then `job_failed`: its file is kept, those around it are trained; six times"
    )
    record(Row("30 crashes in a row on one file among good ones", "`killed`, 30 times", "at once", "nothing", did))
