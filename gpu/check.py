"""Data files, looked through as preparation would: `python -P -m gpu.check`, with a `Check` as JSON for its only
argument.

The same code, the same settings, the same report; the home is only read. Prints `Checked` or a `Refusal` as one line of
JSON, and on standard error how far it is, if that is a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec.structs import replace

from gpu.data import record
from gpu.data.cache import token_cache
from gpu.data.encode import tokenizer_sha256
from gpu.data.examine import Examination, FileFacts, Known
from gpu.data.prepare import Preparation, gone_through
from gpu.data.report import Report
from gpu.data.source import container_of, holds_prose
from gpu.data.store import Counter
from gpu.encoders import core_count, preparation
from gpu.exchange import Check, Checked, reply
from gpu.manifest import describe
from gpu.tokenizer import keep_torch_out, load_tokenizer
from journal.durable import opened
from journal.storage import REAL, path_of


def check(order: Check) -> Checked:
    """Raises WorkerError, OSError, ValueError."""
    home, settings = Path(order.home), order.settings
    tokenizer = load_tokenizer(settings.model, home)
    sha256 = tokenizer_sha256(tokenizer)
    how = preparation(home, settings, tokenizer, sha256, token_cache(home), core_count(), records=False)
    with ExitStack() as stack:
        validation = stack.enter_context(_opened_once(Path(order.validation))) if order.validation else None
        return Checked(reports=tuple(_report(Path(file), validation, order, how) for file in order.files))


@contextmanager
def _opened_once(path: Path) -> Iterator[Path]:
    """Another path for the file at `path`, which stands for the open file: nobody can exchange that between two looks.

    Raises OSError.
    """
    with opened(REAL, path, os.O_RDONLY) as fd:
        yield path_of(fd, path)


def _report(path: Path, validation: Path | None, order: Check, how: Preparation) -> Report:
    with _opened_once(path) as held:
        return _report_of_open(held, path, validation, order, how)


def _report_of_open(held: Path, path: Path, validation: Path | None, order: Check, how: Preparation) -> Report:
    """`held`: the open file; `path`: its name."""
    settings, found = order.settings, describe(held)
    if str(path) in order.plain_text and holds_prose(held):
        settings = replace(settings, data=replace(settings.data, format="plain_text"))
    held_out = record.validation_rows(validation, settings.data)
    earlier = record.earlier_rows(how.home / "reports", found.sha256)
    known = Known(held_out.content, earlier, held_out.problems)
    kind = container_of(held, plain_text=settings.data.format == "plain_text")
    name = os.fsencode(path.name).decode(errors="backslashreplace")
    file = FileFacts(name, found.sha256, found.size_bytes, kind, None)
    examination = Examination(settings, known, limits=how.limits)

    def look(rows: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{path.name}: {rows:,} rows")

    report = gone_through(held, file, settings, how, examination, Counter(), look)
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return report


def main() -> None:
    """Carry out the order on the command line."""

    def alone(order: Check) -> Checked:
        keep_torch_out(order.settings.model)
        return check(order)

    reply(Check, alone)


if __name__ == "__main__":
    main()
