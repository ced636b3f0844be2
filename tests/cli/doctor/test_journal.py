"""Checks of the journal, of the views, and of who works on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from cli.daemon.worker.orphans import workers_of
from cli.doctor import journal as checks_journal
from cli.doctor.context import DoctorContext
from cli.home.event_store import EventStore
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.machine.clock import Clock
from core import commands
from tests.cli.supervision.test_watchdog import daemon
from tests.harness.locks import is_locked
from tests.waiting import eventually

Drop = Callable[..., Path]


class Yesterday(Clock):
    def now(self) -> float:
        return super().now() - 86_400


def test_clock_that_was_set_back_is_reported(home: Home) -> None:
    """By the journal's own last record."""
    assert checks_journal.clock(DoctorContext(home)).level == "pass"
    found = checks_journal.clock(DoctorContext(Home(home.root, clock=Yesterday())))
    assert found.level == "warn"
    assert "in the future: the clock was set back" in found.message


def test_record_of_a_newer_keepstep_is_reported(home: Home) -> None:
    """The bytes are sound; this program does not know what they mean."""
    from journal import Journal, read_line

    with closing(Journal.open(home.journal, decode=read_line)) as journal:
        list(journal.read())
        with journal.transaction() as transaction:
            transaction.append([b'{"kind":"of_tomorrow","v":1}'], at="2026-01-01T00:00:00.000000Z")
    from cli.doctor.report import run_checks

    line = next(line for line in run_checks(home, fix=False, deep=False) if line.name == "journal")
    assert line.finding.level == "fail"
    assert "of_tomorrow" in line.finding.message


def test_dead_daemon_is_reported(home: Home) -> None:
    """Its lock file blocks nobody."""
    with closing(EventStore.open(home)) as store:
        store.execute(commands.StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""))
    home.daemon_lock.write_text("{}", encoding="utf-8")
    found = checks_journal.daemon(DoctorContext(home))
    assert found.level == "warn"
    assert "(pid 1) died; its lock file blocks no other daemon" in found.message


def test_hold_is_reported(home: Home) -> None:
    """With what was said then."""
    with closing(EventStore.open(home)) as store:
        store.execute(commands.StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""))
        store.execute(commands.HoldWork(reason="the model is gone", advice="bring it back"))
        store.execute(commands.StopDaemon(reason="done"))
    found = checks_journal.daemon(DoctorContext(home))
    assert (found.level, found.advice) == ("warn", "bring it back")


def test_running_and_suspended_daemons_are_distinguished(home: Home) -> None:
    """By the process that holds the lock."""
    with daemon(home) as process:
        eventually(lambda: load_state(home)[0].state.daemon.status == "idle")
        found = checks_journal.daemon(DoctorContext(home))
        assert found.level == "pass"
        assert f"pid {process.pid}" in found.message
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        assert checks_journal.daemon(DoctorContext(home)).advice == f"`kill -CONT {process.pid}`"


def test_status_of_an_earlier_daemon_says_nothing_about_this_one(home: Home) -> None:
    """It holds the lock before its first heartbeat."""
    lock = DaemonLock(home)
    with closing(EventStore.open(home)) as store:
        store.execute(commands.StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""))
    lock.take(this_process())
    try:
        assert checks_journal.daemon(DoctorContext(home)).level == "pass"
    finally:
        lock.release()


def test_damaged_or_old_status_file_is_reported(home: Home) -> None:
    """It is only a view, and rebuilt."""
    shown = home.status
    with closing(EventStore.open(home)) as store:
        store.execute(commands.Pause())
    assert checks_journal.status_file(DoctorContext(home)).level == "pass"
    before = shown.read_bytes()
    shown.write_bytes(before.replace(b"paused", b"paws_d", 1))
    assert "is damaged: its checksum" in checks_journal.status_file(DoctorContext(home)).message
    assert checks_journal.rebuild_status_file(DoctorContext(home))
    with closing(EventStore.open(home)) as store:
        store.execute(commands.Resume())
    shown.write_bytes(before)
    assert "shows record 2; the last one is 3" in checks_journal.status_file(DoctorContext(home)).message


def test_views_are_rebuilt_while_no_command_writes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an older view could replace that of a newer record."""
    write, locks = EventStore.write_status, []

    def written(store: EventStore) -> None:
        locks.append(is_locked(home.journal / "lock"))
        write(store)

    monkeypatch.setattr(EventStore, "write_status", written)
    checks_journal.rebuild_status_file(DoctorContext(home))
    assert locks == [True]


@pytest.mark.skipif(sys.platform != "linux", reason="command lines of others")
def test_a_worker_without_a_daemon_is_found_by_what_it_was_started_with(home: Home, tmp_path: Path) -> None:
    """Of this home alone; whatever else is called so is not ours."""
    sleeper = "import time\nprint('up', flush=True)\ntime.sleep(60)"

    def started(*words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", sleeper, *words], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    orphan = started("-m", "gpu.worker", "--home", str(home.root), "--socket", str(home.run / "worker-0123abcd.sock"))
    others = [
        started("-m", "gpu.worker", "--home", str(tmp_path / "other")),
        started("-m", "their.worker", "--home", str(home.root)),
        started("gpu.worker"),
    ]
    try:
        assert [process.pid for process in workers_of(home.root)] == [orphan.pid]
        found = checks_journal.orphans(DoctorContext(home))
        assert found.level == "fail"
        assert f"`kill -9 {orphan.pid}`" in found.advice
    finally:
        for process in (orphan, *others):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    assert checks_journal.orphans(DoctorContext(home)).level == "pass"


def test_nobody_is_taken_for_an_orphan_by_this_process(home: Home) -> None:
    """The doctor itself names the home, too."""
    assert os.getpid() not in {process.pid for process in workers_of(home.root)}


@pytest.mark.skipif(sys.platform != "linux", reason="command lines of others")
def test_the_worker_of_the_daemon_that_runs_is_no_orphan(home: Home) -> None:
    words = ["-m", "gpu.worker", "--home", str(home.root), "--socket", str(home.run / "worker-0123abcd.sock")]
    lock = DaemonLock(home)
    lock.take(this_process())
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words])
    try:
        eventually(lambda: workers_of(home.root) != [])
        found = checks_journal.orphans(DoctorContext(home))
        assert (found.level, found.message) == ("pass", "the worker belongs to the daemon")
    finally:
        worker.kill()
        worker.wait()
        lock.release()
