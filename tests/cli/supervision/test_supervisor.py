"""The real daemon under a supervisor: killed, stopped, crashing at its start, asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from cli.errors import CRASHED, INTERRUPTED, UserError
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive, lock_holder
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.supervision.supervisor import LONGEST_PAUSE_S, Supervisor
from core import commands
from events import kinds
from events.kinds import AnyEvent
from tests.cli.supervision.test_watchdog import allow_silent_workers
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]
WATCHDOG_TIMEOUT_S = 3.0

SCRIPT = f"""
import sys
from cli.errors import report_errors
from cli.supervision.supervisor import Supervisor
with report_errors():
    say = lambda line: print(line, flush=True)
    sys.exit(Supervisor(sys.argv[1:], write=say, timeout_s={WATCHDOG_TIMEOUT_S}, first_pause_s=0.1).run())
"""

Drop = Callable[..., Path]
Events = Callable[[], list[AnyEvent]]


@contextmanager
def supervised(*daemon: str) -> Iterator[subprocess.Popen[str]]:
    """A supervisor in a separate process."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SCRIPT, *daemon],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()  # and its daemon goes with it, and the worker with that
        process.communicate()


def fake(home: Home, *more: str) -> list[str]:
    allow_silent_workers(home)
    return [sys.executable, "-P", "-m", "tests.harness.daemon", str(home.root), "tests.harness.worker", *more]


def works(home: Home, *, but: int = 0) -> Callable[[], bool]:
    """Whether a daemon, and another than that one, has recovered and waits."""

    def check() -> bool:
        daemon = load_state(home)[0].state.daemon
        return daemon_is_alive(home) and daemon.status not in {"off", "off_paused"} and daemon.pid != but

    return check


def pid_of(home: Home) -> int:
    holder = lock_holder(home)
    assert holder is not None
    return holder.pid


def stop(home: Home) -> None:
    with closing(EventStore.open(home)) as store:
        store.execute(commands.Stop(alive=True))


def test_a_killed_daemon_runs_again_and_loses_nothing(home: Home, drop: Drop, events: Events) -> None:
    """kill -9 in the middle of a job: the next daemon continues from its commit, and `stop` ends both."""
    drop("a.jsonl", "ok ok ok ok wait-once ok")
    with supervised(*fake(home)) as supervisor:
        eventually(lambda: load_state(home)[0].state.attempts.reached.step >= 4)
        first = pid_of(home)
        os.kill(first, signal.SIGKILL)
        assert eventually(works(home, but=first)) < 20
        eventually(lambda: load_state(home)[0].state.outcomes.counts.trained == 1)
        stop(home)
        said, _ = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0
    assert "the daemon was killed by SIGKILL; it is restarted" in said
    assert [event.step for event in events() if isinstance(event, kinds.TrainingStarted)] == [0, 3]


def test_a_daemon_that_hangs_is_killed_and_runs_again(home: Home) -> None:
    """SIGSTOP, and it is not heard of: as long as it may be silent, ten seconds more at most."""
    with supervised(*fake(home)) as supervisor:
        eventually(works(home))
        first = pid_of(home)
        os.kill(first, signal.SIGSTOP)
        assert eventually(works(home, but=first)) < WATCHDOG_TIMEOUT_S + 15
        assert not psutil.pid_exists(first)
        supervisor.terminate()
        said, _ = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0
    assert "it hung; it is restarted" in said


def test_a_loop_that_hangs_says_where(tmp_path: Path) -> None:
    """It is told to abort first, and the dump of its threads goes to where its words go."""
    hang = (
        "import faulthandler, time\nfrom cli.supervision.sd_notify import ALIVE, Notifier\nfaulthandler.enable()\n"
        "Notifier.from_environment().send(ALIVE)\ndef stuck_here():\n    time.sleep(600)\nstuck_here()"
    )
    with supervised(sys.executable, "-P", "-c", hang) as supervisor:
        assert supervisor.stdout is not None
        said = ""
        while "it is restarted" not in said:
            said += supervisor.stdout.readline()
    assert "in stuck_here" in said


