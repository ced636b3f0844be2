"""A preview shows rows as they are trained: the same tokens, with every special token, and what is trained."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from events.settings import DataSettings, JobSettings, ModelSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.examine.examination import Examination, FileFacts, KnownRows
from gpu.data.examine.quality import hash_row
from gpu.data.examine.report import PreviewPart, PreviewRow
from gpu.data.format.rows import read_rows
from gpu.data.plan.cache import TokenCache
from gpu.data.plan.prepare import PreparationContext, examine_file
from gpu.data.plan.preview import PREVIEW_CHARACTERS, PREVIEW_PIECES, Preview, shorten
from gpu.data.plan.store import TokenCounter
from tests.harness.spaced_tokenizer import make_spaced_tokenizer
from tests.harness.tiny_model import make_tokenizer

FILE = FileFacts("a", "ab" * 32, 1, "", None)
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4 ü 🦶"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
}


def previewed(
    path: Path, content: bytes, tokenizer: Any = None, count: int = 9, known: KnownRows | None = None, **data: Any
) -> list[PreviewRow]:
    path.write_bytes(content)
    tokenizer = tokenizer or make_tokenizer()
    settings = JobSettings(model=ModelSettings(path="m"), data=DataSettings(**data))
    context = PreparationContext(path.parent, tokenizer, "0" * 64, TokenCache(path.parent / "cache"))
    preview = Preview(tokenizer, range(1, count + 1), PREVIEW_CHARACTERS)
    examination = Examination(settings, known) if known is not None else Examination(settings)
    examine_file(path, FILE, settings, context, examination, TokenCounter(), preview=preview)
    return preview.rows


def marked(row: PreviewRow) -> str:
    """The text of a row, with brackets around what is trained."""
    parts = [part for piece in row.pieces for part in piece.parts]
    return "".join(f"[{part.text}]" if part.trained else part.text for part in parts).replace("][", "")


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_a_conversation_is_shown_as_the_template_writes_it(tmp_path: Path) -> None:
    (row,) = previewed(tmp_path / "a", lines(CHAT))
    assert marked(row) == (
        "<|system|>Be brief.<|end|>\n<|user|>2+2?<|end|>\n<|assistant|>[4 ü 🦶<|end|>]\n"
        "<|user|>Sure?<|end|>\n<|assistant|>[Yes.<|end|>]\n"
    )
    assert (row.row, row.line, row.verdict) == (1, 1, "trained")
    special = [part.text for part in row.pieces[0].parts if part.special]
    assert "".join(special) == "<|system|><|end|><|user|><|end|><|assistant|><|end|><|user|><|end|><|assistant|><|end|>"
    assert sum(piece.trained_tokens for piece in row.pieces) == len("4 ü 🦶Yes.".encode()) + 2


@pytest.mark.parametrize("kind", ["prepend", "always", "first", "bytes"])
def test_no_space_is_lost_where_a_part_begins(tmp_path: Path, kind: Any) -> None:
    """Tokenizers that put a space before each text remove one when they decode."""
    tokenizer = make_spaced_tokenizer(kind)
    text = {"prompt": "This is a", "completion": " 4. The test"}
    (row,) = previewed(tmp_path / "a", lines(text), tokenizer)
    (example,) = read_rows(tmp_path / "a", DataSettings())
    (piece,) = Encoder(tokenizer, DataSettings()).encode(example).pieces
    whole = tokenizer.decode(piece.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert "".join(part.text for part in row.pieces[0].parts) == whole


def test_rejected_dropped_and_held_out_rows_are_shown_with_their_reason(tmp_path: Path) -> None:
    long, held = {"prompt": "p" * 90, "completion": "c"}, {"prompt": "h", "completion": "o"}
    content = lines({"prompt": "a", "completion": "b"}, held, long) + b'{"prompt": "\x1b[31m", oops\n'
    (tmp_path / "held").write_bytes(lines(held))
    (example,) = read_rows(tmp_path / "held", DataSettings())
    known = KnownRows(validation=np.array([hash_row(example).content], np.uint64))
    trained, held_out, dropped, rejected = previewed(tmp_path / "a", content, known=known, max_length=64, long="drop")
    assert [row.verdict for row in (trained, held_out, dropped, rejected)] == [
        "trained",
        "held_out",
        "dropped",
        "rejected",
    ]
    assert not any(part.trained for part in held_out.pieces[0].parts)
    assert "".join(part.text for part in dropped.source) == json.dumps(long)
    assert dropped.tokens > 90
    assert [reason.name for reason in rejected.reasons] == ["broken_json"]
    assert rejected.source[0].text == '{"prompt": "\x1b[31m", oops'
    assert rejected.pieces == ()


ROW = {"prompt": "2+2?", "completion": "4"}


def make_parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([ROW, ROW]), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("lines", b"\n" + lines(ROW) + b"\n" + lines(ROW), [(1, 2), (2, 4)]),
        ("array", json.dumps([ROW, ROW], indent=1).encode(), [(1, 2), (2, 6)]),
        ("gzip", gzip.compress(lines(ROW, ROW), mtime=0), [(1, 1), (2, 2)]),
        ("parquet", make_parquet(), [(1, 1), (2, 2)]),
        ("csv", b"prompt,completion\n2+2?,4\n2+2?,4\n", [(1, 2), (2, 3)]),
    ],
)
def test_every_container_is_previewed_with_numbers_of_rows(
    tmp_path: Path, name: str, content: bytes, places: list[Any]
) -> None:
    rows = previewed(tmp_path / name, content)
    assert [(row.row, row.line) for row in rows] == places
    assert {marked(row) for row in rows} == {"<|user|>2+2?<|end|>\n<|assistant|>[4<|end|>]\n"}


def test_only_the_first_rows_are_kept(tmp_path: Path) -> None:
    rows = previewed(tmp_path / "a", lines(*([ROW] * 50)), count=3)
    assert [row.row for row in rows] == [1, 2, 3]


def test_a_row_in_many_pieces_says_how_many_are_left_out(tmp_path: Path) -> None:
    (row,) = previewed(tmp_path / "a", lines({"text": "word " * 100}), max_length=16, long="split")
    assert len(row.pieces) == PREVIEW_PIECES
    assert row.omitted_pieces > 20


def test_a_long_text_is_shortened_in_the_middle_and_says_what_is_left_out() -> None:
    parts = [PreviewPart(text="q" * 50), PreviewPart(text="a" * 50, trained=True), PreviewPart(text="e" * 20)]
    assert shorten(parts, 120) == tuple(parts)
    short = shorten(parts, 60)
    assert [(part.text, part.trained) for part in short] == [
        ("q" * 30, False),
        ("", False),
        ("a" * 10, True),
        ("e" * 20, False),
    ]
    assert (short[1].omitted_characters, short[1].omitted_trained_characters) == (60, 40)
    assert sum(len(part.text) + part.omitted_characters for part in short) == 120
