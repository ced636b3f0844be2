"""A view reads back exactly as it was written, or not at all."""

from __future__ import annotations

import json

import msgspec
import pytest

from projections.checksum import has_checksum, with_checksum

VIEWS = [b'{"seq":7,"crc":"00aa11bb"}', msgspec.json.format(b'{"seq":7,"crc":"00aa11bb"}', indent=2)]


@pytest.mark.parametrize("view", VIEWS)
def test_a_checksum_is_one_more_field(view: bytes) -> None:
    """Scripts read the view as before."""
    assert has_checksum(with_checksum(view))
    fields = json.loads(with_checksum(view))
    assert list(fields) == ["seq", "crc", "check"]


@pytest.mark.parametrize("view", VIEWS)
def test_every_flipped_bit_is_detected(view: bytes) -> None:
    """Anywhere in the view or in the checksum."""
    data = with_checksum(view)
    for bit in range(data.index(b'"check"') * 8 - 8 * 4):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not has_checksum(bytes(flipped))


@pytest.mark.parametrize("data", [b"", b"{}", VIEWS[0], b'{"check":"00000000"}'])
def test_a_view_without_a_checksum_is_none(data: bytes) -> None:
    """This program did not write it."""
    assert not has_checksum(data)
