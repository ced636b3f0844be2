"""What was trained and what was forgotten: the matrix of scores by file, and the results of each version.

Row i of the matrix has the scores on the held-out rows of every evaluated file after file i was trained. The fold keeps
the newest rows, and the first and the best score of older ones, so that its size does not grow with the history.
Scores of a file are compared only if they are sums over the same rows: equal numbers of rows and tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from events import kinds
from events.codec import Record
from events.evaluation import (
    TASK_SCORES_MAX,
    Comparison,
    Divergence,
    FileScore,
    QuestionScore,
    ResultsFile,
    Scores,
    TaskScore,
)
from events.kinds import (
    JobEvaluated,
    TasksEvaluated,
    VersionEvaluated,
    VersionEvaluationFailed,
    VersionHeld,
    VersionPromoted,
)
from events.statistics import Better, Matrix, average, backward_transfer, forgetting, worst
from events.values import JobId, step_of

ROWS_KEPT = 64
"""Rows of the matrix: two months of nights. A row has at most as many files as [evaluation] `files` allows."""

FILES_KEPT = 512
"""Files whose first and best score is kept after their row is dropped."""

VERSIONS_KEPT = 200

NAMES_KEPT = 20_000


OfVersion = VersionEvaluated | VersionEvaluationFailed | VersionHeld | VersionPromoted | TasksEvaluated


class MatrixRow(Struct, frozen=True, kw_only=True, gc=False):
    """The evaluation after one file was trained."""

    seq: int
    at: str
    job: JobId
    name: str
    global_step: int
    files: tuple[FileScore, ...]
    questions: QuestionScore
    divergence: Divergence | None
    seconds: float
    problem: str
    """What could not be measured; "": nothing."""


class FileSummary(Struct, frozen=True, kw_only=True, gc=False):
    """One file over all rows of the matrix."""

    job: JobId
    name: str
    score: FileScore
    """The newest score."""
    first_loss: float | None
    """After the file was trained, nats per token; None: other rows were scored then, or it was not evaluated."""
    best_loss: float | None
    forgetting: float | None
    """The newest loss minus the best one before. None: there is no comparable one."""


class VersionResult(Struct, frozen=True, kw_only=True):
    """What is known about the evaluation of a version."""

    version: str
    seq: int
    at: str
    scores: Scores | None = None
    """None: it was not evaluated."""
    comparison: Comparison | None = None
    divergence: Divergence | None = None
    results: ResultsFile | None = None
    seconds: float = 0.0
    worse: str = ""
    problem: str = ""
    failed: str = ""
    """Why the last evaluation failed."""
    held: str = ""
    """Why the version is held; "": it is not."""
    promoted_by: str = ""
    tasks: tuple[TaskScore, ...] = ()
    """Of lm-evaluation-harness: the newest score of each metric."""


class EvaluationChart(Struct, frozen=True, kw_only=True):
    """The matrix and its summary."""

    seq: int
    """The last record that it includes."""
    names: dict[str, str]
    """Names of the files by the id of their job."""
    rows: list[MatrixRow]
    """The oldest first."""
    files: list[FileSummary]
    """The files of the newest row."""
    average_loss: float | None
    """Mean over the files of the newest row, nats per token."""
    average_accuracy: float | None
    backward_transfer: float | None
    """Mean change of earlier files since each was trained, nats per token; above 0 is better."""
    worst_file: JobId | None
    """The file with the most forgetting, if that is above 0."""
    versions: list[VersionResult]
    """The oldest first."""


class _Earlier(Struct):
    """The scores of a file in rows that are no longer kept."""

    first: FileScore | None
    best: FileScore


class EvaluationHistory:
    """The fold. A row replaces those of the same step and of later ones: these weights no longer lead to the head."""

    def __init__(self) -> None:
        self.seq = 0
        self._names: dict[str, str] = {}
        self._rows: list[MatrixRow] = []
        self._earlier: dict[str, _Earlier] = {}
        self._versions: dict[str, VersionResult] = {}
        self._committed = 0
        self._steps: dict[str, int] = {}
        """The global step of each version."""

    def observe(self, record: Record) -> None:
        """Fold one record."""
        self.seq = record.seq
        event = record.event
        match event:
            case kinds.FileEnqueued():
                self._names[event.job] = event.name
                if len(self._names) > NAMES_KEPT:
                    del self._names[next(iter(self._names))]
            case kinds.CheckpointCommitted():
                self._committed = event.global_step
            case kinds.VersionPublished():
                self._steps[event.version] = self._committed
            case kinds.VersionDeleted():
                self._versions.pop(event.version, None)
                self._steps.pop(event.version, None)
            case kinds.HeadMoved():
                self._committed = self._step_of(event)
                self._forget_after(self._committed)
            case JobEvaluated():
                self._forget_after(event.global_step - 1)
                self._rows.append(self._row(record, event))
                self._drop_old_rows()
            case VersionEvaluated() | VersionEvaluationFailed() | VersionHeld() | VersionPromoted() | TasksEvaluated():
                self._observe_version(record, event)

    def chart(self) -> EvaluationChart:
        """The matrix, its summary, and the versions."""
        loss, accuracy = self._matrix("lower"), self._matrix("higher")
        lost = forgetting(loss)
        worst_file = worst(lost)
        last = self._rows[-1] if self._rows else None
        shown = {score.job for row in self._rows for score in row.files} | {row.job for row in self._rows}
        shown |= {score.job for each in self._versions.values() if each.scores for score in each.scores.files}
        return EvaluationChart(
            seq=self.seq,
            names={job: self._name(job) for job in sorted(shown)},
            rows=list(self._rows),
            files=[self._summary(score, loss, lost) for score in last.files] if last is not None else [],
            average_loss=average(loss[-1][1]) if loss else None,
            average_accuracy=average(accuracy[-1][1]) if accuracy else None,
            backward_transfer=backward_transfer(loss),
            worst_file=worst_file if worst_file is not None and lost[worst_file] > 0 else None,
            versions=list(self._versions.values()),
        )

    def _row(self, record: Record, event: JobEvaluated) -> MatrixRow:
        return MatrixRow(
            seq=record.seq,
            at=record.at,
            job=event.job,
            name=self._name(event.job),
            global_step=event.global_step,
            files=event.scores.files,
            questions=event.scores.questions,
            divergence=event.divergence,
            seconds=event.seconds,
            problem=event.problem,
        )

    def _observe_version(self, record: Record, event: OfVersion) -> None:
        known = self._versions.pop(event.version, None) or VersionResult(version=event.version, seq=0, at=record.at)
        known = replace(known, seq=record.seq, at=record.at)
        match event:
            case VersionEvaluated():
                new = replace(
                    known,
                    scores=event.scores,
                    comparison=event.comparison,
                    divergence=event.divergence,
                    results=event.results,
                    seconds=event.seconds,
                    worse=event.worse,
                    problem=event.problem,
                    failed="",
                )
            case VersionEvaluationFailed():
                new = replace(known, failed=event.message)
            case TasksEvaluated():
                newest = {(each.task, each.metric): each for each in (*known.tasks, *event.scores)}
                new = replace(known, tasks=tuple(newest.values())[-TASK_SCORES_MAX:])
            case VersionHeld():
                new = replace(known, held=event.reason)
            case VersionPromoted():
                new = replace(known, held="", promoted_by=event.by)
        self._versions[event.version] = new
        if len(self._versions) > VERSIONS_KEPT:
            del self._versions[next(iter(self._versions))]

    def _name(self, job: str) -> str:
        return self._names.get(job, job[:12])

    def _step_of(self, event: kinds.HeadMoved) -> int:
        if event.checkpoint is not None:
            return step_of(event.checkpoint)
        return self._steps.get(event.version, 0) if event.version is not None else 0

    def _forget_after(self, global_step: int) -> None:
        while self._rows and self._rows[-1].global_step > global_step:
            self._rows.pop()

    def _drop_old_rows(self) -> None:
        while len(self._rows) > ROWS_KEPT:
            row = self._rows.pop(0)
            for score in row.files:
                known = self._earlier.pop(score.job, None)
                first = score if score.job == row.job else known.first if known is not None else None
                is_best = known is None or not _is_same(known.best, score) or _loss(score) < _loss(known.best)
                self._earlier[score.job] = _Earlier(first, score if is_best or known is None else known.best)
        while len(self._earlier) > FILES_KEPT:
            del self._earlier[next(iter(self._earlier))]

    def _matrix(self, better: Better) -> Matrix:
        """The scores that can be compared with the newest row: of the same rows, and finite."""
        if not self._rows:
            return []
        now = {score.job: score for score in self._rows[-1].files}

        def values(scores: Iterator[FileScore]) -> dict[str, float]:
            same = (each for each in scores if each.job in now and _is_same(each, now[each.job]))
            return {
                each.job: each.loss if better == "lower" else each.accuracy
                for each in same
                if isinstance(each.loss, float)
            }

        earlier = [self._earlier[job] for job in now if job in self._earlier]
        first = [(each.first.job, values(iter([each.first]))) for each in earlier if each.first is not None]
        best = [("", values(each.best for each in earlier))]
        return [*best, *first, *((row.job, values(iter(row.files))) for row in self._rows)]

    def _summary(self, score: FileScore, loss: Matrix, lost: dict[str, float]) -> FileSummary:
        first = next((scores[score.job] for job, scores in loss if job == score.job and score.job in scores), None)
        before = [scores[score.job] for _, scores in loss[:-1] if score.job in scores]
        return FileSummary(
            job=score.job,
            name=self._name(score.job),
            score=score,
            first_loss=first,
            best_loss=min(before, default=first),
            forgetting=lost.get(score.job),
        )


def _is_same(one: FileScore, other: FileScore) -> bool:
    """True if two scores of a file are sums over the same rows: the rows with the lowest hashes."""
    return (one.rows, one.tokens) == (other.rows, other.tokens)


def _loss(score: FileScore) -> float:
    return score.loss if isinstance(score.loss, float) else float("inf")
