"""Rows of earlier files, mixed into a new one so that less is forgotten.

Which ones is a pure function of the new file, the earlier ones and their rows: every row of the earlier files that can
be learned from has a place, the hash of (new file, earlier file, its number), and the first of them in that order are
taken, as many as `[data] replay` says of the new file's rows. They are read and encoded by the settings of now.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from events.settings import JobSettings
from events.values import JobId
from gpu.data import quality, rows
from gpu.data.chunk import Looked
from gpu.data.encode import Encoder
from gpu.data.example import BadRow, Problem, Row
from gpu.data.lines import line_of
from gpu.data.problems import tolerated
from gpu.data.quality import Hashes
from gpu.errors import DataChanged

AT_ONCE = 256
"""Rows encoded together."""


class Choice(NamedTuple):
    """A row that is to be learned once more."""

    place: bytes
    source: int
    """Which of the earlier files; from 1."""
    row: Row


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
    for first in range(0, len(chosen), AT_ONCE):
        look()
        yield _encoded(chosen[first : first + AT_ONCE], encoder)


def _candidates(
    data: Path, job: JobId, settings: JobSettings, validation: Hashes, look: Callable[[], None]
) -> Iterator[Choice]:
    for source, earlier in enumerate(settings.sources.replay, start=1):
        path = data / f"{earlier}.jsonl"
        try:
            for number, row in enumerate(rows.read(path, settings.data, tolerated(settings.checks.rows))):
                if number % AT_ONCE == 0:
                    look()
                if not isinstance(row, BadRow | Problem) and not _is_held_out(row, settings, validation):
                    place = hashlib.blake2b(f"{job} {earlier} {number}".encode(), digest_size=16).digest()
                    yield Choice(place, source, row)
        except OSError as error:
            raise DataChanged(
                f"the earlier file {path}, whose rows are to be mixed in, cannot be read: {error.strerror}. Bring it "
                "back, or set [data] replay = 0; then `keepstep resume`."
            ) from error


def _is_held_out(row: Row, settings: JobSettings, validation: Hashes) -> bool:
    content = quality.identity(row).content
    if settings.data.holdout > 0 and quality.is_held_out(content, settings.data.holdout):
        return True
    return bool(quality.known_among(np.array([content], np.uint64), [validation])[0])


def _encoded(chosen: Sequence[Choice], encoder: Encoder) -> Looked:
    """Their pieces; a row that cannot be encoded any more gives none."""
    lines, per_row, lengths, piece_lines, ids = array("q"), array("i"), array("i"), array("q"), array("i")
    learned = bytearray()
    for choice, encoding in zip(chosen, encoder.encode_many([choice.row for choice in chosen]), strict=True):
        line = line_of(choice.source, choice.row.line)
        lines.append(line)
        per_row.append(len(encoding.pieces))
        for piece in encoding.pieces:
            ids.extend(piece.ids)
            learned += bytes([0, *piece.learned[1:]])
            lengths.append(len(piece.ids))
            piece_lines.append(line)
    return Looked.of_pieces(lines=lines, pieces=per_row, ids=ids, learned=learned, lengths=lengths, at=piece_lines)
