"""Check data files as preparation does: `python -P -m gpu.data.processes.file_check`, with a `Check` as JSON argument.

The code, the settings and the report are those of preparation; the home is only read. Prints `Checked` or a `Refusal`
as one line of JSON, and its progress on standard error if that is a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec.structs import replace

from gpu.artifacts.manifest import describe
from gpu.data.examine.examination import Examination, FileFacts, KnownRows
from gpu.data.examine.report import Report
from gpu.data.examine.report_files import read_earlier_rows
from gpu.data.plan.cache import token_cache
from gpu.data.plan.held_out import read_validation_set
from gpu.data.plan.prepare import PreparationContext, examine_file
from gpu.data.plan.store import TokenCounter
from gpu.data.processes.encoder_pool import core_count, preparation_context
from gpu.data.read.source import describe_container, holds_plain_text
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.ipc.protocol import Check, Checked, run_request
from gpu.model.tokenizer import block_torch_import, load_tokenizer
from journal.durable import opened
from journal.storage import REAL, path_of


def check(order: Check) -> Checked:
    """Return a report for each file. Raises WorkerError, OSError, ValueError."""
    home, settings = Path(order.home), order.settings
    tokenizer = load_tokenizer(settings.model, home)
    sha256 = tokenizer_sha256(tokenizer)
    context = preparation_context(home, settings, tokenizer, sha256, token_cache(home), core_count(), records=False)
    with ExitStack() as stack:
        validation = stack.enter_context(_open_once(Path(order.validation))) if order.validation else None
        return Checked(reports=tuple(_check_file(Path(file), validation, order, context) for file in order.files))


@contextmanager
def _open_once(path: Path) -> Iterator[Path]:
    """Open the file at `path`; yield another path that leads to the open file, whatever happens to its name.

    Raises OSError.
    """
    with opened(REAL, path, os.O_RDONLY) as fd:
        yield path_of(fd, path)


def _check_file(path: Path, validation: Path | None, order: Check, context: PreparationContext) -> Report:
    with _open_once(path) as held:
        return _check_open_file(held, path, validation, order, context)


def _check_open_file(
    held: Path, path: Path, validation_path: Path | None, order: Check, context: PreparationContext
) -> Report:
    """Check a file. `held` leads to the open file; `path` is its name."""
    settings, found = order.settings, describe(held)
    if str(path) in order.plain_text and holds_plain_text(held):
        settings = replace(settings, data=replace(settings.data, format="plain_text"))
    validation = read_validation_set(validation_path, settings.data)
    earlier = read_earlier_rows(context.home / "reports", found.sha256)
    known = KnownRows(validation.content, earlier, validation.problems)
    kind = describe_container(held, plain_text=settings.data.format == "plain_text")
    name = os.fsencode(path.name).decode(errors="backslashreplace")
    file = FileFacts(name, found.sha256, found.size_bytes, kind, None)
    examination = Examination(settings, known, limits=context.limits)

    def show_progress(rows: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{path.name}: {rows:,} rows")

    report = examine_file(held, file, settings, context, examination, TokenCounter(), show_progress)
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
