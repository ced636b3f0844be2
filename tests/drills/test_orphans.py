"""Daemons that are killed, and what becomes of their workers."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from events import kinds
from events.kinds import OrphanEnded
from tests.crash.homes import state_of
from tests.drills.drill import Drill, Row

Drills = Callable[..., Drill]
Record = Callable[[Row], None]

GONE_S = 5.0


def kill_daemon(home: Drill) -> None:
    """With -9."""
    assert home.process is not None
    home.process.kill()
    home.process.wait()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_worker_dies_with_its_daemon_even_if_none_of_its_threads_can_run(
    drills: Drills, record: Record, calm: dict[str, str]
) -> None:
    """The real one, stuck in native code: the kernel ends it."""
    home = drills()
    home.start("step:5:native")
    home.until(home.once.exists)
    assert home.workers()
    kill_daemon(home)
    killed = time.monotonic()
    home.until(lambda: not home.workers(), GONE_S)
    gone_s = time.monotonic() - killed
    home.start()
    home.ended()
    assert home.events(kinds.AttemptInterrupted)
    assert not home.events(kinds.AttemptFailed, OrphanEnded)
    assert home.weights() == calm
    detected = "`interrupted`, by the next daemon"
    did = f"the kernel ended the worker {gone_s:.1f} s after its daemon; the next one continued after the last commit"
    record(Row("daemon kill -9, its worker stuck in native code", detected, f"{gone_s:.1f} s", home.lost(), did))


def test_a_worker_that_outlives_its_daemon_is_ended_by_the_next(drills: Drills, record: Record) -> None:
    """One that neither the kernel nor the socket ended: it does not even notice."""
    home = drills(a="ok ok ok ok ok ok")
    home.start("step:4:native")
    home.until(home.once.exists)
    (worker,) = home.workers()
    kill_daemon(home)
    time.sleep(1.0)  # its end, which is not to come, can only be waited for
    assert home.workers() == [worker]
    began = time.time()
    home.start()
    home.ended()
    event, at = home.first(OrphanEnded)
    assert isinstance(event, OrphanEnded)
    assert event.pid == worker.pid
    assert not home.workers()
    assert state_of(home.home).outcomes.counts.trained == 1
    did = "ended it before any work started; continued after the last commit"
    row = Row(
        "a worker that outlived its daemon", "`orphan_ended`, by its home", f"{at - began:.1f} s", home.lost(), did
    )
    record(row)
