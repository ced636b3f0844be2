"""Deadlines for the progress of the worker, derived from how long it usually takes. Pure: reports and seconds come in.

    a phase        what the worker does: load, prepare, a step, an evaluation, samples, a checkpoint, a
                   consolidation
    a gap          the time from one sign of progress to the next, in one phase
    a deadline     a multiple of the longest recent gap of that phase, within a floor and a cap

A separate thread writes a checkpoint while steps continue, or wait for it. While it is being written, only its deadline
counts, and the deadline of a step starts again after it.

After each failure in a row every deadline is twice as long, up to the cap. So a slow step is taken for a hang once or
twice, and not for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from core.state import State
from core.structures.maps import Map
from events import messages
from events.settings import JobSettings

Phase = messages.WorkerPhase

START_S = 120.0
"""Deadline for the first message of the process. Python and its imports take a second; from a cold disk on a busy
machine, far more."""

GAPS_KEPT = 256
"""Gaps kept for each phase: some minutes of steps of a second, so that the deadline follows a change of the model."""

GAPS_WANTED = 8
"""Fewer gaps say nothing about the slow ones."""

QUANTILE = 0.99
"""Quantile of the recent gaps. With fewer than a hundred it is the longest one."""

IN_WORDS: dict[Phase, str] = {
    "start": "while it started",
    "load": "while it loaded the model",
    "prepare": "while it prepared the file",
    "step": "in a step",
    "evaluate": "in an evaluation",
    "sample": "while it generated samples",
    "self_correct": "while it answered prompts for self-correction",
    "checkpoint": "while it wrote a checkpoint",
    "consolidate": "in a consolidation",
}


FORWARD: frozenset[Phase] = frozenset({"evaluate", "sample", "self_correct"})
"""Phases that run the forward pass alone."""


class Limits(Struct, frozen=True, kw_only=True):
    """The limits that the config sets."""

    times: float
    """A deadline is this multiple of the usual gap."""
    step_least_s: float
    """The floor for a step, some rows of an evaluation, or some tokens of samples: each takes about the same time."""
    least_s: float
    """The floor for everything else: a disk, a large file or a model may take ten times as long tomorrow."""
    most_s: float
    """The cap; and the deadline while too little is known."""


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
    """The worker as the daemon watches it, and the gaps of the workers before it."""

    up: bool = False
    attempt: int = 0
    phase: Phase = "load"
    silence_s: float = 0.0
    """Seconds since the last sign of progress."""
    saving: bool = False
    saving_silence_s: float = 0.0
    settings: JobSettings | None = None
    """The settings under which the gaps were measured."""
    environment: dict[str, str] = {}
    """The device and libraries with which the gaps were measured. Empty: not known yet."""
    gaps: Map[tuple[float, ...]] = Map()
    """Gaps by phase, the newest last. Seconds."""


def deadline_s(phase: Phase, gaps: Sequence[float], limits: Limits, failures: int) -> float:
    """Seconds that this phase may take without progress, after so many failures in a row.

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
    least_s = limits.step_least_s if phase in {"step", *FORWARD} else limits.least_s
    return min(limits.most_s, max(least_s, limits.times * usual) * longer)


def usual_s(gaps: Sequence[float]) -> float | None:
    """The slow end of the recent gaps, seconds; None: too few are known.

    >>> usual_s([1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    3.0
    """
    if len(gaps) < GAPS_WANTED:
        return None
    return sorted(gaps)[min(len(gaps) - 1, int(QUANTILE * len(gaps)))]


def failures_in_a_row(state: State) -> int:
    """Failures of the current job, consolidation or evaluation without progress in between."""
    if state.consolidation.running is not None:
        return state.consolidation.request.failures if state.consolidation.request is not None else 0
    if state.evaluations.running is not None:
        return state.evaluations.pending[0].failures
    return state.training.current.failures if state.training.current is not None else 0


def restarted(watched: Watched) -> Watched:
    """Start watching another worker; the measured gaps hold for it, too."""
    return Watched(settings=watched.settings, environment=watched.environment, gaps=watched.gaps)


def is_up(watched: Watched) -> Watched:
    """Note that the worker is up: from here on its order counts."""
    return watched if watched.up else replace(watched, up=True, silence_s=0.0)


