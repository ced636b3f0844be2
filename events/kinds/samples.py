"""Samples: what the model answers to a few prompts while it trains."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.matching import Matcher
from events.samples import SampleAnswer, SampleFailure
from events.values import Failure, JobId


class SamplesRequested(Event, frozen=True, kw_only=True, tag="samples_requested"):
    """A person wants samples at the next step, whatever they cost (`keepstep samples now`)."""

    v: Literal[1] = 1
    job: JobId


class SamplesGenerated(Event, frozen=True, kw_only=True, tag="samples_generated"):
    """The model answered the prompts with its weights after this step. Samples change no weights."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    asked: bool
    """True if a person asked for them."""
    answers: tuple[SampleAnswer, ...]
    match: Matcher
    """How the answers were compared with the expected ones."""
    think_tag: str
    temperature: float
    """0: always the most probable token."""
    seed: int
    tokens: int
    """Generated tokens of all answers."""
    seconds: float


class SamplesPutOff(Event, frozen=True, kw_only=True, tag="samples_put_off"):
    """Samples were due, but would take more than [samples] cost_max of the training time. It is journaled once for each
    cost, not for each time."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    round_s: float
    """Seconds that a round takes, measured or estimated from its first tokens."""
    trained_s: float
    """Seconds of training since the last round."""
    cost_max: float
    next_step: int | None
    """The first step of the job at which they are due again and cost little enough, as estimated; None: the job ends
    before."""


class SamplesFailed(Event, frozen=True, kw_only=True, tag="samples_failed"):
    """A round ended without answers. Training continues, and the next round is tried."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    asked: bool
    failure: SampleFailure
    message: str
    seconds: float


class SamplesAbandoned(Event, frozen=True, kw_only=True, tag="samples_abandoned"):
    """The worker hung or died while it generated samples: this job continues without them. `attempt_failed` follows."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    failure: Failure
    message: str
