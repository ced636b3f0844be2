"""Samples: what the model answers to a few prompts while it trains. Settings, and the values of one answer."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from events.generation import Finish
from events.matching import Matcher
from events.settings import NonNegative, Section

PROMPTS_MAX = 64
"""Prompts of a round: more than a person reads, and few enough that a record stays below 256 kB."""

PROMPT_BYTES, EXPECTED_BYTES, ANSWER_BYTES = 400, 1_000, 2_000
"""UTF-8 bytes of a text in the journal. A longer one is cut; matches are found in the whole text."""

SampleFailure = Literal["out_of_memory", "code", "prompts"]
"""Why a round ended without answers: memory ran out, an error, or there is no prompt that can be used."""


class SamplesSettings(Section, frozen=True, kw_only=True):
    """[samples] Answers of the model while it trains, to see how far it is. They change no weights."""

    every_steps: Annotated[int, Meta(ge=0)] = 200
    """Answer the prompts every N steps of a job, and at its end; 0: only on request (`keepstep samples now`)."""
    prompts: Annotated[int, Meta(ge=0, le=PROMPTS_MAX)] | Annotated[str, Meta(pattern="[^0-9]")] = 3
    """This many held-out rows ([data] validation, holdout); or a data file (a relative path starts at the home) of at
    most PROMPTS_MAX rows. 0: no samples."""
    max_new_tokens: Annotated[int, Meta(ge=1, le=8192)] = 128
    """The most tokens of an answer."""
    temperature: NonNegative = 0.0
    """0: always the most probable token."""
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 42
    """With a temperature: the same seed in each round, so that only the weights make a difference."""
    match: Matcher = "normalized"
    """How an answer is compared with the expected one (`events.matching`)."""
    pattern: str = ""
    """The regular expression of `match = "regex"`."""
    think_tag: str = "<think>"
    """The tag that begins a train of thought. The share of answers with it is shown. "": none."""
    cost_max: Annotated[float, Meta(gt=0.0, le=1000.0)] = 0.01
    """The most time of samples, as a share of the training time. Rounds that would take more are put off. 1000: no
    limit."""


class SampleAnswer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The answer to one prompt. Texts are cut to the limits above."""

    prompt_id: str
    """A hash of the tokens of the prompt and of the expected answer: the same in every round and job."""
    prompt: str
    expected: str
    answer: str
    match: bool
    thinks: bool
    """True if the answer contains the think tag."""
    tokens: int
    finish: Finish


class SamplePlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the daemon tells a worker about samples; from keepstep.toml."""

    settings: SamplesSettings
    prompts_sha256: str = ""
    """SHA-256 of the file of prompts, which the home keeps in `validation/`; "": held-out rows."""
    problem: str = ""
    """Why the file of prompts cannot be used, a sentence; "": it can."""


class SampleBudget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the journal says about the samples so far."""

    sampled_to: int = -1
    """The last step of the job with samples; it and earlier ones are not sampled again."""
    trained_s: float = 0.0
    """Seconds of training since the last round, over all jobs."""
    round_s: float | None = None
    """Seconds of a round, measured or estimated; None: unknown."""
    asked: bool = False
    """A person wants a round at the next step."""
    abandoned: bool = False
    """Only such rounds are taken: the worker hung or died in an earlier one of this job."""


def clipped(text: str, bytes_max: int) -> str:
    """The text, cut to so many bytes of UTF-8 with an ellipsis at the end.

    >>> clipped("abcdef", 6), clipped("abcdefgh", 6), clipped("ääää", 6)
    ('abcdef', 'abc…', 'ä…')
    """
    data = text.encode(errors="replace")
    if len(data) <= bytes_max:
        return data.decode()
    return data[: bytes_max - 3].decode(errors="ignore") + "…"
