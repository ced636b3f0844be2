"""Trouble in rounds of self-correction, in a real worker under a real daemon: what is trained is what it would be
without."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from events import kinds
from tests.drills.drill import Drill, Row

Drills = Callable[..., Drill]
Record = Callable[[Row], None]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def correcting(drills: Drills) -> Drill:
    """A home whose model answers often, and never gets so many rows that a file follows. It takes no samples."""
    home = drills()
    text = home.home.config.read_text(encoding="utf-8")
    before, section, after = text.partition("[self_correction]")
    for old, new in {
        'kind = "off"': 'kind = "rejection"',
        "every_steps = 200": "every_steps = 4",
        "prompts = 32": "prompts = 2",
        "answers = 4": "answers = 2",
        "max_new_tokens = 256": "max_new_tokens = 3",
        "queue_every = 200": "queue_every = 100000",
        "cost_max = 0.1": "cost_max = 1000",
    }.items():
        assert old in after
        after = after.replace(old, new, 1)
    head, samples, rest = before.partition("[samples]")
    rest = rest.replace("prompts = 2", "prompts = 0", 1)
    home.home.config.write_text(head + samples + rest + section + after, encoding="utf-8")
    return home


def test_a_worker_that_is_stuck_in_a_round_costs_the_rounds_of_its_job(
    drills: Drills, record: Record, calm: dict[str, str]
) -> None:
    """Found out and replaced as in a step."""
    home = correcting(drills)
    home.start("token_generated:3:hang", pace_s=0.2)
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "hang"
    assert "no progress while it answered prompts for self-correction for" in event.message
    assert len(home.events(kinds.SelfCorrectionAbandoned)) == 1
    home.assert_trained_as(calm)
    detected = f"`hang`: {event.message.partition(': the worker')[0]}"
    did = "stacks in the log, ended, a new worker; the job continued without rounds"
    record(Row("worker stuck in self-correction", detected, f"{at - home.troubled_at():.0f} s", home.lost(), did))


def test_a_worker_that_dies_in_a_round_is_the_same(drills: Drills, record: Record, calm: dict[str, str]) -> None:
    """A crash in native code."""
    home = correcting(drills)
    home.start("answered:1:segv")
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "code"
    assert len(home.events(kinds.SelfCorrectionAbandoned)) == 1
    home.assert_trained_as(calm)
    did = "a new worker after the last commit; the job continued without rounds"
    after = f"{at - home.troubled_at():.1f} s"
    record(Row("worker killed by SIGSEGV in self-correction", f"`code`: {event.message}", after, home.lost(), did))


def test_memory_that_runs_out_in_a_round_ends_the_round(drills: Drills, record: Record, calm: dict[str, str]) -> None:
    """No attempt ends, and the next round is taken."""
    home = correcting(drills)
    steps = [event.global_step for event in _rounds_of_an_undisturbed_run(drills)]
    home.start(KEEPSTEP_FAULTS=f"self_correction:{steps[0]}:0")
    home.ended()
    assert not home.events(kinds.AttemptFailed, kinds.SelfCorrectionAbandoned)
    (failed,) = home.events(kinds.SelfCorrectionFailed)
    assert isinstance(failed, kinds.SelfCorrectionFailed)
    assert (failed.global_step, failed.failure) == (steps[0], "out_of_memory")
    answered = [
        each for each in home.events(kinds.SelfCorrectionAnswered) if isinstance(each, kinds.SelfCorrectionAnswered)
    ]
    assert [each.global_step for each in answered] == steps[1:]
    home.assert_trained_as(calm)
    did = "no answers after that step; the next round was taken"
    record(Row("out of memory in self-correction", "by the worker itself", "at once", home.lost(), did))


def _rounds_of_an_undisturbed_run(drills: Drills) -> list[kinds.SelfCorrectionAnswered]:
    home = correcting(drills)
    home.start()
    home.ended()
    return rounds_of(home)


def rounds_of(home: Drill) -> list[kinds.SelfCorrectionAnswered]:
    """The rounds, the oldest first."""
    found = home.events(kinds.SelfCorrectionAnswered)
    return [each for each in found if isinstance(each, kinds.SelfCorrectionAnswered)]
