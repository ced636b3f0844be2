"""The rows of a Parquet file, a batch at a time. Needs pyarrow, which is an extra.

A few kilobytes of Parquet can stand for terabytes: a page is compressed, and a dictionary's entry is repeated by its
number. So what a row group may grow to is worked out first. Where that is out of proportion to its size in the file,
its texts are read as numbers into the dictionary, and are only written out in pieces that fit.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from gpu.data.read.source import LONGEST_BYTES, SWELLS_LEAST_BYTES, SWELLS_MAX, Record, Stop, swollen, too_long

BATCH_BYTES = 4 * 2**20
"""Of rows turned into objects at a time; as objects they take some ten times as much."""

MOST_ROWS = 64
"""In a batch, however small they are: what a batch costs by itself is little, and rows may be larger than they look."""

MOST_GROUP_BYTES = 2**30
"""What a row group may grow to before it is read with care."""


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
        rows = parquet.ParquetFile(file)
        _check_names(rows.schema_arrow.names)
        careful = parquet.ParquetFile(file, metadata=rows.metadata, read_dictionary=_texts(rows))
        for group in range(rows.num_row_groups):
            _check_pages(rows.metadata.row_group(group))
            if _may_grow_to(careful, group) <= MOST_GROUP_BYTES:
                size = _batch_rows(rows.metadata)
                batches = rows.iter_batches(batch_size=size, row_groups=[group], use_threads=False)
            else:
                batches = _careful_batches(careful, group, rows.schema_arrow, os.fstat(file.fileno()).st_size)
            for batch in batches:
                for fields in batch.to_pylist():
                    row += 1
                    yield Record(row, b"", fields=_without_nulls(fields))
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's own; pyarrow says of its files what it says of disks
        what = f"the Parquet file cannot be read behind row {row} ({error})"
        raise Stop("broken_parquet", None, what, "Write or download it once more, then add it again.") from error


def _texts(file: Any) -> list[str]:
    """The columns that hold texts or bytes, by their paths."""
    columns = (file.schema.column(index) for index in range(len(file.schema)))
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _check_pages(group: Any) -> None:
    """Stop at a column that unpacks out of all proportion: a single page of it may fill the memory."""
    for index in range(group.num_columns):
        column = group.column(index)
        packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
        if unpacked > max(SWELLS_LEAST_BYTES, SWELLS_MAX * packed):
            raise swollen(packed, unpacked)


def _may_grow_to(file: Any, group: int) -> int:
    """Bytes that the texts of a row group may take when each is the longest of its dictionary; 0 where that is in
    proportion to what they take in the file."""
    metadata = file.metadata.row_group(group)
    columns = {metadata.column(index).path_in_schema: metadata.column(index) for index in range(metadata.num_columns)}
    if not any(column.has_dictionary_page for column in columns.values()):
        return 0
    first = next(file.iter_batches(batch_size=1, row_groups=[group], use_threads=False), None)
    if first is None:
        return 0
    longest = _longest(first)
    values = sum(column.num_values for column in columns.values() if column.has_dictionary_page)
    packed = sum(column.total_compressed_size for column in columns.values())
    return values * longest if values * longest > SWELLS_MAX * packed else 0


def _careful_batches(file: Any, group: int, schema: Any, file_bytes: int) -> Iterator[Any]:
    """Batches of rows that fit into memory when they are written out. Raises Stop."""
    row = written = 0
    for batch in file.iter_batches(batch_size=MOST_ROWS, row_groups=[group], use_threads=False):
        for piece, piece_bytes in _pieces(batch):
            if piece_bytes > LONGEST_BYTES:
                raise too_long(row + 1)
            written += piece_bytes
            if written > max(SWELLS_LEAST_BYTES, SWELLS_MAX * file_bytes):
                raise swollen(file_bytes, written)
            row += piece.num_rows
            yield piece.cast(schema)


def _pieces(batch: Any) -> Iterator[tuple[Any, int]]:
    """A batch cut into halves until each piece fits, or is a single row; with the bytes that it takes."""
    size_bytes = sum(_written_bytes(column) for column in batch.columns)
    if size_bytes <= BATCH_BYTES or batch.num_rows <= 1:
        yield batch, size_bytes
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))


def _leaves(array: Any) -> Iterator[Any]:
    """The arrays of plain values that a nested one is made of."""
    import pyarrow.types as kinds

    if kinds.is_struct(array.type):
        for part in array.flatten():
            yield from _leaves(part)
    elif kinds.is_map(array.type):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif kinds.is_list(array.type) or kinds.is_large_list(array.type) or kinds.is_fixed_size_list(array.type):
        yield from _leaves(array.flatten())
    else:
        yield array


def _written_bytes(array: Any) -> int:
    """What an array takes when each entry of a dictionary is written out wherever it is used."""
    import pyarrow.compute as compute
    import pyarrow.types as kinds

    total = 0
    for leaf in _leaves(array):
        if kinds.is_dictionary(leaf.type):
            lengths = compute.binary_length(leaf.dictionary).take(leaf.indices)
            total += compute.sum(lengths.cast("int64")).as_py() or 0
        else:
            total += leaf.nbytes
    return total


def _longest(batch: Any) -> int:
    """Bytes of the longest entry of any dictionary."""
    import pyarrow.compute as compute
    import pyarrow.types as kinds

    leaves = (leaf for column in batch.columns for leaf in _leaves(column))
    found = (
        compute.max(compute.binary_length(leaf.dictionary)).as_py() for leaf in leaves if kinds.is_dictionary(leaf.type)
    )
    return max((length or 0 for length in found), default=0)


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
