"""The report on a data file as text and as JSON.

Every percentage of the report is a share of the rows of the file, or says "of the tokens".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.commands.common import count, format_size
from cli.output.terminal import ATTENTION, BAD, GOOD, Row, can_print

if TYPE_CHECKING:
    from gpu.data.examine.report import Bucket, Finding, Report

HISTOGRAM_COLUMNS = 60
"""Columns of the histogram, with the names of the lines before it."""

NAME_COLUMNS = 9
"""Columns of the names: the longest is `verdict`, and two spaces follow."""


def report_rows(report: Report) -> list[Row]:
    """The report, without its findings."""
    rows_are = f" of {report.rows_are}" if report.rows_are else ""
    rows = [
        Row("file", f"{report.file}  ({report.kind}{rows_are}, {format_size(report.size_bytes)})", "bold"),
        Row("verdict", report.verdict, GOOD if report.verdict == "good" else f"bold {BAD}"),
        Row("rows", _row_counts(report)),
        Row("tokens", _token_counts(report)),
    ]
    if (found := report.quantiles) is not None:
        limit = f"; max_length {report.max_length:,}" if report.max_length else ""
        text = f"min {found.min:,}, p50 {found.p50:,}, p90 {found.p90:,}, p99 {found.p99:,}, max {found.max:,} tokens"
        rows.append(Row("lengths", text + limit))
    return [*rows, *_histogram(report.lengths)]


def _row_counts(report: Report) -> str:
    counts = {
        "bad": report.bad_rows,
        "dropped as too long": report.dropped_rows,
        "held out": report.held_out_rows,
        "cut": report.truncated_rows,
        "split": report.split_rows,
    }
    named = [f"{number:,} {what} ({number / report.rows:.1%})" for what, number in counts.items() if number]
    return ", ".join([f"{report.rows:,}", *named])


def _token_counts(report: Report) -> str:
    """The tokens. Cut tokens are not in `report.tokens`."""
    text = f"{report.tokens:,}"
    if report.tokens:
        share = report.trained_tokens / report.tokens
        text += f", {report.trained_tokens:,} of them trained ({share:.1%} of the tokens)"
    if not report.cut_tokens:
        return text
    total = report.tokens + report.cut_tokens
    return f"{text}; {report.cut_tokens:,} more are cut off or dropped ({report.cut_tokens / total:.1%} of the tokens)"


def finding_rows(finding: Finding) -> list[Row]:
    """A finding, and the first rows that have it."""
    styles = {"refuse": BAD, "skip": ATTENTION, "warn": ATTENTION}
    share = f" ({count(finding.count, 'row')}, {finding.share:.1%} of the rows)" if finding.count else ""
    rows: list[Row] = [Row(finding.severity, f"{finding.name}: {finding.message}{share}", styles[finding.severity])]
    for place in finding.places:
        what = f"{place.what}: " if place.what != finding.message and place.seen else place.what * (not place.seen)
        rows.append(Row("", f"  {place.where}  {what}{place.seen}"))
    if finding.count > len(finding.places) > 0:
        rows.append(Row("", f"  … and {finding.count - len(finding.places):,} more"))
    if finding.advice:
        rows.append(Row("", f"  → {finding.advice}"))
    return rows


def _histogram(buckets: Sequence[Bucket]) -> list[Row]:
    """A bar for the rows of each range of lengths; it starts at the shortest row."""
    if not buckets:
        return []
    first = next(place for place, bucket in enumerate(buckets) if bucket.rows)
    starts = [1, *(bucket.up_to + 1 for bucket in buckets[:-1])]
    block, dash = ("█", "–") if can_print("█–") else ("#", "-")
    cells = [
        (f"{start:,}", f"{bucket.up_to:,}", f"{bucket.rows:,}")
        for start, bucket in zip(starts[first:], buckets[first:], strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    columns = HISTOGRAM_COLUMNS - NAME_COLUMNS - sum(widths) - 6
    most = max((bucket.rows for bucket in buckets), default=0)
    rows = []
    for (start, end, number), bucket in zip(cells, buckets[first:], strict=True):
        bar = block * -(-columns * bucket.rows // most)
        rows.append(Row("", f"{start:>{widths[0]}} {dash} {end:>{widths[1]}} {number:>{widths[2]}}  {bar}".rstrip()))
    return rows


def report_json(report: Report) -> dict[str, Any]:
    """The report for scripts: each name says what it counts."""
    import msgspec

    stored: dict[str, Any] = msgspec.to_builtins(report)
    names = zip(report.__struct_encode_fields__, report.__struct_fields__, strict=True)  # a stored name may be older
    found = {name: stored[key] for key, name in names}
    found["trained_pieces"], found["replayed_pieces"] = found.pop("trained"), found.pop("replayed")
    found["max_length_tokens"], found["quantiles_tokens"] = found.pop("max_length"), found.pop("quantiles")
    found["lengths"] = [{"up_to_tokens": each.up_to, "rows": each.rows} for each in report.lengths]
    for finding in found["findings"]:
        finding["share_of_rows"] = finding.pop("share")
    return found
