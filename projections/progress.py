"""Values that only people need: speed, last evaluation, recent troubles. `fold.py` updates them."""

from __future__ import annotations

from msgspec import Struct

from core.state import State
from events import kinds
from events.kinds import EvaluationDone, OverheadMeasured
from projections.trouble import Trouble


class Pace(Struct, frozen=True, gc=False):
    """Smoothed speed of the current job."""

    seconds_per_step: float
    tokens_per_step: float


class Evaluated(Struct, frozen=True, gc=False):
    """The last evaluation on held-out rows."""

    at: str
    name: str
    """The name of the file that was being trained on."""
    found: EvaluationDone


class SampledRound(Struct, frozen=True, gc=False):
    """The last round of samples, without its answers."""

    at: str
    name: str
    """The name of the file that was being trained on."""
    step: int
    answers: int
    matched: int
    thinking: int
    think_tag: str
    seconds: float
    missing: str = ""
    """Why newer samples are missing; "": they are not."""


class Progress(Struct, frozen=True, gc=False):
    """Everything shown to people that is not in the state."""

    last_step: kinds.StepReached | None = None
    pace: Pace | None = None
    doing_since: str = ""
    """When the daemon got its current status."""
    stop_reason: str = ""
    """Why the last daemon stopped; "": it has not stopped in good order."""
    started_seq: int = 0
    """The record of the last start of a daemon."""
    bytes_total: int = 0
    """Size of all files since the queue was last empty; `bytes_done` of them are finished. A waiting file is not
    tokenized yet, so its size stands for its work."""
    bytes_done: int = 0
    evaluated: Evaluated | None = None
    """The last evaluation of any job."""
    sampled: SampledRound | None = None
    """The last samples of any job."""
    troubles: tuple[Trouble, ...] = ()
    watching: OverheadMeasured | None = None
    """The last measurement of the daemon's own cost."""


class Folded(Struct, frozen=True, gc=False):
    """The result of folding the journal up to one record."""

    state: State = State()
    progress: Progress = Progress()
