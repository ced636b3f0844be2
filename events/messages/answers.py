"""Messages about answers of a model that trains: samples and self-correction."""

from __future__ import annotations

from events.matching import Matcher
from events.messages.base import Fact, Order
from events.samples import SampleAnswer, SampleFailure, SamplePlan
from events.self_correction import AnsweredPrompt, CorrectionPlan, RoundFailure, SelfCorrectionSettings


class Sampled(Fact, frozen=True, kw_only=True, tag="sampled"):
    """The model answered the prompts; fields as in `samples_generated`."""

    global_step: int
    step: int
    asked: bool
    answers: tuple[SampleAnswer, ...]
    match: Matcher
    think_tag: str
    temperature: float
    seed: int
    tokens: int
    seconds: float


class SamplesPutOff(Fact, frozen=True, kw_only=True, tag="samples_put_off"):
    """Samples were due, and would cost too much; fields as in the event."""

    global_step: int
    step: int
    round_s: float
    trained_s: float
    cost_max: float
    next_step: int | None


class SamplesFailed(Fact, frozen=True, kw_only=True, tag="samples_failed"):
    """A round ended without answers, and training continues; fields as in the event."""

    global_step: int
    step: int
    asked: bool
    failure: SampleFailure
    message: str
    seconds: float


class Sample(Order, frozen=True, kw_only=True, tag="sample"):
    """[samples] changed; or a person wants samples at the next step boundary."""

    plan: SamplePlan
    asked: bool = False


class SelfCorrected(Fact, frozen=True, kw_only=True, tag="self_corrected"):
    """The model answered prompts of trained files; fields as in `self_correction_answered`."""

    global_step: int
    step: int
    seed: int
    settings: SelfCorrectionSettings
    prompts: tuple[AnsweredPrompt, ...]
    chat: bool
    answers: int
    right: int
    distinct: float
    mean_tokens: float
    kl: float | None
    tokens: int
    seconds: float


class SelfCorrectionPutOff(Fact, frozen=True, kw_only=True, tag="self_correction_put_off"):
    """A round of self-correction was due, and would cost too much; fields as in the event."""

    global_step: int
    step: int
    round_s: float
    trained_s: float
    cost_max: float
    next_step: int | None


class SelfCorrectionFailed(Fact, frozen=True, kw_only=True, tag="self_correction_failed"):
    """A round of self-correction ended without answers, and training continues; fields as in the event."""

    global_step: int
    step: int
    failure: RoundFailure
    message: str
    seconds: float


class SelfCorrect(Order, frozen=True, kw_only=True, tag="self_correct"):
    """Rounds of self-correction begin, change (`plan`) or end (None)."""

    plan: CorrectionPlan | None = None
