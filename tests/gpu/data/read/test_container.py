"""The first bytes decide what a file is."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from events.settings import DataSettings
from gpu.data.format.rows import read_rows
from gpu.data.problems import Problem
from gpu.data.read.container import csv_delimiter, find_unsupported, is_plain_text
from gpu.data.read.source import describe_container
from tests.gpu.data.reading import gzipped

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("a.jsonl")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"{}"))
    return made.getvalue()


def long_window() -> bytes:
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.enable_long_distance_matching: 1}
    packer = zstd.ZstdCompressor(options=options)
    return packer.compress(b'{"text": "a"}\n' * 1000) + packer.flush()


MESSAGES = b'[{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]\n'
FOREIGN = {
    "an Arrow stream": b"\xff\xff\xff\xff\xf8\0\0\0\x10\0\0\0" + bytes(90),
    "an Arrow file": b"ARROW1\0\0" + bytes(90),
    "a tar archive": tar(),
    "a tar archive inside compressed data": gzipped(tar()),
    "an HTML page": b"\n<!doctype HTML>\n<html><body>404</body></html>",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "made of JSON lists": MESSAGES * 3,
    "made of JSON lists, each": b'[\n  {"from": "human", "value": "1+1?"},\n  {"from": "gpt", "value": "2"}\n]\n',
    "one JSON object with its rows in the list 'data'": b'{\n  "v": 1,\n  "data": [\n    {"messages": []}\n',
    "compressed with a window of more than 128 MiB": long_window(),
    "an XML or HTML document": b'<?xml version="1.0"?>\n<rows/>\n',
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("bad_rows", ["refuse", "skip"])
def test_another_kind_of_file_is_named_and_refused_whole(what: str, bad_rows: str, tmp_path: Path) -> None:
    """Skipping bad rows changes nothing, and no advice suggests plain text."""
    (tmp_path / "f").write_bytes(FOREIGN[what])
    (problem,) = read_rows(tmp_path / "f", DataSettings(bad_rows=bad_rows))
    assert isinstance(problem, Problem)
    assert (problem.name, problem.line) == ("unknown_container", None)
    assert what in problem.what
    assert problem.advice
    assert "plain" not in problem.message


@pytest.mark.parametrize(
    "data",
    [
        b'{"messages": [{"role": "user", "content": "a"}]}\n',
        b'{"id": 1, "conversations": [{"from": "human", "value": "a"}]}\n',
        b'[{"prompt": "a", "completion": "b"},\n {"prompt": "c", "completion": "d"}]\n',
        b'[\n  {"text": "[1]"}\n]\n',
        b"",
    ],
)
def test_rows_are_no_other_kind_of_file(data: bytes) -> None:
    assert find_unsupported(data) is None


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [
        (b"prompt,completion\na,b\n", ","),
        (b"\xef\xbb\xbfprompt;completion\r\na;b\r\n", ";"),
        (b"id\tquestion\tanswer\n", "\t"),
        (b"text\nOne line.\n", ","),
        (b"frage,antwort\na,b\nc,d\n", ","),
        (b"frage,antwort\na,b\nc,d,e\n", None),
        (b"Text\n\nThe text begins here.\n", None),
        (b"Dear Sir, dear Madam,\n\nI write, today, to you,\n", None),
        (b'{"prompt": "a", "completion": "b"}\n', None),
        (b"One line, only\n", None),
    ],
)
def test_a_table_is_known_by_its_header(head: bytes, delimiter: str | None) -> None:
    """Known names in the header, or rows that all agree with it, identify a table."""
    assert csv_delimiter(head) == delimiter


def test_a_container_that_is_refused_has_no_name_of_another(tmp_path: Path) -> None:
    """The report does not call a page JSON Lines."""
    (tmp_path / "f").write_bytes(FOREIGN["an HTML page"])
    assert describe_container(tmp_path / "f") == "another kind of file"
    assert not is_plain_text(FOREIGN["an HTML page"])
