"""Going on after damage, when a person has decided that what is lost is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from journal import lock
from journal.errors import JournalDamaged, JournalReadFailed
from journal.format import Witness, frame, seed_of, segment_name
from journal.log import LOCK_NAME
from journal.segments import begin_segment, keep_aside, load_chain, new_id, reading, segment_numbers, sweep
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
    """Continues a damaged journal behind its last believed record, in a new segment whose first record is
    `make_event(facts)`: what was given up, journaled. Returns those facts; a journal that is not damaged is left alone.

    No segment is edited and no byte deleted: the damaged bytes are copied into `torn/`, and segments that cannot be
    joined any more are moved there. The numbers of lost records are never used again: the new segment begins behind
    the last one that anything speaks of, so no witness can ever take a new record for a lost one.

    The renaming of the new segment into place is the commit. Killed before it, the journal is as damaged as it was;
    killed behind it, it is repaired, and the next opening tidies up.

    Whoever has folded lost records must discard that fold, and a witness that contradicts a record which is still
    there must be discarded too: the journal cannot overrule it. Do both after this returns.

    Raises JournalDamaged without `accept_loss`, JournalReadFailed (a disk that cannot be read is no reason to give
    anything up), JournalMissing, StorageFailed, LockBusy.
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
                    _give_up(storage, directory, found, make_event(found), at)
            return found
    finally:
        append_lock.close()


def _give_up(storage: Storage, directory: Path, found: Survey, event: bytes, at: str) -> None:
    end = found.position
    if end.segment:
        keep_aside(storage, directory / segment_name(end.segment), end.offset)
    journal_id = found.id or new_id(storage)
    first_seq = found.finding.last_seq + 1
    lines, _ = frame([event], at=at, first_seq=first_seq, durable=end.seq, prev=end.crc, seed=seed_of(journal_id))
    number = max([0, *segment_numbers(storage, directory)]) + 1
    begin_segment(storage, directory, journal_id, number, end, first_seq=first_seq, records=lines[0] + b"\n")
    sweep(storage, directory, load_chain(storage, directory))
