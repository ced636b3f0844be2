"""Versions that are to be evaluated, that are held, and that have results, as the state keeps them."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from core.transitions import VersionStatus
from core.values import Version
from events.evaluation import EvaluationId, ResultsFile
from events.settings import VersionSettings


class Pending(Struct, frozen=True):
    """A version that is to be evaluated."""

    version: str
    failures: int = 0
    retry_at: float | None = None
    """Unix time, seconds."""


class Run(Struct, frozen=True, kw_only=True):
    """The evaluation that runs, as the attempt `Attempts.current`: that of the first pending version."""

    version: str
    parent: str | None
    evaluation: EvaluationId
    settings: VersionSettings


class Held(Struct, frozen=True):
    """A version that the head has not moved to."""

    version: str
    status: VersionStatus = "published"
    reason: str = ""
    """Why it is held; "": its evaluation is pending."""


class Evaluated(Struct, frozen=True):
    """The newest results of a version that exists."""

    version: str
    results: ResultsFile
    suites_sha256: str


class Evaluations(Struct, frozen=True, omit_defaults=True):
    """Versions that are to be evaluated, that are held, and that have results."""

    pending: tuple[Pending, ...] = ()
    """In this order."""
    running: Run | None = None
    held: tuple[Held, ...] = ()
    evaluated: tuple[Evaluated, ...] = ()
    jobs: tuple[ResultsFile, ...] = ()
    """The results of the newest jobs, at most `evaluation.jobs.RESULTS_KEPT`."""
    discarded: str = ""
    """The checkpoint that the last discarded version was made of: the schedule does not make another one of it."""

    def hold_of(self, version: str | None) -> Held | None:
        """How this version is held; None: it is not."""
        return next((held for held in self.held if held.version == version), None)

    def results_of(self, version: str | None) -> ResultsFile | None:
        """The newest results of this version."""
        return next((each.results for each in self.evaluated if each.version == version), None)

    def is_pending(self, version: str) -> bool:
        """True if this version is to be evaluated, or is being evaluated."""
        return any(each.version == version for each in self.pending)

    def published(self, version: str, *, holds: bool) -> Evaluations:
        """Add a new version that is to be evaluated."""
        held = (*self.held, Held(version)) if holds else self.held
        return replace(self, pending=(*self.pending, Pending(version)), held=held)

    def released(self, version: str | None) -> Evaluations:
        """The head moved to this version, so it is held no longer."""
        return replace(self, held=tuple(each for each in self.held if each.version != version))

    def deleted(self, version: Version) -> Evaluations:
        """Forget a version that was deleted."""
        was_held = self.hold_of(version.id) is not None
        return replace(
            self.released(version.id),
            pending=tuple(each for each in self.pending if each.version != version.id),
            evaluated=tuple(each for each in self.evaluated if each.version != version.id),
            discarded=version.checkpoint if was_held else self.discarded,
        )
