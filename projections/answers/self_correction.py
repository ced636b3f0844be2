"""Self-correction by round: figures of the answers, the files that followed, and why it stopped."""

from __future__ import annotations

from collections import deque

from msgspec import Struct
from msgspec.structs import replace

from events import kinds
from events.codec import Record
from events.self_correction import AnsweredPrompt

ROUNDS_WITH_ANSWERS = 50
"""Rounds whose answers are kept: at most 200 kB each."""


class CorrectionRound(Struct, frozen=True, kw_only=True, gc=False):
    """The figures of one round."""

    round: int
    seq: int
    """The record in the journal."""
    at: str
    job: str
    """The job that trained."""
    global_step: int
    base: str | None
    checkpoint: str | None
    kind: str
    verifier: str
    answers: int
    right: int
    distinct: float
    """distinct-2 of the answers."""
    mean_tokens: float
    kl: float | None
    """KL to the version, nats per token."""
    rows: int
    seconds: float


class CorrectionFile(Struct, frozen=True, kw_only=True, gc=False):
    """A file that follows from some rounds."""

    number: int
    name: str
    job: str | None
    """None: it is not in the queue yet."""
    at: str
    base: str | None
    first_round: int
    last_round: int
    rows: int
    references: int
    replayed: int


class CorrectionNote(Struct, frozen=True, kw_only=True, gc=False):
    """Why there are no newer rounds."""

    at: str
    kind: str
    """"put_off", "failed", "abandoned" or "stopped"."""
    cause: str
    message: str


class NamedAnswer(Struct, frozen=True, kw_only=True, gc=False):
    """An answer to the prompt of a row."""

    row: str
    """The name of the file, a colon, and the line."""
    text: str
    right: bool
    times: int


class CorrectionChart(Struct, frozen=True, kw_only=True):
    """What is known about self-correction."""

    seq: int
    """The last record that it includes."""
    rounds: list[CorrectionRound]
    """The oldest first."""
    files: list[CorrectionFile]
    """The oldest first."""
    note: CorrectionNote | None
    """Why there are no newer rounds; None: nothing is wrong."""
    answers: list[NamedAnswer]
    """The answers of the round that was asked for."""
    spent_s: float
    trained_s: float


class CorrectionHistory:
    """The fold."""

    def __init__(self) -> None:
        self.seq = 0
        self._rounds: list[CorrectionRound] = []
        self._files: list[CorrectionFile] = []
        self._note: CorrectionNote | None = None
        self._answers: deque[tuple[int, tuple[AnsweredPrompt, ...]]] = deque(maxlen=ROUNDS_WITH_ANSWERS)
        self._names: dict[str, str] = {}
        self._spent_s = self._trained_s = 0.0

    def observe(self, record: Record) -> None:
        """Fold one record."""
        self.seq = record.seq
        event = record.event
        match event:
            case kinds.StepReached():
                self._trained_s += event.seconds
            case kinds.FileEnqueued():
                self._names[event.job] = event.name
            case kinds.SelfCorrectionAnswered():
                self._spent_s += event.seconds
                self._note = None
                self._rounds.append(_round(record, event))
                self._answers.append((event.round, event.prompts))
            case kinds.SelfCorrectionFileStarted():
                self._files.append(
                    CorrectionFile(
                        number=event.number,
                        name=event.name,
                        job=None,
                        at=record.at,
                        base=event.base,
                        first_round=event.first_round,
                        last_round=event.last_round,
                        rows=0,
                        references=0,
                        replayed=0,
                    )
                )
            case kinds.SelfCorrectionFileQueued():
                self._files[-1] = replace(
                    self._files[-1],
                    job=event.job,
                    at=record.at,
                    rows=event.rows,
                    references=event.references,
                    replayed=event.replayed,
                )
            case kinds.SelfCorrectionFailed():
                self._spent_s += event.seconds
                self._note = _note(record, "failed", event.failure, event.message)
            case kinds.SelfCorrectionPutOff():
                cost = f"a round takes about {event.round_s:.2g} s, more than {100 * event.cost_max:.2g} % of training"
                self._note = _note(record, "put_off", "cost", cost)
            case kinds.SelfCorrectionAbandoned():
                self._note = _note(record, "abandoned", event.failure, event.message)
            case kinds.SelfCorrectionStopped():
                self._note = _note(record, "stopped", event.cause, event.message)
            case kinds.SelfCorrectionResumed():
                self._note = None

    def chart(self, number: int | None = None) -> CorrectionChart:
        """All rounds and files. `number`: with the answers of this round, if they are kept."""
        prompts = next((prompts for each, prompts in self._answers if each == number), ())
        return CorrectionChart(
            seq=self.seq,
            rounds=list(self._rounds),
            files=list(self._files),
            note=self._note,
            answers=[
                NamedAnswer(
                    row=f"{self._names.get(prompt.job, prompt.job[:12])}:{prompt.line}",
                    text=answer.text,
                    right=answer.right,
                    times=answer.times,
                )
                for prompt in prompts
                for answer in prompt.answers
            ],
            spent_s=self._spent_s,
            trained_s=self._trained_s,
        )


def _round(record: Record, event: kinds.SelfCorrectionAnswered) -> CorrectionRound:
    return CorrectionRound(
        round=event.round,
        seq=record.seq,
        at=record.at,
        job=event.job,
        global_step=event.global_step,
        base=event.base,
        checkpoint=event.checkpoint,
        kind=event.settings.kind,
        verifier=event.settings.match,
        answers=event.answers,
        right=event.right,
        distinct=event.distinct,
        mean_tokens=event.mean_tokens,
        kl=event.kl,
        rows=event.rows,
        seconds=event.seconds,
    )


def _note(record: Record, kind: str, cause: str, message: str) -> CorrectionNote:
    return CorrectionNote(at=record.at, kind=kind, cause=cause, message=message)
