"""Events as lines for a person who watches `keepstep run`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from msgspec.structs import replace

from cli.output import console_resources, console_versions
from cli.output.identical import identical
from cli.text import printable
from core.job import Job
from core.state import State
from core.topics.daemon import Hold
from core.topics.evaluation import described
from events import kinds
from events.codec import kind_of
from events.kinds import (
    AnyEvent,
    BatchSkipped,
    ConfigChanged,
    ConfigFixed,
    ConfigRefused,
    EvaluationAbandoned,
    EvaluationDone,
    MemoryLow,
    MemoryRecovered,
    MicrobatchSplit,
    OrphanEnded,
    OverheadMeasured,
)
from events.values import ARITHMETIC, FP32_INSTEAD

STEP_LINE_EVERY_S = 2.0
"""Steps faster than this are not all shown: the eye could not follow, and a log would be nothing else."""


log = logging.getLogger("keepstep.daemon")

INDENT = " " * len("00:00:00  ")


def held_back(held: int) -> str:
    """That so many jobs wait for a person."""
    jobs = "1 job is" if held == 1 else f"{held} jobs are"
    return f"{jobs} held and not learned; `keepstep queue` shows them, `keepstep queue release` lets them go"


class Console:
    """Says what happens, one line an event, and only as many steps as can be read."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._job: Job | None = None
        self._last_step_line = 0.0
        self._told_arithmetic = False

    def look(self, state: State) -> None:
        """Remember which job is in hand, before events about it come."""
        self._job = state.training.current

    def tell(self, event: AnyEvent, state: State) -> None:
        """Say it, if there is something to say. `state`: after the event; what has just left it is remembered."""
        line = self.line(event, state)
        if line is not None:
            lines = f"\n{INDENT}".join(printable(part) for part in line.split("\n"))
            extra = {"attempt": getattr(event, "attempt", state.attempts.current), "kind": kind_of(event)}
            log.log(_level(event), "%s", line, extra=extra)
            self._write(f"{time.strftime('%H:%M:%S')}  {lines}")

    def line(self, event: AnyEvent, state: State) -> str | None:
        """The same, without saying it; None: there is nothing to say."""
        self._job = state.training.current or self._job
        return self._line(_named(event), state)

    def say_that_it_is_paused(self, hold: Hold | None) -> None:
        """At a start: nothing will be done, and why."""
        how = f": {hold.reason}\n          → {hold.advice}" if hold else "; `keepstep resume` goes on"
        self._write(f"keepstep is paused{how}")

    def _line(self, event: AnyEvent, state: State) -> str | None:
        match event:
            case kinds.FileEnqueued():
                return f"{event.name} is in the queue{', to be trained once more' if event.retrain else ''}"
            case kinds.FileDuplicate():
                return f"{event.name} {identical(event.job, state)}; see rejected/"
            case kinds.JobMoved() | kinds.JobHeld() | kinds.JobReleased() | kinds.JobRemoved():
                return _order_line(event, state)
            case kinds.AttemptStarted():
                return f"{self._name(event.job)}: attempt {event.attempt}; reading and loading"
            case kinds.JobPrepared(plan=plan):
                counts = (
                    (plan.truncated_rows, "cut to length"),
                    (plan.split_rows, "cut into several"),
                    (plan.dropped_rows, "left out for their length"),
                    (plan.skipped_rows, "left out because they cannot be learned from"),
                    (plan.held_out_rows, "held out"),
                    (plan.replayed_rows, "of them of earlier files"),
                )
                report = f"`keepstep data report {event.job[:12]}`"
                warned = f"\nlook at {', '.join(plan.warnings)}: {report}" if plan.warnings else ""
                said = "".join(f", {count} {what}" for count, what in counts if count)
                return (
                    f"{self._name(event.job)}: {plan.rows} rows{said}, {plan.tokens} tokens "
                    f"({plan.trained_tokens} of them learned), {plan.padding_share:.1%} padding, "
                    f"{plan.epochs} × {plan.steps_per_epoch} steps{warned}"
                )
            case kinds.TrainingStarted():
                changed = f" (not as before: {'; '.join(event.changed)})" if event.changed else ""
                start = f"step {event.step}" if event.step else "the beginning"
                return (
                    f"{self._name(event.job)}: training from {start}{changed}{_trained(event)}{self._arithmetic(event)}"
                )
            case kinds.StepReached():
                return self._step_line(event)
            case MicrobatchSplit():
                return (
                    f"step {event.step} does not fit into memory; it is run again with each micro-batch in "
                    f"{event.parts} parts"
                )
            case BatchSkipped():
                return f"step {event.step}: {event.message}; its batch is left out: {rows_of(event)}"
            case EvaluationDone():
                return described(event)
            case EvaluationAbandoned():
                return f"the worker failed in an evaluation ({event.failure}); the job goes on without"
            case kinds.DivergenceDetected():
                return f"step {event.global_step} run again is not what it was: {event.expected_loss} → {event.loss}"
            case kinds.CheckpointCommitted():
                return f"committed {event.checkpoint} ({event.size_bytes / 1e6:.1f} MB)"
            case kinds.JobTrained():
                return f"{self._name(event.job)}: learned"
            case kinds.JobRejected():
                return f"{event.name}: rejected. {event.message}"
            case kinds.AttemptInterrupted():
                return f"attempt {event.attempt} was interrupted: {event.reason}; going on from the last commit"
            case kinds.AttemptFailed(failure="disk_full"):
                return f"attempt {event.attempt} ended for want of room"
            case kinds.AttemptFailed():
                return f"attempt {event.attempt} failed ({event.failure}): {event.message}"
            case kinds.JobFailed():
                return f"{self._name(event.job)}: {event.message}"
            case kinds.JobSkipped():
                again = self._job is not None and self._job.id == event.job and self._job.until is not None
                return f"{self._name(event.job)}: {'restored' if again else 'skipped'}"
            case kinds.DaemonHeld():
                return f"waiting for you: {event.reason}\n→ {event.advice}"
            case kinds.CheckpointQuarantined():
                head = event.head or "the beginning"
                return f"{event.checkpoint} is damaged and set aside ({event.problem}); going on from {head}"
            case kinds.LeftoverDeleted():
                return f"swept {event.path}"
            case kinds.PauseRequested():
                return "pausing at the next step"
            case kinds.Resumed():
                return "going on"
            case kinds.StopRequested():
                return "stopping after a commit"
            case kinds.StorageExhausted():
                wanted = f"{event.wanted_bytes / 1e6:.1f} MB"
                return f"waiting for room on the disk: {event.message}\n→ make room: {wanted} must be free"
            case kinds.StorageLow():
                return f"room on the disk is low ({event.free_bytes / 1e9:.2f} GB): what can be given up goes"
            case kinds.StorageRecovered():
                return f"room on the disk is not low any more ({event.free_bytes / 1e9:.2f} GB)"
            case kinds.StorageFreed():
                return f"there is room on the disk again ({event.free_bytes / 1e6:.1f} MB)"
            case MemoryLow() | MemoryRecovered() | ConfigChanged() | ConfigRefused() | ConfigFixed():
                return console_resources.line_of(event, self._name)
            case OrphanEnded():
                return f"a worker that an earlier daemon left behind (pid {event.pid}) was still there; it was ended"
            case OverheadMeasured():
                share = f"{event.training_cpu_s / event.training_s:.2%}" if event.training_s else "no share"
                return f"watching took {share} of training time ({event.cpu_s:.1f} CPU seconds in all)"
            case _:
                return console_versions.line_of(event)

    def _arithmetic(self, event: kinds.TrainingStarted) -> str:
        """Say once that steps are computed in float32 although bfloat16 was asked for; "" otherwise."""
        if self._told_arithmetic or event.environment.get(ARITHMETIC) != FP32_INSTEAD:
            return ""
        self._told_arithmetic = True
        return f"\n{console_resources.SLOW_BF16}\n→ {console_resources.USE_FP32}"

    def _step_line(self, event: kinds.StepReached) -> str | None:
        now = time.monotonic()
        total = self._job.goal if self._job is not None else None
        if not event.tokens and event.loss == "NaN":
            return f"step {event.step}/{total or '?'}  passed over: its batch was set aside"
        if now - self._last_step_line < STEP_LINE_EVERY_S and event.step != total:
            return None
        self._last_step_line = now
        loss = f"{event.loss:.4f}" if isinstance(event.loss, float | int) else event.loss
        rate = event.tokens / event.seconds if event.seconds > 0 else 0.0
        return f"step {event.step}/{total or '?'}  loss {loss}  lr {event.learning_rate:.2e}  {rate:.0f} tokens/s"

    def _name(self, job: str) -> str:
        return printable(self._job.name) if self._job is not None and self._job.id == job else job[:12]


