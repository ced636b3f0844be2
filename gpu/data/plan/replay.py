"""Rows of earlier files, mixed into a new one so that less is forgotten.

Which ones is a pure function of the new file, the earlier ones and their rows: every row of the earlier files that can
be learned from has a place, the hash of (new file, earlier file, its number), and the first of them in that order are
taken, as many as `[data] replay` says of the new file's rows. They are read and encoded by the settings of now.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator
from pathlib import Path

from events.settings import JobSettings
from events.values import JobId
from gpu.data.encode.rows import Encoder
from gpu.data.examine import quality
from gpu.data.examine.quality import Hashes
from gpu.data.format.example import BadRow, Problem
from gpu.data.format.problems import tolerated
from gpu.data.plan.choice import AT_ONCE, Choice, encoded, is_held_out
from gpu.data.plan.chunk import Looked
from gpu.data.read import rows
from gpu.data.read.source import own_format
from gpu.errors import DataChanged


def replayed(
    data: Path,
    job: JobId,
    settings: JobSettings,
    own_rows: int,
    validation: Hashes,
    encoder: Encoder,
    look: Callable[[], None] = lambda: None,
) -> Iterator[Looked]:
    """What is mixed into `job`, which has `own_rows` rows to learn; `look` is called again and again meanwhile.

    Raises DataChanged if an earlier file is gone, and what `look` raises.
    """
    count = round(settings.data.replay * own_rows)
    if not count or not settings.sources.replay:
        return
    chosen = heapq.nsmallest(count, _candidates(data, job, settings, validation, look), key=lambda choice: choice.place)
    chosen.sort(key=lambda choice: (choice.source, choice.row.line))
    for looked in encoded(chosen, encoder):
        look()
        yield looked


def _candidates(
    data: Path, job: JobId, settings: JobSettings, validation: Hashes, look: Callable[[], None]
) -> Iterator[Choice]:
    for source, earlier in enumerate(settings.sources.replay, start=1):
        path = data / f"{earlier}.jsonl"
        try:
            data_settings = own_format(path, settings.data)
            for number, row in enumerate(rows.read(path, data_settings, tolerated(settings.checks.rows))):
                if number % AT_ONCE == 0:
                    look()
                if not isinstance(row, BadRow | Problem) and not is_held_out(
                    quality.identity(row).content, settings, validation
                ):
                    place = hashlib.blake2b(f"{job} {earlier} {number}".encode(), digest_size=16).digest()
                    yield Choice(place, source, row)
        except OSError as error:
            raise DataChanged(
                f"the earlier file {path}, whose rows are to be mixed in, cannot be read: {error.strerror}. Bring it "
                "back, or set [data] replay = 0; then `keepstep resume`."
            ) from error
