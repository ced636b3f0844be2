"""Values that only people need: speed, last evaluation, recent troubles. `fold.py` updates them."""

from __future__ import annotations

from msgspec import Struct

from core.state import State
from events import kinds
from events.evaluation import QuestionScore
from events.kinds import EvaluationDone, OverheadMeasured
from events.values import Number
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


class Measured(Struct, frozen=True, gc=False):
    """The evaluation at the end of the last job."""

    at: str
    name: str
    """The name of the file."""
    files: int
    """Files whose held-out rows were scored."""
    loss: float | None
    """Mean over the files, nats per token; None: there is none."""
    questions: QuestionScore
    problem: str


class VersionMark(Struct, frozen=True, gc=False):
    """The evaluation of a version in short."""

    questions: QuestionScore = QuestionScore()
    worst: Number | None = None
    """The largest rise of the loss on a file, nats per token; None: not compared."""
    worst_job: str = ""
    worse: str = ""
    """Why it is worse than its parent, by the limits; "": it is not."""
    problem: str = ""
    failed: str = ""
    """Why it was not evaluated; "": it was."""


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
    measured: Measured | None = None
    """The evaluation at the end of the last job."""
    marks: dict[str, VersionMark] = {}
    """By version, for those that exist."""
    troubles: tuple[Trouble, ...] = ()
    watching: OverheadMeasured | None = None
    """The last measurement of the daemon's own cost."""


class Folded(Struct, frozen=True, gc=False):
    """The result of folding the journal up to one record."""

    state: State = State()
    progress: Progress = Progress()
