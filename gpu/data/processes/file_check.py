"""Check data files as preparation does: `python -P -m gpu.data.processes.file_check`, with a `Check` as JSON argument.

The code, the settings and the report are those of preparation; the home is only read. Prints `Checked` or a `Refusal`
as one line of JSON, and its progress on standard error if that is a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from msgspec.structs import replace

from events.settings import JobSettings
from gpu.artifacts.manifest import describe
from gpu.data.encode.encoder import Encoder
from gpu.data.examine.examination import Examination, FileFacts, KnownRows
from gpu.data.examine.report import Report
from gpu.data.examine.report_files import read_earlier_rows
from gpu.data.format.rows import find_format
from gpu.data.plan.cache import token_cache
from gpu.data.plan.chunk import Chunk, ChunkEncoder
from gpu.data.plan.held_out import read_validation_set
from gpu.data.plan.prepare import PreparationContext, examine_file, untrained_rows
from gpu.data.plan.preview import PREVIEW_CHARACTERS, ROW_CHARACTERS, Preview
from gpu.data.plan.store import TokenCounter
from gpu.data.problems import tolerated_problems
from gpu.data.processes.encoder_pool import core_count, preparation_context
from gpu.data.read.record import Record
from gpu.data.read.source import describe_container, holds_plain_text, read_records
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.ipc.protocol import Check, Checked, run_request
from gpu.model.tokenizer import block_torch_import, load_tokenizer
from gpu.model.training_memory import load_shape
from journal.durable import opened
from journal.storage import REAL, path_of


def check(order: Check) -> Checked:
    """Return a report or the wanted row of each file. Raises WorkerError, OSError, ValueError."""
    home, settings = Path(order.home), order.settings
    tokenizer = load_tokenizer(settings.model, home)
    sha256 = tokenizer_sha256(tokenizer)
    context = preparation_context(home, settings, tokenizer, sha256, token_cache(home), core_count(), records=False)
    with ExitStack() as stack:
        validation = stack.enter_context(_open_once(Path(order.validation))) if order.validation else None
        examined = [_check_file(Path(file), validation, order, context) for file in order.files]
    return Checked(
        reports=tuple(report for report, _ in examined if report is not None),
        previews=tuple(tuple(preview.rows) for _, preview in examined),
        shape=load_shape(settings, home),
    )


@contextmanager
def _open_once(path: Path) -> Iterator[Path]:
    """Open the file at `path`; yield another path that leads to the open file, whatever happens to its name.

    Raises OSError.
    """
    with opened(REAL, path, os.O_RDONLY) as fd:
        yield path_of(fd, path)


def _check_file(
    path: Path, validation: Path | None, order: Check, context: PreparationContext
) -> tuple[Report | None, Preview]:
    with _open_once(path) as held:
        settings = order.settings
        if str(path) in order.plain_text and holds_plain_text(held):
            settings = replace(settings, data=replace(settings.data, format="plain_text"))
        found = read_validation_set(validation, settings.data)
        known = KnownRows(found.content, (), found.problems)
        if order.row is not None:
            return None, _preview_row(held, order.row, settings, known, context)
        preview = Preview(context.tokenizer, range(1, order.preview + 1), PREVIEW_CHARACTERS)
        return _report(held, path, settings, known, context, preview), preview


def _preview_row(
    path: Path, number: int, settings: JobSettings, known: KnownRows, context: PreparationContext
) -> Preview:
    """Preview one row of the file at `path`, which is read up to that row. Encodes no other row."""
    preview = Preview(context.tokenizer, range(number, number + 1), ROW_CHARACTERS, first=number)
    records = read_records(path, plain_text=settings.data.format == "plain_text")
    record = next(islice(records, number - 1, None), None)
    if isinstance(record, Record):
        format_name = find_format(path, settings.data, tolerated_problems(settings.checks.rows))
        encode = ChunkEncoder(Encoder(context.tokenizer, settings.data, context.limits), settings, format_name)
        for chunk in preview.watch([Chunk([record], sketched=False)]):
            encoded = encode(chunk)
            preview.add(encoded, untrained_rows(encoded, Examination(settings, known)))
    return preview


def _report(
    held: Path, path: Path, settings: JobSettings, known: KnownRows, context: PreparationContext, preview: Preview
) -> Report:
    """Report on a file. `held` leads to the open file; `path` is its name."""
    found = describe(held)
    others = tuple(job for job in settings.sources.replay if job != found.sha256)
    settings = replace(settings, sources=replace(settings.sources, replay=others))
    known = known._replace(earlier=read_earlier_rows(context.home / "reports", found.sha256))
    kind = describe_container(held, plain_text=settings.data.format == "plain_text")
    name = os.fsencode(path.name).decode(errors="backslashreplace")
    file = FileFacts(name, found.sha256, found.size_bytes, kind, None)
    examination = Examination(settings, known, limits=context.limits)

    def show_progress(rows: int) -> None:
        if sys.stderr.isatty():
            shown = name if name.isprintable() else ascii(name)
            sys.stderr.write(f"\r{shown}: {rows:,} rows")

    report = examine_file(held, file, settings, context, examination, TokenCounter(), show_progress, preview)
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return report


def main() -> None:
    """Carry out the order on the command line."""

    def check_without_torch(order: Check) -> Checked:
        block_torch_import(order.settings.model)
        return check(order)

    run_request(Check, check_without_torch)


if __name__ == "__main__":
    main()