def ordered(watched: Watched, order: messages.AnyOrder) -> Watched:
    """Note an order; an idle worker was silent for good reason until now."""
    match order:
        case messages.Prepare():
            known = watched.settings is None or _alike(watched.settings, order.settings)
            gaps = watched.gaps if known else Map()
            return _begun(replace(watched, settings=order.settings, gaps=gaps), order.attempt, "load")
        case messages.Train():
            return _begun(watched, order.attempt, "load")
        case messages.Consolidate():
            return _begun(watched, order.attempt, "consolidate")
        case messages.EvaluateVersion():
            return _begun(watched, order.attempt, "load")
    return watched


def passed(watched: Watched, seconds: float) -> Watched:
    """Add time in which no message came."""
    saving_silence_s = watched.saving_silence_s + seconds if watched.saving else 0.0
    return replace(watched, silence_s=watched.silence_s + seconds, saving_silence_s=saving_silence_s)


def received(watched: Watched, fact: messages.AnyFact) -> Watched:
    """Note a report; a late one of another attempt proves nothing."""
    if fact.attempt != watched.attempt:
        return watched
    match fact:
        case messages.Heartbeat(phase="checkpoint"):
            known = _measured(watched, "checkpoint", watched.saving_silence_s) if watched.saving else watched
            return replace(known, saving=True, saving_silence_s=0.0)
        case messages.CheckpointWritten():
            known = _measured(watched, "checkpoint", watched.saving_silence_s) if watched.saving else watched
            return replace(known, saving=False, saving_silence_s=0.0, silence_s=0.0)
        case messages.Heartbeat():
            return _progressed(watched, fact.phase)
        case messages.Loaded():
            return _progressed(_found(watched, fact.environment), "step")
        case (
            messages.Step()
            | messages.Evaluated()
            | messages.JobEvaluated()
            | messages.Sampled()
            | messages.SamplesPutOff()
            | messages.SamplesFailed()
            | messages.SelfCorrected()
            | messages.SelfCorrectionPutOff()
            | messages.SelfCorrectionFailed()
        ):
            return _progressed(watched, "step")
        case messages.Prepared():
            return _progressed(watched, "prepare")
    return replace(watched, silence_s=0.0)


def late(watched: Watched, limits: Limits, failures: int) -> Late | None:
    """The deadline that has passed; None if none has."""
    phase: Phase = "start" if not watched.up else "checkpoint" if watched.saving else watched.phase
    silence_s = watched.saving_silence_s if phase == "checkpoint" else watched.silence_s
    gaps = _known(watched, phase)
    allowed_s = deadline_s(phase, gaps, limits, failures)
    return Late(phase, silence_s, allowed_s, usual_s(gaps)) if silence_s > allowed_s else None


def _known(watched: Watched, phase: Phase) -> tuple[float, ...]:
    """The gaps that a phase is judged by. Some phases run the forward pass alone, a step the backward pass
    too: while their gaps are unknown, those of steps will do."""
    gaps = watched.gaps.get(phase) or ()
    if phase in FORWARD and len(gaps) < GAPS_WANTED:
        return watched.gaps.get("step") or ()
    return gaps


def _begun(watched: Watched, attempt: int, phase: Phase) -> Watched:
    return replace(watched, attempt=attempt, phase=phase, silence_s=0.0, saving=False, saving_silence_s=0.0)


def _found(watched: Watched, environment: dict[str, str]) -> Watched:
    """Forget the gaps if the device or libraries changed: a step may then take a hundred times as long."""
    if watched.environment in ({}, environment):
        return replace(watched, environment=environment)
    return replace(watched, environment=environment, gaps=Map())


def _progressed(watched: Watched, phase: Phase) -> Watched:
    """Add the gap that ends here to the phase that was waited in."""
    return replace(_measured(watched, watched.phase, watched.silence_s), phase=phase, silence_s=0.0)


def _measured(watched: Watched, phase: Phase, gap_s: float) -> Watched:
    gaps = (*(watched.gaps.get(phase) or ()), gap_s)[-GAPS_KEPT:]
    return replace(watched, gaps=watched.gaps.insert(phase, gaps))


def _alike(before: JobSettings, now: JobSettings) -> bool:
    """True if a step takes about as long under both settings."""
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
