"""Every byte of a small journal, cut off and flipped: each gives exactly the verdict that the layout says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from journal import JournalDamaged, Position, Verdict, Witness, format, read_line, survey
from tests.journal.helpers import AT, append, create, event, events, open_journal, restore, snapshot

PATTERNS = (0x01, 0x20, 0x80, 0xFF)
"""One bit; the case bit (it keeps hexadecimal digits and letters valid); not ASCII; all bits."""


class Layout(NamedTuple):
    """A journal of two segments, and where everything in it stands."""

    files: dict[str, bytes]
    position: Position
    ends: list[tuple[int, int, int]]
    """For each transaction: its segment, the byte after it, its last seq."""

    def transaction_at(self, segment: int, offset: int) -> int | None:
        """The index of the transaction that a byte belongs to; None in a header."""
        start = self.files[f"{segment:08d}.jsonl"].index(b"\n") + 1
        if offset < start:
            return None
        return next(i for i, (number, end, _) in enumerate(self.ends) if number == segment and offset < end)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    home = create(tmp_path_factory.mktemp("layout") / "journal")
    journal = open_journal(home, segment_bytes=1100)
    for numbers in ((1,), (2, 3, 4), (5,), (6, 7), (8,), (9, 10, 11)):
        append(journal, *numbers)
    position = journal.position
    journal.close()
    files = {name: data for name, data in snapshot(home).items() if name.endswith(".jsonl")}
    assert len(files) == 2
    ends = []
    for name, data in files.items():
        offset = 0
        for line in data.splitlines(keepends=True):
            offset += len(line)
            if b'"seq":' in line[:8] and not (record := read_line(line[:-1])).more:
                ends.append((int(name[:8]), offset, record.seq))
    return Layout(files, position, ends)


def expected(layout: Layout, segment: int, transaction: int | None, witness: bool) -> str:
    """The verdict on a bad byte, from nothing but where it stands.

    A header, and anything in the first segment (the second states it), is proven. In the second segment a bad byte is
    proven by any transaction after it, or by the witness, who has seen the last record.
    """
    proven = transaction is None or segment == 1 or transaction < len(layout.ends) - 1 or witness
    return "damaged" if proven else "torn"


def check(home: Path, layout: Layout, verdict: str, believed: int, witness: bool) -> None:
    """Surveys, then opens, and compares with what must be; `believed` is how many transactions are left."""
    witnesses = [Witness("test", layout.position.seq, layout.position.crc)] if witness else []
    surveyed = survey(home, witnesses)
    assert surveyed.verdict.value == verdict
    if verdict == "damaged":
        before = snapshot(home)
        with pytest.raises(JournalDamaged):
            events(home, witnesses=witnesses)
        changed = {name: data for name, data in snapshot(home).items() if name not in ("lock", "reserve")}
        assert changed == {name: data for name, data in before.items() if name not in ("lock", "reserve")}
        return
    last = layout.ends[believed - 1][2] if believed else 0
    assert events(home, witnesses=witnesses) == [b'{"kind":"counted","n":%d}' % n for n in range(last)]
    kept = list((home / "torn").glob("*.bytes")) if (home / "torn").exists() else []
    assert bool(kept) == (verdict == "torn")


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / str(number) for number in range(1_000_000))


@pytest.mark.parametrize("witness", [False, True])
def test_every_flipped_byte_gives_the_verdict_of_its_place(
    layout: Layout, homes: Iterator[Path], witness: bool
) -> None:
    """No flipped byte is believed, and none that was acknowledged before something else is called torn."""
    for name, data in layout.files.items():
        segment = int(name[:8])
        for offset in range(len(data)):
            pattern = PATTERNS[offset % len(PATTERNS)]
            home = next(homes)
            changed = data[:offset] + bytes([data[offset] ^ pattern]) + data[offset + 1 :]
            restore(home, {**layout.files, name: changed})
            transaction = layout.transaction_at(segment, offset)
            verdict = expected(layout, segment, transaction, witness=witness)
            check(home, layout, verdict, transaction or 0, witness)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_in_every_byte_is_seen(layout: Layout, tmp_path: Path, pattern: int) -> None:
    """By the survey, which changes nothing, so that one directory serves for all."""
    restore(tmp_path, layout.files)
    for name, data in layout.files.items():
        path = tmp_path / name
        for offset in range(len(data)):
            path.write_bytes(data[:offset] + bytes([data[offset] ^ pattern]) + data[offset + 1 :])
            transaction = layout.transaction_at(int(name[:8]), offset)
            verdict = expected(layout, int(name[:8]), transaction, witness=False)
            assert survey(tmp_path).verdict.value == verdict, (name, offset)
        path.write_bytes(data)


@pytest.mark.parametrize("witness", [False, True])
def test_every_truncation_gives_the_verdict_of_its_place(layout: Layout, homes: Iterator[Path], witness: bool) -> None:
    """A file that ends too soon: torn inside the last segment, for nothing proves more; damaged everywhere else."""
    for name, data in layout.files.items():
        segment = int(name[:8])
        header = data.index(b"\n") + 1
        for length in range(len(data)):
            home = next(homes)
            restore(home, {**layout.files, name: data[:length]})
            ends = [(0, header, 0)] + [end for end in layout.ends if end[0] == segment]
            boundary = length in [end for _, end, _ in ends]
            proven = length < header or segment == 1 or witness
            verdict = "damaged" if proven else "clean" if boundary else "torn"
            believed = sum(1 for number, end, _ in layout.ends if number < segment or end <= length)
            check(home, layout, verdict, believed, witness)


def test_a_missing_segment_is_damage_unless_it_is_the_last(layout: Layout, tmp_path: Path) -> None:
    """The last one can only be missed by a witness: the price of not writing two files an append."""
    first, second = layout.files
    restore(tmp_path / "a", {second: layout.files[second]})
    assert survey(tmp_path / "a").verdict is Verdict.DAMAGED
    restore(tmp_path / "b", {first: layout.files[first]})
    assert survey(tmp_path / "b").verdict is Verdict.CLEAN
    assert survey(tmp_path / "b", [Witness("test", *layout.position[:2])]).verdict is Verdict.DAMAGED


def test_damage_names_file_offset_and_what_was_lost(layout: Layout, tmp_path: Path) -> None:
    """A person can find the place, and knows how much is gone."""
    name = "00000002.jsonl"
    data = bytearray(layout.files[name])
    offset = data.index(b"\n") + 20
    data[offset] ^= 0x01
    restore(tmp_path, {**layout.files, name: bytes(data)})
    with pytest.raises(JournalDamaged) as caught:
        events(tmp_path)
    first_seq = next(last for number, _, last in layout.ends[::-1] if number == 1) + 1
    assert caught.value.path == tmp_path / name
    assert caught.value.offset == data.index(b"\n") + 1
    assert caught.value.seq == first_seq
    assert caught.value.finding.last_seq == layout.position.seq
    assert "repair --accept-loss" in str(caught.value)


def test_a_position_in_other_history_is_damage(layout: Layout, tmp_path: Path) -> None:
    """A snapshot that remembers another record than the journal has is a witness like any other."""
    restore(tmp_path, layout.files)
    with pytest.raises(JournalDamaged):
        open_journal(tmp_path, after=layout.position._replace(crc="00000001"))
    assert events(tmp_path, after=layout.position) == []


def test_with_a_position_only_what_follows_is_read(layout: Layout, tmp_path: Path) -> None:
    """Damage before it costs nothing at the start; verifying everything is what the survey is for."""
    data = bytearray(layout.files["00000001.jsonl"])
    data[400] ^= 0x01
    restore(tmp_path, {**layout.files, "00000001.jsonl": bytes(data)})
    segment, end, seq = layout.ends[-2]
    crc = read_line(layout.files["00000002.jsonl"][:end].splitlines()[-1]).crc
    found = events(tmp_path, after=Position(seq, crc, segment, end))
    assert found == [b'{"kind":"counted","n":%d}' % n for n in range(seq, seq + 3)]
    assert survey(tmp_path).verdict is Verdict.DAMAGED


def header_of(data: bytes) -> format.Header:
    """The header that a segment begins with."""
    header = format.decode_header(data.partition(b"\n")[0])
    assert header is not None
    return header


@pytest.mark.parametrize("change", [{"first_seq": 3}, {"prev": "00000001"}])
def test_a_record_that_does_not_follow_the_one_before_it_is_not_believed(home: Path, change: dict[str, Any]) -> None:
    """Though its own CRC holds: it may be an old one that the disk has put back."""
    path = home / "00000001.jsonl"
    seed = format.seed_of(header_of(path.read_bytes()).journal)
    last = read_line(path.read_bytes().splitlines()[-1])
    fitting = {"first_seq": 2, "prev": last.crc, "durable": 1, "at": AT, "seed": seed}
    for fields, found in ((fitting, 2), ({**fitting, **change}, 1)):
        restore(home.parent / str(found), snapshot(home))
        lines, _ = format.frame([event(1)], **fields)
        with (home.parent / str(found) / path.name).open("ab") as file:
            file.write(lines[0] + b"\n")
        surveyed = survey(home.parent / str(found))
        assert surveyed.records == found
        assert surveyed.verdict is (Verdict.CLEAN if found == 2 else Verdict.TORN)


@pytest.mark.parametrize("seq", [1, 2, 5])
def test_a_witness_of_any_record_counts(layout: Layout, tmp_path: Path, seq: int) -> None:
    """Not of the last one alone: what it saw is in the middle of the journal by now."""
    restore(tmp_path, layout.files)
    lines = [line for data in layout.files.values() for line in data.splitlines() if b'{"seq":' in line[:8]]
    seen = read_line(lines[seq - 1])
    assert len(events(tmp_path, witnesses=[Witness("view", seq, seen.crc)])) == len(lines)
    with pytest.raises(JournalDamaged, match=f"view has seen record {seq} with crc 00000001"):
        open_journal(tmp_path, witnesses=[Witness("view", seq, "00000001")])


def test_a_witness_that_contradicts_the_snapshot_counts(layout: Layout, tmp_path: Path) -> None:
    """Both name the last record, and nothing is read after it."""
    restore(tmp_path, layout.files)
    at = layout.position
    assert events(tmp_path, after=at, witnesses=[Witness("view", at.seq, at.crc)]) == []
    with pytest.raises(JournalDamaged, match="view has seen"):
        open_journal(tmp_path, after=at, witnesses=[Witness("view", at.seq, "00000001")])


def test_an_older_segment_that_is_too_short_is_damage_though_it_is_not_read(layout: Layout, tmp_path: Path) -> None:
    """Its size is known without reading it."""
    first = layout.files["00000001.jsonl"]
    restore(tmp_path, {**layout.files, "00000001.jsonl": first[:-1]})
    with pytest.raises(JournalDamaged, match="the next segment states what was there"):
        open_journal(tmp_path, after=layout.position)


def test_a_segment_under_another_number_is_damage(layout: Layout, tmp_path: Path) -> None:
    """A copy that somebody put back in the wrong place."""
    first = layout.files["00000001.jsonl"]
    restore(tmp_path, {**layout.files, "00000002.jsonl": first})
    assert survey(tmp_path).finding.case.name == "headless"
    assert survey(tmp_path).finding.path == tmp_path / "00000002.jsonl"


def test_a_segment_of_another_journal_is_damage_though_it_is_not_read(layout: Layout, tmp_path: Path) -> None:
    """It is long enough and has the right number, but it is not what the next one continues."""
    other = create(tmp_path / "other")
    append(open_journal(other), *range(1, 40))
    home = tmp_path / "journal"
    restore(home, {**layout.files, "00000001.jsonl": (other / "00000001.jsonl").read_bytes()})
    with pytest.raises(JournalDamaged):
        open_journal(home, after=layout.position)


def test_a_change_that_keeps_every_crc_is_seen_by_the_survey(layout: Layout, tmp_path: Path) -> None:
    """The next segment states the SHA-256: a header that was written again is another one."""
    line, _, records = layout.files["00000001.jsonl"].partition(b"\n")
    header = header_of(line)
    created = header.created.replace(header.created[:4], "1999")
    forged = format.encode_header(header._replace(created=created)) + records
    assert len(forged) == len(layout.files["00000001.jsonl"])
    restore(tmp_path, {**layout.files, "00000001.jsonl": forged})
    surveyed = survey(tmp_path)
    assert surveyed.verdict is Verdict.DAMAGED
    assert surveyed.finding.path == tmp_path / "00000001.jsonl"


def test_an_acknowledged_tail_that_vanishes_under_a_running_process_is_damage(home: Path) -> None:
    """A segment that was cut is noticed: the next transaction does not append after a gap."""
    journal = open_journal(home)
    path = home / "00000001.jsonl"
    before = path.read_bytes()
    append(journal, 1)
    path.write_bytes(before)
    with pytest.raises(JournalDamaged):
        append(journal, 2)
    assert path.read_bytes() == before
