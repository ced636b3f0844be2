"""Workers that stand still: in a step, in a save, in loading, in a consolidation, or stopped by a signal."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from events import kinds
from tests.crash.homes import state_of
from tests.drills.drill import Drill, Row

Drills = Callable[..., Drill]
Record = Callable[[Row], None]

STUCK: list[tuple[str, str, str]] = [
    ("worker stuck in a step", "step:16:hang", "in a step"),
    ("worker stuck in a step, in native code that holds Python's lock", "step:16:native", "in a step"),
    ("worker stuck in a save", "staging_fsynced:9:hang", "while it wrote a checkpoint"),
    ("worker stuck in loading", "loading:2:hang", "while it loaded the model"),
]
STACK = "tests/drills/worker.py"
"""Where it stands, in the log."""


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("drill", "trouble", "where"), STUCK, ids=[each[1] for each in STUCK])
def test_a_worker_that_is_stuck_is_found_out_shown_and_replaced(
    drill: str, trouble: str, where: str, drills: Drills, record: Record, calm: dict[str, str]
) -> None:
    """The real one: after a multiple of what is usual, with the stack of every thread; the same weights come out."""
    home = drills()
    home.start(trouble, pace_s=0.3)  # slow enough that a save is done before the next step: each is stuck alone
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "hang"
    assert f"no progress {where} for" in event.message
    assert "usual is" in event.message
    assert "`keepstep logs`" in event.message
    assert STACK in home.log()
    assert len(home.events(kinds.AttemptFailed)) == 1
    assert home.weights() == calm
    _, begun = home.first(kinds.TrainingStarted, since=at)
    detected = f"`hang`: {event.message.partition(': the worker')[0]}"
    did = f"stacks in the log, ended, a new worker {begun - at:.0f} s later"
    record(Row(drill, detected, f"{at - home.troubled_at():.0f} s", home.lost(), did))


def test_a_consolidation_that_hangs_is_begun_again(drills: Drills, record: Record) -> None:
    """Nothing of it is believed; the version comes with the second attempt."""
    home = drills(a="ok ok")
    home.start()
    home.ended()
    home.command("consolidate")
    home.start("backed_up:1:hang")
    home.ended()
    event, at = home.first(kinds.ConsolidationAborted)
    assert isinstance(event, kinds.ConsolidationAborted)
    assert event.failure == "hang"
    assert "no progress in a consolidation" in event.message
    assert [each.id for each in state_of(home.home).retention.versions] == ["v001"]
    _, published = home.first(kinds.VersionPublished)
    detected = f"`hang`: {event.message.partition(': the worker')[0]}"
    did = f"stacks in the log, ended, started again; published {published - at:.1f} s later"
    record(Row("worker stuck in a consolidation", detected, f"{at - home.troubled_at():.0f} s", home.lost(), did))


def test_a_worker_that_stays_stopped_is_a_hang(drills: Drills, record: Record) -> None:
    """SIGSTOP: it says nothing and takes no signal but the last one."""
    home = drills(a="ok ok ok ok ok ok ok ok ok ok ok ok")
    home.start("step:11:SIGSTOP", pace_s=0.1)
    home.ended()
    event, at = home.first(kinds.AttemptFailed)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "hang"
    assert "it was stopped, stuck in the kernel" in event.message
    _, begun = home.first(kinds.TrainingStarted, since=at)
    detected = f"`hang`: {event.message.partition(': the worker')[0]}; it is stopped and logs no stacks"
    did = f"killed, a new worker {begun - at:.1f} s later"
    record(Row("SIGSTOP of the worker", detected, f"{at - home.troubled_at():.0f} s", home.lost(), did))


def test_a_worker_that_continues_in_time_is_not_replaced(drills: Drills, record: Record) -> None:
    """SIGSTOP, two seconds, SIGCONT: shorter than its deadline."""
    home = drills(a="ok ok ok ok ok ok")
    home.start("step:4:SIGSTOP")
    home.until(home.once.exists)
    time.sleep(2.0)  # so long is it stopped
    (worker,) = home.workers()
    worker.send_signal(signal.SIGCONT)
    home.ended()
    assert not home.events(kinds.AttemptFailed)
    assert state_of(home.home).outcomes.counts.trained == 1
    record(Row("SIGSTOP of the worker, SIGCONT after 2 s", "nothing", "–", home.lost(), "nothing: it was in time"))


def test_a_daemon_that_was_stopped_does_not_blame_its_worker(drills: Drills, record: Record) -> None:
    """Stopped for longer than any deadline; what the worker said meanwhile is still in the socket."""
    home = drills(a="ok " * 30)
    home.start(pace_s=0.1)
    home.until(lambda: len(home.events(kinds.StepReached)) >= 5)
    assert home.process is not None
    home.process.send_signal(signal.SIGSTOP)
    time.sleep(9.0)  # so long is it stopped: longer than QUICK has any patience
    home.process.send_signal(signal.SIGCONT)
    home.ended()
    assert not home.events(kinds.AttemptFailed, kinds.AttemptInterrupted)
    assert state_of(home.home).outcomes.counts.trained == 1
    did = "continued where it was; the worker had waited for it"
    record(Row("SIGSTOP of the daemon, SIGCONT after 9 s", "nothing: the silence was its own", "–", home.lost(), did))
