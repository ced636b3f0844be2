"""Chunks give the same rows, hashes and pieces, however the file is cut."""

from __future__ import annotations

import sys
from array import array
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from events.settings import CheckSettings, DataSettings, JobSettings, ModelSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.encode.fitting import EncodedPiece, EncodedRow
from gpu.data.examine.quality import hash_row, min_hash
from gpu.data.plan.chunk import BAD, TREATMENTS, Chunk, ChunkColumns, ChunkEncoder, Chunks, EncodedChunk
from gpu.data.read.record import Record
from tests.gpu.data.reading import good_rows
from tests.harness.tiny_model import make_rows, make_tokenizer

BROKEN = b'{"prompt": "p", oops}'
ROW = make_rows(1).strip()


def settings(checks: CheckSettings | None = None, **data: Any) -> JobSettings:
    return JobSettings(
        model=ModelSettings(path="m"), data=DataSettings(**data), checks=checks or CheckSettings(near_duplicates="off")
    )


def look(how: JobSettings) -> ChunkEncoder:
    return ChunkEncoder(Encoder(make_tokenizer(), how.data), how, "prompt_completion")


def chunk(*lines: bytes, first: int = 1) -> Chunk:
    return Chunk([Record(number, line) for number, line in enumerate(lines, first)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + make_rows(20) + b"  \r\n" + make_rows(5).strip())
    return path


@pytest.mark.parametrize("chunk_bytes", [1, 300, 1 << 20])
def test_what_comes_of_a_file_does_not_depend_on_how_it_is_cut(file: Path, chunk_bytes: int) -> None:
    how = settings(CheckSettings(), max_length=60)
    encoder, rows = Encoder(make_tokenizer(), how.data), list(good_rows(file, how.data))
    found = [look(how)(each) for each in Chunks(file, how, chunk_bytes)]
    expected = [encoder.encode(row) for row in rows]
    pieces = [piece for encoding in expected for piece in encoding.pieces]
    assert array("i", b"".join(each.ids for each in found)).tolist() == [
        token for piece in pieces for token in piece.ids
    ]
    assert list(b"".join(each.trained for each in found)) == [m for piece in pieces for m in (0, *piece.trained[1:])]
    assert array("q", b"".join(each.piece_lines for each in found)).tolist() == [row.line for row in rows]
    row_results = [outcome for each in found for outcome, _ in each.row_results()]
    assert [outcome.line for outcome in row_results] == [row.line for row in rows]
    assert [outcome.identity for outcome in row_results] == [hash_row(row) for row in rows]
    assert [outcome.sketch for outcome in row_results] == [min_hash(row) for row in rows]
    assert [outcome.tokens for outcome in row_results] == [encoding.tokens for encoding in expected]
    assert {"truncated", "whole"} == {outcome.treatment for outcome in row_results}
    assert {outcome.treatment for outcome in row_results if outcome.cut_tokens} == {"truncated"}
    assert sum(outcome.tokens - outcome.cut_tokens for outcome in row_results) == sum(
        len(piece.ids) for piece in pieces
    )


def test_a_bad_row_is_reported_in_its_place_and_the_others_are_encoded() -> None:
    found = look(settings())(chunk(ROW, BROKEN, ROW, first=7))
    assert list(found.treatments) == [0, BAD, 0]
    row_results = [outcome for outcome, _ in found.row_results()]
    assert [(outcome.line, outcome.raw, [each.name for each in outcome.problems]) for outcome in row_results] == [
        (7, b"", []),
        (8, BROKEN, ["broken_json"]),
        (9, b"", []),
    ]
    assert [pieces for _, pieces in found.row_results()] == [1, 0, 1]


def test_rows_with_warnings_are_trained_unless_the_settings_say_otherwise() -> None:
    """The example is a special token in a user's text."""
    odd = b'{"prompt": "say <|end|>", "completion": "no"}'
    (outcome, pieces), _ = look(settings())(chunk(odd, ROW)).row_results()
    assert ([each.name for each in outcome.warnings], pieces) == (["special_token_in_content"], 1)
    for weight, expected in (("refuse", ["special_token_in_content"]), ("off", [])):
        how = settings(CheckSettings(near_duplicates="off", rows={"special_token_in_content": weight}))  # type: ignore[dict-item]
        ((outcome, _),) = look(how)(chunk(odd)).row_results()
        assert ([each.name for each in outcome.problems], outcome.warnings) == (expected, ())


def test_a_row_that_the_encoder_refuses_is_a_bad_one() -> None:
    found = look(settings(max_length=8, long="refuse"))(chunk(ROW))
    ((outcome, _),) = found.row_results()
    assert [each.name for each in outcome.problems] == ["too_long"]


def test_rows_are_left_out_with_all_their_pieces() -> None:
    found = look(settings(max_length=24, long="split"))(chunk(ROW, BROKEN, ROW))
    per_row = [pieces for _, pieces in found.row_results()]
    assert per_row[0] == per_row[2] > 1
    less = found.without([0])
    assert [pieces for _, pieces in less.row_results()] == [0, 0, per_row[2]]
    assert array("q", less.piece_lines).tolist() == [3] * per_row[2]
    assert len(less.ids) == 4 * len(less.trained) == 4 * sum(array("i", less.lengths))
    assert found.without([]) is found


def test_only_the_first_rows_are_sketched(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MinHashes are the most expensive part of a row, so only the first rows have one."""
    monkeypatch.setattr("gpu.data.plan.chunk.SKETCHED_ROWS", 10)
    how = settings(CheckSettings())
    found = [look(how)(each) for each in Chunks(file, how, 600)]
    rows = sum(len(each.treatments) for each in found if each.sketches)
    assert 10 <= rows < 20
    assert [bool(each.sketches) for each in found] == sorted((bool(each.sketches) for each in found), reverse=True)


def test_a_problem_of_the_file_comes_after_its_records(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(b'[{"text": "a"}, {"text": ')
    chunks = Chunks(tmp_path / "cut", settings())
    assert [record.raw for each in chunks for record in each.records] == [b'{"text": "a"}']
    assert chunks.problem is not None
    assert chunks.problem.name == "truncated_file"


def test_an_answer_survives_the_way_between_processes(file: Path) -> None:
    how = settings(CheckSettings())
    (asked,) = Chunks(file, how)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=Chunk) == asked
    found = look(how)(chunk(ROW, BROKEN))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=EncodedChunk) == found


def test_numbers_are_written_least_byte_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    swapped = look(settings())(chunk(ROW))
    assert int.from_bytes(swapped.piece_lines, "big") == 1


def test_every_treatment_has_a_number() -> None:
    assert BAD not in range(len(TREATMENTS))
    assert TREATMENTS[0] == "whole"


def test_rows_of_which_nothing_is_known_but_their_pieces() -> None:
    """Rows that are mixed in from earlier files are such rows."""
    columns = ChunkColumns()
    columns.add_pieces(9, EncodedRow((EncodedPiece([5, 6], [0, 1], False),)))
    made = columns.chunk()
    assert np.frombuffer(made.ids, "<i4").tolist() == [5, 6]
