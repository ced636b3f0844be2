"""Repair: continue a damaged journal after the user has accepted the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from journal import lock
from journal.errors import JournalDamaged, JournalReadFailed
from journal.format import Witness, frame, seed_of, segment_name
from journal.log import LOCK_NAME
from journal.segments import begin_segment, load_chain, new_id, reading, save_torn_bytes, segment_numbers, sweep
from journal.storage import REAL, Storage
from journal.survey import Survey, survey
from journal.verdicts import Verdict
from journal.writer import writing


def repair(
    directory: Path,
    *,
    accept_loss: bool,
    make_event: Callable[[Survey], bytes],
    at: str,
    witnesses: Sequence[Witness] = (),
    storage: Storage = REAL,
    lock_timeout_s: float = lock.TIMEOUT_S,
) -> Survey:
    """Continue a damaged journal after its last valid record, and return what was found.

    A new segment begins with the record `make_event(survey)`, which journals the loss. A journal that is not damaged is
    not changed.

    No segment is edited and no byte is deleted. The damaged bytes are copied to `torn/`, and segments that no longer
    belong to the chain are moved there. Numbers of lost records are never used again: the new segment begins after the
    last number that any file or witness mentions. So no witness takes a new record for a lost one.

    The rename of the new segment is the commit. After a kill before it, the journal is as damaged as before; after a
    kill after it, it is repaired, and the next opening cleans up.

    The caller must then discard every fold of lost records, and every witness that contradicts an existing record.

    Raises JournalDamaged without `accept_loss`; JournalReadFailed, because records on an unreadable disk may still
    exist; JournalMissing, StorageFailed, LockBusy.
    """
    with reading(directory / LOCK_NAME):
        append_lock = lock.AppendLock(storage, directory / LOCK_NAME, lock_timeout_s)
    try:
        with append_lock:
            found = survey(directory, witnesses, storage=storage)
            if found.verdict is Verdict.UNREADABLE:
                raise JournalReadFailed(found.finding.path, found.finding.offset, OSError("read error"))
            if found.verdict is Verdict.DAMAGED:
                if not accept_loss:
                    raise JournalDamaged(found.finding)
                with writing(directory):
                    _abandon_records(storage, directory, found, make_event(found), at)
            return found
    finally:
        append_lock.close()


def _abandon_records(storage: Storage, directory: Path, found: Survey, event: bytes, at: str) -> None:
    end = found.position
    if end.segment:
        save_torn_bytes(storage, directory / segment_name(end.segment), end.offset)
    journal_id = found.id or new_id(storage)
    first_seq = found.finding.last_seq + 1
    lines, _ = frame([event], at=at, first_seq=first_seq, durable=end.seq, prev=end.crc, seed=seed_of(journal_id))
    number = max([0, *segment_numbers(storage, directory)]) + 1
    begin_segment(storage, directory, journal_id, number, end, first_seq=first_seq, records=lines[0] + b"\n")
    sweep(storage, directory, load_chain(storage, directory))
