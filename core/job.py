"""One job, as the state machine knows it."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from core.transitions import JobStatus
from events.course import Course
from events.settings import JobSettings, Plan
from events.values import Concern, Priority


class Evaluation(Struct, frozen=True, omit_defaults=True):
    """How the job does on rows that are never trained on."""

    abandoned: bool = False
    """The worker hung or failed in an evaluation: the job is not evaluated again."""
    step: int = -1
    """The step after which the job was last evaluated; -1: never. An evaluation of an earlier step would find nothing
    new: steps that run again give the same bits."""
    lowest: float | None = None
    """The lowest validation loss so far."""
    concern: Concern | None = None
    """What was wrong with the last validation loss."""
    samples_abandoned: bool = False
    """The worker hung or died while it generated samples: the job is not sampled again, unless a person asks."""
    sampled_step: int = -1
    """The step after which the job was last sampled; -1: never. For the same reason as `step`."""

    suites_step: int = -1
    """The step after which both suites were last evaluated; -1: never."""

    def until(self, step: int) -> Evaluation:
        """Forget what was found after this step."""
        return replace(
            self,
            step=min(self.step, step),
            sampled_step=min(self.sampled_step, step),
            suites_step=min(self.suites_step, step),
        )


FEW_STEPS = 20
"""A job of fewer steps is warned about: AdamW moves a weight by about the learning rate in a step, so few steps
change a model little."""


class Job(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An accepted data file, and how far it is trained."""

    id: str
    name: str
    size_bytes: int
    priority: Priority
    status: JobStatus = "queued"
    settings: JobSettings | None = None
    """The settings of its last attempt; fixed from the first committed step on."""
    plan: Plan | None = None
    committed_step: int = 0
    """Steps of this job that a checkpoint holds; the next attempt continues after them."""
    until: int | None = None
    """The step to end at, before the plan does: the job runs a replay range again after a checkpoint was lost."""
    course: Course = Course()
    """How the run departs from the plan."""
    strikes: int = 0
    """Batches skipped since a person last looked."""
    evaluation: Evaluation = Evaluation()
    environment: dict[str, str] = {}
    """Device, libraries and arithmetic when its training last started; empty before."""
    failures: int = 0
    """Failed attempts since the last commit."""
    retry_at: float | None = None
    """Do not retry before this time. Unix time, seconds."""
    skip_requested: bool = False
    trained_from: bool = False
    """Some weights may hold what the file says: from this pass, an earlier one, or a detached checkpoint. Its file then
    stays in `data/` whatever happens to the job, so that lineage can show it."""

    @property
    def goal(self) -> int | None:
        """The step of this job at which it is done; None before it is planned."""
        if self.until is not None:
            return self.until
        return self.plan.steps_total if self.plan else None

    @property
    def begun(self) -> bool:
        """True if weights already depend on this job's settings."""
        return self.committed_step > 0 or self.until is not None
