"""Pieces on disk are read back as written, and only used pages take memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu.data.encode.fitting import EncodedPiece, EncodedRow
from gpu.data.plan.chunk import ChunkColumns, EncodedChunk
from gpu.data.plan.store import Tokens, TokenWriter
from gpu.errors import StorageFailed


def chunk(*pieces: tuple[int, list[int], list[int]]) -> EncodedChunk:
    """Make a chunk of pieces (line, ids, trained)."""
    columns = ChunkColumns()
    for line in sorted({line for line, _, _ in pieces}):
        own = tuple(EncodedPiece(ids, bytes(trained), False) for at, ids, trained in pieces if at == line)
        columns.add_pieces(line, EncodedRow(own))
    return columns.chunk()


def test_pieces_read_back_as_they_were_written(tmp_path: Path) -> None:
    """In two chunks; the row on line 4 is in two pieces, that on line 3 in none."""
    with TokenWriter(tmp_path) as writer:
        writer.append(chunk((1, [5, 6, 7], [0, 0, 1])))
        writer.append(chunk((4, [2**31 - 1, 8], [0, 1]), (4, [9], [0])))
    tokens = Tokens(tmp_path)
    assert len(tokens) == 3
    assert [tokens.span(row) for row in range(3)] == [(0, 3), (3, 5), (5, 6)]
    assert [tokens.length(row) for row in range(3)] == tokens.lengths().tolist() == [3, 2, 1]
    assert [tokens.trained_in(row) for row in range(3)] == [1, 1, 0]
    assert [tokens.line(row) for row in range(3)] == [1, 4, 4]
    assert [tokens.rows_on_line(line) for line in (1, 2, 3, 4, 5)] == [[0], [], [], [1, 2], []]
    assert tokens.ids.tolist() == [5, 6, 7, 2**31 - 1, 8, 9]
    assert (writer.pieces, writer.tokens, writer.trained_tokens) == (3, 6, 2)


def test_what_is_read_cannot_be_written_to(tmp_path: Path) -> None:
    with TokenWriter(tmp_path) as writer:
        writer.append(chunk((1, [5, 6], [0, 1])))
    with pytest.raises(ValueError, match="read-only"):
        Tokens(tmp_path).ids[0] = 1


def test_nothing_is_written_over(tmp_path: Path) -> None:
    with TokenWriter(tmp_path):
        pass
    with pytest.raises(StorageFailed), TokenWriter(tmp_path):
        pass


def test_a_disk_that_takes_no_more_is_the_disks_fault(tmp_path: Path) -> None:
    """The daemon waits for room if the disk is full."""

    def write_to_a_full_disk() -> None:
        with TokenWriter(tmp_path) as writer:
            writer._files["ids.i32"].close()
            writer._files["ids.i32"] = Path("/dev/full").open("wb")  # noqa: SIM115 - the writer closes it
            writer.append(chunk((1, [5, 6], [0, 1])))

    with pytest.raises(StorageFailed) as failed:
        write_to_a_full_disk()
    assert failed.value.errno == 28
