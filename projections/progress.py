"""What people ask and the machine does not need, and the fold of both: the values; `fold.py` makes them."""

from __future__ import annotations

from msgspec import Struct

from core.state import State
from events import kinds
from events.kinds import EvaluationDone, OverheadMeasured


class Trouble(Struct, frozen=True):
    """Something that went wrong, as shown in the status."""

    seq: int
    at: str
    kind: str
    message: str


class Pace(Struct, frozen=True, gc=False):
    """Smoothed speed of the present job."""

    seconds_per_step: float
    tokens_per_step: float


class Evaluated(Struct, frozen=True, gc=False):
    """What was found on rows that are not learned."""

    at: str
    name: str
    """Of the file that was learned."""
    found: EvaluationDone


class Progress(Struct, frozen=True, gc=False):
    """What people ask and the machine does not need."""

    last_step: kinds.StepReached | None = None
    pace: Pace | None = None
    doing_since: str = ""
    """When the daemon's present status began."""
    bytes_total: int = 0
    """Of all files since the queue was last empty; `bytes_done` of them are finished. A file's length stands for
    its work, for what waits has not been tokenised yet."""
    bytes_done: int = 0
    evaluated: Evaluated | None = None
    """Last of all, of whatever job."""
    troubles: tuple[Trouble, ...] = ()
    watching: OverheadMeasured | None = None
    """What the daemon itself took, as last measured."""


class Folded(Struct, frozen=True, gc=False):
    """Everything folded from the journal up to one record."""

    state: State = State()
    progress: Progress = Progress()
