"""The files of a report are written atomically, and read by later preparations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from events.settings import JobSettings, ModelSettings
from gpu.data.examine.examination import Examination, FileFacts
from gpu.data.examine.report import Report
from gpu.data.examine.report_files import open_report, read_earlier_rows
from gpu.errors import StorageFailed

JOB, OTHER = "ab" * 32, "cd" * 32


def report() -> Report:
    file = FileFacts("a.jsonl", JOB, 10, "JSON Lines", "text")
    examination = Examination(JobSettings(model=ModelSettings(path="m")))
    return examination.report(file, trained=1, tokens=2, trained_tokens=1)


def content(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


def test_report_skipped_rows_and_row_hashes_are_files_of_one_directory(tmp_path: Path) -> None:
    with open_report(tmp_path / "reports", JOB) as writer:
        writer.save_skipped(b"{oops")
        writer.finish(report(), content(3, 1, 2))
    there = {path.name: path.read_bytes() for path in (tmp_path / "reports").iterdir()}
    assert there == {
        f"{JOB}.json": report().encode(),
        f"{JOB}.skipped.jsonl": b"{oops\n",
        f"{JOB}.rows": content(1, 2, 3).tobytes(),
    }
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "reports").iterdir()} == {0o600}


def test_rows_that_are_skipped_no_more_are_not_left_lying(tmp_path: Path) -> None:
    for rows in ([b"{oops"], []):
        with open_report(tmp_path, JOB) as writer:
            for raw in rows:
                writer.save_skipped(raw)
            writer.finish(report(), content())
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{JOB}.json", f"{JOB}.rows"]


def test_what_is_not_finished_leaves_what_was_there(tmp_path: Path) -> None:
    with open_report(tmp_path, JOB) as writer:
        writer.finish(report(), content(1))
    (tmp_path / f".{JOB}.skipped.jsonl.tmp-1").touch()
    with open_report(tmp_path, JOB) as writer:
        writer.save_skipped(b"{oops")
    assert (tmp_path / f"{JOB}.rows").read_bytes() == content(1).tobytes()
    assert not list(tmp_path.glob("*.skipped.jsonl"))


def test_rows_of_all_other_files_are_known(tmp_path: Path) -> None:
    for job, numbers in ((JOB, (5, 4)), (OTHER, (9,))):
        with open_report(tmp_path, job) as writer:
            writer.finish(report(), content(*numbers))
    (tmp_path / f"{'ef' * 32}.rows").touch()
    assert [each.tolist() for each in read_earlier_rows(tmp_path, JOB)] == [[9]]
    assert [each.tolist() for each in read_earlier_rows(tmp_path, None)] == [[4, 5], [9]]
    assert read_earlier_rows(tmp_path / "nowhere", JOB) == []


def test_a_directory_that_cannot_be_written_is_a_failing_disk(tmp_path: Path) -> None:
    (tmp_path / "reports").touch()
    with pytest.raises(StorageFailed, match="reports"), open_report(tmp_path / "reports", JOB):
        pass
