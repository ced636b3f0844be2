"""An examination decides about each row and reports on the file as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from events.settings import CheckSettings, DataSettings, JobSettings, ModelSettings
from gpu.data.examine.examination import NOTHING_KNOWN, Examination, FileFacts, KnownRows, RowResult
from gpu.data.examine.quality import RowHashes
from gpu.data.examine.report import OCCURRENCES_MAX, LengthQuantiles, Occurrence, Report
from gpu.data.problems import Problem

FILE = FileFacts("a.jsonl", "ab" * 32, 100, "jsonl", "text")
BROKEN = Problem("broken_json", 1, "broken JSON", "{oops", "Correct it.", column=3)


def good(line: int, says: int | None = None, **other: Any) -> RowResult:
    says = line + 1000 if says is None else says
    return RowResult(line, identity=RowHashes(says, 0, 0), tokens=10, **other)


def bad(line: int) -> RowResult:
    return RowResult(
        line, problems=(Problem("broken_json", line, "broken JSON", "{oops", "Correct it."),), raw=b"{oops"
    )


def examined(
    *row_results: RowResult, known: KnownRows = NOTHING_KNOWN, aside: list[bytes] | None = None, **how: Any
) -> Report:
    checks = CheckSettings(**how.pop("checks", {}))
    settings = JobSettings(model=ModelSettings(path="m"), data=DataSettings(**how), checks=checks)
    examination = Examination(settings, known, (aside if aside is not None else []).append)
    trained = sum(examination.add(outcome) for outcome in row_results)
    return examination.report(FILE, trained=trained, tokens=10 * trained, trained_tokens=trained)


def names(report: Report) -> list[tuple[str, str, int]]:
    return [(finding.name, finding.severity, finding.count) for finding in report.findings]


def test_one_bad_row_refuses_its_file_and_all_of_them_are_counted() -> None:
    report = examined(good(1), bad(2), *(bad(line) for line in range(3, 13)))
    assert report.verdict == "refused"
    assert names(report) == [("broken_json", "refuse", 11)]
    places = report.findings[0].places
    assert [place.line for place in places] == [2, 3, 4, 5, 6]
    assert len(places) == OCCURRENCES_MAX


def test_bad_rows_are_left_out_and_put_aside_if_the_settings_say_so() -> None:
    aside: list[bytes] = []
    report = examined(*(good(line) for line in range(1, 20)), bad(20), bad_rows="skip", aside=aside)
    assert (report.verdict, report.rows, report.bad_rows, report.trained) == ("good", 20, 1, 19)
    assert names(report) == [("broken_json", "skip", 1)]
    assert aside == [b"{oops"]


def test_too_many_bad_rows_refuse_a_file_all_the_same() -> None:
    report = examined(*(good(line) for line in range(1, 8)), bad(8), bad_rows="skip")
    assert names(report)[0] == ("too_many_bad_rows", "refuse", 1)
    assert examined(bad(1), bad_rows="skip", bad_rows_max=1.0).verdict == "refused"


def test_a_row_with_two_things_wrong_counts_for_both_and_is_one_row() -> None:
    both = RowResult(1, problems=(BROKEN, BROKEN, Problem("unrecognized_role", 1, "no such role")))
    report = examined(both)
    assert report.bad_rows == 1
    assert sorted(names(report)) == [("broken_json", "refuse", 1), ("unrecognized_role", "refuse", 1)]


def test_a_file_without_rows_and_one_with_a_problem_of_the_whole_are_refused() -> None:
    assert names(examined()) == [("empty_file", "refuse", 0)]
    examination = Examination(JobSettings(model=ModelSettings(path="m")))
    examination.add_file_problem(Problem("not_text", 7, "it is compressed, and ends too early", column=3))
    report = examination.report(FILE, trained=0, tokens=None, trained_tokens=None)
    assert names(report) == [("not_text", "refuse", 0)], "it is not a problem of rows, so it has no share of them"
    assert report.findings[0].places[0].where == "line 7, column 3"


def test_the_same_rows_are_warned_of_and_too_few_different_ones_refuse() -> None:
    report = examined(good(1), good(2, 5), good(3, 5))
    assert names(report) == [("duplicate_rows", "warn", 1)]
    assert report.findings[0].places[0].what == "is identical to row 2"
    report = examined(*(good(line, 5) for line in range(1, 4)))
    assert names(report) == [("low_diversity", "refuse", 2), ("duplicate_rows", "warn", 2)]


def test_a_check_is_off_or_refuses_by_its_setting_and_from_its_share_on() -> None:
    rows = [good(1), good(2, 5), good(3, 5), good(4)]
    assert names(examined(*rows, checks={"duplicates": "off"})) == []
    assert names(examined(*rows, checks={"duplicates": "refuse"})) == [("duplicate_rows", "refuse", 1)]
    assert names(examined(*rows, checks={"duplicates_max": 0.25})) == []


def test_another_answer_to_the_same_prompt_is_reported() -> None:
    rows = [RowResult(line, identity=RowHashes(line, 7, answer)) for line, answer in ((1, 1), (2, 1), (3, 2))]
    report = examined(*rows)
    assert names(report) == [("contradicting_rows", "warn", 1)]
    assert report.findings[0].places[0].what == "has another answer than row 1"
    assert report.findings[0].message == "rows have another answer to the prompt of an earlier row"


@pytest.mark.parametrize(
    ("over", "expected"),
    [(0, []), (5, []), (6, [("many_too_long", "warn", 6)]), (96, [("many_too_long", "refuse", 96)])],
)
def test_a_share_of_long_rows_is_said_and_nearly_all_of_them_refuse(over: int, expected: list[Any]) -> None:
    long = {"tokens": 101, "treatment": "truncated"}
    rows = [good(line)._replace(**(long if line <= over else {})) for line in range(1, 101)]
    assert names(examined(*rows, max_length=100)) == expected


def test_rows_of_the_validation_set_are_never_trained() -> None:
    known = KnownRows(validation=np.array([1002, 1003], np.uint64))
    report = examined(good(1), good(2), good(4), known=known)
    assert (report.trained, report.held_out_rows) == (2, 1)
    assert names(report) == [("in_validation", "warn", 1)]


def test_a_damaged_validation_set_is_reported() -> None:
    """Rows that cannot be read from the set are not recognised in a file, and would be trained."""
    cut = Problem("truncated_file", None, "the compressed data ends in the middle, in line 7", "", "Fetch it again.")
    report = examined(good(1), known=KnownRows(unusable=[cut]))
    assert names(report) == [("validation_damaged", "warn", 0)]
    assert "ends in the middle, in line 7" in report.findings[0].message


def test_a_file_of_nothing_but_validation_rows_is_refused() -> None:
    report = examined(good(2), known=KnownRows(validation=np.array([1002], np.uint64)))
    assert names(report) == [("nothing_left", "refuse", 1), ("in_validation", "warn", 1)]


def test_rows_are_held_out_by_what_they_say_alone() -> None:
    first = examined(*(good(line) for line in range(1, 501)), holdout=0.1)
    again = examined(*(good(line, line + 1000) for line in reversed(range(1, 501))), holdout=0.1)
    assert 20 < first.held_out_rows == again.held_out_rows < 90
    assert first.trained == 500 - first.held_out_rows


def test_rows_of_earlier_files_are_said() -> None:
    report = examined(good(1), good(2), known=KnownRows(earlier=[np.array([1002], np.uint64)]))
    assert names(report) == [("trained_before", "warn", 1)]
    assert report.findings[0].places[0].line == 2


def test_warnings_of_rows_are_reported_and_the_rows_are_trained() -> None:
    odd = Problem("special_token_in_content", 1, "special tokens in it", "<|end|>")
    report = examined(good(1, warnings=(odd,)), good(2))
    assert names(report) == [("special_token_in_content", "warn", 1)]
    assert report.trained == 2


def test_lengths_are_a_histogram_of_every_good_row() -> None:
    report = examined(*(good(line)._replace(tokens=line) for line in range(1, 25)))
    assert [(bucket.up_to, bucket.rows) for bucket in report.lengths] == [(2 * n, 2) for n in range(1, 13)]
    assert report.longest_tokens == 24
    assert (report.quantiles, report.max_length) == (LengthQuantiles(min=1, p50=12, p90=22, p99=24, max=24), 1024)


def test_shares_count_rows_whatever_else_there_is_more_of() -> None:
    """A row with three warnings of one kind is one row, and a warning about the tokenizer is none."""
    odd = [Problem("message_unrecognized_key", 1, "an unknown key", key) for key in ("a", "b", "c")]
    examination = Examination(JobSettings(model=ModelSettings(path="m")))
    examination.add_warning(Problem("tokenizer_beyond_embedding", None, "the tokenizer has more tokens"))
    for row in (good(1, warnings=tuple(odd)), good(2, warnings=tuple(odd)), good(3), good(4)):
        examination.add(row)
    report = examination.report(FILE, trained=4, tokens=40, trained_tokens=4)
    counted = [(finding.name, finding.count, finding.share) for finding in report.findings]
    assert counted == [("tokenizer_beyond_embedding", 0, 0.0), ("message_unrecognized_key", 2, 0.5)]


def test_a_row_is_named_by_its_number_in_the_file() -> None:
    """Lines and rows differ in an array over many lines; bad rows count too."""
    report = examined(good(2, 5), bad(9), bad(12), good(20, 5), good(31), good(40, 31), bad_rows="skip", bad_rows_max=1)
    by_name = {finding.name: [place.where for place in finding.places] for finding in report.findings}
    assert by_name["broken_json"] == ["row 2 (line 9)", "row 3 (line 12)"]
    assert by_name["duplicate_rows"] == ["row 4 (line 20)"]
    same = next(finding for finding in report.findings if finding.name == "duplicate_rows")
    assert same.places[0].what == "is identical to row 1"


@pytest.mark.parametrize(
    ("row", "line", "column", "where"),
    [
        (3, 3, None, "row 3"),
        (3, 3, 17, "row 3 (line 3, column 17)"),
        (3, 9, None, "row 3 (line 9)"),
        (0, 9, 2, "line 9, column 2"),
    ],
)
def test_line_and_column_are_said_where_they_add_something(row: int, line: int, column: int | None, where: str) -> None:
    assert Occurrence(row=row, line=line, column=column, what="").where == where


def test_nothing_grows_but_some_bytes_a_row() -> None:
    """Problems are counted; only the first of them are kept."""
    examination = Examination(JobSettings(model=ModelSettings(path="m")))
    for line in range(1, 1001):
        examination.add(bad(line))
    assert all(len(kind.occurrences) == OCCURRENCES_MAX for kind in examination._bad.values())
