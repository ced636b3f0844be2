"""Trouble in samples, in a real worker under a real daemon: what is trained is what it would be without."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from events import kinds
from events.kinds import SamplesAbandoned, SamplesFailed, SamplesGenerated
from tests.drills.drill import Drill, Row

Drills = Callable[..., Drill]
Record = Callable[[Row], None]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_a_worker_that_is_stuck_in_samples_costs_the_samples_and_nothing_else(
    drills: Drills, record: Record, calm: dict[str, str]
) -> None:
    """Found out and replaced as in a step; the job continues without samples, the next job has its own."""
    home = drills()
    home.start("token_generated:3:hang", pace_s=0.2)
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "hang"
    assert "no progress while it generated samples for" in event.message
    (abandoned,) = home.events(SamplesAbandoned)
    assert isinstance(abandoned, SamplesAbandoned)
    rounds = [each for each in home.events(SamplesGenerated) if isinstance(each, SamplesGenerated)]
    later = [each for each in rounds if each.attempt > event.attempt]
    assert later
    assert abandoned.job not in {each.job for each in later}
    home.assert_trained_as(calm)
    _, begun = home.first(kinds.TrainingStarted, since=at)
    detected = f"`hang`: {event.message.partition(': the worker')[0]}"
    did = f"stacks in the log, ended, a new worker {begun - at:.0f} s later; the job continued without samples"
    record(Row("worker stuck in samples", detected, f"{at - home.troubled_at():.0f} s", home.lost(), did))


def test_a_worker_that_dies_in_samples_is_the_same(drills: Drills, record: Record, calm: dict[str, str]) -> None:
    """A crash in native code."""
    home = drills()
    home.start("answered:1:segv")
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "code"
    assert len(home.events(SamplesAbandoned)) == 1
    home.assert_trained_as(calm)
    did = "a new worker after the last commit; the job continued without samples"
    after = f"{at - home.troubled_at():.1f} s"
    record(Row("worker killed by SIGSEGV in samples", f"`code`: {event.message}", after, home.lost(), did))


def test_memory_that_runs_out_in_samples_ends_the_round(drills: Drills, record: Record, calm: dict[str, str]) -> None:
    """No attempt ends, and the next round is taken."""
    home = drills()
    home.start(KEEPSTEP_FAULTS="samples:4:0")
    home.ended()
    assert not home.events(kinds.AttemptFailed, SamplesAbandoned)
    (failed,) = home.events(SamplesFailed)
    assert isinstance(failed, SamplesFailed)
    assert (failed.global_step, failed.failure) == (4, "out_of_memory")
    assert home.events(SamplesGenerated)
    home.assert_trained_as(calm)
    did = "no samples after that step; the next ones were taken"
    record(Row("out of memory in samples, of one prompt alone", "by the worker itself", "at once", home.lost(), did))
