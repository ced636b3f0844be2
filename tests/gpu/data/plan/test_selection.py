"""Selected rows are encoded apart from the others."""

from __future__ import annotations

import numpy as np
import pytest

from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.examine.quality import hash_row
from gpu.data.format.example import Example, Text
from gpu.data.plan import selection
from gpu.data.plan.lines import source_of
from gpu.data.plan.selection import SelectedRow, encode_selected, is_held_out
from gpu.model.tokenizer import load_tokenizer
from tests.gpu.helpers import LORA, Home, settings


@pytest.fixture
def encoder(home: Home) -> Encoder:
    return Encoder(load_tokenizer(settings(LORA).model, home.path), DataSettings())


def picked(count: int, source: int = 2) -> list[SelectedRow]:
    return [SelectedRow(b"", source, Text(line, f"This is line {line}.")) for line in range(1, count + 1)]


def test_some_rows_are_encoded_at_a_time(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on how many."""
    whole = list(encode_selected(picked(7), encoder))
    monkeypatch.setattr(selection, "ROWS_AT_ONCE", 3)
    parts = list(encode_selected(picked(7), encoder))
    assert (len(whole), len(parts)) == (1, 3)
    assert b"".join(part.ids for part in parts) == whole[0].ids


def test_each_piece_knows_its_file_and_line(encoder: Encoder) -> None:
    (looked,) = encode_selected(picked(3), encoder)
    lines = np.frombuffer(looked.piece_lines, "<i8").tolist()
    assert [source_of(line) for line in lines] == [(2, 1), (2, 2), (2, 3)]


def test_a_row_that_cannot_be_encoded_gives_nothing(encoder: Encoder) -> None:
    """The example is a conversation without an answer."""
    empty = Example(5, [{"role": "user", "content": "Who?"}], (False,))
    (looked,) = encode_selected([*picked(1), SelectedRow(b"", 0, empty)], encoder)
    assert np.frombuffer(looked.pieces, "<i4").tolist() == [1, 0]


def test_held_out_is_what_the_share_says_or_the_set_has() -> None:
    """Without a share and a set, nothing is held out."""
    content = hash_row(Text(1, "This is a line.")).content
    none, some = np.zeros(0, np.uint64), np.array([content], np.uint64)
    assert not is_held_out(content, settings(LORA), none)
    assert is_held_out(content, settings(LORA), some)
    assert is_held_out(content, settings(LORA, data=DataSettings(holdout=0.999999)), none)
