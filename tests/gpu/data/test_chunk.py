"""Lines to pieces, however the file is cut."""

from __future__ import annotations

import sys
from array import array
from pathlib import Path

import msgspec
import pytest

from events.settings import DataSettings
from gpu.data.chunk import Chunk, EncodedChunk, chunks_of, encode_chunk, format_of
from gpu.data.rows import read_rows
from gpu.data.tokens import Encoder
from gpu.errors import RowRejected
from tests.fakes.tiny_model import make_rows, make_tokenizer

BROKEN = b'{"prompt": "p", oops}\n'


def encoded(path: Path, settings: DataSettings, chunk_bytes: int) -> list[EncodedChunk]:
    encoder = Encoder(make_tokenizer(), settings.max_length)
    chosen = format_of(path, settings)
    return [encode_chunk(chunk, chosen, settings, encoder) for chunk in chunks_of(path, chunk_bytes)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + make_rows(20) + b"  \r\n" + make_rows(5).strip())
    return path


@pytest.mark.parametrize("chunk_bytes", [1, 300, 1 << 20])
def test_the_pieces_are_those_of_rows_read_one_by_one(file: Path, chunk_bytes: int) -> None:
    settings, encoder = DataSettings(max_length=60), Encoder(make_tokenizer(), 60)
    rows = list(read_rows(file, settings))
    chunks = encoded(file, settings, chunk_bytes)
    expected = [encoder.encode(row) for row in rows]
    assert array("i", b"".join(chunk.ids for chunk in chunks)).tolist() == [i for row in expected for i in row.ids]
    learned = [mark for row in expected for mark in (0, *row.learned[1:])]
    assert list(b"".join(chunk.learned for chunk in chunks)) == learned
    assert array("q", b"".join(chunk.lines for chunk in chunks)).tolist() == [row.line for row in rows]
    assert sum(chunk.truncated for chunk in chunks) == sum(row.truncated for row in expected) > 0
    assert sum(chunk.rows for chunk in chunks) == 25


def test_chunks_number_their_lines(file: Path) -> None:
    for chunk_bytes in (1, 700):
        lines = [line for chunk in chunks_of(file, chunk_bytes) for line in enumerate(chunk.lines, chunk.first)]
        assert lines == list(enumerate(file.read_bytes().splitlines(keepends=True), 1))


def test_behind_a_row_that_refuses_its_file_nothing_is_looked_at() -> None:
    chunk = Chunk(7, [make_rows(1), BROKEN, BROKEN])
    settings = DataSettings()
    found = encode_chunk(chunk, "prompt_completion", settings, Encoder(make_tokenizer(), 64))
    assert [(bad.line, bad.raw, bad.problem) for bad in found.bad] == [(8, BROKEN, "broken_json")]
    assert "Line 8: broken JSON" in found.bad[0].message


def test_rows_that_are_skipped_are_all_told() -> None:
    chunk = Chunk(7, [BROKEN, make_rows(1), BROKEN])
    settings = DataSettings(bad_rows="skip")
    found = encode_chunk(chunk, "prompt_completion", settings, Encoder(make_tokenizer(), 64))
    assert [bad.line for bad in found.bad] == [7, 9]
    assert (found.rows, array("q", found.lines).tolist()) == (3, [8])


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_a_file_without_rows_has_no_format(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "empty").write_bytes(data)
    with pytest.raises(RowRejected) as refused:
        format_of(tmp_path / "empty", DataSettings())
    assert refused.value.problem == "empty_file"


def test_an_answer_survives_the_way_between_processes(file: Path) -> None:
    (found,) = encoded(file, DataSettings(), 1 << 20)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=EncodedChunk) == found


def test_numbers_are_written_least_byte_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    settings = DataSettings()
    swapped = encode_chunk(Chunk(1, [make_rows(1)]), "prompt_completion", settings, Encoder(make_tokenizer(), 64))
    assert int.from_bytes(swapped.lines, "big") == 1
