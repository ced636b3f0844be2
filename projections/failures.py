"""The list of failures, one entry for each. A fold over the whole journal, made on request."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from msgspec import Struct

from core.failures import EXPLANATIONS, Trouble
from core.state import State
from events import kinds
from events.codec import Record, kind_of
from events.kinds import AnyEvent


class Failure(Struct, frozen=True, kw_only=True):
    """One failure."""

    name: str
    """`crash-` and the number of its record: `keepstep explain` takes it."""
    seq: int
    at: str
    kind: str
    failure: Trouble
    what: str
    """The subject: the name of a job, a version, a checkpoint, or the daemon."""
    message: str
    meaning: str
    advice: str
    job: str | None
    attempt: int | None
    global_step: int
    """The committed step at that time."""
    steps_lost: int
    """Steps that were reached and not committed; they run again with the job."""


def failure_name(seq: int) -> str:
    """The name of the failure in record `seq`."""
    return f"crash-{seq}"


@dataclass
class Failures:
    """The last `number` failures, or all (None)."""

    number: int | None = None
    found: deque[Failure] = field(init=False)
    _names: dict[str, str] = field(init=False, default_factory=dict)
    """Names of jobs by id; finished jobs are not in the state."""
    _last: kinds.AttemptFailed | None = field(init=False, default=None)
    """The failed attempt just before: a hold or the end of a job in its transaction follows from it."""

    def __post_init__(self) -> None:
        self.found = deque(maxlen=self.number)

    def observe(self, before: State, record: Record) -> None:
        """Fold one record; `before` is the state before it."""
        event = record.event
        if isinstance(event, kinds.FileEnqueued):
            self._names[event.job] = event.name
        failure = self._failure(event)
        self._last = event if isinstance(event, kinds.AttemptFailed) else None
        if failure is None:
            return
        steps = (
            before.attempts.reached.global_step - before.head.global_step if before.attempts.current is not None else 0
        )
        ends = isinstance(event, kinds.AttemptFailed | kinds.AttemptInterrupted)
        job = getattr(event, "job", None)
        self.found.append(
            Failure(
                name=failure_name(record.seq),
                seq=record.seq,
                at=record.at,
                kind=kind_of(event),
                failure=failure,
                what=self._what(before, event),
                message=_message(event),
                meaning=EXPLANATIONS[failure].meaning,
                advice=getattr(event, "advice", EXPLANATIONS[failure].advice),
                job=job,
                attempt=getattr(event, "attempt", before.attempts.last or None),
                global_step=before.head.global_step,
                steps_lost=max(0, steps) if ends else 0,
            )
        )

    def _failure(self, event: AnyEvent) -> Trouble | None:
        match event:
            case kinds.AttemptFailed(failure=failure):
                return failure
            case kinds.ConsolidationAborted(failure=failure) | kinds.VersionEvaluationFailed(failure=failure):
                return failure
            case kinds.JobFailed():
                return self._last.failure if self._last is not None else "code"
            case kinds.DaemonHeld():
                return self._last.failure if self._last is not None else "held"
            case kinds.AttemptInterrupted():
                return "interrupted"
            case kinds.DivergenceDetected():
                return "diverged"
            case kinds.CheckpointQuarantined():
                return "damaged"
            case _:
                return None

    def _what(self, before: State, event: AnyEvent) -> str:
        match event:
            case kinds.DaemonHeld():
                return "the daemon"
            case kinds.CheckpointQuarantined(checkpoint=checkpoint):
                return checkpoint
            case kinds.VersionEvaluationFailed(version=version):
                return f"the evaluation of {version}"
            case kinds.ConsolidationAborted():
                running = before.consolidation.running
                return running.version if running is not None else "a consolidation"
            case _:
                job = getattr(event, "job", "")
                return self._names.get(job, job[:12])


def _message(event: AnyEvent) -> str:
    match event:
        case kinds.DaemonHeld(reason=text) | kinds.AttemptInterrupted(reason=text):
            return f"waiting for you: {text}" if isinstance(event, kinds.DaemonHeld) else text
        case kinds.CheckpointQuarantined(problem=problem):
            return f"quarantined: {problem}"
        case kinds.DivergenceDetected():
            return (
                f"step {event.global_step} ran again with loss {event.loss} and gradient norm {event.grad_norm}; "
                f"the first time they were {event.expected_loss} and {event.expected_grad_norm}"
            )
        case _:
            return str(getattr(event, "message", ""))
