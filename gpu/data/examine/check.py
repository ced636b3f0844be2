"""Data files, looked through as preparation would: `python -P -m gpu.data.examine.check`, with a `Check` as JSON for
its only argument.

The same code, the same settings, the same report; the home is only read. Prints `Checked` or a `Refusal` as one line of
JSON, and on standard error how far it is, if that is a terminal.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from msgspec.structs import replace

from gpu.artifacts.manifest import describe
from gpu.data.encode.encoder_pool import core_count, preparation
from gpu.data.encode.rows import tokenizer_sha256
from gpu.data.examine import record
from gpu.data.examine.examination import Examination, FileFacts, Known
from gpu.data.examine.report import Report
from gpu.data.plan.cache import token_cache
from gpu.data.plan.prepare import Preparation, examine_file
from gpu.data.plan.store import Counter
from gpu.data.read.source import container_of
from gpu.ipc.protocol import Check, Checked, run_request
from gpu.model.tokenizer import block_torch_import, load_tokenizer


def check(order: Check) -> Checked:
    """Raises WorkerError, OSError, ValueError."""
    home, settings = Path(order.home), order.settings
    tokenizer = load_tokenizer(settings.model, home)
    sha256 = tokenizer_sha256(tokenizer)
    how = preparation(home, settings, tokenizer, sha256, token_cache(home), core_count(), records=False)
    return Checked(reports=tuple(_report(Path(file), order, how) for file in order.files))


def _report(path: Path, order: Check, how: Preparation) -> Report:
    settings, found = order.settings, describe(path)
    if str(path) in order.plain_text:
        settings = replace(settings, data=replace(settings.data, format="plain_text"))
    held_out = record.validation_rows(Path(order.validation) if order.validation else None, settings.data)
    earlier = record.earlier_rows(how.home / "reports", found.sha256)
    known = Known(held_out.content, earlier, held_out.problems)
    kind = container_of(path, plain_text=settings.data.format == "plain_text")
    name = os.fsencode(path.name).decode(errors="backslashreplace")
    file = FileFacts(name, found.sha256, found.size_bytes, kind, None)
    examination = Examination(settings, known, limits=how.limits)

    def look(rows: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{path.name}: {rows:,} rows")

    report = examine_file(path, file, settings, how, examination, Counter(), look)
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return report


def main() -> None:
    """Carry out the order on the command line."""

    def alone(order: Check) -> Checked:
        block_torch_import(order.settings.model)
        return check(order)

    run_request(Check, alone)


if __name__ == "__main__":
    main()
