"""Run hooks as subprocesses, a few at once, in threads that the daemon's loop never waits for.

A hook that fails, hangs, prints without end or does not exist only adds lines to the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gpu.evaluation.program import open_to_all

THREADS_MAX = 3
"""Hooks that run at once: a slow one does not delay the next, and many events start few processes."""

QUEUE_MAX = 100
"""Hooks that wait; further ones are dropped with a line in the log."""

OUTPUT_BYTES_MAX = 16_384
"""Logged bytes of a hook's output. The rest is read and dropped, so that the hook never blocks."""

POLL_S = 0.1


class Task(NamedTuple):
    """A command to run."""

    name: str
    """The name in the log."""
    command: Sequence[str]
    stdin: bytes
    """The standard input; less than a pipe holds, 64 KiB."""
    environment: dict[str, str]
    """Variables added to those of this process."""
    directory: Path
    timeout_s: float


class Outcome(NamedTuple):
    """The result of a task."""

    problem: str | None
    """None: the command succeeded."""
    output: str
    seconds: float


def run(task: Task) -> Outcome:
    """Run a task until it ends or its timeout. Never raises an error that the hook can cause."""
    began = time.monotonic()
    if (program := open_to_all(task.command[0], task.directory)) is not None:
        return Outcome(f"it was not started: all users can write to {program}; run chmod o-w", "", 0.0)
    try:
        process = subprocess.Popen(
            task.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=task.directory,
            env={**os.environ, **task.environment},
            start_new_session=True,  # a process group, so that its children can be ended too
        )
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == task.command[0]
        why = f"there is no program {task.command[0]}" if missing else str(error)
        return Outcome(f"it could not be started: {why}", "", time.monotonic() - began)
    assert process.stdin is not None  # both are pipes
    assert process.stdout is not None
    with contextlib.suppress(OSError):  # it may not read its input
        process.stdin.write(task.stdin)
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
            os.killpg(process.pid, signal.SIGKILL)  # the group cannot be another one: the process still exists
        process.wait()
    elif process.returncode:
        problem = _ended(process.returncode)
    return Outcome(problem, output, time.monotonic() - began)


def _read(pipe: int, process: subprocess.Popen[bytes], deadline: float) -> tuple[str, bool]:
    """Read the output. Returns its beginning, and True if the output was closed before the deadline.

    Does not wait for a child that keeps the output open after the hook has ended.
    """
    kept, more, closed = bytearray(), 0, False
    while (left_s := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], min(left_s, POLL_S))
        if not ready:
            if process.poll() is not None:
                closed = True
                break
            continue
        data = os.read(pipe, 65_536)
        if not data:
            closed = True
            break
        room = OUTPUT_BYTES_MAX - len(kept)
        kept += data[:room]
        more += max(0, len(data) - room)
    text = bytes(kept).decode(errors="backslashreplace").rstrip()
    return (f"{text}\n… ({more} bytes more)" if more else text), closed


def _ended(code: int) -> str:
    return f"it ended with exit code {code}" if code > 0 else f"it was killed by {signal.Signals(-code).name}"


class Runner:
    """Runs tasks in threads, in the order of `submit`."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Task] = queue.Queue(QUEUE_MAX)
        self._threads: list[threading.Thread] = []
        self._log = logging.getLogger("keepstep.hooks")

    def submit(self, task: Task) -> None:
        """Queue a task; returns at once."""
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            self._log.error("%s is dropped: %d others wait", task.name, QUEUE_MAX, extra={"source": "hook"})
            return
        if len(self._threads) < THREADS_MAX:
            thread = threading.Thread(target=self._work, name="hooks", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                self._report(task, run(task))
            except Exception:  # noqa: BLE001  # an error must not stop the next hook
                self._log.error("%s failed", task.name, exc_info=True, extra={"source": "hook"})
            finally:
                self._tasks.task_done()

    def _report(self, task: Task, outcome: Outcome) -> None:
        level = logging.INFO if outcome.problem is None else logging.ERROR
        how = outcome.problem or "done"
        extra = {"source": "hook", "trace": outcome.output}
        self._log.log(level, "%s: %s (%.1f s)", task.name, how, outcome.seconds, extra=extra)

    def wait(self, timeout_s: float) -> bool:
        """Wait for all tasks, at most `timeout_s`. Returns True if all have run."""
        deadline = time.monotonic() + timeout_s
        with self._tasks.all_tasks_done:
            while self._tasks.unfinished_tasks:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._tasks.all_tasks_done.wait(left_s)
        return True
