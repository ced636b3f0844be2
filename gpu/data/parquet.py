"""The rows of a Parquet file, a batch at a time. Needs pyarrow, which is an extra."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from gpu.data.source import Record, Stop

BATCH_BYTES = 4 * 2**20
"""Of rows turned into objects at a time; as objects they take some ten times as much."""

MOST_ROWS = 4096
"""In a batch, however small they are."""


def parquet_records(file: BinaryIO) -> Iterator[Record]:
    """The rows of an open file. Raises Stop, and OSError."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        advice = "Install it: `pip install 'keepstep[parquet]'`. Then add the file again."
        what = "this is a Parquet file, and reading one needs pyarrow"
        raise Stop("parquet_needs_pyarrow", None, what, advice) from error
    row = 0
    try:
        with parquet.ParquetFile(file) as rows:
            _check_names(rows.schema_arrow.names)
            for batch in rows.iter_batches(batch_size=_batch_rows(rows.metadata), use_threads=False):
                for fields in batch.to_pylist():
                    row += 1
                    yield Record(row, b"", fields=_without_nulls(fields))
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's own; pyarrow says of its files what it says of disks
        what = f"the Parquet file cannot be read behind row {row} ({error})"
        raise Stop("broken_parquet", None, what, "Write or download it once more, then add it again.") from error


def _check_names(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        advice = "Rename one of them, then add the file again."
        raise Stop("broken_parquet", None, f"two columns are called {twice[0]!r}: which one is meant?", advice)


def _batch_rows(metadata: Any) -> int:
    """So many that they are about BATCH_BYTES in the largest row group."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return int(max(1, min(MOST_ROWS, BATCH_BYTES // max(1, row_bytes))))


def _without_nulls(value: Any) -> Any:
    """All objects of a column have the same keys, those that one has not being null: they are taken out again."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value