def rows_of(event: BatchSkipped) -> str:
    """The rows of a batch, in words."""
    own = [f"lines {', '.join(map(str, event.lines))} of the file"] if event.lines else []
    return "; ".join([*own, *(f"{', '.join(map(str, lines))} of {job[:12]}" for job, lines in event.earlier.items())])


def _order_line(event: AnyEvent, state: State) -> str | None:
    match event:
        case kinds.JobMoved():
            where = f"before {_waiting(event.before, state)}" if event.before else "to the back"
            return f"{_waiting(event.job, state)} is moved {where}, priority {event.priority}"
        case kinds.JobHeld():
            return f"{_waiting(event.job, state)} is held; the queue passes it over"
        case kinds.JobReleased():
            return f"{_waiting(event.job, state)} waits for its turn again"
        case kinds.JobRemoved():
            return f"{event.name} is taken out of the queue{'' if event.keeps_data else '; its file goes to rejected/'}"
        case _:
            return None


def _waiting(job: str, state: State) -> str:
    found = state.queue.get(job)
    return printable(found.name) if found is not None else job[:12]


def _named(event: AnyEvent) -> AnyEvent:
    """The event with the name in it on one line: a file may be called anything."""
    name = getattr(event, "name", None)
    return event if name is None or name.isprintable() else replace(event, name=printable(name))


def _level(event: AnyEvent) -> int:
    """How bad it is."""
    match event:
        case kinds.StepReached():
            return logging.DEBUG
        case kinds.AttemptFailed() | kinds.JobFailed() | kinds.DaemonHeld() | kinds.CheckpointQuarantined():
            return logging.ERROR
        case MicrobatchSplit() | BatchSkipped() | EvaluationAbandoned() | EvaluationDone(concern=str()):
            return logging.WARNING
        case kinds.DivergenceDetected() | kinds.AttemptInterrupted() | kinds.JobRejected() | kinds.JournalRepaired():
            return logging.WARNING
        case kinds.StorageExhausted() | kinds.StorageLow() | MemoryLow() | ConfigRefused():
            return logging.WARNING
        case kinds.ConsolidationAborted(failure=str()):
            return logging.ERROR
        case _:
            return logging.INFO


def _trained(event: kinds.TrainingStarted) -> str:
    """What is trained of the model, at the first step of a job."""
    trained = event.trained
    if trained is None or event.step:
        return ""
    count = f"{trained.parameters:,} parameters ({trained.share:.2%} of the model)"
    if not trained.layers:
        return f"\ntrains {count}: every weight"
    layers = ", ".join(f"{name} × {number}" for name, number in trained.layers.items())
    return f"\ntrains {count}: adapters on {sum(trained.layers.values())} layers ({layers})"
