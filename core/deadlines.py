"""How long the worker may go without progress, learned from how long it usually does. Pure: facts and seconds in.

    a phase        what the worker is at: loading, preparing, a step, an evaluation, a checkpoint, a consolidation
    a gap          the time from one sign of progress to the next, in one phase
    a deadline     a multiple of the longest of the recent gaps of that phase, within a floor and a cap

A checkpoint is written by a thread of its own while steps go on, or wait for it. As long as one is being written, its
deadline alone counts, and a step's begins again behind it.

After each failure in a row every deadline is twice as long, up to the cap: who takes a slow step for a hang is wrong
once or twice, and not for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from core.maps import Map
from core.state import State
from events import worker
from events.settings import JobSettings

Phase = Literal["start"] | worker.Phase

START_S = 120.0
"""From the start of the process to its first word. Python and its imports take a second; from a cold disk on a busy
machine, far more."""

GAPS_KEPT = 256
"""Of a phase: some minutes of steps that take a second, so that the deadline follows a model that is exchanged."""

GAPS_WANTED = 8
"""Fewer say nothing of the slow ones among them."""

QUANTILE = 0.99
"""Of the recent gaps. With fewer than a hundred it is the longest of all."""

IN_WORDS: dict[Phase, str] = {
    "start": "while it started",
    "load": "while it loaded the model",
    "prepare": "while it prepared the file",
    "step": "in a step",
    "evaluate": "in an evaluation",
    "checkpoint": "while it wrote a checkpoint",
    "consolidate": "in a consolidation",
}


class Limits(Struct, frozen=True, kw_only=True):
    """What a person allows."""

    times: float
    """A deadline is so many times what is usual."""
    step_least_s: float
    """The floor of a step, or of some rows of an evaluation: these are alike."""
    least_s: float
    """The floor of everything else: what a disk, a large file or a model takes may be ten times as long tomorrow."""
    most_s: float
    """The cap; and the deadline, as long as too little is known."""


class Late(Struct, frozen=True):
    """A deadline that has passed. Seconds."""

    phase: Phase
    silence_s: float
    deadline_s: float
    usual_s: float | None
    """None: not known yet."""

    def __str__(self) -> str:
        usual = f"usual is {_seconds(self.usual_s)}" if self.usual_s is not None else "what is usual is not known yet"
        return (
            f"no progress {IN_WORDS[self.phase]} for {_seconds(self.silence_s)}, and the deadline was "
            f"{_seconds(self.deadline_s)} ({usual})"
        )


class Watched(Struct, frozen=True, kw_only=True):
    """A worker as it is watched, and what was learned from those before it."""

    up: bool = False
    attempt: int = 0
    phase: Phase = "load"
    silence_s: float = 0.0
    """Since the last sign of progress; of a checkpoint, too, if none is being written."""
    saving: bool = False
    saving_silence_s: float = 0.0
    settings: JobSettings | None = None
    """What the gaps were learned under."""
    environment: dict[str, str] = {}
    """The same, of device and libraries, as the worker found them. Empty: not known yet."""
    gaps: Map[tuple[float, ...]] = Map()
    """By phase, the newest last. Seconds."""


def deadline_s(phase: Phase, gaps: Sequence[float], limits: Limits, failures: int) -> float:
    """How long this phase may go without progress, after so many failures in a row.

    >>> limits = Limits(times=10.0, step_least_s=120.0, least_s=600.0, most_s=1800.0)
    >>> [deadline_s("step", gaps, limits, 0) for gaps in ([], [1.0] * 8, [30.0] * 8)]
    [1800.0, 120.0, 300.0]
    """
    longer = 2.0 ** min(failures, 16)
    if phase == "start":
        return START_S * longer
    usual = usual_s(gaps)
    if usual is None:
        return limits.most_s
    least_s = limits.step_least_s if phase in {"step", "evaluate"} else limits.least_s
    return min(limits.most_s, max(least_s, limits.times * usual) * longer)


def usual_s(gaps: Sequence[float]) -> float | None:
    """What the slow ones among the recent gaps took; None: too few are known.

    >>> usual_s([1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    3.0
    """
    if len(gaps) < GAPS_WANTED:
        return None
    return sorted(gaps)[min(len(gaps) - 1, int(QUANTILE * len(gaps)))]


def failures_in_a_row(state: State) -> int:
    """Of what is in hand, without progress in between."""
    if state.consolidation is not None:
        return state.wish.failures if state.wish is not None else 0
    return state.current.failures if state.current is not None else 0


def anew(watched: Watched) -> Watched:
    """Another worker starts; what was learned holds for it, too."""
    return Watched(settings=watched.settings, environment=watched.environment, gaps=watched.gaps)


def is_up(watched: Watched) -> Watched:
    """It has come up: from here on what it was told to do counts."""
    return watched if watched.up else replace(watched, up=True, silence_s=0.0)


def ordered(watched: Watched, order: worker.AnyOrder) -> Watched:
    """It was told to do something; a warm worker was silent for good reason until now."""
    match order:
        case worker.Prepare():
            known = watched.settings is None or _alike(watched.settings, order.settings)
            gaps = watched.gaps if known else Map()
            return _begun(replace(watched, settings=order.settings, gaps=gaps), order.attempt, "load")
        case worker.Train():
            return _begun(watched, order.attempt, "load")
        case worker.Consolidate():
            return _begun(watched, order.attempt, "consolidate")
    return watched


def passed(watched: Watched, seconds: float) -> Watched:
    """Time in which nothing was heard."""
    saving_silence_s = watched.saving_silence_s + seconds if watched.saving else 0.0
    return replace(watched, silence_s=watched.silence_s + seconds, saving_silence_s=saving_silence_s)


def heard(watched: Watched, fact: worker.AnyFact) -> Watched:
    """What it said; a late word of another attempt proves nothing."""
    if fact.attempt != watched.attempt:
        return watched
    match fact:
        case worker.Heartbeat(phase="checkpoint"):
            known = _learned(watched, "checkpoint", watched.saving_silence_s) if watched.saving else watched
            return replace(known, saving=True, saving_silence_s=0.0)
        case worker.CheckpointWritten():
            known = _learned(watched, "checkpoint", watched.saving_silence_s) if watched.saving else watched
            return replace(known, saving=False, saving_silence_s=0.0, silence_s=0.0)
        case worker.Heartbeat():
            return _progressed(watched, fact.phase)
        case worker.Loaded():
            return _progressed(_found(watched, fact.environment), "step")
        case worker.Step() | worker.Evaluated():
            return _progressed(watched, "step")
        case worker.Prepared():
            return _progressed(watched, "prepare")
    return replace(watched, silence_s=0.0)


def late(watched: Watched, limits: Limits, failures: int) -> Late | None:
    """The deadline that has passed, if one has."""
    phase: Phase = "start" if not watched.up else "checkpoint" if watched.saving else watched.phase
    silence_s = watched.saving_silence_s if phase == "checkpoint" else watched.silence_s
    gaps = _known(watched, phase)
    allowed_s = deadline_s(phase, gaps, limits, failures)
    return Late(phase, silence_s, allowed_s, usual_s(gaps)) if silence_s > allowed_s else None


def is_evaluating(watched: Watched) -> bool:
    """True if the worker's last sign of life came from an evaluation.

    A thread of the worker may write a checkpoint at the same time, because both follow the same step. A worker that
    dies then counts as one that died in the evaluation: else a crash that every evaluation causes fails the job. A
    worker that hangs names its phase: `Late.phase`.
    """
    return watched.phase == "evaluate"


def _known(watched: Watched, phase: Phase) -> tuple[float, ...]:
    """The gaps that a phase is judged by. Evaluated rows pass through the model once, those of a step there and
    back: as long as evaluations are not known by themselves, what is usual in a step will do."""
    gaps = watched.gaps.get(phase) or ()
    if phase == "evaluate" and len(gaps) < GAPS_WANTED:
        return watched.gaps.get("step") or ()
    return gaps


def _begun(watched: Watched, attempt: int, phase: Phase) -> Watched:
    return replace(watched, attempt=attempt, phase=phase, silence_s=0.0, saving=False, saving_silence_s=0.0)


def _found(watched: Watched, environment: dict[str, str]) -> Watched:
    """A step on another device, or with other libraries, may take a hundred times as long."""
    if watched.environment in ({}, environment):
        return replace(watched, environment=environment)
    return replace(watched, environment=environment, gaps=Map())


def _progressed(watched: Watched, phase: Phase) -> Watched:
    """The gap that ends here is one of the phase that was waited in."""
    return replace(_learned(watched, watched.phase, watched.silence_s), phase=phase, silence_s=0.0)


def _learned(watched: Watched, phase: Phase, gap_s: float) -> Watched:
    gaps = (*(watched.gaps.get(phase) or ()), gap_s)[-GAPS_KEPT:]
    return replace(watched, gaps=watched.gaps.insert(phase, gaps))


def _alike(before: JobSettings, now: JobSettings) -> bool:
    """Whether a step under these settings takes what it took under those."""
    return (before.model, before.method, before.training, before.data.max_length, before.data.packing) == (
        now.model,
        now.method,
        now.training,
        now.data.max_length,
        now.data.packing,
    )


def _seconds(seconds: float) -> str:
    if seconds < 0.05:
        return "less than 0.1 s"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
