"""The loop of the daemon, with a worker that misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from cli.daemon.ports import RealPorts
from cli.daemon.worker.latency_stats import LatencyStats
from cli.daemon.worker.messages import problem_of
from cli.daemon.worker.supervisor import WorkerSupervisor
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.hooks.dispatch import read_position, write_position
from core import commands
from core.commands import AnyCommand
from core.deadlines import Limits
from events import kinds, messages
from events.codec import kind_of
from events.kinds import AnyEvent
from journal import Position
from tests.crash.homes import state_of
from tests.waiting import eventually

Run = Callable[..., list[str]]
Drop = Callable[..., Path]
Events = Callable[[], list[AnyEvent]]


def when(condition: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Do something from another thread as soon as a condition holds, while the daemon runs in this one."""

    def wait() -> None:
        eventually(condition)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def reached(home: Home, step: int) -> Callable[[], bool]:
    return lambda: load_state(home)[0].state.attempts.reached.step >= step


def test_files_are_trained_in_the_order_of_their_lanes(home: Home, drop: Drop, run: Run, events: Events) -> None:
    """High before normal before low; each ends committed and trained."""
    drop("c.jsonl", "ok ok", "low")
    drop("b.jsonl", "ok ok ok")
    drop("a.jsonl", "ok", "high")
    run()
    names = {event.job: event.name for event in events() if isinstance(event, kinds.FileEnqueued)}
    assert [names[event.job] for event in events() if isinstance(event, kinds.JobTrained)] == [
        "a.jsonl",
        "b.jsonl",
        "c.jsonl",
    ]
    assert state_of(home).head.global_step == 6
    assert state_of(home).outcomes.counts.trained == 3


def test_a_dead_worker_is_replaced_and_the_job_continues_from_its_commit(
    home: Home, drop: Drop, run: Run, events: Events
) -> None:
    """Killed at step 5, committed at step 3: the next attempt begins at step 4."""
    drop("a.jsonl", "ok ok ok ok die-once ok")
    run()
    started = [event for event in events() if isinstance(event, kinds.TrainingStarted)]
    assert [event.step for event in started] == [0, 3]
    failed = next(event for event in events() if isinstance(event, kinds.AttemptFailed))
    assert failed.failure == "killed"
    assert "SIGKILL" in failed.message
    assert state_of(home).outcomes.counts.trained == 1


def test_a_silent_worker_is_ended_and_reported_as_hung(home: Home, drop: Drop, run: Run, events: Events) -> None:
    """The attempt fails as a hang, and the queue continues."""
    drop("a.jsonl", "silent")
    drop("b.jsonl", "ok")
    stopper = when(
        lambda: any(isinstance(event, kinds.AttemptFailed) for event in events()),
        lambda: _execute(home, commands.Skip()),
    )
    run()
    stopper.join()
    failed = next(event for event in events() if isinstance(event, kinds.AttemptFailed))
    assert failed.failure == "hang"
    assert state_of(home).outcomes.counts == state_of(home).outcomes.counts.__class__(trained=1, skipped=1)


def test_a_worker_that_dies_before_it_is_up_is_one_failed_attempt(
    home: Home, drop: Drop, run: Run, events: Events
) -> None:
    """A broken installation: the failure has the exit code; the daemon prints no traceback."""
    drop("a.jsonl", "ok")
    skipper = when(
        lambda: any(isinstance(event, kinds.AttemptFailed) for event in events()),
        lambda: _execute(home, commands.Skip()),
    )
    run(worker_module="tests.harness.there_is_no_such_module")
    skipper.join()
    failed = next(event for event in events() if isinstance(event, kinds.AttemptFailed))
    assert "exit code 1 before it was up" in failed.message


def test_garbage_from_the_worker_ends_it(home: Home, drop: Drop, run: Run, events: Events) -> None:
    """Bytes that are no message are never interpreted."""
    drop("a.jsonl", "ok garbage")
    stopper = when(
        lambda: any(isinstance(event, kinds.AttemptFailed) for event in events()),
        lambda: _execute(home, commands.Skip()),
    )
    run()
    stopper.join()
    failed = next(event for event in events() if isinstance(event, kinds.AttemptFailed))
    assert "not a message" in failed.message


def test_a_rejected_file_goes_to_rejected_with_a_report(home: Home, drop: Drop, run: Run) -> None:
    """The report names the line; the next file is trained."""
    drop("bad.jsonl", "ok reject")
    drop("good.jsonl", "ok")
    run()
    report = json.loads((home.rejected / "bad.jsonl.report.json").read_bytes())
    assert report["line"] == 2
    assert (home.rejected / "bad.jsonl").read_text(encoding="utf-8") == "ok\nreject\n"
    assert not list(home.inbox.glob("*.jsonl"))
    assert state_of(home).outcomes.counts.trained == 1


def test_a_model_that_cannot_be_loaded_holds_the_queue(home: Home, drop: Drop, run: Run) -> None:
    """The file is not the cause: no job fails, and a person is needed."""
    drop("a.jsonl", "model")
    with pytest.raises(UserError, match="no such model"):
        run()
    state = state_of(home)
    assert state.daemon.status == "off_paused"
    assert state.training.current is not None
    assert not len(state.outcomes.failed)


