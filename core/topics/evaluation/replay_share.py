"""`[data] replay = "auto"`: the share of rows of earlier files follows from the forgetting that was measured.

After each job the held-out rows of earlier files are scored. The forgetting of a file is its loss now minus its best
loss before (Chaudhry et al. 2018, arXiv 1801.10112, for a loss), and 0 if it is better now: a file that gains does not
make up for one that is forgotten. The mean over the files decides the share of the next job. The state keeps
measurements only; the decision is journaled with the settings of the job, when it first starts.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from events import kinds
from events.settings import DataSettings, JobSettings, Sources

START = 0.1
"""The share before anything was measured. Between the 1 % that kept the tasks of an instruction-tuned model (Scialom et
al. 2022, arXiv 2205.12393) and the 5 to 50 % of continued pretraining (Ibrahim et al. 2024, arXiv 2403.08763)."""

RAISE_ABOVE = 0.05
"""Forgetting, nats per token: half of the default of [versions] max_forgetting, so that replay acts before the gate."""

LOWER_BELOW = 0.02
"""Between the two the share stays: the loss on some rows varies by about as much."""

RAISED_BY, LOWERED_BY = 2.0, 0.8
"""Fast up, slow down: a forgotten file costs more than some replayed rows."""


class Baseline(Struct, frozen=True, gc=False):
    """The best score of a file so far, on certain rows."""

    job: str
    rows: int
    tokens: int
    loss: float
    """Nats per token."""


class ReplayShare(Struct, frozen=True, omit_defaults=True):
    """What is known about forgetting, and the last share."""

    job: str = ""
    """The last job that started under "auto"."""
    share: float | None = None
    """Its share. None: there was no such job."""
    forgetting: float | None = None
    """Measured since that job started, nats per token; None: not measured since."""
    baselines: tuple[Baseline, ...] = ()
    """Of the files that were scored last."""

    def started(self, event: kinds.AttemptStarted) -> ReplayShare:
        """Keep the share of a job that starts under "auto". A later attempt at the same job has the same one."""
        if event.settings.data.replay != "auto":
            return self
        share, is_new = event.settings.sources.replay_share, event.job != self.job
        return replace(self, job=event.job, share=share, forgetting=None if is_new else self.forgetting)

    def measured(self, event: kinds.JobEvaluated) -> ReplayShare:
        """Compare the scores with the best ones before. Other rows of a file than before begin a new baseline."""
        known = {each.job: each for each in self.baselines}
        lost, baselines = [], []
        for score in event.scores.files:
            if not isinstance(score.loss, float):
                continue
            best, before = score.loss, known.get(score.job)
            if before is not None and (before.rows, before.tokens) == (score.rows, score.tokens):
                best = min(best, before.loss)
                if score.job != event.job:
                    lost.append(max(0.0, score.loss - before.loss))
            baselines.append(Baseline(score.job, score.rows, score.tokens, best))
        if not baselines:
            return self
        forgetting = sum(lost) / len(lost) if lost else self.forgetting
        return replace(self, forgetting=forgetting, baselines=tuple(baselines))

    def moved(self) -> ReplayShare:
        """The head moved: the best scores may be those of weights that no longer lead to it."""
        return replace(self, forgetting=None, baselines=())


def next_share(before: float | None, forgetting: float | None, limits: DataSettings) -> float:
    """The share of the next job. `before`: that of the last one. `forgetting`: measured after it, nats per token.

    >>> limits = DataSettings(replay_min=0.05, replay_max=0.5)
    >>> [next_share(*each, limits) for each in ((None, None), (0.1, 0.2), (0.4, 0.2), (0.1, 0.03), (0.1, 0.0))]
    [0.1, 0.2, 0.5, 0.1, 0.08]
    """
    share = START if before is None else before
    if forgetting is not None and forgetting > RAISE_ABOVE:
        share = max(RAISED_BY * share, START)
    elif forgetting is not None and forgetting < LOWER_BELOW:
        share *= LOWERED_BY
    return round(min(max(share, limits.replay_min), limits.replay_max), 4)


def resolved(sources: Sources, limits: DataSettings, known: ReplayShare) -> Sources:
    """The sources of a job that starts, with the share that "auto" stands for."""
    if limits.replay != "auto":
        return sources
    share = next_share(known.share, known.forgetting, limits)
    return replace(sources, replay_share=share, replay_forgetting=known.forgetting)


def described(settings: JobSettings) -> str:
    """Which share a job replays and why, a clause; "": the share is not automatic."""
    if settings.data.replay != "auto":
        return ""
    sources = settings.sources
    why = "forgetting was not measured since the last file"
    if sources.replay_forgetting is not None:
        why = f"the mean forgetting is {sources.replay_forgetting:.3f} nats per token"
    if not sources.replay:
        why = "there is no earlier file yet"
    return f"replays {sources.replay_share:.0%} of its rows from earlier files (auto: {why})"
