"""Held-out rows of trained files, encoded as for training.

Of each file the rows with the lowest content hashes are taken, so that the choice depends only on its content. To find
them a whole file must be read. So they are cached, with everything that decides them in the name of the cache file.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from events.evaluation import HeldOutFile, Suites
from events.settings import CheckSettings, JobSettings, ModelSettings
from gpu.data.encode.encoder import MASK_VERSION, Encoder
from gpu.data.examine import quality
from gpu.data.examine.quality import Hashes
from gpu.data.format import rows
from gpu.data.format.example import BadRow
from gpu.data.plan.chunk import EncodedChunk
from gpu.data.plan.held_out import read_validation_set, validation_path
from gpu.data.plan.selection import ROWS_AT_ONCE, SelectedRow, encode_selected, is_held_out
from gpu.data.plan.store import Tokens
from gpu.data.problems import Problem, tolerated_problems
from gpu.data.read.source import with_own_format
from gpu.errors import DataChanged
from gpu.model.limits import ModelLimits
from journal import durable

log = logging.getLogger(__name__)

CACHE = Path("cache", "held-out")
"""Directory in the home. Files in it can be deleted at any time."""


class Row(NamedTuple):
    """An encoded held-out row."""

    id: str
    """A hash of the tokens and of which of them are trained."""
    job: str
    ids: list[int]
    trained: list[int]
    """1 for a trained token."""


class RowTokens(Tokens):
    """Rows in memory, in the form that a micro-batch is made of."""

    def __init__(self, found: Sequence[Row]) -> None:
        self.ids = np.array([token for row in found for token in row.ids], np.int32)
        self.trained = np.array([mark for row in found for mark in row.trained], np.uint8)
        self.lines = np.arange(len(found), dtype=np.int64)
        self._ends = np.cumsum([0, *(len(row.ids) for row in found)], dtype=np.int64)


class Encoding(NamedTuple):
    """What decides the tokens of a row besides [data]."""

    tokenizer: Any
    tokenizer_sha256: str
    limits: ModelLimits


def held_out_rows(
    home: Path, suites: Suites, encoding: Encoding, on_progress: Callable[[], None]
) -> tuple[list[Row], list[str]]:
    """Return the rows of the suites, file by file, and what could not be read.

    `on_progress` is called every few rows; what it raises ends this.
    """
    found: list[list[Row]] = []
    problems: list[str] = []
    for file in suites.files:
        on_progress()
        try:
            found.append(_rows_of(home, file, suites.rows_per_file, encoding, on_progress))
        except (OSError, DataChanged) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problems.append(f"the held-out rows of {file.job[:12]} cannot be read: {reason}")
    most = rows_of_each(len(found), suites)
    kept = found if suites.rows_max is None else found[-suites.rows_max :] if suites.rows_max else []
    return [row for some in kept for row in some[:most]], problems


def rows_of_each(files: int, suites: Suites) -> int:
    """Return the most rows of each file.

    If `rows_max` limits them, it is a power of two. So it changes rarely, and the scores of a file after several jobs
    are about the same rows.

    >>> [rows_of_each(files, Suites(rows_per_file=16, rows_max=64)) for files in (1, 4, 5, 64, 100)]
    [16, 16, 8, 1, 1]
    """
    if suites.rows_max is None or files * suites.rows_per_file <= suites.rows_max:
        return suites.rows_per_file
    return 1 << max(0, (suites.rows_max // files).bit_length() - 1)


def _rows_of(
    home: Path, file: HeldOutFile, most: int, encoding: Encoding, on_progress: Callable[[], None]
) -> list[Row]:
    """Return the rows of a file, from the cache if it has them. Raises OSError, DataChanged."""
    path = home / CACHE / f"{file.job}-{_key(file, most, encoding)}.json"
    if (cached := _read_cache(path)) is not None:
        return cached
    found = list(_select(home, file, most, encoding, on_progress))
    data = msgspec.json.encode(found)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob(f"{file.job}-*.json"):
            other.unlink()
        durable.write_atomically(path, hashlib.sha256(data).hexdigest().encode() + b"\n" + data, sync=False)
    except OSError as error:  # without the cache, the file is read again
        log.warning("the held-out rows of %s are not cached: %s", file.job[:12], error)
    return found


def _read_cache(path: Path) -> list[Row] | None:
    try:
        digest, _, data = durable.read_file(path).partition(b"\n")
        if digest.decode() != hashlib.sha256(data).hexdigest():
            return None
        return msgspec.json.decode(data, type=list[Row])
    except (OSError, ValueError, msgspec.MsgspecError):
        return None  # it is made again


def _key(file: HeldOutFile, most: int, encoding: Encoding) -> str:
    parts = (file, most, encoding.tokenizer_sha256, MASK_VERSION, repr(encoding.limits))
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def _select(
    home: Path, file: HeldOutFile, most: int, encoding: Encoding, on_progress: Callable[[], None]
) -> Iterator[Row]:
    path = home / "data" / f"{file.job}.jsonl"
    data = with_own_format(path, file.data)
    settings = JobSettings(model=ModelSettings(path="."), data=data, checks=CheckSettings(rows=file.rows))
    validation = read_validation_set(validation_path(home, file.validation_sha256), file.data).content
    lowest = heapq.nsmallest(most, _candidates(path, settings, validation, on_progress), key=lambda row: row.key)
    for chunk in encode_selected(lowest, Encoder(encoding.tokenizer, data, encoding.limits)):
        yield from _pieces(file.job, chunk)


def _candidates(
    path: Path, settings: JobSettings, validation: Hashes, on_progress: Callable[[], None]
) -> Iterator[SelectedRow]:
    seen: set[int] = set()
    for number, row in enumerate(rows.read_rows(path, settings.data, tolerated_problems(settings.checks.rows))):
        if number % ROWS_AT_ONCE == 0:
            on_progress()
        if isinstance(row, BadRow | Problem):
            continue
        content = quality.hash_row(row).content
        if content not in seen and is_held_out(content, settings, validation):
            seen.add(content)
            yield SelectedRow(content.to_bytes(8, "big"), 0, row)


def _pieces(job: str, chunk: EncodedChunk) -> Iterator[Row]:
    ids, trained = np.frombuffer(chunk.ids, np.int32), np.frombuffer(chunk.trained, np.uint8)
    end = 0
    for length in np.frombuffer(chunk.lengths, np.int32).tolist():
        start, end = end, end + length
        some, marks = ids[start:end].tolist(), trained[start:end].tolist()
        if any(marks[1:]):
            digest = hashlib.sha256(ids[start:end].tobytes() + trained[start:end].tobytes()).hexdigest()
            yield Row(digest[:16], job, some, marks)
