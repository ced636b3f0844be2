"""The state that the journal describes: one slice for each topic, all of them frozen values."""

from __future__ import annotations

from msgspec import Struct

from core.job import Job
from core.structures.evaluations import Evaluations
from core.structures.queue import Queue
from core.topics.attempts import Attempts
from core.topics.config import Config
from core.topics.consolidation import Consolidation
from core.topics.daemon import Daemon, Home
from core.topics.disk import Disk
from core.topics.evaluation.replay_share import ReplayShare
from core.topics.evaluation.samples import Samples
from core.topics.evaluation.self_correction import SelfCorrection
from core.topics.head import Head
from core.topics.memory import Memory
from core.topics.outcomes import Outcomes
from core.topics.recovery import Recovery
from core.topics.retention import Retention
from core.topics.training import Training


class State(Struct, frozen=True, kw_only=True, gc=False):  # no cycles: values refer to older values only
    """Everything that the journal says about now. It is as large as the work in progress, however long the history
    is."""

    home: Home = Home()
    daemon: Daemon = Daemon()
    queue: Queue = Queue()
    attempts: Attempts = Attempts()
    training: Training = Training()
    outcomes: Outcomes = Outcomes()
    recovery: Recovery = Recovery()
    head: Head = Head()
    retention: Retention = Retention()
    consolidation: Consolidation = Consolidation()
    disk: Disk = Disk()
    memory: Memory = Memory()
    config: Config = Config()
    samples: Samples = Samples()
    self_correction: SelfCorrection = SelfCorrection()
    evaluations: Evaluations = Evaluations()
    replay_share: ReplayShare = ReplayShare()

    def job(self, job_id: str) -> Job | None:
        """A job that is in progress, waits, or has failed."""
        for job in self.training.in_progress:
            if job.id == job_id:
                return job
        return self.queue.get(job_id) or self.outcomes.failed.get(job_id)
