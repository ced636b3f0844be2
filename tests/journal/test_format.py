"""A line is exactly what the format says."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import pytest

from journal import format, read_line
from tests.journal.helpers import AT, append, open_journal

SEED = format.seed_of("0123456789abcdef" * 2)


def test_a_line_is_these_bytes() -> None:
    """Golden: what is on disk today must be readable for ever."""
    lines, crc = format.frame(
        [b'{"kind":"a"}', b'{"kind":"b"}'], at=AT, first_seq=7, durable=6, prev="1f00c2aa", seed=SEED
    )
    assert lines == [
        b'{"seq":7,"at":"2026-11-22T03:00:00.123456Z","durable":6,"prev":"1f00c2aa","more":true,'
        b'"event":{"kind":"a"},"crc":"CRC0"}'.replace(b"CRC0", lines[0][-10:-2]),
        b'{"seq":8,"at":"2026-11-22T03:00:00.123456Z","durable":6,"prev":"CRC0",'
        b'"event":{"kind":"b"},"crc":"CRC1"}'.replace(b"CRC0", lines[0][-10:-2]).replace(b"CRC1", crc.encode()),
    ]


def test_the_crc_covers_every_byte_before_it_and_is_seeded_with_the_journal() -> None:
    """Anybody can check a line with a CRC-32 and the id in the header."""
    [line], crc = format.frame([b"{}"], at=AT, first_seq=1, durable=0, prev=format.NO_CRC, seed=SEED)
    body = line[: line.rindex(b',"crc"')]
    assert crc == f"{crc32(body, crc32(b'0123456789abcdef' * 2)):08x}"
    assert not format.is_whole(line, SEED + 1)


def test_a_line_is_plain_json() -> None:
    """`jq` reads it."""
    [line], crc = format.frame([b'{"a":"\xc3\xa9"}'], at=AT, first_seq=1, durable=0, prev=format.NO_CRC, seed=SEED)
    assert json.loads(line) == {
        "seq": 1, "at": AT, "durable": 0, "prev": "00000000", "event": {"a": "é"}, "crc": crc
    }  # fmt: skip
    assert read_line(line).event == b'{"a":"\xc3\xa9"}'


@pytest.mark.parametrize("event", [b"", b"[]", b"{}\n", b'{"a":\n1}', b"1"])
def test_an_event_that_would_break_the_line_is_refused(event: bytes) -> None:
    """Nothing unreadable is ever written."""
    with pytest.raises(ValueError, match="JSON object"):
        format.frame([event], at=AT, first_seq=1, durable=0, prev=format.NO_CRC, seed=SEED)


@pytest.mark.parametrize("at", ["", "now", '2026-11-22T03:00:00"Z', "2026-11-22T03:00:00+01:00"])
def test_a_time_that_is_not_utc_is_refused(at: str) -> None:
    """One way to write a time."""
    with pytest.raises(ValueError, match="not a time"):
        format.frame([b"{}"], at=at, first_seq=1, durable=0, prev=format.NO_CRC, seed=SEED)


def test_a_header_reads_back_and_a_changed_one_does_not() -> None:
    """Every single changed byte is seen."""
    header = format.Header("ab" * 16, 2, 101, AT, format.Predecessor(1, 100, "5d21aa07", 12345, "0f" * 32))
    line = format.encode_header(header)[:-1]
    assert format.decode_header(line) == header
    for index in range(len(line)):
        changed = line[:index] + bytes([line[index] ^ 1]) + line[index + 1 :]
        assert format.decode_header(changed) is None, changed


def test_only_a_record_with_its_own_crc_proves_anything() -> None:
    """A header is no record, and a record with one changed byte is none: neither in its place nor among other bytes."""
    header = format.encode_header(format.Header("0123456789abcdef" * 2, 1, 1, AT, None))[:-1]
    [line], _ = format.frame([b"{}"], at=AT, first_seq=7, durable=6, prev=format.NO_CRC, seed=SEED)
    changed = line.replace(b'"durable":6', b'"durable":9')
    assert [format.is_whole(each, SEED) for each in (line, header, changed)] == [True, False, False]
    deferred_deletes = b"\0" + changed + b"\n" + line + b"\n"
    assert [record.durable for _, record in format.find_records(deferred_deletes, SEED)] == [6]


def test_each_record_names_the_crc_of_the_one_before_across_segments(home: Path) -> None:
    """The chain has no seam at a rotation."""
    journal = open_journal(home, segment_bytes=900)
    for number in range(20):
        append(journal, number)
    journal.close()
    lines = [
        line for path in sorted(home.glob("*.jsonl")) for line in path.read_bytes().splitlines() if b'"seq"' in line
    ]
    crcs = [read_line(line).crc for line in lines]
    assert [read_line(line).prev for line in lines] == ["00000000", *crcs[:-1]]
    assert [read_line(line).seq for line in lines] == list(range(1, 22))
    assert len(list(home.glob("*.jsonl"))) > 2
