"""Results of an evaluation of a job's end or of a version: what the journal keeps of them, and the file with the rest.

An evaluation measures two suites. (a) Held-out rows of every trained file: the loss on their trained tokens, and how
many of these tokens are the most probable ones. (b) Questions of `evaluation/*.jsonl` in the home, answered greedily.

The journal keeps sums for each file. `evaluations/<id>.json` in the home holds a value for each row and question; it is
written before the event that names it with its SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from events.settings import DataSettings, Severity
from events.values import JobId, Number, VersionId

EvaluationId = Annotated[str, Meta(pattern=r"^(v\d{3,}|step-\d{8,})-attempt-\d{4,}$")]
"""The name of the file in `evaluations/`, without `.json`: what was evaluated, and the attempt that did it."""

QUESTIONS_MAX = 1_000
"""Questions of all files together: more than a person maintains, and few enough that a results file stays small."""

RESULT_BYTES = 2_000
"""UTF-8 bytes of a prompt, an expected answer or an answer in a results file; a longer one is cut."""

TASK_SCORES_MAX = 200
"""Metrics of one run of lm-evaluation-harness in the journal."""

Promoter = Literal["gate", "person"]
"""Who moved the head to a version that was held."""


class _Value(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A value in events, messages and results files."""


# -- in events and reports ------------------------------------------------------------------------------------------


class FileScore(_Value, frozen=True, kw_only=True):
    """The score on the held-out rows of one trained file."""

    job: JobId
    rows: int
    tokens: int
    """Predicted tokens."""
    loss: Number
    """Cross-entropy per token, nats."""
    accuracy: float
    """Share of the tokens that are the most probable ones."""


class FileChange(_Value, frozen=True, kw_only=True):
    """How much the loss on the rows of one file has changed from the parent: above 0 is forgetting. Nats per token."""

    job: JobId
    rows: int
    """Rows that both were scored on."""
    change: Number
    low: float | None
    """The 95 % interval of a paired bootstrap over rows (`events.statistics`). None: too few rows, or a loss is not
    finite."""
    high: float | None


class QuestionScore(_Value, frozen=True, kw_only=True):
    """The number of questions, and of right answers."""

    total: int = 0
    right: int = 0


class Scores(_Value, frozen=True, kw_only=True):
    """The scores of one model on both suites."""

    files: tuple[FileScore, ...] = ()
    questions: QuestionScore = QuestionScore()


class Comparison(_Value, frozen=True, kw_only=True):
    """A version compared with its parent, on the same rows and questions."""

    parent: VersionId | None
    """None: the origin."""
    scores: Scores
    """The scores of the parent."""
    changes: tuple[FileChange, ...] = ()
    gained: int = 0
    """Questions that the version answers right and the parent does not."""
    lost: int = 0
    """The other way round."""


class ResultsFile(_Value, frozen=True, kw_only=True):
    """A file in `evaluations/`."""

    id: EvaluationId
    sha256: str
    size_bytes: int


class Divergence(_Value, frozen=True, kw_only=True):
    """KL(base ‖ model) on held-out rows of the files that were trained since the base: how far the model moved on what
    is new, which predicts how much it forgot (https://arxiv.org/abs/2509.04259)."""

    nats: Number
    """Mean over the predicted tokens."""
    tokens: int


class TaskScore(_Value, frozen=True, kw_only=True):
    """One metric of a task of lm-evaluation-harness."""

    task: str
    metric: str
    value: Number
    stderr: float | None
    """Standard error; None: the harness gives none."""
    samples: int
    higher_is_better: bool


# -- what the daemon asks for ---------------------------------------------------------------------------------------


class HeldOutFile(_Value, frozen=True, kw_only=True):
    """A trained file, and the settings that its rows were held out with."""

    job: JobId
    data: DataSettings
    rows: dict[str, Severity] = {}
    """[checks] rows."""
    validation_sha256: str = ""


class Suites(_Value, frozen=True, kw_only=True):
    """What is evaluated, and the limits of it."""

    files: tuple[HeldOutFile, ...] = ()
    new: tuple[JobId, ...] = ()
    """Those of them that were trained since the base."""
    rows_per_file: int = 16
    rows_max: int | None = None
    """The most rows of all files together; None: no limit."""
    questions_max: int = QUESTIONS_MAX
    max_new_tokens: int = 128
    """The most tokens of an answer."""


# -- the results file -----------------------------------------------------------------------------------------------


class RowScore(_Value, frozen=True, kw_only=True):
    """The score of one held-out row."""

    id: str
    """A hash of its tokens and of which of them are trained: the same row has the same id in every evaluation."""
    job: JobId
    tokens: int
    loss: Number
    """Summed over its tokens, nats."""
    right: int
    """Tokens that are the most probable ones."""


class QuestionResult(_Value, frozen=True, kw_only=True):
    """The answer to one question. Texts are cut to RESULT_BYTES."""

    id: str
    """The `id` of the row, or a hash of its content."""
    content: str
    """A hash of the question, how it is judged, and the most tokens of an answer: results of the same content are
    compared."""
    suite: str
    """The name of the file in `evaluation/`, without `.jsonl`."""
    prompt: str
    expected: str
    answer: str
    right: bool
    problem: str = ""
    """Why the answer could not be judged, a sentence; it then counts as wrong."""


class ModelResults(_Value, frozen=True, kw_only=True):
    """Everything that was measured on one model."""

    rows: tuple[RowScore, ...] = ()
    questions: tuple[QuestionResult, ...] = ()


class EvaluationResults(_Value, frozen=True, kw_only=True):
    """The content of a results file."""

    format: Literal[1] = 1
    evaluation: EvaluationId
    subject: str
    """The version; or the job, at its end."""
    suites_sha256: str
    """Fingerprint of both suites: of the ids of the rows, the questions, and the limit of tokens."""
    environment: dict[str, str]
    """Device, libraries and arithmetic: scores are compared only if they agree."""
    results: ModelResults
    parent: VersionId | None = None
    parent_results: ModelResults | None = None
    """None: not compared with a parent."""
    divergence: Divergence | None = None
    problem: str = ""
    """What could not be measured, and why; a sentence."""


def scores_of(results: ModelResults) -> Scores:
    """The sums of the results, with the files in their order.

    >>> row = RowScore(id="a", job="0" * 64, tokens=4, loss=2.0, right=3)
    >>> score = scores_of(ModelResults(rows=(row, row))).files[0]
    >>> score.rows, score.tokens, score.loss, score.accuracy
    (2, 8, 0.5, 0.75)
    """
    by_job: dict[str, list[RowScore]] = {}
    for row in results.rows:
        by_job.setdefault(row.job, []).append(row)
    return Scores(
        files=tuple(_file_score(job, rows) for job, rows in by_job.items()),
        questions=question_score(results.questions),
    )


def question_score(questions: Sequence[QuestionResult]) -> QuestionScore:
    """Count the right answers."""
    return QuestionScore(total=len(questions), right=sum(each.right for each in questions))


def _file_score(job: JobId, rows: Sequence[RowScore]) -> FileScore:
    tokens = sum(row.tokens for row in rows)
    return FileScore(
        job=job,
        rows=len(rows),
        tokens=tokens,
        loss=_mean((row.loss for row in rows), tokens),
        accuracy=sum(row.right for row in rows) / tokens if tokens else 0.0,
    )


def _mean(losses: Iterable[Number], tokens: int) -> Number:
    total = 0.0
    for loss in losses:
        if isinstance(loss, str):
            return loss
        total += loss
    return total / tokens if tokens else 0.0