def test_a_pause_commits_at_the_next_step_and_outlives_the_daemon(
    home: Home, drop: Drop, run: Run, events: Events
) -> None:
    """Paused at step 2: committed there; after a resume the rest is trained once."""
    drop("a.jsonl", "ok wait ok ok")
    pauser = when(reached(home, 1), lambda: _execute(home, commands.Pause()))
    run()
    pauser.join()
    assert state_of(home).daemon.status == "off_paused"
    assert state_of(home).head.global_step == 2
    _execute(home, commands.Resume())
    run()
    assert [event.step for event in events() if isinstance(event, kinds.StepReached)] == [1, 2, 3, 4]
    assert state_of(home).outcomes.counts.trained == 1


def test_a_signal_commits_and_stops(home: Home, drop: Drop, run: Run) -> None:
    """SIGTERM in the middle of a step: that step is committed, and the daemon stops normally."""
    drop("a.jsonl", "ok wait ok ok")
    killer = when(reached(home, 1), lambda: os.kill(os.getpid(), signal.SIGTERM))
    run(until_idle=False)
    killer.join()
    assert state_of(home).head.global_step == 2
    assert state_of(home).daemon.status == "off"


def test_an_idle_worker_misses_no_deadline_of_the_next_attempt(
    home: Home, drop: Drop, run: Run, events: Events
) -> None:
    """It was idle for longer than any deadline. The next attempt begins before the worker knows of it."""
    drop("a.jsonl", "ok ok")

    def another() -> None:
        time.sleep(2.5)  # deadlines here are a second
        drop("b.jsonl", "ok b")
        eventually(lambda: state_of(home).outcomes.counts.trained == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    waiting = when(lambda: state_of(home).outcomes.counts.trained == 1, another)
    run(until_idle=False)
    waiting.join()
    assert not [event for event in events() if isinstance(event, kinds.AttemptFailed)]
    assert state_of(home).outcomes.counts.trained == 2


def test_signal_handlers_are_restored_after_a_run(home: Home, run: Run) -> None:
    """A caller that runs a daemon in its own process keeps its Ctrl-C."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_attempt_that_was_asked_to_yield_gets_no_more_orders(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused and resumed before the worker yields: a message after the Yield would start an attempt that has ended."""
    supervisor, given = WorkerSupervisor(RealPorts(home), LatencyStats(home)), list[object]()
    worker_process = SimpleNamespace(sent={(messages.Prepare, 1), (messages.Yield, 1)}, send=given.append)
    monkeypatch.setattr(supervisor, "worker", worker_process)
    train = messages.Train(attempt=1, global_step=0, step=0, until=1, checkpoint=None, carry_optimizer=True)
    supervisor.send_once(train)
    assert given == []
    supervisor.send_once(replace(train, attempt=2))
    assert given == [replace(train, attempt=2)]


CONSOLIDATE: dict[str, Any] = {
    "attempt": 1,
    "version": "v001",
    "parent": None,
    "checkpoint": "step-00000001-attempt-0001",
    "backup": "before-v001-attempt-0002",
    "description": "",
    "files": (),
    "space_factor": 1.0,
}


def test_a_long_turn_does_not_count_as_silence_of_the_worker(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon was stopped or busy; messages of the worker are still in the socket."""
    supervisor = WorkerSupervisor(RealPorts(home), LatencyStats(home))
    limits = Limits(times=2.0, step_least_s=1.0, least_s=1.0, most_s=60.0)
    monkeypatch.setattr(supervisor, "worker", SimpleNamespace(sent=set(), send=lambda _: None, connected=True))
    supervisor.missed_deadline(1000.0, limits, 0, None)
    order = messages.Consolidate(**CONSOLIDATE)
    supervisor.send_once(order)
    assert supervisor.missed_deadline(5000.0, limits, 0, order.attempt) is None
    now = 5000.0
    while (late := supervisor.missed_deadline(now, limits, 0, order.attempt)) is None:
        now += 1.0
    assert supervisor.missed_deadline(now, limits, 0, order.attempt + 1) is None, "it does not know that attempt yet"
    assert 50.0 < now - 5000.0 < 60.0
    assert late.phase == "consolidate"


def test_a_late_report_of_a_checkpoint_costs_the_running_attempt_nothing(home: Home) -> None:
    """The checkpoint of an ended attempt may be swept already; that is no sign of a failing disk."""
    late = messages.CheckpointWritten(
        attempt=7,
        checkpoint="step-00000003-attempt-0007",
        global_step=3,
        step=3,
        parent=None,
        size_bytes=1,
        manifest_sha256="",
        reason="steps",
    )
    with closing(EventStore.open(home)) as store:
        assert problem_of(late, store.state, home) is None


def test_a_skipped_job_keeps_what_it_has_committed(home: Home, drop: Drop, run: Run) -> None:
    """The running job ends at its next step; the next one begins from there."""
    drop("a.jsonl", "ok wait ok ok")
    drop("b.jsonl", "ok ok")
    skipper = when(reached(home, 1), lambda: _execute(home, commands.Skip()))
    run()
    skipper.join()
    assert state_of(home).outcomes.counts.skipped == 1
    assert state_of(home).head.global_step == 4


def test_leftovers_are_swept_and_other_files_are_left_alone(home: Home, drop: Drop, run: Run) -> None:
    """Checkpoints that no record names and staging directories are deleted; other files belong to the user."""
    for name in ("step-00000099-attempt-0009", ".staging-step-00000100-attempt-0009", "my-own-notes"):
        (home.checkpoints / name).mkdir()
        (home.checkpoints / name / "file").write_text("x", encoding="utf-8")
    drop("a.jsonl", "ok")
    run()
    assert {path.name for path in home.checkpoints.iterdir()} == {"my-own-notes", "step-00000001-attempt-0001"}


def test_views_that_somebody_deleted_are_made_again(home: Home, drop: Drop, run: Run) -> None:
    """Views hold nothing that the journal does not; the daemon and commands work without them."""
    drop("a.jsonl", "ok ok")
    run()
    shutil.rmtree(home.status.parent)
    with closing(EventStore.open(home)) as store:
        store.write_status()
        store.write_status()
        store.save_snapshot()
    assert home.status.is_file()
    assert home.snapshot.is_file()
    shutil.rmtree(home.status.parent)
    write_position(home, Position(2, "00000000", 1, 400))
    assert read_position(home) == Position(2, "00000000", 1, 400)


def test_retention_keeps_the_newest(home: Home, drop: Drop, run: Run) -> None:
    """keep = 2: two directories, and the journal says which went."""
    drop("a.jsonl", "ok " * 13)
    run()
    assert [checkpoint.global_step for checkpoint in state_of(home).head.checkpoints] == [12, 13]
    assert len(list(home.checkpoints.iterdir())) == 2


def test_a_second_daemon_is_refused_by_name(home: Home, run: Run) -> None:
    """The lock is the kernel's; the message names who holds it."""
    lock = DaemonLock(home)
    lock.take(this_process())
    with pytest.raises(UserError, match=f"pid {os.getpid()}"):
        run()
    lock.release()
    run()


def test_a_stale_lock_file_never_blocks(home: Home, run: Run) -> None:
    """A file that names this very process, alive, but locked by nobody: not the daemon."""
    home.daemon_lock.write_text(
        json.dumps({"pid": os.getpid(), "process_started_at": 1.0, "boot_id": "", "host": "here"}), encoding="utf-8"
    )
    run()


def test_a_broken_config_holds_the_next_job_and_loses_nothing(home: Home, drop: Drop, run: Run) -> None:
    """The file waits in the queue; the message names the key."""
    drop("a.jsonl", "ok")
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("batch_size = 4", "batch_size = 0"), encoding="utf-8")
    with pytest.raises(UserError, match=r"training\.batch_size"):
        run()
    home.config.write_text(text, encoding="utf-8")
    run()
    assert state_of(home).outcomes.counts.trained == 1


def test_a_config_that_changed_under_a_begun_job_is_said_and_holds_from_the_next_file_on(
    home: Home, drop: Drop, run: Run, events: Events
) -> None:
    """The begun job keeps its settings; nothing half-done."""
    drop("a.jsonl", "ok wait ok ok")
    drop("b.jsonl", "ok")
    pauser = when(reached(home, 1), lambda: _execute(home, commands.Pause()))
    run()
    pauser.join()
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("learning_rate = 0.0002", "learning_rate = 0.001"), encoding="utf-8")
    _execute(home, commands.Resume())
    said = run()
    assert any("keepstep.toml was changed; a.jsonl keeps the settings that it started with" in line for line in said)
    rates = [event.settings.training.learning_rate for event in events() if isinstance(event, kinds.AttemptStarted)]
    assert rates == [0.0002, 0.0002, 0.001]


def test_a_lost_daemon_leaves_an_interrupted_attempt(home: Home, drop: Drop, run: Run, events: Events) -> None:
    """A journal that ends in the middle of an attempt: the next daemon journals that and continues."""
    drop("a.jsonl", "ok ok")
    run()
    job = hashlib.sha256(b"ok\n").hexdigest()
    with_attempt = EventStore.open(home)
    with_attempt.execute(commands.StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""))
    with_attempt.execute(commands.AddFile(job=job, name="gone", size_bytes=1, priority="normal", known=False))
    settings = next(event.settings for event in events() if isinstance(event, kinds.AttemptStarted))
    with_attempt.execute(commands.StartAttempt(job=job, settings=settings))
    with_attempt.close()
    home.data_file(job).write_text("ok\n", encoding="utf-8")
    run()
    assert "attempt_interrupted" in [kind_of(event) for event in events()]
    assert state_of(home).outcomes.counts.trained == 2


def _execute(home: Home, command: AnyCommand) -> None:
    store = EventStore.open(home)
    try:
        store.execute(command)
    finally:
        store.close()
