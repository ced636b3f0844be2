"""Parse a data file into rows; a bad row comes with all of its problems.

`read_rows` serves one process. Where several share the work, one of them reads the records
(`gpu.data.read.source.read_records`) and finds the format (`find_format`); the others call `parse_record`, which is
pure.

All rows of a file have one format: the one that the settings name, else that of the first good row. So nothing is
guessed row by row, and a stray row of another format is reported.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from events.settings import DataSettings
from gpu.data.format.example import BadRow, Row
from gpu.data.format.formats import Format, get_format, read_fields, recognise_format
from gpu.data.problems import (
    EXCERPT_CHARACTERS,
    PROBLEMS,
    SEEN_CHARACTERS,
    TOLERATED,
    Findings,
    Problem,
    as_text,
    type_name,
)
from gpu.data.read import strict_json
from gpu.data.read.record import Record
from gpu.data.read.source import read_records

_ONE_OBJECT_A_LINE = "Each line must be one whole JSON object. Correct the line or remove it, then add the file again."


def read_rows(
    path: Path, settings: DataSettings, tolerated: Container[str] = TOLERATED
) -> Iterator[Row | BadRow | Problem]:
    """Yield the rows of the file at `path`, good and bad, in their order.

    A Problem concerns the file as a whole; it comes last, and the file should be refused. `tolerated`: names of
    problems that do not make a row bad, if it can be parsed at all. Raises OSError.
    """
    format_name = configured_format(settings)
    empty = True
    for record in read_records(path, plain_text=settings.format == "plain_text"):
        if isinstance(record, Problem):
            yield record
            return
        empty = False
        row, problems, own_format = _parse(record, format_name, settings)
        judged = row if row is not None and not problems else _judge(record, row, problems, tolerated)
        if format_name is None and not isinstance(judged, BadRow):
            format_name = own_format
        yield judged
    if empty:
        advice = "Put one JSON object on each line, then add it again."
        yield Problem("empty_file", None, "the file has no rows", "", advice)


def parse_record(
    record: Record, format_name: str | None, settings: DataSettings
) -> tuple[Row | None, tuple[Problem, ...]]:
    """Return the row of a record, None if it cannot be parsed, and all of its problems.

    A row with problems can be trained. The caller decides whether it is, by their levels in
    `gpu.data.problems.PROBLEMS`.
    """
    row, problems, _ = _parse(record, format_name, settings)
    return row, problems


def find_format(path: Path, settings: DataSettings, tolerated: Container[str] = TOLERATED) -> str | None:
    """Return the format of the file at `path`, as `read_rows` finds it; None if no row is good. Raises OSError."""
    configured = configured_format(settings)
    if configured is not None:
        return configured
    for record in read_records(path):
        if isinstance(record, Record):
            row, problems, own_format = _parse(record, None, settings)
            if not isinstance(_judge(record, row, problems, tolerated), BadRow):
                return own_format
    return None


def configured_format(settings: DataSettings) -> str | None:
    """Return the format that the settings name; None if each file decides."""
    if settings.format == "plain_text":
        return "plain_text"
    if settings.prompt is not None or settings.completion is not None:
        return "prompt_completion"
    return None if settings.format == "auto" else settings.format


def record_as_line(record: Record) -> bytes:
    """Return a record as a line of JSON Lines, so that the user can correct it and add it again."""
    if record.fields is not None:
        return as_text(record.fields).encode()
    # Line breaks stand between tokens only; within a string they are escaped.
    return record.raw.replace(b"\r", b"").replace(b"\n", b" ")


def _parse(
    record: Record, format_name: str | None, settings: DataSettings
) -> tuple[Row | None, tuple[Problem, ...], str | None]:
    fields: Any = record.fields
    if fields is None:
        text = _decode(record)
        if not isinstance(text, str):
            return None, (text,), format_name
        if format_name == "plain_text":
            fields = {"text": text.replace("\r\n", "\n").removesuffix("\r")}
        else:
            try:
                fields = strict_json.loads(text)
            except strict_json.InvalidJson as error:
                return None, tuple(_json_problem(record, text, fault) for fault in error.faults), format_name
            if type(fields) is not dict:
                advice = 'A row looks like {"prompt": "…", "completion": "…"}.'
                what = f"the row is {type_name(fields)}, not a JSON object"
                return None, (Problem("data_type", record.line, what, text[:SEEN_CHARACTERS], advice),), format_name
    found = Findings(record.line)
    chosen = recognise_format(fields, found) if format_name is None else get_format(format_name, settings)
    if chosen is None or (format_name is not None and _has_other_format(fields, chosen, found)):
        return None, tuple(found.problems), format_name
    row = read_fields(fields, chosen, found)
    return row, tuple(found.problems) if found.problems else (), chosen.name


def _has_other_format(fields: dict[str, Any], chosen: Format, found: Findings) -> bool:
    """True if the row has not the format of its file, but another one: then missing fields are not the point."""
    if chosen.fits(fields):
        return False
    other_findings = Findings(found.line)
    other = recognise_format(fields, other_findings)
    if other is not None and other.name != chosen.name:
        what = f"the row has the format {other.name}, and the file has {chosen.name}; its fields are"
        advice = "All rows of a file need one format. Move this row to another file, then add both."
        found.add("mixed_formats", what, ", ".join(fields), advice)
    elif other_findings.problems and other_findings.problems[0].name == "preference_data":
        found.problems += other_findings.problems
    return bool(found.problems)


def _decode(record: Record) -> str | Problem:
    """Return the text of a record, or the problem that it is none."""
    raw = record.raw
    if b"\0" in raw:
        at = raw.index(b"\0")
        column = record.column + len(raw[:at].decode(errors="replace"))
        advice = "A crash or a copy left them, or the file is not text at all. Restore the file, then add it again."
        what = f"the row contains NUL bytes, the first at byte {at + 1}"
        return Problem("nul_bytes", record.line, what, _visible(raw), advice, column)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        at = error.start
        column = record.column + len(raw[:at].decode())
        advice = "keepstep reads UTF-8. Convert the file (`iconv -f WINDOWS-1252 -t UTF-8`?), then add it again."
        what = f"byte {at + 1} of the row (0x{raw[at]:02x}) is not UTF-8"
        return Problem("not_utf8", record.line, what, _visible(raw), advice, column)


def _visible(raw: bytes) -> str:
    return repr(raw[:200])[2:-1]


def _json_problem(record: Record, text: str, fault: strict_json.JsonFault) -> Problem:
    line, column = strict_json.line_and_column(text, fault.position)
    if line == 1:
        column += record.column - 1
    name, what, advice = fault.name, fault.what, _ONE_OBJECT_A_LINE
    if fault.is_cut and not record.whole:
        name, what = "truncated_last_line", f"the last line ends in the middle: {what}"
        advice = "The file is incomplete: copy or download it again. Or remove the line, then add the file again."
    elif fault.is_cut:
        advice = "If the object continues in the next line, `jq -c . FILE` puts each on one line. Or correct the line."
    elif fault.name == "broken_json" and fault.position == 0 and record.line == 1:
        advice = "If the file is plain text, give it a name that ends in .txt or .md. " + _ONE_OBJECT_A_LINE
    return Problem(name, record.line + line - 1, what, _around(text, fault.position), advice, column)


def _around(text: str, position: int) -> str:
    """Return the beginning of `text`, or the text around `position` if the beginning does not show it."""
    before = EXCERPT_CHARACTERS // 2
    if position < before:
        return text[:SEEN_CHARACTERS]
    return f"…{text[position - before : position + SEEN_CHARACTERS]}"


def _judge(record: Record, row: Row | None, problems: tuple[Problem, ...], tolerated: Container[str]) -> Row | BadRow:
    """Return `row` if all of its problems are tolerated, else a BadRow."""
    if row is not None and all(problem.name in tolerated for problem in problems):
        return row
    worst_first = sorted(
        problems, key=lambda problem: problem.name in tolerated and PROBLEMS[problem.name].level == "warn"
    )
    return BadRow(record.line, record.raw, tuple(worst_first))
