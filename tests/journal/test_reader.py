"""Looking without the lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal import START, PositionLost, Verdict, follow, history, last_position, lines, read_line, survey
from tests.journal.helpers import append, event, open_journal, snapshot


def test_following_gives_what_is_new_across_segments(home: Path) -> None:
    """Each record once, from any position on."""
    journal = open_journal(home, segment_bytes=800)
    seen, position = follow(home, read_line)
    for number in range(1, 20):
        append(journal, number)
        if number % 3 == 0:
            news, position = follow(home, read_line, position)
            seen += news
    news, position = follow(home, read_line, position)
    assert [record.event for record in seen + news] == [event(n) for n in range(20)]
    assert position == journal.position == last_position(home)
    assert follow(home, read_line, position) == ([], position)
    records = history(home, read_line)
    assert next(records).event == event(0)  # one at a time: the second is read when it is wanted
    assert [record.event for record in records] == [event(n) for n in range(1, 20)]


def test_following_does_not_see_half_a_transaction_and_repairs_nothing(home: Path) -> None:
    """It is simply not there yet."""
    journal = open_journal(home)
    append(journal, 1, 2)
    path = home / "00000001.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    before = snapshot(home)
    news, position = follow(home, read_line)
    assert [record.event for record in news] == [event(0)]
    assert snapshot(home) == before
    path.write_bytes(whole)
    assert [record.event for record in follow(home, read_line, position)[0]] == [event(1), event(2)]


def test_following_from_a_record_that_was_taken_back_says_so(home: Path) -> None:
    """A reader without a lock may have seen what was never acknowledged."""
    journal = open_journal(home)
    append(journal, 1)
    with pytest.raises(PositionLost):
        follow(home, read_line, journal.position._replace(crc="00000001"))
    with pytest.raises(PositionLost):
        follow(home, read_line, journal.position._replace(offset=100_000))


def test_following_from_the_start_of_another_segment_says_so(home: Path) -> None:
    """Before a position at the end of a header there is no record in the file: the header decides."""
    with (home / "00000001.jsonl").open("ab") as file:
        file.write(b"half")
    start = open_journal(home).position
    assert start.segment == 2
    assert follow(home, read_line, start) == ([], start)
    for change in ({"crc": "00000001"}, {"seq": 9}):
        with pytest.raises(PositionLost):
            follow(home, read_line, start._replace(**change))


def test_the_last_position_looks_past_an_unfinished_tail(home: Path) -> None:
    """Only whole transactions count."""
    journal = open_journal(home)
    append(journal, 1)
    before = journal.position
    append(journal, *range(2, 2000))
    path = home / "00000001.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert last_position(home) == before
    assert follow(home, read_line, START)[1] == before


def test_every_line_is_shown_whatever_it_is(home: Path) -> None:
    """Headers, records of unknown kinds, and invalid lines, with their offsets."""
    path = home / "00000001.jsonl"
    with path.open("ab") as file:
        file.write(b'{"seq":\xff\nhalf')
    shown = list(lines(home))
    assert b"".join(line.data + b"\n" for line in shown) == path.read_bytes() + b"\n"
    assert [line.record is not None for line in shown] == [False, True, False, False]
    assert all(path.read_bytes()[line.offset :].startswith(line.data) for line in shown)


def test_a_survey_changes_nothing(home: Path) -> None:
    """Of a sound journal, a torn one, and a damaged one."""
    journal = open_journal(home, segment_bytes=600)
    for number in range(1, 8):
        append(journal, number)
    last = sorted(home.glob("*.jsonl"))[-1]
    for verdict, path, data in (
        (Verdict.CLEAN, last, last.read_bytes()),
        (Verdict.TORN, last, last.read_bytes() + b"half"),
        (Verdict.DAMAGED, home / "00000001.jsonl", b"rubbish\n"),
    ):
        path.write_bytes(data)
        before = snapshot(home)
        assert survey(home).verdict is verdict
        assert snapshot(home) == before
