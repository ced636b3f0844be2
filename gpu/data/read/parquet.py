"""Read the rows of a Parquet file, a batch at a time. Needs pyarrow, which is an extra.

A few kilobytes of Parquet can stand for terabytes: pages are compressed, and a dictionary entry is repeated by its
number. So the size of each row group is estimated first. Where it is out of proportion to its size in the file, its
texts are read as dictionary indices and expanded only in pieces that fit.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from gpu.data.read.record import (
    GROWTH_MAX,
    RECORD_MAX_BYTES,
    UNPACKED_FREE_BYTES,
    Record,
    UnreadableFile,
    decompression_bomb,
    too_long,
)

BATCH_BYTES = 4 * 2**20
"""Bytes of rows that are converted to objects at a time; as objects they take some ten times as much."""

BATCH_ROWS_MAX = 64
"""Rows of a batch, however small they are: a batch costs little by itself, and rows may be larger than they look."""

GROUP_MAX_BYTES = 2**30
"""Bytes to which a row group may grow before its texts are read as dictionary indices."""


def read_parquet(file: BinaryIO) -> Iterator[Record]:
    """Yield the rows of an open file. Raises UnreadableFile, OSError."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        advice = "Install it: `pip install 'keepstep[parquet]'`. Then add the file again."
        what = "the file is a Parquet file, and pyarrow, which reads it, is not installed"
        raise UnreadableFile("parquet_needs_pyarrow", None, what, advice) from error
    row = 0
    try:
        rows = parquet.ParquetFile(file)
        _check_names(rows.schema_arrow.names)
        indexed = parquet.ParquetFile(file, metadata=rows.metadata, read_dictionary=_text_columns(rows))
        for group in range(rows.num_row_groups):
            _check_growth(rows.metadata.row_group(group))
            if _estimate_text_bytes(indexed, group) <= GROUP_MAX_BYTES:
                size = _batch_rows(rows.metadata)
                batches = rows.iter_batches(batch_size=size, row_groups=[group], use_threads=False)
            else:
                batches = _expanded_batches(indexed, group, rows.schema_arrow, os.fstat(file.fileno()).st_size)
            for batch in batches:
                for fields in batch.to_pylist():
                    row += 1
                    yield Record(row, b"", fields=_without_nulls(fields))
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; pyarrow raises OSError for bad files too, without an errno
        what = f"the Parquet file cannot be read after row {row} ({error})"
        raise UnreadableFile("broken_parquet", None, what, "Write or download it again, then add it again.") from error


def _text_columns(file: Any) -> list[str]:
    """Return the paths of the columns that hold texts or bytes."""
    columns = (file.schema.column(index) for index in range(len(file.schema)))
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _check_growth(group: Any) -> None:
    """Raise UnreadableFile for a column that grows out of proportion: a single page of it may fill the memory."""
    for index in range(group.num_columns):
        column = group.column(index)
        packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
        if unpacked > max(UNPACKED_FREE_BYTES, GROWTH_MAX * packed):
            raise decompression_bomb(packed, unpacked)


def _estimate_text_bytes(file: Any, group: int) -> int:
    """Return how many bytes the texts of a row group take if each is the longest of its dictionary; 0 where that is in
    proportion to their size in the file."""
    metadata = file.metadata.row_group(group)
    columns = {metadata.column(index).path_in_schema: metadata.column(index) for index in range(metadata.num_columns)}
    if not any(column.has_dictionary_page for column in columns.values()):
        return 0
    first = next(file.iter_batches(batch_size=1, row_groups=[group], use_threads=False), None)
    if first is None:
        return 0
    longest = _longest_entry(first)
    values = sum(column.num_values for column in columns.values() if column.has_dictionary_page)
    packed = sum(column.total_compressed_size for column in columns.values())
    return values * longest if values * longest > GROWTH_MAX * packed else 0


def _expanded_batches(file: Any, group: int, schema: Any, file_bytes: int) -> Iterator[Any]:
    """Yield batches of rows that fit into memory when their texts are expanded. Raises UnreadableFile."""
    row = expanded = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS_MAX, row_groups=[group], use_threads=False):
        for piece, piece_bytes in _split_batch(batch):
            if piece_bytes > RECORD_MAX_BYTES:
                raise too_long(row + 1)
            expanded += piece_bytes
            if expanded > max(UNPACKED_FREE_BYTES, GROWTH_MAX * file_bytes):
                raise decompression_bomb(file_bytes, expanded)
            row += piece.num_rows
            yield piece.cast(schema)


def _split_batch(batch: Any) -> Iterator[tuple[Any, int]]:
    """Halve a batch until each piece fits or is a single row; yield each with its expanded bytes."""
    size_bytes = sum(_expanded_bytes(column) for column in batch.columns)
    if size_bytes <= BATCH_BYTES or batch.num_rows <= 1:
        yield batch, size_bytes
        return
    half = batch.num_rows // 2
    yield from _split_batch(batch.slice(0, half))
    yield from _split_batch(batch.slice(half))


def _leaves(array: Any) -> Iterator[Any]:
    """Yield the arrays of plain values in a nested array."""
    import pyarrow.types as types

    if types.is_struct(array.type):
        for part in array.flatten():
            yield from _leaves(part)
    elif types.is_map(array.type):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        yield from _leaves(array.flatten())
    else:
        yield array


def _expanded_bytes(array: Any) -> int:
    """Return the bytes of an array with each dictionary entry expanded wherever it is used."""
    import pyarrow.compute as compute
    import pyarrow.types as types

    total = 0
    for leaf in _leaves(array):
        if types.is_dictionary(leaf.type):
            lengths = compute.binary_length(leaf.dictionary).take(leaf.indices)
            total += compute.sum(lengths.cast("int64")).as_py() or 0
        else:
            total += leaf.nbytes
    return total


def _longest_entry(batch: Any) -> int:
    """Return the bytes of the longest dictionary entry."""
    import pyarrow.compute as compute
    import pyarrow.types as types

    leaves = (leaf for column in batch.columns for leaf in _leaves(column))
    found = (
        compute.max(compute.binary_length(leaf.dictionary)).as_py() for leaf in leaves if types.is_dictionary(leaf.type)
    )
    return max((length or 0 for length in found), default=0)


def _check_names(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        advice = "Rename or remove one of them, then add the file again."
        raise UnreadableFile("broken_parquet", None, f"two columns are called {twice[0]!r}", advice)


def _batch_rows(metadata: Any) -> int:
    """Return how many rows of the largest row group take about BATCH_BYTES."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return int(max(1, min(BATCH_ROWS_MAX, BATCH_BYTES // max(1, row_bytes))))


def _without_nulls(value: Any) -> Any:
    """Remove null keys: all objects of a column have the same keys, and those that an object lacks are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value
