"""Versions that are to be evaluated, that are held, and that have results, as the state keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from core.transitions import VersionStatus
from core.values import Version
from events.evaluation import EvaluationId, HeldOutFile, ResultsFile, Suites
from events.settings import DataSettings, EvaluationSettings, JobSettings, Severity, VersionSettings

FILES_KEPT = 1024
"""Trained files that the state keeps: more than [evaluation] files can be."""


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


class HoldOut(Struct, frozen=True):
    """The settings that decide which rows of a file are held out, and how they are read."""

    data: DataSettings
    rows: dict[str, Severity]
    """[checks] rows."""
    validation_sha256: str

    @classmethod
    def of(cls, settings: JobSettings) -> HoldOut | None:
        """Those of a job; None: it holds no row out."""
        if not settings.data.holdout and not settings.sources.validation_sha256:
            return None
        return cls(settings.data, settings.checks.rows, settings.sources.validation_sha256)


class EvaluatedFile(Struct, frozen=True):
    """A trained file with held-out rows."""

    job: str
    name: str
    hold_out: int
    """Index of its settings in `Evaluations.hold_outs`: many files have the same."""
    global_step: int
    """The step after which it was trained."""


class Evaluations(Struct, frozen=True, omit_defaults=True):
    """Versions that are to be evaluated, that are held, and that have results."""

    pending: tuple[Pending, ...] = ()
    """In this order."""
    running: Run | None = None
    held: tuple[Held, ...] = ()
    evaluated: tuple[Evaluated, ...] = ()
    jobs: tuple[ResultsFile, ...] = ()
    """The results of the newest jobs, at most `evaluation.jobs.RESULTS_KEPT`."""
    files: tuple[EvaluatedFile, ...] = ()
    """Trained files with held-out rows, in the order of training (`chosen_files`)."""
    hold_outs: tuple[HoldOut, ...] = ()
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

    def with_file(self, job: str, name: str, settings: JobSettings | None, global_step: int) -> Evaluations:
        """Add a file that is trained; one that was trained before moves to the end."""
        hold_out = HoldOut.of(settings) if settings is not None else None
        if hold_out is None:
            return self
        known = hold_out in self.hold_outs
        hold_outs = self.hold_outs if known else (*self.hold_outs, hold_out)
        others = tuple(each for each in self.files if each.job != job)
        file = EvaluatedFile(job, name, hold_outs.index(hold_out), global_step)
        return replace(self, files=tuple(chosen_files((*others, file), FILES_KEPT)), hold_outs=hold_outs)

    def name_of(self, job: str) -> str:
        """The name of a file with held-out rows; the first digits of its id if it is not known."""
        return next((each.name for each in self.files if each.job == job), job[:12])

    def suites(self, settings: EvaluationSettings, since_step: int) -> Suites:
        """What a version is evaluated on; files that were trained after `since_step` are new."""
        files = chosen_files(self.files, settings.files)
        return Suites(
            files=tuple(_held_out_file(each, self.hold_outs[each.hold_out]) for each in files),
            new=tuple(each.job for each in files if each.global_step > since_step),
            rows_per_file=settings.rows_per_file,
            max_new_tokens=settings.max_new_tokens,
        )

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


def chosen_files(files: Sequence[EvaluatedFile], most: int) -> Sequence[EvaluatedFile]:
    """The files that are evaluated: the first one, the newest ones, and of those between the ones with the lowest ids.

    So the choice changes little from one version to the next.

    >>> names = ["5", "9", "1", "7", "3", "8", "6"]
    >>> "".join(each.job for each in chosen_files([EvaluatedFile(name, "", 0, 1) for name in names], 5))
    '51386'
    """
    if len(files) <= most:
        return files
    if most == 0:
        return ()
    newest = most // 2
    first, between, last = files[:1], files[1 : len(files) - newest], files[len(files) - newest :]
    lowest = {each.job for each in sorted(between, key=lambda each: each.job)[: most - 1 - newest]}
    return (*first, *(each for each in between if each.job in lowest), *last)


def _held_out_file(file: EvaluatedFile, hold_out: HoldOut) -> HeldOutFile:
    return HeldOutFile(
        job=file.job, data=hold_out.data, rows=hold_out.rows, validation_sha256=hold_out.validation_sha256
    )
