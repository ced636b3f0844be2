"""A data file to rows that can be learned from; and of every row that cannot, all that is wrong with it.

`read` is for one process. Where several share the work, one of them splits the file (`gpu.data.read.source.records`)
and finds its format (`first_format`); `examine` is a pure function of a record, for the others.

All rows of a file have one format: the one that the settings name, or that of its first good row. So nothing is
guessed row by row, and a stray row of another format is told.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from events.settings import DataSettings
from gpu.data.format.example import EXCERPT_CHARACTERS, BadRow, Problem, Row
from gpu.data.format.formats import Format, format_of, read_fields, recognise
from gpu.data.format.problems import PROBLEMS, SEEN_CHARACTERS, WARNED, Findings, kind_of, shown
from gpu.data.read import strict_json
from gpu.data.read.source import Record, records

_WHOLE = "Each line must be one whole JSON object. Correct the line or remove it, then add the file again."


def read(path: Path, settings: DataSettings, tolerated: Container[str] = WARNED) -> Iterator[Row | BadRow | Problem]:
    """The rows of the file at `path`, good and bad, in its order.

    A Problem is one of the file as a whole; it comes last, and the file should be refused. `tolerated`: names of
    problems that do not make a row bad, where a row can be made at all. Raises OSError.
    """
    form = named_format(settings)
    empty = True
    for record in records(path, plain_text=settings.format == "plain_text"):
        if isinstance(record, Problem):
            yield record
            return
        empty = False
        row, problems, form_of_row = _examine(record, form, settings)
        judged = row if row is not None and not problems else _judge(record, row, problems, tolerated)
        if form is None and not isinstance(judged, BadRow):
            form = form_of_row
        yield judged
    if empty:
        advice = "Put one JSON object on each line, then add it again."
        yield Problem("empty_file", None, "The file has no rows", "", advice)


def examine(record: Record, form: str | None, settings: DataSettings) -> tuple[Row | None, tuple[Problem, ...]]:
    """The row that a record is, and everything to be said about it. None: no row can be made of it.

    So a row with problems is one that can be learned from: whether it is, is for the caller to say, by their levels in
    `gpu.data.format.problems.PROBLEMS`.
    """
    row, problems, _ = _examine(record, form, settings)
    return row, problems


def first_format(path: Path, settings: DataSettings, tolerated: Container[str] = WARNED) -> str | None:
    """The format of the file at `path`, as `read` finds it; None: there is no good row in it. Raises OSError."""
    named = named_format(settings)
    if named is not None:
        return named
    for record in records(path):
        if isinstance(record, Record):
            row, problems, form = _examine(record, None, settings)
            if not isinstance(_judge(record, row, problems, tolerated), BadRow):
                return form
    return None


def named_format(settings: DataSettings) -> str | None:
    """The format that the settings name; None: the file's own."""
    if settings.format == "plain_text":
        return "plain_text"
    if settings.prompt is not None or settings.completion is not None:
        return "prompt_completion"
    return None if settings.format == "auto" else settings.format


def as_line(record: Record) -> bytes:
    """A record as a line of JSON Lines, to be put aside and mended."""
    if record.fields is not None:
        return shown(record.fields).encode()
    return record.raw.replace(b"\r", b"").replace(b"\n", b" ")  # between tokens; within a string both are escaped


def _examine(
    record: Record, form: str | None, settings: DataSettings
) -> tuple[Row | None, tuple[Problem, ...], str | None]:
    fields: Any = record.fields
    if fields is None:
        text = _text(record)
        if not isinstance(text, str):
            return None, (text,), form
        if form == "plain_text":
            fields = {"text": text.replace("\r\n", "\n").removesuffix("\r")}
        else:
            try:
                fields = strict_json.loads(text)
            except strict_json.NotStrict as error:
                return None, tuple(_fault(record, text, fault) for fault in error.faults), form
            if type(fields) is not dict:
                advice = 'A row looks like {"prompt": "…", "completion": "…"}.'
                what = f"this is {kind_of(fields)}, not a JSON object"
                return None, (Problem("data_type", record.line, what, text[:SEEN_CHARACTERS], advice),), form
    found = Findings(record.line)
    chosen = recognise(fields, found) if form is None else format_of(form, settings)
    if chosen is None or (form is not None and _is_other(fields, chosen, found)):
        return None, tuple(found.problems), form
    row = read_fields(fields, chosen, found)
    return row, tuple(found.problems) if found.problems else (), chosen.name


def _is_other(fields: dict[str, Any], chosen: Format, found: Findings) -> bool:
    """Whether a row is not of the format of its file, but of another: what is missing in it is not the point then."""
    if chosen.fits(fields):
        return False
    aside = Findings(found.line)
    other = recognise(fields, aside)
    if other is not None and other.name != chosen.name:
        what = f"a row of the format {other.name} in a file of {chosen.name}"
        advice = "All rows of a file need one format. Put this one into a file of its own, then add both."
        found.add("mixed_formats", what, ", ".join(fields), advice)
    elif aside.problems and aside.problems[0].name == "preference_data":
        found.problems += aside.problems
    return bool(found.problems)


def _text(record: Record) -> str | Problem:
    """The text of a record, or why it is none."""
    raw = record.raw
    if b"\0" in raw:
        at = raw.index(b"\0")
        column = record.column + len(raw[:at].decode(errors="replace"))
        advice = "A crash or a copy left them, or it is no text at all. Restore the file, then add it again."
        what = f"there are NUL bytes in it, the first at byte {at + 1}"
        return Problem("nul_bytes", record.line, what, _visible(raw), advice, column)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        at = error.start
        column = record.column + len(raw[:at].decode())
        advice = "keepstep reads UTF-8. Convert the file (`iconv -f WINDOWS-1252 -t UTF-8`?), then add it again."
        what = f"byte {at + 1} of it (0x{raw[at]:02x}) is not UTF-8"
        return Problem("not_utf8", record.line, what, _visible(raw), advice, column)


def _visible(raw: bytes) -> str:
    return repr(raw[:200])[2:-1]


def _fault(record: Record, text: str, fault: strict_json.Fault) -> Problem:
    line, column = strict_json.place(text, fault.position)
    if line == 1:
        column += record.column - 1
    name, what, advice = fault.name, fault.what, _WHOLE
    if fault.cut and not record.whole:
        name, what = "truncated_last_line", f"the last line ends in the middle: {what}"
        advice = "The file is incomplete: copy or download it once more. Or remove the line, then add the file again."
    elif fault.cut:
        advice = "Does the object go on in the next line? `jq -c . FILE` puts each on one line. Or correct the line."
    elif fault.name == "broken_json" and fault.position == 0 and record.line == 1:
        advice = "Is it prose? Then give the file a name that ends in .txt or .md. " + _WHOLE
    return Problem(name, record.line + line - 1, what, _around(text, fault.position), advice, column)


def _around(text: str, position: int) -> str:
    """The beginning of `text`; or, where that does not show `position`, what is around it."""
    before = EXCERPT_CHARACTERS // 2
    if position < before:
        return text[:SEEN_CHARACTERS]
    return f"…{text[position - before : position + SEEN_CHARACTERS]}"


def _judge(record: Record, row: Row | None, problems: tuple[Problem, ...], tolerated: Container[str]) -> Row | BadRow:
    """`row`, if all that is wrong with it is tolerated."""
    if row is not None and all(problem.name in tolerated for problem in problems):
        return row
    worst_first = sorted(
        problems, key=lambda problem: problem.name in tolerated and PROBLEMS[problem.name].level == "warn"
    )
    return BadRow(record.line, record.raw, tuple(worst_first))
