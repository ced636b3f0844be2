"""Lines are split from chunks, with a limit for their length."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu.data.read import record
from gpu.data.read.record import UnreadableFile, split_lines


@settings(deadline=None, database=None)
@given(data=st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b" ", b"bc" * 20])).map(b"".join), size=st.integers(1, 9))
def test_lines_do_not_depend_on_the_chunks(data: bytes, size: int) -> None:
    """A line feed ends each line but the last, which is reported only if it has bytes."""
    chunks = iter([data[at : at + size] for at in range(0, len(data), size)])
    *ended, last = data.split(b"\n")
    assert list(split_lines(chunks)) == [*((line, True) for line in ended), *([(last, False)] if last else [])]


def test_a_line_that_is_too_long_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RECORD_MAX_BYTES", 8)
    lines = split_lines(iter([b"a\nb\n", b"c" * 5, b"c" * 5]))
    assert [next(lines), next(lines)] == [(b"a", True), (b"b", True)]
    with pytest.raises(UnreadableFile) as caught:
        next(lines)
    assert (caught.value.problem.name, caught.value.problem.line) == ("row_too_long", 3)
