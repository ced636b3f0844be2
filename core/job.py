"""One job, as the machine knows it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from events.course import Course
from events.evaluation import Concern
from events.settings import JobSettings, Plan
from events.values import Priority

JobStatus = Literal[
    "queued", "held", "preparing", "ready", "training", "trained", "rejected", "failed", "skipped", "removed"
]

RUNNING: frozenset[JobStatus] = frozenset({"preparing", "ready", "training"})
"""A worker is at it."""


class Evaluation(Struct, frozen=True, omit_defaults=True):
    """How it did on rows that it does not learn."""

    abandoned: bool = False
    """The worker hung or failed in one."""
    step: int = -1
    """Behind which it was evaluated last; -1: not yet. Up to there nothing new would be found: steps that are run again
    give the same bits."""
    lowest: float | None = None
    """Of all its losses so far."""
    concern: Concern | None = None
    """What was wrong with the last one."""


class Job(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An accepted data file, and how far it has been learned."""

    id: str
    name: str
    size_bytes: int
    priority: Priority
    status: JobStatus = "queued"
    settings: JobSettings | None = None
    """As of its last attempt; fixed from the first committed step on."""
    plan: Plan | None = None
    committed_step: int = 0
    """Steps of this job that a checkpoint holds; the next attempt goes on behind them."""
    until: int | None = None
    """Where to end before the plan does: a stretch that is run again after a checkpoint was lost."""
    course: Course = Course()
    """What is done otherwise than planned."""
    strikes: int = 0
    """Batches that were set aside since a person last looked."""
    evaluation: Evaluation = Evaluation()
    environment: dict[str, str] = {}
    """What it was trained in when training last started: device, libraries, arithmetic; empty before."""
    failures: int = 0
    """Attempts that failed since the last commit."""
    retry_at: float | None = None
    skip_requested: bool = False
    trained_from: bool = False
    """Some weights hold what it says, or may: of this pass, of an earlier one, of a branch that was left. Its file then
    stays in `data/` whatever becomes of the job, or their lineage could not be shown any more."""

    @property
    def goal(self) -> int | None:
        """The step of this job at which it is done; None before it is planned."""
        if self.until is not None:
            return self.until
        return self.plan.steps_total if self.plan else None

    @property
    def begun(self) -> bool:
        """Whether weights depend on this job's settings already."""
        return self.committed_step > 0 or self.until is not None
