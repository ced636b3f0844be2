"""Continuing after damage, by a person's decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal import JournalDamaged, PositionLost, Survey, Verdict, Witness, repair, survey
from tests.journal.helpers import AT, Faulty, Guarded, Killed, append, create, events, open_journal, records, snapshot


def abandoned(facts: Survey) -> bytes:
    return b'{"kind":"given_up","from":%d,"to":%d}' % (facts.finding.seq, facts.finding.last_seq)


def damaged(home: Path, segment: int = 2) -> Path:
    """Five segments or so, with one byte changed in the middle of one."""
    journal = open_journal(create(home), segment_bytes=900)
    for number in range(1, 16):
        append(journal, number)
    journal.close()
    path = home / f"{segment:08d}.jsonl"
    data = bytearray(path.read_bytes())
    data[-150] ^= 1
    path.write_bytes(data)
    assert len(list(home.glob("*.jsonl"))) > 3
    return home


def test_without_consent_nothing_is_abandoned(tmp_path: Path) -> None:
    """Refused, and not a byte changed."""
    home = damaged(tmp_path / "journal")
    before = snapshot(home)
    with pytest.raises(JournalDamaged):
        repair(home, accept_loss=False, make_event=abandoned, at=AT)
    assert snapshot(home) == before


def test_a_journal_that_is_not_damaged_is_left_alone(home: Path) -> None:
    """Repairing is no habit."""
    before = snapshot(home)
    assert repair(home, accept_loss=True, make_event=abandoned, at=AT).verdict is Verdict.CLEAN
    assert snapshot(home) == before


def test_the_loss_is_journaled_and_its_numbers_are_never_used_again(tmp_path: Path) -> None:
    """What was before stays, the first new record says what is gone, and no byte is deleted."""
    home = damaged(tmp_path / "journal")
    before = snapshot(home)
    facts = repair(home, accept_loss=True, make_event=abandoned, at=AT)
    found = records(home)
    assert found[-1].event == abandoned(facts)
    assert found[-1].seq == facts.finding.last_seq + 1 == 17
    assert [record.seq for record in found[:-1]] == list(range(1, facts.finding.seq))
    after = snapshot(home)
    everything = {**{name.removeprefix("torn/"): data for name, data in after.items()}}
    assert all(everything[name] == data for name, data in before.items())
    append(open_journal(home), 99)
    assert survey(home).verdict is Verdict.CLEAN


@pytest.mark.parametrize("segment", [1, 2, 9])
def test_damaged_headers_and_missing_segments_can_be_abandoned(tmp_path: Path, segment: int) -> None:
    """Even the first header, with everything after it."""
    home = damaged(tmp_path / "journal")
    segment = min(segment, len(list(home.glob("*.jsonl"))))
    (home / f"{segment:08d}.jsonl").write_bytes(b"rubbish\n")
    facts = repair(home, accept_loss=True, make_event=abandoned, at=AT)
    assert events(home)[-1] == abandoned(facts)
    assert survey(home).verdict is Verdict.CLEAN


def test_abandoned_segments_are_moved_away(tmp_path: Path) -> None:
    """What lies in the journal's directory counts, and what does not count lies in `torn/`."""
    home = damaged(tmp_path / "journal")
    before = {path.name for path in home.glob("*.jsonl")}
    repair(home, accept_loss=True, make_event=abandoned, at=AT)
    counted = {segment.path.name for segment in survey(home).segments}
    assert {path.name for path in home.glob("*.jsonl")} == counted
    assert {path.name for path in (home / "torn").glob("*.jsonl")} == before - counted != set()


def test_witnesses_of_abandoned_records_are_accepted(tmp_path: Path) -> None:
    """A view that remembers a lost record does not stop the repaired journal; a fold up to there cannot continue."""
    home = create(tmp_path / "journal")
    journal = open_journal(home)
    append(journal, 1)
    position = journal.position
    append(journal, 2)
    lost = journal.position
    path = home / "00000001.jsonl"
    path.write_bytes(path.read_bytes()[: position.offset])
    witness = Witness("view", lost.seq, lost.crc)
    with pytest.raises(JournalDamaged, match="view has seen"):
        open_journal(home, witnesses=[witness])
    repair(home, accept_loss=True, make_event=abandoned, at=AT, witnesses=[witness])
    assert len(events(home, witnesses=[witness])) == 3
    with pytest.raises(PositionLost):
        open_journal(home, after=lost)


def test_a_repair_holds_the_lock(tmp_path: Path) -> None:
    """The records of a daemon that appends meanwhile would be lost with the abandoned ones."""
    storage = Guarded()
    repair(damaged(tmp_path / "journal"), accept_loss=True, make_event=abandoned, at=AT, storage=storage)
    assert storage.unguarded == []


@pytest.mark.parametrize("segment", [1, 2])
def test_killed_at_every_call_the_repair_can_be_done_again(tmp_path: Path, segment: int) -> None:
    """Before the renaming the journal is as damaged as it was, with the same facts; after it, it is repaired."""
    for call in range(1, 100):
        home = damaged(tmp_path / f"{call}", segment)
        facts = survey(home)
        storage = Faulty(call)
        try:
            repair(home, accept_loss=True, make_event=abandoned, at=AT, storage=storage)
        except Killed:
            again = survey(home)
            if again.verdict is Verdict.DAMAGED:
                assert again.finding == facts.finding
                repair(home, accept_loss=True, make_event=abandoned, at=AT)
        assert events(home)[-1] == abandoned(facts)
        append(open_journal(home), 99)
        assert survey(home).verdict is Verdict.CLEAN
        if storage.calls < call:
            return
    pytest.fail("never came to the end")
