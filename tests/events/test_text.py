"""Text with bytes that are not UTF-8, as JSON carries it."""

from __future__ import annotations

import os

from events.codec import encode
from events.kinds import JobRejected
from events.text import carried, visible


def test_a_byte_that_is_not_utf8_is_written_out() -> None:
    """All other text stays as it is."""
    assert visible(os.fsdecode(b"caf\xe9/\xc3\xa9")) == "caf\\xe9/é"
    assert visible("\ud800") == "\\ud800"


def test_an_event_with_such_a_byte_can_be_journaled() -> None:
    """`encode` itself refuses it, and an event without such a byte is not copied."""
    event = JobRejected(attempt=1, job="a" * 64, name="n", problem="p", line=1, message=os.fsdecode(b"/caf\xe9"))
    assert carried(event).message == "/caf\\xe9"
    encode(carried(event))
    assert carried(carried(event)) == carried(event)
