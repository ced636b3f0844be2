"""Trouble in an evaluation, in a real worker under a real daemon: what is trained is what it would be without."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from events import kinds
from events.kinds import EvaluationAbandoned, EvaluationDone
from tests.drills.drill import Drill, Row

Drills = Callable[..., Drill]
Record = Callable[[Row], None]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_a_worker_that_is_stuck_in_an_evaluation_costs_the_evaluations_and_nothing_else(
    drills: Drills, record: Record, calm: dict[str, str]
) -> None:
    """Found out, shown and replaced as in a step; the job continues without them, the next job has its own."""
    home = drills()
    home.start("evaluated_rows:5:hang", pace_s=0.2)
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "hang"
    assert "no progress in an evaluation for" in event.message
    (abandoned,) = home.events(EvaluationAbandoned)
    later = [
        each
        for each in home.events(EvaluationDone)
        if isinstance(each, EvaluationDone) and each.attempt > event.attempt
    ]
    assert isinstance(abandoned, EvaluationAbandoned)
    assert abandoned.job not in {each.job for each in later}
    assert later
    home.assert_trained_as(calm)
    _, begun = home.first(kinds.TrainingStarted, since=at)
    detected = f"`hang`: {event.message.partition(': the worker')[0]}"
    did = f"stacks in the log, ended, a new worker {begun - at:.0f} s later; the job continued without evaluations"
    record(Row("worker stuck in an evaluation", detected, f"{at - home.troubled_at():.0f} s", home.lost(), did))


def test_a_worker_that_dies_in_an_evaluation_is_the_same(drills: Drills, record: Record, calm: dict[str, str]) -> None:
    """A crash in native code."""
    home = drills()
    home.start("evaluated_rows:5:segv")
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "code"
    assert len(home.events(EvaluationAbandoned)) == 1
    home.assert_trained_as(calm)
    did = "a new worker after the last commit; the job continued without evaluations"
    after = f"{at - home.troubled_at():.1f} s"
    record(Row("worker killed by SIGSEGV in an evaluation", f"`code`: {event.message}", after, home.lost(), did))


def test_memory_that_runs_out_in_an_evaluation_costs_nothing(
    drills: Drills, record: Record, calm: dict[str, str]
) -> None:
    """Fewer rows at once; nobody is told, for nothing is lost."""
    home = drills()
    home.start(KEEPSTEP_FAULTS="evaluation:5:1,evaluation:10:1")
    home.ended()
    assert not home.events(kinds.AttemptFailed, EvaluationAbandoned)
    home.assert_trained_as(calm)
    did = "the loss of fewer rows at once, down to one"
    record(Row("out of memory in an evaluation", "by the worker itself", "at once", home.lost(), did))


def test_memory_that_is_too_short_for_one_row_ends_the_evaluations(
    drills: Drills, record: Record, calm: dict[str, str]
) -> None:
    """The attempt fails, for what the process has in memory is not known any more; the job does not."""
    home = drills()
    home.start(KEEPSTEP_FAULTS="evaluation:5:0")
    home.ended()
    (event,) = home.events(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "out_of_memory"
    assert len(home.events(EvaluationAbandoned)) == 1
    home.assert_trained_as(calm)
    did = "a new worker after the last commit; the job continued without evaluations"
    name = "out of memory in an evaluation, of one row alone"
    record(Row(name, "`out_of_memory`, in an evaluation", "at once", home.lost(), did))


def test_a_validation_loss_that_is_not_finite_is_reported_and_stops_nothing(
    drills: Drills, record: Record, calm: dict[str, str]
) -> None:
    """It is shown as what it is."""
    home = drills()
    home.start(KEEPSTEP_FAULTS="nan_evaluation:5")
    home.ended()
    found = [event for event in home.events(EvaluationDone) if isinstance(event, EvaluationDone)]
    assert [(event.global_step, event.loss) for event in found if event.concern] == [(5, "NaN")]
    assert "validation loss NaN after step 5" in home.log()
    home.assert_trained_as(calm)
    did = "told it: status, log, `on_validation_alert`; trained on"
    record(Row("validation loss NaN", "`not_finite`, by the evaluation", "at once", home.lost(), did))
