"""Survey: verify a whole journal without changing it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from journal.durable import opened
from journal.errors import JournalDamaged, JournalReadFailed
from journal.format import START, Position, Witness, find_records, read_line, segment_name
from journal.reader import Replay
from journal.segments import Chain, Segment, digest, load_chain, read_header, reading, segment_numbers
from journal.storage import REAL, Storage
from journal.verdicts import Facts, Finding, Verdict, judge


class Survey(NamedTuple):
    """The result of a survey."""

    id: str
    """The journal's id; "" if no segment has a valid header."""
    finding: Finding
    """The verdict; for damage also file, offset, first and last lost record, and the witnesses."""
    position: Position
    """The position after the last valid record."""
    records: int
    segments: tuple[Segment, ...]
    """The valid segments, first to last."""

    @property
    def verdict(self) -> Verdict:
        return self.finding.verdict


def survey(directory: Path, witnesses: Sequence[Witness] = (), *, storage: Storage = REAL) -> Survey:
    """Verify everything: each record, the chain, and the SHA-256 that each segment states of the one before it.

    Takes no lock and changes nothing; an append in progress can look like a torn tail.
    Raises JournalMissing, FormatUnknown, and JournalReadFailed if not even the headers can be read.
    """
    chain = load_chain(storage, directory)
    replay = Replay(storage, chain, START, read_line, witnesses)
    records = 0
    try:
        for batch in replay.batches():
            records += len(batch)
        _check_digests(storage, chain)
    except JournalDamaged as error:
        finding = error.finding
        lost = _last_known_seq(storage, directory, chain, replay.position)
        finding = finding._replace(last_seq=max(finding.last_seq, lost))
    except JournalReadFailed as error:
        case = judge(Facts(readable=False, headers=True, rest=False, covered=False, promised=False, witnessed=False))
        finding = Finding(case, error.path, error.offset, replay.position.seq + 1, replay.position.seq)
    else:
        assert replay.finding is not None, "a replay that ends has judged why"
        finding = replay.finding
    return Survey(chain.id if chain.segments else "", finding, replay.position, records, chain.segments)


def _check_digests(storage: Storage, chain: Chain) -> None:
    for segment, successor in zip(chain.segments, chain.segments[1:], strict=False):
        stated = successor.header.predecessor
        if stated and digest(storage, segment.path, segment.end) != stated.sha256:
            case = judge(Facts(True, True, rest=False, covered=False, promised=True, witnessed=False))
            raise JournalDamaged(Finding(case, segment.path, 0, segment.header.first_seq, stated.last_seq))


def _last_known_seq(storage: Storage, directory: Path, chain: Chain, end: Position) -> int:
    """Return the highest record number that the files after `end` mention. It must never be used again."""
    known = end.seq
    for number in segment_numbers(storage, directory):
        if number <= end.segment:
            continue
        path = directory / segment_name(number)
        found = read_header(storage, path)
        if found is not None and found[0].predecessor is not None:
            known = max(known, found[0].predecessor.last_seq, found[0].first_seq - 1)
        if chain.segments:
            with reading(path), opened(storage, path, os.O_RDONLY) as fd:
                data = storage.read(fd, storage.size(fd), 0)
            known = max([known, *(line.seq for _, line in find_records(data, chain.seed))])
    return known
