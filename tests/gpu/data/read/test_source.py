"""Records are read from any container."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu.data.problems import Problem
from gpu.data.read import record
from gpu.data.read.record import Record
from gpu.data.read.source import _read_lines, describe_container, read_records
from tests.gpu.data.reading import gzipped

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "gzip": gzipped,
    "two gzip members": lambda data: gzipped(data[:7]) + gzipped(data[7:]),
    "zstd": zstd.compress,
    "two zstd frames": lambda data: zstd.compress(data[:7]) + zstd.compress(data[7:]),
    "zstd after a skippable frame": lambda data: b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd.compress(data),
}
LINES = b'{"a": 1}\n{"a": 2}\n'


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., list[Record | Problem]]:
    """Return a function that reads the records of a file with these bytes and a neutral name."""

    def taken(data: bytes, **options: Any) -> list[Record | Problem]:
        file = tmp_path / "0a1b2c.jsonl"
        file.write_bytes(data)
        return list(read_records(file, **options))

    return taken


Take = Callable[..., list[Record | Problem]]


def problem(found: list[Record | Problem]) -> Problem:
    """Return the problem, which must be the last and only one."""
    assert [isinstance(one, Problem) for one in found] == [False] * (len(found) - 1) + [True]
    last = found[-1]
    assert isinstance(last, Problem)
    return last


@pytest.mark.parametrize("packed", PACKERS)
def test_every_container_is_known_by_its_first_bytes(take: Take, packed: str) -> None:
    assert take(PACKERS[packed](LINES)) == [Record(1, b'{"a": 1}'), Record(2, b'{"a": 2}')]


@pytest.mark.parametrize("packed", PACKERS)
def test_an_array_is_known_inside_every_container(take: Take, packed: str) -> None:
    data = b'\xef\xbb\xbf \n[{"a": 1},\n {"a": 2}]\n'
    assert take(PACKERS[packed](data)) == [Record(2, b'{"a": 1}', 2), Record(3, b'{"a": 2}', 2)]


@pytest.mark.parametrize("packed", PACKERS)
def test_paragraphs_are_the_records_of_plain_text(take: Take, packed: str) -> None:
    data = b"\n[one\nstill one\r\n\r\n \t\n{two\n\n\n\nthree"
    found = take(PACKERS[packed](data), plain_text=True)
    assert found == [Record(2, b"[one\nstill one\r"), Record(6, b"{two"), Record(10, b"three")]


def test_blank_lines_and_a_byte_order_mark_are_skipped_and_lines_still_counted(take: Take) -> None:
    assert take(b"\xef\xbb\xbf1\n\n \t\r\n2\r\n\n3") == [
        Record(1, b"1"),
        Record(4, b"2\r"),
        Record(6, b"3", whole=False),
    ]


@pytest.mark.parametrize(
    ("data", "options", "name"),
    [
        (LINES, {}, "JSON Lines"),
        (b" [{}]", {}, "JSON array"),
        (gzipped(LINES), {}, "JSON Lines in gzip"),
        (zstd.compress(b"[{}]"), {}, "JSON array in zstd"),
        (gzipped(b"[1]"), {"plain_text": True}, "plain text in gzip"),
        (b"PAR1", {}, "Parquet"),
        (gzipped(LINES)[:12], {}, "damaged data in gzip"),
        (b"", {}, "JSON Lines"),
    ],
)
def test_a_container_has_a_name(tmp_path: Path, data: bytes, options: dict[str, bool], name: str) -> None:
    (tmp_path / "file").write_bytes(data)
    assert describe_container(tmp_path / "file", **options) == name


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\n", b"\xef\xbb\xbf", gzipped(b""), zstd.compress(b"")])
def test_an_empty_file_has_no_records(take: Take, data: bytes) -> None:
    assert take(data) == []


@settings(deadline=None, database=None)
@given(data=st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b" ", b"bc" * 20])).map(b"".join), size=st.integers(1, 9))
def test_lines_are_the_same_however_they_are_read(data: bytes, size: int) -> None:
    chunks = iter([data[at : at + size] for at in range(0, len(data), size)])
    expected = [(line, raw) for line, raw in enumerate(data.split(b"\n"), start=1) if raw.strip()]
    assert [(record.line, record.raw) for record in _read_lines(chunks)] == expected


@pytest.mark.parametrize("cut", [5, 6, 11, 40, -1])
@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_compressed_data_that_ends_in_the_middle_is_reported_after_all_that_came_before(
    take: Take, packed: str, cut: int
) -> None:
    found = take(PACKERS[packed](LINES * 100)[:cut])
    assert problem(found).name == "truncated_file"


def test_what_came_before_the_end_of_truncated_data_is_read(take: Take) -> None:
    data = b"".join(b'{"number": %d, "again": %d}\n' % (number, number * 7919 % 10007) for number in range(50_000))
    packed = gzipped(data)
    found = take(packed[: len(packed) // 2])
    last = problem(found)
    assert len(found) > 10_000
    assert [record.raw for record in found[:-1] if isinstance(record, Record)] == data.split(b"\n")[: len(found) - 1]
    assert f"in line {len(found)}: the file is incomplete" in last.what


@pytest.mark.parametrize(
    "data",
    [
        gzipped(LINES)[:-8] + b"\0" * 8,
        gzipped(LINES) + b"what is this",
        gzipped(LINES)[:10] + b"\xff" * 20,
        b"\x1f\x8b\x00 no deflate",
        zstd.compress(LINES) + b"what is this",
        zstd.compress(LINES)[:6] + b"\xff" * 20,
        b"\x28\xb5\x2f\xfd" + b"\xff" * 40,
    ],
)
def test_damaged_compressed_data_is_reported(take: Take, data: bytes) -> None:
    assert problem(take(data)).name == "broken_compression"


@pytest.mark.parametrize("packer", [gzipped, zstd.compress])
def test_an_endless_line_is_refused_before_it_costs_memory(
    take: Take, packer: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compressed a thousand to one."""
    monkeypatch.setattr(record, "RECORD_MAX_BYTES", 2**20)
    bomb = packer(b'{"a": 1}\n{"a": "' + b"a" * (64 * 2**20))
    assert len(bomb) < 2**17
    tracemalloc.start()
    try:
        found = take(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert (problem(found).name, problem(found).line, len(found)) == ("row_too_long", 2, 2)


@pytest.mark.parametrize(("data", "options"), [(b'[{"a": "' + b"a" * 3000, {}), (b"a\n" * 3000, {"plain_text": True})])
def test_an_endless_element_or_paragraph_is_refused(
    take: Take, data: bytes, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RECORD_MAX_BYTES", 2000)
    assert problem(take(data, **options)).name == "row_too_long"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("packed", ["as it is", "gzip"])
def test_wide_encodings_are_known_with_and_without_a_mark(take: Take, encoding: str, packed: str) -> None:
    found = problem(take(PACKERS[packed]('{"a": "é"}\n'.encode(encoding))))
    assert (found.name, found.line) == ("wrong_encoding", None)
    assert "iconv" in found.message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK\x03\x04 xl/workbook.xml", "zip"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\0\0", "xz"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"ARROW1\0\0", "Arrow"),
        (b"SQLite format 3\0", "SQLite"),
        (gzipped(gzipped(b"{}")), "more compressed data"),
        (zstd.compress(zstd.compress(b"{}")), "more compressed data"),
        (gzipped(b"PAR1 and so on"), "Parquet file inside"),
    ],
)
def test_unsupported_files_are_named(take: Take, data: bytes, says: str) -> None:
    found = problem(take(data))
    assert found.name == "unknown_container"
    assert says in found.what


def test_parquet_is_not_read_as_text(take: Take) -> None:
    assert problem(take(b"PAR1", plain_text=True)).name == "unknown_container"


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_records(tmp_path / "nothing"))


@pytest.mark.parametrize("pack", [gzipped, zstd.compress])
def test_a_bomb_is_reported_and_not_unpacked(
    take: Take, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    """The file has identical rows, far more than real data of its size."""
    monkeypatch.setattr(record, "UNPACKED_FREE_BYTES", 2**20)
    found = take(pack(b'{"a": 1}\n' * 2**20))
    assert problem(found).name == "swollen_file"
    assert len(found) < 2**20
    rows = b"".join(b'{"a": %d}\n' % number for number in range(2**18))
    assert len(take(pack(rows))) == 2**18


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """This holds even if the pipe replaced a file a moment ago."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        list(read_records(tmp_path / "pipe"))
