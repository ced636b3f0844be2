"""Running hooks: processes of their own, a few at once, from threads that the daemon's loop never waits for.

Whatever a hook does (end badly, never end, print without end, not be there) becomes lines of the log and no more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

AT_ONCE = 3
"""Hooks that run at the same time: a slow one does not hold up the next, and a storm of events starts no storm of
processes."""

WAITING = 100
"""Hooks that wait to be run; more are left out, and the log says so."""

KEPT_BYTES = 16_384
"""Of what a hook prints: all of it is read, so that it is never blocked, and this much is logged."""

STARTING_WITHIN_S = 0.1


class Task(NamedTuple):
    """Something to run."""

    name: str
    """As it is called in the log."""
    command: Sequence[str]
    said: bytes
    """Its standard input: less than a pipe holds, 64 KiB."""
    environment: dict[str, str]
    """What it has beside ours."""
    directory: Path
    timeout_s: float


class Outcome(NamedTuple):
    """How it went."""

    problem: str | None
    """None: well."""
    output: str
    seconds: float


def run(task: Task) -> Outcome:
    """Run it to its end, or to the end of its time. Raises nothing that the hook can cause."""
    began = time.monotonic()
    if (program := open_to_all(task.command[0], task.directory)) is not None:
        return Outcome(f"it was not started: anybody may write to {program}; chmod o-w", "", 0.0)
    try:
        process = subprocess.Popen(
            task.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=task.directory,
            env={**os.environ, **task.environment},
            start_new_session=True,  # it and its children are one group, which can be ended
        )
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == task.command[0]
        why = f"there is no program {task.command[0]}" if missing else str(error)
        return Outcome(f"it could not be started: {why}", "", time.monotonic() - began)
    assert process.stdin is not None  # both were asked for
    assert process.stdout is not None
    with contextlib.suppress(OSError):  # it need not listen
        process.stdin.write(task.said)
        process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()
    deadline = began + task.timeout_s
    with process.stdout:
        output, closed = _read(process.stdout.fileno(), process, deadline)
    problem = None
    if closed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    if process.poll() is None:
        problem = f"it did not end within {task.timeout_s:g} s and was ended"
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # and its children; nobody else can have this number: it is there
        process.wait()
    elif process.returncode:
        problem = _ended(process.returncode)
    return Outcome(problem, output, time.monotonic() - began)


def open_to_all(program: str, directory: Path) -> Path | None:
    """The file of a program, if any user of the machine may write to it: whoever does would run commands as us."""
    found = shutil.which(directory / program if "/" in program else program)
    if found is None:  # whoever starts it says so
        return None
    with contextlib.suppress(OSError):
        return Path(found) if Path(found).stat().st_mode & stat.S_IWOTH else None
    return None


def _read(pipe: int, process: subprocess.Popen[bytes], deadline: float) -> tuple[str, bool]:
    """What it printed, the first of it, and whether it closed its output before its time was over. A child that holds
    the output open is not waited for once the hook itself has ended."""
    kept, more, closed = bytearray(), 0, False
    while (left_s := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], min(left_s, STARTING_WITHIN_S))
        if not ready:
            if process.poll() is not None:
                closed = True
                break
            continue
        data = os.read(pipe, 65_536)
        if not data:
            closed = True
            break
        room = KEPT_BYTES - len(kept)
        kept += data[:room]
        more += max(0, len(data) - room)
    text = bytes(kept).decode(errors="backslashreplace").rstrip()
    return (f"{text}\n… ({more} bytes more)" if more else text), closed


def _ended(code: int) -> str:
    return f"it ended with exit code {code}" if code > 0 else f"it was killed by {signal.Signals(-code).name}"


class Runner:
    """Threads that run what they are given, in the order in which it came."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Task] = queue.Queue(WAITING)
        self._threads: list[threading.Thread] = []
        self._log = logging.getLogger("keepstep.hooks")

    def give(self, task: Task) -> None:
        """Have it run; returns at once."""
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            self._log.error("%s is left out: %d others wait", task.name, WAITING, extra={"source": "hook"})
            return
        if len(self._threads) < AT_ONCE:
            thread = threading.Thread(target=self._work, name="hooks", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                self._report(task, run(task))
            except Exception:  # noqa: BLE001  # the next hook is to be run whatever this one did to us
                self._log.error("%s failed", task.name, exc_info=True, extra={"source": "hook"})
            finally:
                self._tasks.task_done()

    def _report(self, task: Task, outcome: Outcome) -> None:
        level = logging.INFO if outcome.problem is None else logging.ERROR
        how = outcome.problem or "done"
        extra = {"source": "hook", "trace": outcome.output}
        self._log.log(level, "%s: %s (%.1f s)", task.name, how, outcome.seconds, extra=extra)

    def wait(self, timeout_s: float) -> bool:
        """Whether all that was given has been run, after waiting for it at most so long."""
        deadline = time.monotonic() + timeout_s
        with self._tasks.all_tasks_done:
            while self._tasks.unfinished_tasks:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._tasks.all_tasks_done.wait(left_s)
        return True