def test_a_daemon_that_crashes_at_each_start_is_abandoned(tmp_path: Path) -> None:
    """The pauses grow; in the end the supervisor exits with the code of a crash."""
    said: list[str] = []
    supervisor = Supervisor(
        [sys.executable, "-c", "import os; os.abort()"], write=said.append, first_pause_s=0.01, crashes_max=4
    )
    with pytest.raises(UserError, match=r"crashed 4 times within an hour; the last time it was killed by SIGABRT"):
        supervisor.run()
    assert len(said) == 3


def test_pauses_grow_and_stay_under_a_minute() -> None:
    """With the time that a hang takes to be seen."""
    said: list[str] = []
    supervisor = Supervisor(["none"], write=said.append)
    pauses = [supervisor._count_crash("crashed") for _ in range(10)]
    assert pauses[:4] == [1, 2, 4, 8]
    assert set(pauses[4:]) == {LONGEST_PAUSE_S}


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, INTERRUPTED])
def test_an_end_that_means_something_is_passed_on(code: int, tmp_path: Path) -> None:
    """Refused, damaged, storage failed: starting it again would change nothing."""
    tried = tmp_path / "tried"
    daemon = f"from pathlib import Path; p = Path({str(tried)!r}); p.open('a').write('x'); raise SystemExit({code})"
    said: list[str] = []
    assert Supervisor([sys.executable, "-c", daemon], write=said.append).run() == code
    assert tried.read_text(encoding="utf-8") == "x"
    assert said == []


def test_a_bug_in_the_daemon_is_a_crash_and_not_a_refusal(tmp_path: Path) -> None:
    """Python would end with 1 for both."""
    daemon = "from cli.errors import report_errors\nwith report_errors():\n    raise ZeroDivisionError('a bug')"
    ended = subprocess.run([sys.executable, "-P", "-c", daemon], capture_output=True, text=True, check=False)
    assert ended.returncode == CRASHED
    assert "ZeroDivisionError: a bug" in ended.stderr


def test_a_second_daemon_is_refused_under_a_supervisor_too(home: Home) -> None:
    """The lock is the daemon's; its supervisor ends with it."""
    with supervised(*fake(home)):
        eventually(works(home))
        with supervised(*fake(home)) as second:
            said, _ = second.communicate(timeout=30)
        assert second.returncode == 1
        assert "a daemon already runs in this home" in said
        assert "started again" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not see to it")
def test_no_daemon_outlives_its_supervisor(home: Home, drop: Drop) -> None:
    """kill -9 of the supervisor: daemon and worker are gone too."""
    drop("a.jsonl", "ok wait")
    with supervised(*fake(home)) as supervisor:
        eventually(lambda: load_state(home)[0].state.attempts.reached.step >= 1)
        everyone = psutil.Process(supervisor.pid).children(recursive=True)
        assert len(everyone) == 2
        supervisor.kill()
        _, left = psutil.wait_procs(everyone, timeout=5)
        assert not left
        assert not daemon_is_alive(home)


def test_a_daemon_whose_supervisor_ended_while_it_started_does_not_run() -> None:
    """The kernel kills it only for an end that comes later."""
    code = f"from cli.supervision.supervisor import _die_with; _die_with({os.getpid()}); _die_with(1); print('runs')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (CRASHED, b"")


def test_signals_are_passed_on_one_by_one(home: Home, drop: Drop) -> None:
    """The first commits and leaves; the second leaves at once, and neither is a crash."""
    drop("a.jsonl", "ok silent")
    with supervised(*fake(home)) as supervisor:
        eventually(lambda: load_state(home)[0].state.attempts.reached.step >= 1)
        supervisor.send_signal(signal.SIGINT)
        eventually(lambda: load_state(home)[0].state.daemon.status == "stopping")
        supervisor.send_signal(signal.SIGINT)
        said, _ = supervisor.communicate(timeout=30)
    assert supervisor.returncode == INTERRUPTED
    assert "started again" not in said
