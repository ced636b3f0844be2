"""Encode single rows that were selected from several files, apart from the other rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from events.settings import JobSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.examine import quality
from gpu.data.examine.quality import Hashes
from gpu.data.format.example import Row
from gpu.data.plan.chunk import ChunkColumns, EncodedChunk
from gpu.data.plan.lines import line_of

ROWS_AT_ONCE = 256
"""Rows that are encoded together."""


class SelectedRow(NamedTuple):
    """A row, and what it is selected by."""

    key: bytes
    """Rows with the lowest keys are selected."""
    source: int
    """Number of the file that the row is from."""
    row: Row


def is_held_out(content: int, settings: JobSettings, validation: Hashes) -> bool:
    """True if a row with this content hash is never trained. `validation`: the hashes of the validation set, sorted."""
    if settings.data.holdout > 0 and quality.is_in_holdout(content, settings.data.holdout):
        return True
    return quality.contains(validation, content)


def encode_selected(selected: Sequence[SelectedRow], encoder: Encoder) -> Iterator[EncodedChunk]:
    """Yield the pieces of the rows, some rows at a time; a row that cannot be encoded has none."""
    for first in range(0, len(selected), ROWS_AT_ONCE):
        some, columns = selected[first : first + ROWS_AT_ONCE], ChunkColumns()
        for each, encoded in zip(some, encoder.encode_many([each.row for each in some]), strict=True):
            columns.add_pieces(line_of(each.source, each.row.line), encoded)
        yield columns.chunk()
