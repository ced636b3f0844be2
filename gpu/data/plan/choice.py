"""Rows that are picked out of files one by one, by a rule of their own, and encoded apart from the others."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from events.settings import JobSettings
from gpu.data.encode.rows import Encoder
from gpu.data.examine import quality
from gpu.data.examine.quality import Hashes
from gpu.data.format.example import Row
from gpu.data.plan.chunk import Looked
from gpu.data.plan.lines import line_of

AT_ONCE = 256
"""Rows encoded together."""


class Choice(NamedTuple):
    """A row that was picked."""

    place: bytes
    """In the order by which rows are picked."""
    source: int
    """Which of several files it is of."""
    row: Row


def is_held_out(content: int, settings: JobSettings, validation: Hashes) -> bool:
    """Whether a row that says this is never learned. `validation`: what the rows of the validation set say, sorted."""
    if settings.data.holdout > 0 and quality.is_held_out(content, settings.data.holdout):
        return True
    return quality.is_among(content, validation)


def encoded(chosen: Sequence[Choice], encoder: Encoder) -> Iterator[Looked]:
    """Their pieces, some rows at a time; a row that cannot be encoded gives none."""
    for first in range(0, len(chosen), AT_ONCE):
        yield _encoded(chosen[first : first + AT_ONCE], encoder)


def _encoded(chosen: Sequence[Choice], encoder: Encoder) -> Looked:
    lines, per_row, lengths, piece_lines, ids = array("q"), array("i"), array("i"), array("q"), array("i")
    trained = bytearray()
    for choice, encoding in zip(chosen, encoder.encode_many([choice.row for choice in chosen]), strict=True):
        line = line_of(choice.source, choice.row.line)
        lines.append(line)
        per_row.append(len(encoding.pieces))
        for piece in encoding.pieces:
            ids.extend(piece.ids)
            trained += bytes([0, *piece.trained[1:]])
            lengths.append(len(piece.ids))
            piece_lines.append(line)
    return Looked.of_pieces(lines=lines, pieces=per_row, ids=ids, trained=trained, lengths=lengths, at=piece_lines)
