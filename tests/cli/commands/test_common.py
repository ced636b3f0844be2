"""Helpers that several commands share."""

from __future__ import annotations

from contextlib import closing

import pytest
import typer

from cli.commands.common import count, find_job_id, format_size, parse_priority, read_state
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core import commands

A, B = "ab" + "0" * 62, "ab" + "1" * 62


def test_job_is_found_by_name_or_first_digits(home: Home) -> None:
    """A name comes before digits; no match and several matches are refused."""
    with closing(EventStore.open(home)) as store:
        for job, name in ((A, "same.jsonl"), (B, "same.jsonl"), ("c" * 64, "ab")):
            store.execute(commands.AddFile(job=job, name=name, size_bytes=1, priority="normal", known=False))
    state = read_state(home)
    assert find_job_id(state, A) == A
    assert find_job_id(state, "ab1") == B
    assert find_job_id(state, "ab") == "c" * 64
    with pytest.raises(UserError, match="2 jobs match"):
        find_job_id(state, "same.jsonl")
    with pytest.raises(UserError, match="no unfinished job"):
        find_job_id(state, "d")


def test_unknown_priority_is_a_wrong_command_line() -> None:
    """The message names the known ones."""
    assert parse_priority("low") == "low"
    with pytest.raises(typer.BadParameter, match="high, normal, low"):
        parse_priority("urgent")


def test_sizes_and_counts_are_readable() -> None:
    """In the largest unit that fits; singular for one."""
    assert [format_size(size) for size in (12, 999_999, 1_250_000, 3e9)] == [
        "12 bytes",
        "1000.0 kB",
        "1.2 MB",
        "3.0 GB",
    ]
    assert [count(number, "record") for number in (0, 1, 2)] == ["0 records", "1 record", "2 records"]
