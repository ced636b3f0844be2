"""Self-correction: the model answers prompts with known answers, and its answers become rows. Settings and values.

Which rows follow from the answers of some rounds is decided here, once: `core` counts them, the daemon writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from events.matching import Verifier
from events.settings import Portion, Section
from events.values import JobId

ANSWER_BYTES = 2_000
"""UTF-8 bytes of an answer in the journal. A longer one is left out, never cut: half an answer must not be trained."""

ROUND_BYTES = 200_000
"""UTF-8 bytes of all answers of a round; those after it are left out, so that a record stays small."""

FILES_OF_A_ROUND = 8
"""Files whose rows a round or a file is taken from: each is read as a whole."""

RoundFailure = Literal["out_of_memory", "code", "prompts", "verifier"]
"""Why a round ended without answers: memory ran out, an error, there is no prompt, or the verifier does not work."""

StopCause = Literal["pass_rate", "distinct", "gate", "data"]
"""Why self-correction stopped: fewer answers are right, they become alike, the gate of versions, or data is missing."""


class SelfCorrectionSettings(Section, frozen=True, kw_only=True):
    """[self_correction] The model answers prompts of trained files, a verifier judges, and rows for a file follow."""

    kind: Literal["off", "reflect", "rejection"] = "off"
    """"reflect": say whether a shown answer is right, and give the right one; "rejection": train right own answers
    (RFT, https://arxiv.org/abs/2308.01825; ReST-EM, https://arxiv.org/abs/2312.06585)."""
    every_steps: Annotated[int, Meta(ge=1)] = 200
    """Answer prompts every N steps of a job, and at its end."""
    prompts: Annotated[int, Meta(ge=1, le=256)] = 32
    """Prompts of a round."""
    answers: Annotated[int, Meta(ge=1, le=16)] = 4
    """Answers to each prompt; also the most answers to a prompt that are trained in a file."""
    max_new_tokens: Annotated[int, Meta(ge=1, le=8192)] = 256
    """The most tokens of an answer. One that does not end within them is not right, and becomes no row."""
    temperature: Annotated[float, Meta(gt=0.0)] = 0.8
    """Answers are sampled, so that they differ."""
    seed: Annotated[int, Meta(ge=0, lt=2**62)] = 42
    """Prompts and answers of a round follow from this and from the global step."""
    match: Verifier = "normalized"
    """How an answer is verified (`events.matching`); "command": by a program."""
    pattern: str = ""
    """The regular expression of `match = "regex"`."""
    command: str = ""
    """The program of `match = "command"` (docs/guides/self-correction.md): exit code 0 = right, 1 = wrong."""
    timeout_s: Annotated[float, Meta(gt=0.0, le=600.0)] = 10.0
    """End the program that judges an answer after so many seconds; the answer then becomes no row."""
    think_tag: str = "<think>"
    """The tag that begins a train of thought; the verifier compares what follows it. "": none."""
    queue_every: Annotated[int, Meta(ge=1, le=100_000)] = 200
    """With so many rows, a file is queued with low priority."""
    gold_share: Annotated[float, Meta(ge=0.0, le=0.95)] = 0.5
    """Share of rows in that file that are reference answers and rows of earlier files."""
    cost_max: Annotated[float, Meta(gt=0.0, le=1000.0)] = 0.1
    """The most time of rounds, as a share of the training time. Rounds that would take more are put off. 1000: no
    limit."""
    pass_rate_drop: Portion = 0.2
    """Stop if the share of right answers falls by more than this below its highest mean of three rounds."""
    distinct_drop: Portion = 0.2
    """The same for the share of different token pairs (distinct-2): the answers become alike."""


class OwnAnswer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A whole answer of the model."""

    text: str
    right: bool
    """The verdict of the verifier."""
    times: int = 1
    """How often the model gave it in this round."""


class AnsweredPrompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The answers to the prompt of a row."""

    job: JobId
    """The trained file that the row is from."""
    line: int
    """Its line, from 1; in a Parquet file the number of the row."""
    answers: tuple[OwnAnswer, ...]
    """Those that ended and are short enough, each once, in the order of their first appearance."""
    left_out: int = 0
    """Answers that did not end, are too long, or could not be judged."""


class CorrectionPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the daemon tells a worker about self-correction."""

    settings: SelfCorrectionSettings
    sources: tuple[JobId, ...] = ()
    """Trained files whose rows may be asked, the oldest first."""
    corrected_to: int = -1
    """The last step of the job with a round; it and earlier ones get no other."""
    trained_s: float = 0.0
    """Seconds of training since the last round, over all jobs."""
    round_s: float | None = None
    """Seconds of a round, measured or estimated; None: unknown."""


class PlannedRow(Struct, frozen=True, kw_only=True):
    """A row of a file to make. `answer` is shown or trained as `kind` says."""

    kind: Literal["wrong", "right", "own", "reference"]
    """reflect: a wrong answer (or a right one) is shown and judged; rejection: an own answer, or the reference, is
    trained."""
    round: int
    job: JobId
    line: int
    answer: str | None
    """None: the reference answer of the row."""


def round_seed(seed: int, global_step: int) -> int:
    """The seed of a round: a run that repeats the step repeats the round."""
    return int.from_bytes(hashlib.sha256(f"{seed} {global_step}".encode()).digest()[:7], "big")


def row_key(seed: int, job: JobId, line: int) -> bytes:
    """Rows with the lowest keys are chosen."""
    return hashlib.blake2b(f"{seed} {job} {line}".encode(), digest_size=16).digest()


def chosen_sources(seed: int, sources: Sequence[JobId]) -> list[JobId]:
    """The files that a round is taken from."""
    return sorted(sources, key=lambda job: row_key(seed, job, 0))[:FILES_OF_A_ROUND]


def planned_rows(
    settings: SelfCorrectionSettings, rounds: Iterable[tuple[int, Sequence[AnsweredPrompt]]]
) -> list[PlannedRow]:
    """The rows that follow from the answers of some rounds, which come with their numbers. No row is twice in it.

    A wrong answer is only ever in a row of kind "wrong", which shows it and does not train it.
    """
    plan = _reflect if settings.kind == "reflect" else _rejection
    made: dict[tuple[str, JobId, int, str | None], PlannedRow] = {}
    trained: dict[tuple[JobId, int], int] = {}
    for number, prompts in rounds:
        for row in plan(number, prompts):
            if row.kind == "own" and trained.get((row.job, row.line), 0) >= settings.answers:
                continue
            key = (row.kind, row.job, row.line, row.answer)
            if key not in made:
                made[key] = row
                trained[row.job, row.line] = trained.get((row.job, row.line), 0) + 1
    return list(made.values())


def _rejection(number: int, prompts: Sequence[AnsweredPrompt]) -> Iterator[PlannedRow]:
    """Right own answers; where there is none, the reference."""
    for prompt in prompts:
        right = [each.text for each in prompt.answers if each.right]
        for answer in right:
            yield PlannedRow(kind="own", round=number, job=prompt.job, line=prompt.line, answer=answer)
        if not right:
            yield PlannedRow(kind="reference", round=number, job=prompt.job, line=prompt.line, answer=None)


def _reflect(number: int, prompts: Sequence[AnsweredPrompt]) -> Iterator[PlannedRow]:
    """As many wrong answers as right ones. Where there are too few right ones, reference answers stand in."""
    wrong, right = _by_turns(prompts, right=False), _by_turns(prompts, right=True)
    with_wrong = dict.fromkeys((prompt.job, prompt.line) for prompt, _ in wrong)
    shown: list[tuple[JobId, int, str | None]] = [(prompt.job, prompt.line, text) for prompt, text in right]
    shown += [(job, line, None) for job, line in with_wrong]
    for (prompt, text), (job, line, answer) in zip(wrong, shown, strict=False):
        yield PlannedRow(kind="wrong", round=number, job=prompt.job, line=prompt.line, answer=text)
        yield PlannedRow(kind="right", round=number, job=job, line=line, answer=answer)


def _by_turns(prompts: Sequence[AnsweredPrompt], *, right: bool) -> list[tuple[AnsweredPrompt, str]]:
    """The right or wrong answers: first one of each prompt, then the second of each, …"""
    each = [(prompt, [answer.text for answer in prompt.answers if answer.right == right]) for prompt in prompts]
    most = max((len(texts) for _, texts in each), default=0)
    return [(prompt, texts[turn]) for turn in range(most) for prompt, texts in each if turn < len(texts)]
