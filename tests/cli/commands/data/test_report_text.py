"""The report as text fits its columns, and says what its percentages count."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from cli.commands.data import report_text
from cli.commands.data.report_text import HISTOGRAM_COLUMNS, NAME_COLUMNS, finding_rows, report_json, report_rows
from events.settings import JobSettings, ModelSettings
from gpu.data.examine.examination import Examination, FileFacts, RowResult
from gpu.data.examine.lengths import LengthCounts
from gpu.data.examine.report import Finding, Occurrence, Report


def report(rows: int = 50, most: int = 3000) -> Report:
    generator = random.Random(rows)
    examination = Examination(JobSettings(model=ModelSettings(path="m")))
    for line in range(1, rows + 1):
        tokens = generator.randrange(1, most)
        cut = max(0, tokens - 1024)
        examination.add(RowResult(line, tokens=tokens, cut_tokens=cut, treatment="truncated" if cut else "whole"))
    file = FileFacts("a.jsonl", "ab" * 32, 1000, "JSON Lines", "text")
    return examination.report(file, trained=rows, tokens=800, trained_tokens=200)


@pytest.mark.parametrize(("rows", "most"), [(1, 2), (50, 3000), (3000, 9_000_000)])
@pytest.mark.parametrize("prints_blocks", [True, False])
def test_the_histogram_has_at_most_sixty_columns(
    rows: int, most: int, prints_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_text, "can_print", lambda _: prints_blocks)
    counts = LengthCounts()
    generator = random.Random(7)
    for _ in range(rows):
        counts.add(generator.randrange(1, most))
    shown = report_text._histogram(counts.histogram())
    assert shown
    assert all(NAME_COLUMNS + len(row.text) <= HISTOGRAM_COLUMNS for row in shown)
    text = "".join(row.text for row in shown)
    assert ("█" in text) == prints_blocks
    assert text.isascii() != prints_blocks


def test_shares_say_what_they_count() -> None:
    """Every percentage of a report is of rows, or says that it is of tokens."""
    found = report()
    by_name = {row.name: row.text for row in report_rows(found) if row.name}
    assert f"{found.truncated_rows} cut ({found.truncated_rows / 50:.1%})" in by_name["rows"]
    assert "(25.0% of the tokens)" in by_name["tokens"]
    assert by_name["tokens"].endswith("% of the tokens)")
    for number in ("min", "p50", "p90", "p99", "max", "max_length 1,024"):
        assert number in by_name["lengths"]


def test_a_finding_names_rows_by_their_numbers() -> None:
    places = (Occurrence(row=4, line=9, column=2, what="broken JSON", seen="{oops"),)
    finding = Finding(
        name="broken_json",
        severity="refuse",
        count=3,
        share=0.03,
        message="broken JSON",
        advice="Fix it.",
        places=places,
    )
    first, place, more, advice = (row.text for row in finding_rows(finding))
    assert first == "broken_json: broken JSON (3 rows, 3.0% of the rows)"
    assert (place.strip(), more.strip()) == ("row 4 (line 9, column 2)  {oops", "… and 2 more")
    assert advice.strip() == "→ Fix it."
    of_the_file = Finding(name="truncated_file", severity="refuse", count=0, share=0.0, message="it ends early")
    assert [row.text for row in finding_rows(of_the_file)] == ["truncated_file: it ends early"]


def test_a_report_of_an_older_keepstep_is_shown() -> None:
    """It has no numbers of rows and no quantiles."""
    older = replace(report(), quantiles=None, max_length=0)
    shown = report_rows(older)
    assert "lengths" not in {row.name for row in shown}
    assert any("█" in row.text for row in shown)
    assert Occurrence(line=7, column=2, what="broken JSON").where == "line 7, column 2"


def test_json_says_units() -> None:
    found = report_json(report())
    assert found["quantiles_tokens"].keys() == {"min", "p50", "p90", "p99", "max"}
    assert found["lengths"][0].keys() == {"up_to_tokens", "rows"}
    assert (found["trained_pieces"], found["max_length_tokens"]) == (50, 1024)
    assert {"share_of_rows"} <= found["findings"][0].keys()
    assert not {"trained", "share", "max_length"} & found.keys()
