"""Mix rows of earlier files into a new one, so that the model forgets less.

The selection is a pure function of the new file, the earlier files and their rows. Each trainable row of an earlier
file has a key, the hash of (new file, earlier file, its number). The rows with the lowest keys are taken, as many as
`[data] replay` says as a share of the new file's rows, or as many as "auto" stands for (`Sources.replay_share`). They
are read and encoded by the current settings.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator
from pathlib import Path

from events.settings import JobSettings
from events.values import JobId
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


def select_replayed(
    data: Path,
    job: JobId,
    settings: JobSettings,
    own_rows: int,
    validation: Hashes,
    encoder: Encoder,
    on_progress: Callable[[], None] = lambda: None,
) -> Iterator[EncodedChunk]:
    """Yield the encoded rows that are mixed into `job`, which trains `own_rows` rows of the new file.

    `on_progress` is called every few rows. Raises DataChanged if an earlier file is unreadable, and what
    `on_progress` raises.
    """
    count = round(settings.replay_share * own_rows)
    if not count or not settings.sources.replay:
        return
    candidates = _candidates(data, job, settings, validation, on_progress)
    selected = heapq.nsmallest(count, candidates, key=lambda row: row.key)
    selected.sort(key=lambda row: (row.source, row.row.line))
    for chunk in encode_selected(selected, encoder):
        on_progress()
        yield chunk


def _candidates(
    data: Path, job: JobId, settings: JobSettings, validation: Hashes, on_progress: Callable[[], None]
) -> Iterator[SelectedRow]:
    tolerated = tolerated_problems(settings.checks.rows)
    for source, earlier in enumerate(settings.sources.replay, start=1):
        path = data / f"{earlier}.jsonl"
        try:
            for number, row in enumerate(rows.read_rows(path, with_own_format(path, settings.data), tolerated)):
                if number % ROWS_AT_ONCE == 0:
                    on_progress()
                if not isinstance(row, BadRow | Problem) and not is_held_out(
                    quality.hash_row(row).content, settings, validation
                ):
                    key = hashlib.blake2b(f"{job} {earlier} {number}".encode(), digest_size=16).digest()
                    yield SelectedRow(key, source, row)
        except OSError as error:
            raise DataChanged(
                f"the earlier file {path}, whose rows are mixed in, cannot be read: {error.strerror}. Restore "
                "the file, or set [data] replay = 0; then `keepstep resume`."
            ) from error
