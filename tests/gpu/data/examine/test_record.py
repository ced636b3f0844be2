"""What is written down of a file that was gone through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from events.settings import DataSettings, JobSettings, ModelSettings
from gpu.data.examine import record
from gpu.data.examine.examination import Examination, FileFacts
from gpu.data.examine.quality import identity
from gpu.errors import DataChanged, StorageFailed
from tests.gpu.data.reading import good_rows
from tests.harness.tiny_model import make_rows

JOB, OTHER = "ab" * 32, "cd" * 32


def report() -> record.Report:  # type: ignore[name-defined]
    file = FileFacts("a.jsonl", JOB, 10, "JSON Lines", "text")
    examination = Examination(JobSettings(model=ModelSettings(path="m")))
    return examination.report(file, trained=1, tokens=2, trained_tokens=1)


def content(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


def test_report_skipped_rows_and_what_rows_say_stand_side_by_side(tmp_path: Path) -> None:
    with record.writing(tmp_path / "reports", JOB) as writer:
        writer.put_aside(b"{oops")
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
        with record.writing(tmp_path, JOB) as writer:
            for raw in rows:
                writer.put_aside(raw)
            writer.finish(report(), content())
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{JOB}.json", f"{JOB}.rows"]


def test_what_is_not_finished_leaves_what_was_there(tmp_path: Path) -> None:
    with record.writing(tmp_path, JOB) as writer:
        writer.finish(report(), content(1))
    (tmp_path / f".{JOB}.skipped.jsonl.tmp-1").touch()
    with record.writing(tmp_path, JOB) as writer:
        writer.put_aside(b"{oops")
    assert (tmp_path / f"{JOB}.rows").read_bytes() == content(1).tobytes()
    assert not list(tmp_path.glob("*.skipped.jsonl"))


def test_rows_of_all_other_files_are_known(tmp_path: Path) -> None:
    for job, numbers in ((JOB, (5, 4)), (OTHER, (9,))):
        with record.writing(tmp_path, job) as writer:
            writer.finish(report(), content(*numbers))
    (tmp_path / f"{'ef' * 32}.rows").touch()
    assert [each.tolist() for each in record.earlier_rows(tmp_path, JOB)] == [[9]]
    assert [each.tolist() for each in record.earlier_rows(tmp_path, None)] == [[4, 5], [9]]
    assert record.earlier_rows(tmp_path / "nowhere", JOB) == []


def test_a_validation_set_is_what_its_good_rows_say(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(make_rows(3) + b"{oops\n")
    expected = sorted(identity(row).content for row in good_rows_of(tmp_path))
    found = record.validation_rows(path, DataSettings())
    assert found.content.tolist() == expected
    assert [problem.name for problem in found.problems] == ["broken_json"]
    assert record.validation_rows(None, DataSettings()).content.tolist() == []
    with pytest.raises(DataChanged, match="Bring it back"):
        record.validation_rows(tmp_path / "nowhere", DataSettings())
    assert record.kept_validation(tmp_path, "") is None


def good_rows_of(directory: Path) -> list[record.rows.Row]:  # type: ignore[name-defined]
    path = directory / "good.jsonl"
    path.write_bytes(make_rows(3))
    return list(good_rows(path, DataSettings()))


def test_a_place_that_cannot_be_written_to_is_a_failing_disk(tmp_path: Path) -> None:
    (tmp_path / "reports").touch()
    with pytest.raises(StorageFailed, match="reports"), record.writing(tmp_path / "reports", JOB):
        pass
