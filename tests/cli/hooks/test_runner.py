"""Hooks as processes: whatever one does becomes an outcome, and the others are run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from cli.hooks.runner import OUTPUT_BYTES_MAX, THREADS_MAX, Runner, Task, run
from tests.waiting import eventually, is_alive

UNTIL_GO = "exec(\"import os, time\\nwhile not os.path.exists('go'): time.sleep(0.01)\")"
"""A hook that ends when the test says so."""


def task(directory: Path, script: str, timeout_s: float = 20.0, stdin: bytes = b"{}") -> Task:
    return Task("on_held", [sys.executable, "-c", script], stdin, {"KEEPSTEP_HOOK": "held"}, directory, timeout_s)


def test_a_hook_has_its_input_its_environment_and_its_directory(tmp_path: Path) -> None:
    """And what it prints is kept, both streams in their order."""
    script = (
        "import os, sys; print(sys.stdin.read(), os.environ['KEEPSTEP_HOOK'], os.getcwd(), flush=True);"
        "print('oh', file=sys.stderr)"
    )
    outcome = run(task(tmp_path, script, stdin=b'{"a": 1}'))
    assert outcome.problem is None
    assert outcome.output == f'{{"a": 1}} held {tmp_path}\noh'


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("raise SystemExit(3)", "it ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "it was killed by SIGKILL"),
    ],
)
def test_a_hook_that_ends_badly_says_how(tmp_path: Path, script: str, problem: str) -> None:
    """By its exit code or its signal."""
    assert run(task(tmp_path, script)).problem == problem


def test_a_command_that_is_not_there_is_an_outcome_too(tmp_path: Path) -> None:
    """Nothing is raised."""
    outcome = run(Task("x", ["/nowhere/at/all"], b"", {}, tmp_path, 1.0))
    assert outcome.problem is not None
    assert outcome.problem == "it could not be started: there is no program /nowhere/at/all"


def test_a_hook_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """Also one that has closed its output."""
    for silent in ("", "os.close(1); os.close(2);"):
        script = (
            "import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time;"
            f" time.sleep(60)']); open('pid', 'w').write(str(child.pid)); {silent} time.sleep(60)"
        )
        outcome = run(task(tmp_path, script, timeout_s=1.5))
        assert outcome.problem == "it did not end within 1.5 s and was ended"
        assert outcome.seconds < 10
        child = int((tmp_path / "pid").read_text(encoding="utf-8"))
        eventually(lambda child=child: not is_alive(child), 5.0)  # type: ignore[misc]


def test_a_child_that_holds_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    """The hook itself has ended: that counts."""
    script = (
        "import subprocess, sys;"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)"
    )
    outcome = run(task(tmp_path, script))
    assert outcome.problem is None
    assert is_alive(int(outcome.output))
    os.kill(int(outcome.output), signal.SIGKILL)


def test_a_hook_that_prints_without_end_is_read_and_cut(tmp_path: Path) -> None:
    """It is never blocked by its output, and memory is not filled by it."""
    outcome = run(task(tmp_path, "import sys; sys.stdout.write('x' * 5_000_000)"))
    assert outcome.problem is None
    assert outcome.output == "x" * OUTPUT_BYTES_MAX + f"\n… ({5_000_000 - OUTPUT_BYTES_MAX} bytes more)"


def test_a_hook_that_does_not_listen_is_no_trouble(tmp_path: Path) -> None:
    """A closed standard input is its own affair."""
    outcome = run(task(tmp_path, "import os; os.close(0); print('done')", stdin=b"x" * 60_000))
    assert (outcome.problem, outcome.output) == (None, "done")


def test_a_few_run_at_once_and_all_in_the_end(tmp_path: Path) -> None:
    """Giving one does not wait for any: all are given before one may end."""
    runner = Runner()
    script = (
        "import os; open(f'run-{os.getpid()}', 'x');"
        "n = len([f for f in os.listdir() if f.startswith('run-')]); open(f'n-{n}-{os.getpid()}', 'x');"
        f"{UNTIL_GO}; os.unlink(f'run-{{os.getpid()}}')"
    )
    for _ in range(2 * THREADS_MAX):
        runner.submit(task(tmp_path, script))
    eventually(lambda: len(list(tmp_path.glob("run-*"))) == THREADS_MAX)
    (tmp_path / "go").touch()
    assert runner.wait(30.0)
    seen = [int(path.name.split("-")[1]) for path in tmp_path.glob("n-*")]
    assert len(seen) == 2 * THREADS_MAX
    assert max(seen) == THREADS_MAX


def test_waiting_has_an_end(tmp_path: Path) -> None:
    """A daemon that leaves does not hang on a hook."""
    runner = Runner()
    runner.submit(task(tmp_path, UNTIL_GO))
    assert not runner.wait(0.1)
    (tmp_path / "go").touch()
    assert runner.wait(20.0)


def test_a_program_that_anybody_may_write_to_is_not_started(tmp_path: Path) -> None:
    """Other users could run commands as the daemon."""
    program = tmp_path / "tell.sh"
    program.write_text("#!/bin/sh\ntouch was-here\n", encoding="utf-8")
    program.chmod(0o757)
    outcome = run(Task("on_idle", ["./tell.sh"], b"", {}, tmp_path, 10.0))
    assert outcome.problem is not None
    assert "all users can write" in outcome.problem
    assert not (tmp_path / "was-here").exists()
    program.chmod(0o755)
    assert run(Task("on_idle", ["./tell.sh"], b"", {}, tmp_path, 10.0)).problem is None
