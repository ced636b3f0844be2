"""Results files: `evaluations/<id>.json` in the home, one for each evaluation, written before its report. No torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from events.evaluation import (
    Comparison,
    EvaluationResults,
    FileChange,
    ModelResults,
    ResultsFile,
    RowScore,
    scores_of,
)
from events.statistics import Change, paired_bootstrap
from events.values import VersionId, number
from gpu.errors import StorageFailed
from journal import durable
from journal.failpoints import failpoint
from journal.storage import REAL, Storage

if TYPE_CHECKING:
    from gpu.evaluation.question_files import SuiteQuestion
    from gpu.evaluation.rows import Row

DIRECTORY = "evaluations"
MODE = 0o600
"""They hold the user's questions and the model's answers."""


def results_path(home: Path, evaluation: str) -> Path:
    """Return the place of the results of this evaluation."""
    return home / DIRECTORY / f"{evaluation}.json"


def write_results(home: Path, results: EvaluationResults, *, storage: Storage = REAL) -> ResultsFile:
    """Write the results durably, and return what the journal says of them. Raises StorageFailed."""
    data = msgspec.json.format(msgspec.json.encode(results), indent=0)
    path = results_path(home, results.evaluation)
    failpoint("evaluation_measured")
    try:
        durable.make_directory(path.parent, storage=storage)
        durable.write_atomically(path, data, mode=MODE, sync=True, storage=storage)
    except OSError as error:
        raise StorageFailed(path, error) from error
    failpoint("evaluation_written")
    return ResultsFile(id=results.evaluation, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def read_results(home: Path, file: ResultsFile | None, *, storage: Storage = REAL) -> EvaluationResults | None:
    """Return the results in a file; None if it is missing or not what was written."""
    if file is None:
        return None
    try:
        data = durable.read_file(results_path(home, file.id), bytes_max=file.size_bytes + 1, storage=storage)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            return None
        return msgspec.json.decode(data, type=EvaluationResults)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def content_of(question: SuiteQuestion, max_new_tokens: int) -> str:
    """Return the hash of everything that decides the result of a question, apart from the model."""
    parts = (question.messages, question.expected, question.check, max_new_tokens)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def suites_fingerprint(rows: Sequence[Row], questions: Sequence[SuiteQuestion], max_new_tokens: int) -> str:
    """Return the SHA-256 of what is evaluated; "" for nothing."""
    if not rows and not questions:
        return ""
    parts = [f"{row.job} {row.id}" for row in rows] + [content_of(each, max_new_tokens) for each in questions]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def compare(parent: VersionId | None, before: ModelResults, after: ModelResults, seed: str) -> Comparison:
    """Compare a model with its parent on the rows and questions that both were measured on."""
    theirs = {(row.job, row.id): row for row in before.rows}
    pairs: dict[str, list[tuple[RowScore, RowScore]]] = {}
    for row in after.rows:
        if (earlier := theirs.get((row.job, row.id))) is not None:
            pairs.setdefault(row.job, []).append((earlier, row))
    right_before = {each.content: each.right for each in before.questions}
    flips = [(right_before[each.content], each.right) for each in after.questions if each.content in right_before]
    return Comparison(
        parent=parent,
        scores=scores_of(before),
        changes=tuple(_change(job, found, f"{seed} {job}") for job, found in pairs.items()),
        gained=flips.count((False, True)),
        lost=flips.count((True, False)),
    )


def _change(job: str, pairs: Sequence[tuple[RowScore, RowScore]], seed: str) -> FileChange:
    losses = [(float(before.loss), float(after.loss), float(after.tokens)) for before, after in pairs]
    if not all(math.isfinite(before) and math.isfinite(after) for before, after, _ in losses):
        change = sum(after - before for before, after, _ in losses)
        return FileChange(job=job, rows=len(pairs), change=number(change), low=None, high=None)
    found = paired_bootstrap([Change(*each) for each in losses], seed)
    return FileChange(job=job, rows=len(pairs), change=found.estimate, low=found.low, high=found.high)
