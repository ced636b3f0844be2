"""Helpers that several commands share."""

from __future__ import annotations

from cli.commands.common import count, format_size


def test_sizes_and_counts_are_readable() -> None:
    """In the largest unit that fits; singular for one."""
    assert [format_size(size) for size in (12, 999_999, 1_250_000, 3e9)] == [
        "12 bytes",
        "1000.0 kB",
        "1.2 MB",
        "3.0 GB",
    ]
    assert [count(number, "record") for number in (0, 1, 2)] == ["0 records", "1 record", "2 records"]
