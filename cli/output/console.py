"""The console of `keepstep run`: a line with the time for each event, and the same text in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from cli.output.event_lines import SLOW_BF16, USE_FP32, event_text, is_skipped
from cli.output.run_screen import RunScreen
from cli.text import printable
from core.job import Job
from core.state import State
from core.structures.situations import Hold
from events import kinds
from events.codec import kind_of
from events.kinds import (
    AnyEvent,
    BatchSkipped,
    ConfigRefused,
    EvaluationAbandoned,
    EvaluationDone,
    MemoryLow,
    MicrobatchSplit,
    SamplesAbandoned,
    SamplesFailed,
)
from events.values import ARITHMETIC, FP32_INSTEAD

STEP_LINE_EVERY_S = 2.0
"""Lines about steps are at least this far apart: more could not be read, and would fill the log."""

INDENT = " " * len("00:00:00  ")

log = logging.getLogger("keepstep.daemon")


class Console:
    """Prints and logs events in the order in which they come. Remembers the current job, to name it after its end."""

    def __init__(self, write: Callable[[str], None], screen: RunScreen | None = None) -> None:
        """`screen`: it observes every event, and shows steps if it is live; None: steps are lines."""
        self._write, self._screen = write, screen
        self._job: Job | None = None
        self._last_step_line = 0.0
        self._warned_of_bf16 = False

    def remember_job(self, state: State) -> None:
        """Remember the current job, before events about it come."""
        self._job = state.training.current

    def print_event(self, event: AnyEvent, state: State) -> None:
        """Print and log the text about an event, if there is one. `state`: after the event."""
        if self._screen is not None:
            self._screen.observe(event, state)
        text = self.text(event, state)
        if text is None:
            return
        text = f"\n{INDENT}".join(printable(line) for line in text.split("\n"))
        extra = {"attempt": getattr(event, "attempt", state.attempts.current), "kind": kind_of(event)}
        log.log(_level(event), "%s", text, extra=extra)
        is_on_bar = isinstance(event, kinds.StepReached) and not is_skipped(event)
        if self._screen is None or not (self._screen.is_live and is_on_bar):
            self._write(f"{time.strftime('%H:%M:%S')}  {text}")

    def text(self, event: AnyEvent, state: State) -> str | None:
        """The text about an event; None if there is nothing to say, or another step was shown just before."""
        self._job = state.training.current or self._job
        if isinstance(event, kinds.StepReached) and self._is_too_soon(event):
            return None
        text = event_text(event, state, self._job)
        return f"{text}{self._bf16_warning(event)}" if text is not None else None

    def print_paused(self, hold: Hold | None) -> None:
        """Print at the start of a daemon that it is paused, and why."""
        reason = f": {hold.reason}\n{INDENT}→ {hold.advice}" if hold else "; `keepstep resume` continues"
        self._write(f"keepstep is paused{reason}")

    def _is_too_soon(self, event: kinds.StepReached) -> bool:
        if is_skipped(event):
            return False
        now, is_last = time.monotonic(), self._job is not None and event.step == self._job.goal
        if now - self._last_step_line < STEP_LINE_EVERY_S and not is_last:
            return True
        self._last_step_line = now
        return False

    def _bf16_warning(self, event: AnyEvent) -> str:
        """A note, once, that steps compute in float32 although bfloat16 was asked for; else ""."""
        if not isinstance(event, kinds.TrainingStarted) or self._warned_of_bf16:
            return ""
        self._warned_of_bf16 = event.environment.get(ARITHMETIC) == FP32_INSTEAD
        return f"\n{SLOW_BF16}\n→ {USE_FP32}" if self._warned_of_bf16 else ""


def _level(event: AnyEvent) -> int:
    """The log level of an event."""
    match event:
        case kinds.StepReached():
            return logging.DEBUG
        case kinds.AttemptFailed() | kinds.JobFailed() | kinds.DaemonHeld() | kinds.CheckpointQuarantined():
            return logging.ERROR
        case kinds.ConsolidationAborted(failure=str()) | kinds.VersionEvaluationFailed(failure=str()):
            return logging.ERROR
        case kinds.VersionHeld():
            return logging.WARNING
        case kinds.VersionEvaluated(worse=worse) if worse:
            return logging.WARNING
        case SamplesAbandoned() | SamplesFailed():
            return logging.WARNING
        case MicrobatchSplit() | BatchSkipped() | EvaluationAbandoned() | EvaluationDone(concern=str()):
            return logging.WARNING
        case kinds.DivergenceDetected() | kinds.AttemptInterrupted() | kinds.JobRejected() | kinds.JournalRepaired():
            return logging.WARNING
        case kinds.StorageExhausted() | kinds.StorageLow() | MemoryLow() | ConfigRefused():
            return logging.WARNING
        case _:
            return logging.INFO
