"""The validation set, and the rows that a job is evaluated on: those of the set, and held-out rows of the job's file.

At most `[evaluation] rows` rows are evaluated, those with the lowest hashes. The choice depends only on their content:
the same rows are taken each time, and a larger number includes a smaller one.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from events.settings import DataSettings, JobSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.examine import quality
from gpu.data.examine.quality import Hashes
from gpu.data.format import rows
from gpu.data.format.example import BadRow
from gpu.data.plan.chunk import EncodedChunk
from gpu.data.plan.selection import ROWS_AT_ONCE, SelectedRow, encode_selected, is_held_out
from gpu.data.problems import Problem, tolerated_problems
from gpu.data.read.source import with_own_format
from gpu.errors import DataChanged

VALIDATION = "validation"
"""Directory of a home that keeps validation sets, each under its SHA-256."""


class ValidationSet(NamedTuple):
    """The content of a validation set."""

    content: Hashes
    """Hashes of its good rows, sorted."""
    problems: tuple[Problem, ...] = ()
    """The first problem of each bad row, and the problem of the file as a whole that ended the reading."""


def validation_path(home: Path, sha256: str) -> Path | None:
    """Return where the home keeps the validation set with this SHA-256; None for ""."""
    return home / VALIDATION / f"{sha256}.jsonl" if sha256 else None


def read_validation_set(path: Path | None, settings: DataSettings) -> ValidationSet:
    """Read the validation set at `path`; an empty one for None. Raises DataChanged."""
    if path is None:
        return ValidationSet(np.zeros(0, np.uint64))
    good, problems = array("Q"), list[Problem]()
    try:
        for row in rows.read_rows(path, with_own_format(path, settings)):
            if not isinstance(row, BadRow | Problem):
                good.append(quality.hash_row(row).content)
            elif (problem := row.problems[0] if isinstance(row, BadRow) else row).name != "empty_file":
                problems.append(problem)  # an empty set misses no row
    except OSError as error:
        raise _unreadable_set(path, error) from error
    return ValidationSet(np.sort(np.array(good, dtype=np.uint64)), tuple(problems))


def select_evaluated(
    path: Path,
    validation_set: Path | None,
    settings: JobSettings,
    validation: Hashes,
    encoder: Encoder,
    on_progress: Callable[[], None] = lambda: None,
) -> Iterator[EncodedChunk]:
    """Yield the encoded rows of the file at `path` and of the validation set that are evaluated.

    `validation`: the content hashes of the set, sorted. `on_progress` is called every few rows. Raises DataChanged if
    the set is unreadable, OSError, and what `on_progress` raises.
    """
    if not settings.evaluation.rows or not (settings.data.holdout or validation_set):
        return
    found: dict[bytes, SelectedRow] = {}
    for row in _candidates(path, validation_set, settings, validation, on_progress):
        found.setdefault(row.key, row)
        if len(found) > 2 * settings.evaluation.rows:
            found = {each.key: each for each in _lowest(found, settings)}
    yield from encode_selected(_lowest(found, settings), encoder)


def _lowest(found: dict[bytes, SelectedRow], settings: JobSettings) -> list[SelectedRow]:
    return heapq.nsmallest(settings.evaluation.rows, found.values(), key=lambda row: row.key)


def _candidates(
    path: Path, validation_set: Path | None, settings: JobSettings, validation: Hashes, on_progress: Callable[[], None]
) -> Iterator[SelectedRow]:
    tolerated = tolerated_problems(settings.checks.rows)
    sources = [path] if settings.data.holdout else []
    for source, each in enumerate((*sources, *([validation_set] if validation_set else []))):
        try:
            data = with_own_format(each, settings.data) if each is validation_set else settings.data
            for number, row in enumerate(rows.read_rows(each, data, tolerated)):
                if number % ROWS_AT_ONCE == 0:
                    on_progress()
                if isinstance(row, BadRow | Problem):
                    continue
                content = quality.hash_row(row).content
                if each is validation_set or is_held_out(content, settings, validation):
                    yield SelectedRow(content.to_bytes(8, "big"), source, row)
        except OSError as error:
            if each is not validation_set:
                raise
            raise _unreadable_set(each, error) from error


def _unreadable_set(path: Path, error: OSError) -> DataChanged:
    return DataChanged(
        f"the validation set {path} cannot be read: {error.strerror}. Restore the file, then `keepstep resume`."
    )
