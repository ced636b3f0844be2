"""Queue a file of self-correction: write it, accept it like any other file, and journal the outcome.

    self_correction_file_started    the intent
    run/self-correction-0007.jsonl  the file; removed when it is accepted
    file_enqueued                   by the path of `keepstep add`
    self_correction_file_queued     the outcome

The bytes follow from the journal and the data, so after a kill at any point they are made again. Bytes that are in the
queue already are not added again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from cli.correction import build
from cli.home.event_store import EventStore
from cli.home.snapshot_reader import read_records
from cli.inbox.accept import accept_copy, finish_arrivals
from core.commands import RecordCorrectionFile, StopSelfCorrection
from events.kinds import AnyEvent, SelfCorrectionFileQueued, SelfCorrectionFileStarted
from journal import durable
from journal.failpoints import failpoint


def queue_file(store: EventStore, started: SelfCorrectionFileStarted) -> Iterator[AnyEvent]:
    """Write the file and queue it; yield what was journaled. Raises OSError, journal.errors.StorageFailed."""
    home = store.home
    found = build.find_rounds(read_records(home), started)
    validation_sha256 = found.settings.sources.validation_sha256
    validation = home.validation / f"{validation_sha256}.jsonl" if validation_sha256 else None
    try:
        built = build.build_file(home.data, started, found, validation)
    except build.DataMissing as error:
        yield from store.execute(StopSelfCorrection(cause="data", message=f"{started.name} cannot be made: {error}"))
        return
    if not built.data:
        message = f"{started.name} would be empty: no row of its prompts can be trained any more"
        yield from store.execute(StopSelfCorrection(cause="data", message=message))
        return
    finish_arrivals(store)
    job, staged = hashlib.sha256(built.data).hexdigest(), home.run / started.name
    if store.state.job(job) is None and not home.storage.exists(home.data_file(job)):
        durable.write_atomically(staged, built.data, sync=False, storage=home.storage)  # the copy is synced
        failpoint("correction_staged")
        yield from accept_copy(store, staged, "low")
        failpoint("correction_accepted")
    if home.storage.exists(staged):
        home.storage.unlink(staged)
    queued = SelfCorrectionFileQueued(
        number=started.number,
        job=job,
        name=started.name,
        rows=built.rows,
        references=built.references,
        replayed=built.replayed,
    )
    yield from store.execute(RecordCorrectionFile(queued=queued))
