"""Accept files: make each one a job, crash-safe at every step.

    data/.arriving/<priority>[-again]-<nonce>/<name>   the file was moved or copied out of the inbox
    file_enqueued                                      the record that makes it a job
    data/<sha256>.jsonl                                its data, named by its hash

Files that arrive together share an arriving directory. The last two steps happen under the append lock. After a crash
at any point, each file is in exactly one of these places, and `finish_arrivals` continues from there.
`data/<sha256>.jsonl` exists only for journaled files, so its existence shows that the same bytes arrived before,
however long ago.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.ownership import FileRefused, collect_file, safe_name, take_ownership
from cli.inbox.rejection_reports import (
    duplicate_report,
    encode_report,
    forget_duplicates,
    note_duplicate,
    reject_duplicates,
    verdict_report,
)
from cli.inbox.staging import (
    arriving_directory,
    group_files,
    is_retraining,
    locked,
    new_directory,
    priority_of,
    removed_on_error,
    stable_sha256,
)
from cli.text import shown_text
from core.commands import AddFile, RecordRejectedMoved, RemoveJob, Skip
from core.decide import decide
from core.errors import Refused
from core.state import State
from events.kinds import AnyEvent, JobRemoved, RejectedFileMoved
from events.values import Priority
from gpu.artifacts.manifest import describe
from journal import durable
from journal.failpoints import failpoint
from journal.storage import REAL, NotAFile, Storage


def accept_files(
    store: EventStore, files: Iterable[tuple[Path, Priority]], refuse: Callable[[Path, str], None]
) -> Iterator[AnyEvent]:
    """Make jobs of complete files in the inbox. Calls `refuse(path, reason)` for a file that cannot be accepted.

    Files of one priority share an arriving directory, and so the syncs of directories.
    Raises OSError, journal.errors.StorageFailed, after yielding the events that were journaled before.
    """
    for priority, paths in group_files(files):
        events: list[AnyEvent] = []
        try:
            _accept_batch(store, paths, priority, refuse, events)
        except Exception:
            yield from events
            raise
        yield from events


def _accept_batch(
    store: EventStore,
    paths: Sequence[Path],
    priority: Priority,
    refuse: Callable[[Path, str], None],
    events: list[AnyEvent],
) -> None:
    """Make jobs of files through one arriving directory; appends to `events`. Raises as `accept_files`."""
    home, originals = store.home, dict[Path, Path]()
    try:
        with new_directory(home, priority) as directory:
            with removed_on_error(home.storage, directory):
                _collect(home, paths, directory, refuse, originals)
            for file, problem in _finish_directory(store, directory, events).items():
                refuse(originals[file], _why(problem))
    except (FileNotFoundError, PermissionError) as error:
        if originals:
            raise
        if isinstance(error, PermissionError):  # no directory could be made: all files stay in the inbox
            for path in paths:
                refuse(path, _why(error))


def _collect(
    home: Home, paths: Sequence[Path], directory: Path, refuse: Callable[[Path, str], None], originals: dict[Path, Path]
) -> None:
    """Move files durably into an arriving directory; fills `originals`, from new paths to old ones."""
    for path in paths:
        try:
            originals[collect_file(home, path, directory)] = path
        except FileNotFoundError:
            continue  # the user removed it
        except (FileRefused, PermissionError) as error:
            refuse(path, _why(error))
            continue
        failpoint("arrival_moved")
    if originals:  # the new directory first: a file whose name is durable in neither is lost
        durable.fsync_directory(directory, storage=home.storage)
        for lane in sorted({path.parent for path in originals.values()}):
            with suppress(FileNotFoundError):  # a user removed the directory
                durable.fsync_directory(lane, storage=home.storage)


def _why(error: FileRefused | PermissionError) -> str:
    return error.reason if isinstance(error, FileRefused) else error.strerror or str(error)


def accept_copy(
    store: EventStore, path: Path, priority: Priority, *, again: bool = False, name: str = ""
) -> Sequence[AnyEvent]:
    """Make a job of a copy of `path`. `again`: also if its bytes were accepted before. `name`: of the job, if not
    `path`'s.

    Raises OSError, journal.errors.StorageFailed; core.errors.Refused for `again` if the bytes are in progress.
    """
    events: list[AnyEvent] = []
    with new_directory(store.home, priority, again=again) as directory:
        storage = store.home.storage
        with removed_on_error(storage, directory):
            durable.copy_durably(path, directory / safe_name(name or path.name), storage=storage)
        failpoint("arrival_copied")
        for error in _finish_directory(store, directory, events).values():
            raise error
    return events


def finish_arrivals(store: EventStore) -> None:
    """Finish the arrivals of processes that died. Raises as `accept_copy`."""
    storage, arriving = store.home.storage, arriving_directory(store.home)
    if not storage.exists(arriving):
        return
    home = store.home
    for place in (home.data, home.rejected, home.inbox, home.inbox / "high", home.inbox / "low"):
        with suppress(FileNotFoundError):  # a user removed it
            durable.fsync_directory(place, storage=storage)  # a file may have moved there without a successful sync
    for name in sorted(storage.names(arriving)):
        with suppress(FileNotFoundError), locked(storage, arriving / name) as ours:
            if ours:
                # Its process may have died before these syncs. They make the new place of a moved file durable before
                # the directory that it came from is removed.
                for there in (arriving, arriving / name):
                    durable.fsync_directory(there, storage=storage)
                with suppress(Refused):  # `again`, and in progress; the source still exists
                    _finish_directory(store, arriving / name, [])  # refused files are in rejected/ or the inbox


def _finish_directory(
    store: EventStore, directory: Path, events: list[AnyEvent]
) -> dict[Path, FileRefused | PermissionError]:
    """Make jobs of the files in an arriving directory; appends to `events`. Can be repeated after a crash.

    Returns the refused files, by their paths here, and why. A file that is not accepted moves to `rejected/`. One that
    this process cannot read returns to the inbox, where `cli.inbox.watcher` reports it; so does one with a writer.
    """
    storage = store.home.storage
    found: list[tuple[Path, str]] = []
    stay_out: dict[Path, FileRefused | PermissionError] = {}
    for name in sorted(storage.names(directory)):
        file = directory / name
        if durable.is_temporary(name):  # an unfinished copy; its source still exists
            storage.unlink(file)
            continue
        try:
            if storage.is_open_for_writing(file):
                _return_to_inbox(store.home, file)  # a writer opened it just before the move
                continue
            take_ownership(store.home, file)
            found.append((file, stable_sha256(file, storage=storage)))
        except FileNotFoundError:
            continue  # a user removed it; nothing is journaled
        except NotAFile:
            _refuse_replaced(store.home, file, "no_file", REPLACED)
        except FileRefused as error:
            _refuse_replaced(store.home, file, "not_taken", error.reason)
            stay_out[file] = error
        except PermissionError as error:
            if storage.why_unreadable(file) is not None:
                _return_to_inbox(store.home, file)
            stay_out[file] = error
    if found:
        _make_jobs(store, directory, found, events)
    return stay_out


def _return_to_inbox(home: Home, file: Path) -> None:
    """Move a file back into the inbox, under a free name."""
    storage = home.storage
    lanes = {"high": home.inbox / "high", "low": home.inbox / "low"}
    lane = lanes.get(priority_of(file.parent), home.inbox)
    durable.make_directory(lane, storage=storage)
    durable.rename_durably(file, _free_name(lane, file.name, storage), storage=storage)


def _make_jobs(store: EventStore, directory: Path, found: Sequence[tuple[Path, str]], events: list[AnyEvent]) -> None:
    """Journal hashed files: new ones together, each known one alone.

    So a crash between the record of a known file and its move repeats at most one record.
    """
    left, again = deque(found), is_retraining(directory)
    while left:
        with store.exclusive():
            new: dict[str, Path] = {}
            while left:
                file, job = left[0]
                if job in new or (not again and store.home.storage.exists(store.home.data_file(job))):
                    break
                new[job] = file
                left.popleft()
            if new:
                _journal_new(store, directory, new, events)
            else:
                file, job = left.popleft()
                _journal_known(store, file, job, events)


def _journal_new(store: EventStore, directory: Path, files: dict[str, Path], events: list[AnyEvent]) -> None:
    """Journal new files, unless that is done, and move them to their names in `data/`.

    Under the append lock, which is held until the names are durable: only its name in `data/` shows that a skipped job
    is known.
    """
    home, storage, again = store.home, store.home.storage, is_retraining(directory)
    adds: list[AddFile] = []
    for job, file in files.items():
        known = again and storage.exists(home.data_file(job))
        if known or store.state.job(job) is None:
            with suppress(FileNotFoundError):  # a user removed it; the other files are independent
                adds.append(_add(home, file, job, known=known))
                if again:
                    _forget_known(store, adds[-1], file, home.data_file(job))
    events.extend(store.execute(*adds))
    for job, file in files.items():
        failpoint("arrival_journaled")
        with suppress(FileNotFoundError):  # as above
            storage.rename(file, home.data_file(job))
        failpoint("arrival_named")
    for there in (home.data, directory):
        durable.fsync_directory(there, storage=storage)


def _journal_known(store: EventStore, file: Path, job: str, events: list[AnyEvent]) -> None:
    """Journal a file whose bytes are known, and move it to `rejected/`. Under the append lock."""
    with suppress(FileNotFoundError):  # as above
        events.extend(store.execute(_add(store.home, file, job, known=True)))
        failpoint("arrival_journaled")
        _reject_duplicate(store.home, file, job, store.state)
        failpoint("arrival_named")


def _add(home: Home, file: Path, job: str, *, known: bool) -> AddFile:
    size_bytes, directory = home.storage.stat(file).st_size, file.parent
    return AddFile(
        job=job,
        name=shown_text(file.name),
        size_bytes=size_bytes,
        priority=priority_of(directory),
        known=known,
        retrain=is_retraining(directory),
    )


def _forget_known(store: EventStore, add: AddFile, file: Path, target: Path) -> None:
    """Remove the data of known bytes before a verified copy of them arrives like a new file.

    So `data/` has exactly the journaled files. If a power cut undoes the removal after the record, the bytes are known
    and in progress, and the copy is deleted. Raises Refused if they cannot be trained again now; deletes the copy then,
    too.
    """
    storage = store.home.storage
    try:
        decide(store.state, add, store.home.clock.now())
    except Refused:
        storage.unlink(file)
        storage.rmdir(file.parent)
        raise
    if add.known:
        storage.unlink(target)


REPLACED = "the file was replaced by something that is not a file while keepstep took it from the inbox"


def _refuse_replaced(home: Home, file: Path, problem: str, message: str) -> None:
    """Move a refused entry to `rejected/`, with a report. It may be a link: nothing is read through it."""
    target = _free_name(home.rejected, f"{file.parent.name}-{safe_name(file.name)}", home.storage)
    report = encode_report({"file": shown_text(file.name), "problem": problem, "message": message})
    durable.write_atomically(target.with_name(f"{target.name}.report.json"), report, sync=True, storage=home.storage)
    durable.rename_durably(file, target, storage=home.storage)


def remove_job(store: EventStore, job: str) -> tuple[JobRemoved, Path | None]:
    """Remove a job from the queue and move its file to `rejected/`. Returns the event and the new path.

    The path is None if the file stays in `data/`, or if the disk is full: the daemon then moves it later. Raises
    core.errors.Refused, and as `accept_copy`.
    """
    finish_arrivals(store)
    (event,) = store.execute(RemoveJob(job=job))
    assert isinstance(event, JobRemoved)
    if event.keeps_data or store.state.disk.full is not None:
        return event, None
    for moved in finish_rejection(store, job):
        if isinstance(moved, RejectedFileMoved):
            return event, store.home.root / moved.path
    return event, store.home.rejected / safe_name(event.name)  # the daemon has moved it


def finish_rejection(store: EventStore, job: str) -> Sequence[AnyEvent]:
    """Move the file of an open rejection to `rejected/` and journal it, unless another process did.

    Takes the append lock, because a command and the daemon may try it at once. Raises OSError,
    journal.errors.StorageFailed.
    """
    home = store.home
    with store.exclusive():
        rejection = store.state.outcomes.rejections.get(job)
        if rejection is None:
            return ()
        report = verdict_report(home, job, rejection)
        target = move_to_rejected(home, home.data_file(job), rejection.name, report)
        reject_duplicates(home, job, rejection.name, report)
        events = store.execute(RecordRejectedMoved(job=job, path=home.relative(target)))
        forget_duplicates(home, job)
        return events


def skip_job(store: EventStore, job: str | None) -> Sequence[AnyEvent]:
    """Skip a job; None: the current one. Raises core.errors.Refused, and as `accept_copy`.

    Finishes arrivals first: only its file in `data/` shows that a skipped job is known, else the file would be accepted
    again.
    """
    finish_arrivals(store)
    return store.execute(Skip(job=job))


def move_to_rejected(
    home: Home, source: Path, name: str, report: dict[str, object], *, duplicate_of: str | None = None
) -> Path:
    """Write a report and move `source` next to it in `rejected/`. Idempotent; overwrites nothing.

    `duplicate_of`: the job whose verdict the report gets later.
    """
    storage, names = home.storage, _candidates(home.rejected, safe_name(name))
    before = target = next(names)
    while storage.exists(target):
        before, target = target, next(names)
    if not storage.exists(source):  # moved by a process that may have died before the sync
        for directory in (home.rejected, source.parent):
            durable.fsync_directory(directory, storage=storage)
        return before
    report_path = target.with_name(f"{target.name}.report.json")
    if duplicate_of is not None:
        note_duplicate(home, duplicate_of, report_path)
    durable.write_atomically(report_path, encode_report({"file": _text(name), **report}), sync=True, storage=storage)
    failpoint("report_written")
    durable.rename_durably(source, target, storage=storage)
    failpoint("rejected_moved")
    return target


def _candidates(directory: Path, name: str) -> Iterator[Path]:
    yield directory / name
    for taken in count(2):
        yield directory / f"{taken}-{name}"


def _free_name(directory: Path, name: str, storage: Storage) -> Path:
    return next(path for path in _candidates(directory, name) if not storage.exists(path))


def _reject_duplicate(home: Home, file: Path, job: str, state: State) -> None:
    """Move a file with known bytes to `rejected/`. Its report is updated when the first file gets its verdict."""
    waits_for = job if state.outcomes.rejections.get(job) is None and state.job(job) is not None else None
    move_to_rejected(home, file, file.name, duplicate_report(home, job, state), duplicate_of=waits_for)


def file_sha256(path: Path, *, storage: Storage = REAL) -> str:
    """The SHA-256 of a file, in hexadecimal: the id of its job."""
    return describe(path, storage=storage).sha256


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
