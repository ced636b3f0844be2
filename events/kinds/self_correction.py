"""Self-correction: rounds of answers, the files that they become, and why it stopped."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.self_correction import AnsweredPrompt, RoundFailure, SelfCorrectionSettings, StopCause
from events.values import CheckpointId, Failure, JobId, VersionId


class SelfCorrectionAnswered(Event, frozen=True, kw_only=True, tag="self_correction_answered"):
    """The model answered prompts of trained files, and the verifier judged. No weight changes.

    Prompts and answers follow from `seed`; `settings` name the verifier.
    """

    v: Literal[1] = 1
    job: JobId
    """The job that trained at this step; the prompts are from other files."""
    attempt: int
    round: int
    """Rounds are numbered over the life of the home."""
    global_step: int
    step: int
    base: VersionId | None
    """The version that the weights were trained from; None: the origin."""
    checkpoint: CheckpointId | None
    """The last commit before this step; None: none since `base`."""
    seed: int
    settings: SelfCorrectionSettings
    prompts: tuple[AnsweredPrompt, ...]
    chat: bool
    """True if the model has a chat template; else rows are prompts and completions."""
    rows: int
    """Rows that follow from this round alone."""
    answers: int
    """Answers of the round, also those that are left out."""
    right: int
    distinct: float
    """distinct-2: different pairs of tokens as a share of all pairs in the answers."""
    mean_tokens: float
    kl: float | None
    """KL(weights ‖ version) per token of the answers, nats; None: the version is not in memory (full weights)."""
    tokens: int
    seconds: float


class SelfCorrectionPutOff(Event, frozen=True, kw_only=True, tag="self_correction_put_off"):
    """A round was due, but would take more than [self_correction] cost_max of the training time. Journaled once for
    each cost."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    round_s: float
    trained_s: float
    cost_max: float
    next_step: int | None
    """As in `samples_put_off`."""


class SelfCorrectionFailed(Event, frozen=True, kw_only=True, tag="self_correction_failed"):
    """A round ended without answers. Training continues, and the next round is tried."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    failure: RoundFailure
    message: str
    seconds: float


class SelfCorrectionAbandoned(Event, frozen=True, kw_only=True, tag="self_correction_abandoned"):
    """The worker hung or died in a round: this job continues without them. `attempt_failed` follows."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    failure: Failure
    message: str


class SelfCorrectionFileStarted(Event, frozen=True, kw_only=True, tag="self_correction_file_started"):
    """There are enough rows for a file. Its bytes follow from this event, the rounds that it names, the settings of the
    attempt of the last round, and the data."""

    v: Literal[1] = 1
    number: int
    name: str
    first_round: int
    last_round: int
    base: VersionId | None
    settings: SelfCorrectionSettings
    replay: tuple[JobId, ...]
    """Trained files that gold rows are taken from."""


class SelfCorrectionFileQueued(Event, frozen=True, kw_only=True, tag="self_correction_file_queued"):
    """The file is in the queue, as `job`."""

    v: Literal[1] = 1
    number: int
    job: JobId
    name: str
    rows: int
    """Rows that follow from answers."""
    references: int
    """Gold rows: prompts of these rounds with their reference answers."""
    replayed: int
    """Gold rows: rows of earlier files."""


class SelfCorrectionStopped(Event, frozen=True, kw_only=True, tag="self_correction_stopped"):
    """Self-correction stopped itself. Files in the queue stay; `keepstep self-correction resume` starts it again."""

    v: Literal[1] = 1
    cause: StopCause
    message: str


class SelfCorrectionResumed(Event, frozen=True, kw_only=True, tag="self_correction_resumed"):
    """A person resumed self-correction. Rounds before this are no longer compared with."""

    v: Literal[1] = 1
