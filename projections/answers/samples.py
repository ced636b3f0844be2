"""Samples by step: how the answers to each prompt changed, and the shares of right answers and of trains of thought.

The fold keeps the figures of every round, and the texts of the newest rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from events import kinds
from events.codec import Record
from events.generation import Finish
from events.kinds import SamplesAbandoned, SamplesFailed, SamplesGenerated, SamplesPutOff
from events.values import step_of

ROUNDS_WITH_TEXTS = 200
"""Rounds whose answers are kept: with 64 prompts about 40 MB, with three about 2."""


class SampleRound(Struct, frozen=True, kw_only=True, gc=False):
    """The figures of one round."""

    seq: int
    """The record in the journal."""
    at: str
    job: str
    attempt: int
    global_step: int
    step: int
    """Steps of the job before the round."""
    asked: bool
    answers: int
    matched: int
    """Answers that are as expected."""
    thinking: int
    """Answers with the think tag."""
    think_tag: str
    match: str
    tokens: int
    seconds: float


class StepAnswer(Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a prompt after a step."""

    global_step: int
    answer: str
    match: bool
    thinks: bool
    tokens: int
    finish: Finish


class PromptHistory(Struct, frozen=True, kw_only=True):
    """The answers to one prompt, the oldest first."""

    prompt_id: str
    prompt: str
    expected: str
    answers: list[StepAnswer]


class SampleNote(Struct, frozen=True, kw_only=True, gc=False):
    """Why samples are missing after a step."""

    at: str
    kind: str
    """"put_off", "failed" or "abandoned"."""
    global_step: int | None
    message: str


class SamplesChart(Struct, frozen=True, kw_only=True):
    """What is known about samples."""

    seq: int
    """The last record that it includes."""
    rounds: list[SampleRound]
    """The oldest first."""
    prompts: list[PromptHistory]
    """The prompts of the newest round first, in its order; then earlier ones."""
    note: SampleNote | None
    """Why the newest samples are missing; None: they are not."""
    spent_s: float
    """Seconds of all rounds, also of those that failed."""
    trained_s: float
    """Seconds of all steps."""


class SampleHistory:
    """The fold. A round replaces those of the same step and of later ones: these weights no longer lead to the head."""

    def __init__(self, step: int | None = None) -> None:
        """`step`: keep the texts of this global step only; None: of the newest rounds."""
        self.seq = 0
        self._step = step
        self._rounds: list[tuple[SampleRound, SamplesGenerated | None]] = []
        self._note: SampleNote | None = None
        self._spent_s = self._trained_s = 0.0
        self._global_step = self._committed = 0
        self._versions: dict[str, int] = {}
        """The global step of each version."""

    def observe(self, record: Record) -> None:
        """Fold one record."""
        self.seq = record.seq
        event = record.event
        match event:
            case kinds.StepReached():
                self._trained_s += event.seconds
                self._global_step = event.global_step
            case kinds.CheckpointCommitted():
                self._committed = event.global_step
            case kinds.VersionPublished():
                self._versions[event.version] = self._committed
            case kinds.HeadMoved():
                self._committed = self._step_of(event)
                self._forget_after(self._committed)
            case SamplesGenerated():
                self._spent_s += event.seconds
                self._note = None
                self._forget_after(event.global_step - 1)
                self._rounds.append((_round(record, event), event))
                self._forget_texts()
            case SamplesFailed():
                self._spent_s += event.seconds
                self._note = _note(record, "failed", event.global_step, event.message)
            case SamplesPutOff():
                message = (
                    f"they take about {event.round_s:.2g} s, more than {100 * event.cost_max:.2g} % of training time"
                )
                self._note = _note(record, "put_off", event.global_step, message)
            case SamplesAbandoned():
                self._note = _note(record, "abandoned", self._global_step, event.message)

    def _forget_texts(self) -> None:
        """Drop the texts of the round that is not among those whose texts are kept any more."""
        place = -ROUNDS_WITH_TEXTS - 1 if self._step is None else -1
        if self._step != self._rounds[-1][0].global_step and len(self._rounds) >= -place:
            self._rounds[place] = (self._rounds[place][0], None)

    def _step_of(self, event: kinds.HeadMoved) -> int:
        if event.checkpoint is not None:
            return step_of(event.checkpoint)
        return self._versions.get(event.version, 0) if event.version is not None else 0

    def _forget_after(self, global_step: int) -> None:
        while self._rounds and self._rounds[-1][0].global_step > global_step:
            self._rounds.pop()

    def chart(self, prompt_id: str | None = None, step: int | None = None) -> SamplesChart:
        """All rounds and prompts; only those of a global step, or of the prompts whose id begins so."""
        chosen = [each for each in self._rounds if step is None or each[0].global_step == step]
        prompts = _histories(event for _, event in chosen if event is not None)
        if prompt_id is not None:
            prompts = [each for each in prompts if each.prompt_id.startswith(prompt_id)]
        return SamplesChart(
            seq=self.seq,
            rounds=[each for each, _ in chosen],
            prompts=prompts,
            note=self._note,
            spent_s=self._spent_s,
            trained_s=self._trained_s,
        )


def _round(record: Record, event: SamplesGenerated) -> SampleRound:
    return SampleRound(
        seq=record.seq,
        at=record.at,
        job=event.job,
        attempt=event.attempt,
        global_step=event.global_step,
        step=event.step,
        asked=event.asked,
        answers=len(event.answers),
        matched=sum(each.match for each in event.answers),
        thinking=sum(each.thinks for each in event.answers),
        think_tag=event.think_tag,
        match=event.match,
        tokens=event.tokens,
        seconds=event.seconds,
    )


def _note(record: Record, kind: str, global_step: int, message: str) -> SampleNote:
    return SampleNote(at=record.at, kind=kind, global_step=global_step, message=message)


def _histories(rounds: Iterable[SamplesGenerated]) -> list[PromptHistory]:
    found: dict[str, PromptHistory] = {}
    newest: Sequence[str] = ()
    for event in rounds:
        newest = [each.prompt_id for each in event.answers]
        for each in event.answers:
            history = found.setdefault(
                each.prompt_id,
                PromptHistory(prompt_id=each.prompt_id, prompt=each.prompt, expected=each.expected, answers=[]),
            )
            history.answers.append(
                StepAnswer(
                    global_step=event.global_step,
                    answer=each.answer,
                    match=each.match,
                    thinks=each.thinks,
                    tokens=each.tokens,
                    finish=each.finish,
                )
            )
    order = {prompt_id: place for place, prompt_id in enumerate(newest)}
    return sorted(found.values(), key=lambda each: order.get(each.prompt_id, len(order)))
