"""How a file becomes a job, whatever happens on the way.

    data/.arriving/<priority>[-again]-<nonce>/<name>   the file is in keepstep's hands (moved from the inbox, or copied)
    file_enqueued                                      journaled: it is a job
    data/<sha256>.jsonl                                its bytes, under their own hash

Files that arrive together share an arriving directory. The last two happen under the append lock. Killed anywhere,
each file stands in exactly one of these places, and `finish_arrivals` takes it on from there. `data/<sha256>.jsonl`
exists only for what was journaled, so its existence is how an earlier file with the same bytes is known, however long
ago that was.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from cli.arriving import arriving_of, batches, filling, held, is_again, new_directory, priority_of, settled_sha256
from cli.home import Home
from cli.ledger import Ledger
from cli.ownership import NotTaken, bring, make_ours, safe_name
from cli.rejection_reports import (
    duplicate_report,
    encode_report,
    forget_duplicates,
    note_duplicate,
    reject_duplicates,
    verdict_report,
)
from cli.terminal import shown_text
from core.commands import AddFile, RecordRejectedMoved, RemoveJob, Skip
from core.decide import decide
from core.errors import Refused
from core.state import State
from events.kinds import AnyEvent, RejectedFileMoved
from events.places import JobRemoved
from events.values import Priority
from gpu.crashpoints import reached
from gpu.manifest import describe
from journal import durable
from journal.storage import REAL, NotAFile, Storage


def take_all(
    ledger: Ledger, files: Iterable[tuple[Path, Priority]], refuse: Callable[[Path, str], None]
) -> Iterator[AnyEvent]:
    """Make jobs of complete files in the inbox; `refuse` hears of those that may not be read.

    Files of one priority share an arriving directory, so that all of them together pay for the syncs of directories.
    Raises OSError, journal.errors.StorageFailed, after the events that were journaled before.
    """
    for priority, paths in batches(files):
        events: list[AnyEvent] = []
        try:
            _take_batch(ledger, paths, priority, refuse, events)
        except Exception:
            yield from events
            raise
        yield from events


def _take_batch(
    ledger: Ledger,
    paths: Sequence[Path],
    priority: Priority,
    refuse: Callable[[Path, str], None],
    events: list[AnyEvent],
) -> None:
    """Make jobs of files through one arriving directory; `events` gets what is journaled. Raises as `take_all`."""
    home, came = ledger.home, dict[Path, Path]()
    try:
        with new_directory(home, priority) as directory:
            with filling(home.storage, directory):
                _bring_all(home, paths, directory, refuse, came)
            for file, problem in _finish(ledger, directory, events).items():
                refuse(came[file], _why(problem))
    except (FileNotFoundError, PermissionError) as error:
        if came:
            raise
        if isinstance(error, PermissionError):  # no directory could be made: all files are where they were
            for path in paths:
                refuse(path, _why(error))


def _bring_all(
    home: Home, paths: Sequence[Path], directory: Path, refuse: Callable[[Path, str], None], came: dict[Path, Path]
) -> None:
    """Bring files of the inbox into an arriving directory; `came` gets their old paths by their new ones. On disk."""
    for path in paths:
        try:
            came[bring(home, path, directory)] = path
        except FileNotFoundError:
            continue  # taken back before it was accepted
        except (NotTaken, PermissionError) as error:
            refuse(path, _why(error))
            continue
        reached("arrival_moved")
    if came:  # their new place first: a file that is on disk in neither is lost
        durable.fsync_directory(directory, storage=home.storage)
        for lane in sorted({path.parent for path in came.values()}):
            with suppress(FileNotFoundError):  # removed by a person, with all names in it
                durable.fsync_directory(lane, storage=home.storage)


def _why(error: NotTaken | PermissionError) -> str:
    return error.reason if isinstance(error, NotTaken) else error.strerror or str(error)


def take_copy(
    ledger: Ledger, path: Path, priority: Priority, *, again: bool = False, name: str = ""
) -> Sequence[AnyEvent]:
    """Make a job of a copy of `path`, which stays where it is; `again`: also of bytes that were accepted before.
    `name`: what the job is called, if not as the file.

    Raises OSError, journal.errors.StorageFailed; core.errors.Refused if bytes that are in progress are to be trained
    again.
    """
    events: list[AnyEvent] = []
    with new_directory(ledger.home, priority, again=again) as directory:
        storage = ledger.home.storage
        with filling(storage, directory):
            durable.copy_durably(path, directory / safe_name(name or path.name), storage=storage)
        reached("arrival_copied")
        for error in _finish(ledger, directory, events).values():
            raise error
    return events


def finish_arrivals(ledger: Ledger) -> None:
    """Take on what an earlier process had in its hands when it died. Raises as `take_copy`."""
    storage, arriving = ledger.home.storage, arriving_of(ledger.home)
    if not storage.exists(arriving):
        return
    home = ledger.home
    for place in (home.data, home.rejected, home.inbox, home.inbox / "high", home.inbox / "low"):
        with suppress(FileNotFoundError):  # a person removed it
            durable.fsync_directory(place, storage=storage)  # a file may have come there, and the sync have failed
    for name in sorted(storage.names(arriving)):
        with suppress(FileNotFoundError), held(storage, arriving / name) as ours:
            if ours:
                # Its process may have died before it could sync these. A file that it moved on is at its new place on
                # disk with that, before this directory, which it was moved out of, can be gone.
                for there in (arriving, arriving / name):
                    durable.fsync_directory(there, storage=storage)
                with suppress(Refused):  # to be trained again, and in progress; its source is where it was
                    _finish(ledger, arriving / name, [])  # what stays out is in rejected/, or in the inbox again


def _finish(ledger: Ledger, directory: Path, events: list[AnyEvent]) -> dict[Path, NotTaken | PermissionError]:
    """From the arriving directory to the end; `events` gets what is journaled. Once more, from wherever it was left, is
    the same.

    Returns what stays out, by its path here, and why: a file that may not be taken is in `rejected/`. One that this
    process may not read is in the inbox again, where `cli.inbox` tells of it. So is one that somebody still writes.
    """
    storage = ledger.home.storage
    found: list[tuple[Path, str]] = []
    stay_out: dict[Path, NotTaken | PermissionError] = {}
    for name in sorted(storage.names(directory)):
        file = directory / name
        if durable.is_temporary(name):  # a copy that was not finished; its source is where it was
            storage.unlink(file)
            continue
        try:
            if storage.is_open_for_writing(file):
                _put_back(ledger.home, file)  # nobody can open it here: its writer came between the look and the move
                continue
            make_ours(ledger.home, file)
            found.append((file, settled_sha256(file, storage=storage)))
        except FileNotFoundError:
            continue  # taken away by a person; nothing was journaled of it
        except NotAFile:
            _set_aside(ledger.home, file, "no_file", EXCHANGED)
        except NotTaken as error:
            _set_aside(ledger.home, file, "not_taken", error.reason)
            stay_out[file] = error
        except PermissionError as error:
            if storage.why_unreadable(file) is not None:
                _put_back(ledger.home, file)
            stay_out[file] = error
    if found:
        _make_jobs(ledger, directory, found, events)
    return stay_out


def _put_back(home: Home, file: Path) -> None:
    """Move a file into the inbox again. It gets another name where a new file has its own."""
    storage = home.storage
    lanes = {"high": home.inbox / "high", "low": home.inbox / "low"}
    lane = lanes.get(priority_of(file.parent), home.inbox)
    durable.make_directory(lane, storage=storage)
    durable.rename_durably(file, _free_name(lane, file.name, storage), storage=storage)


def _make_jobs(ledger: Ledger, directory: Path, found: Sequence[tuple[Path, str]], events: list[AnyEvent]) -> None:
    """Journal files that are hashed from the disk: new ones together, a known one by itself.

    So a process that dies between the record of a known file and its move leaves only one to be journaled twice.
    """
    left, again = deque(found), is_again(directory)
    while left:
        with ledger.exclusive():
            new: dict[str, Path] = {}
            while left:
                file, job = left[0]
                if job in new or (not again and ledger.home.storage.exists(ledger.home.data_file(job))):
                    break
                new[job] = file
                left.popleft()
            if new:
                _take_new(ledger, directory, new, events)
            else:
                file, job = left.popleft()
                _take_known(ledger, file, job, events)


def _take_new(ledger: Ledger, directory: Path, files: dict[str, Path], events: list[AnyEvent]) -> None:
    """Journal files by their hashes, unless that is done, and give them their names in `data/`. Under the append lock:
    the names are on disk before it is released, for a job that is skipped is known by its name alone."""
    home, storage, again = ledger.home, ledger.home.storage, is_again(directory)
    adds: list[AddFile] = []
    for job, file in files.items():
        known = again and storage.exists(home.data_file(job))
        if known or ledger.state.job(job) is None:
            with suppress(FileNotFoundError):  # taken away by a person: the others do not depend on it
                adds.append(_add(home, file, job, known=known))
                if again:
                    _forget(ledger, adds[-1], file, home.data_file(job))
    events.extend(ledger.execute(*adds))
    for job, file in files.items():
        reached("arrival_journaled")
        with suppress(FileNotFoundError):  # as above
            storage.rename(file, home.data_file(job))
        reached("arrival_named")
    for there in (home.data, directory):
        durable.fsync_directory(there, storage=storage)


def _take_known(ledger: Ledger, file: Path, job: str, events: list[AnyEvent]) -> None:
    """Journal a file whose bytes are known, and return it. Under the append lock."""
    with suppress(FileNotFoundError):  # as above
        events.extend(ledger.execute(_add(ledger.home, file, job, known=True)))
        reached("arrival_journaled")
        _return(ledger.home, file, job, ledger.state)
        reached("arrival_named")


def _add(home: Home, file: Path, job: str, *, known: bool) -> AddFile:
    size_bytes, directory = home.storage.stat(file).st_size, file.parent
    return AddFile(
        job=job,
        name=shown_name(file),
        size_bytes=size_bytes,
        priority=priority_of(directory),
        known=known,
        again=is_again(directory),
    )


def _forget(ledger: Ledger, add: AddFile, file: Path, target: Path) -> None:
    """Make known bytes unknown, of which a verified copy is on its way: it then arrives like new ones.

    So whether bytes are known goes on saying whether they are journaled. A power cut may bring the old name back behind
    the record: then they are in hand and known, and the copy is let go. Raises Refused if they cannot be learned again
    now, and lets go of the copy then too.
    """
    storage = ledger.home.storage
    try:
        decide(ledger.state, add, ledger.home.clock.now())
    except Refused:
        storage.unlink(file)
        storage.rmdir(file.parent)
        raise
    if add.known:
        storage.unlink(target)


EXCHANGED = "what lay in the inbox under this name was exchanged for something that is no file"


def _set_aside(home: Home, file: Path, problem: str, message: str) -> None:
    """Move to `rejected/` what was exchanged between the look at it and the move. Nothing is read through it."""
    target = _free_name(home.rejected, f"{file.parent.name}-{safe_name(file.name)}", home.storage)
    report = encode_report({"file": shown_name(file), "problem": problem, "message": message})
    durable.write_atomically(target.with_name(f"{target.name}.report.json"), report, sync=True, storage=home.storage)
    durable.rename_durably(file, target, storage=home.storage)


def remove_job(ledger: Ledger, job: str) -> tuple[JobRemoved, Path | None]:
    """Take a job out of the queue and put its file into `rejected/`: the event, and where the file is now.

    None if it stays in `data/`, or if the disk is full: then the daemon moves it when there is room. Raises
    core.errors.Refused, and as `take_copy`.
    """
    finish_arrivals(ledger)
    (event,) = ledger.execute(RemoveJob(job=job))
    assert isinstance(event, JobRemoved)
    if event.keeps_data or ledger.state.full is not None:
        return event, None
    for moved in settle_rejection(ledger, job):
        if isinstance(moved, RejectedFileMoved):
            return event, ledger.home.root / moved.path
    return event, ledger.home.rejected / safe_name(event.name)  # a daemon was quicker


def settle_rejection(ledger: Ledger, job: str) -> Sequence[AnyEvent]:
    """Move the file of an open rejection to `rejected/`, and journal it; nothing if another process did.

    Under the append lock: a command and the daemon may both be about to. Raises OSError, journal.errors.StorageFailed.
    """
    home = ledger.home
    with ledger.exclusive():
        rejection = ledger.state.rejections.get(job)
        if rejection is None:
            return ()
        report = verdict_report(home, job, rejection)
        target = put_in_rejected(home, home.data_file(job), rejection.name, report)
        reject_duplicates(home, job, rejection.name, report)
        events = ledger.execute(RecordRejectedMoved(job=job, path=home.relative(target)))
        forget_duplicates(home, job)
        return events


def skip_job(ledger: Ledger, job: str | None) -> Sequence[AnyEvent]:
    """Pass a job over; None: the current one. Raises core.errors.Refused, and as `take_copy`.

    Its file may still be on its way. A job that is skipped is known no more but by its file in `data/`, so that is put
    there first: else it would be accepted again by whoever takes the file on.
    """
    finish_arrivals(ledger)
    return ledger.execute(Skip(job=job))


def put_in_rejected(
    home: Home, source: Path, name: str, report: dict[str, object], *, duplicate_of: str | None = None
) -> Path:
    """Move `source` to `rejected/` beside its report, which is written first. Done already is the same as done.

    A file of that name may lie there from an earlier night: nothing is overwritten. `duplicate_of`: the job whose
    verdict the report will get.
    """
    storage, names = home.storage, _names_in(home.rejected, safe_name(name))
    before = target = next(names)
    while storage.exists(target):
        before, target = target, next(names)
    if not storage.exists(source):  # moved by a process that may have died before it could sync that
        for directory in (home.rejected, source.parent):
            durable.fsync_directory(directory, storage=storage)
        return before
    report_path = target.with_name(f"{target.name}.report.json")
    if duplicate_of is not None:
        note_duplicate(home, duplicate_of, report_path)
    durable.write_atomically(report_path, encode_report({"file": _text(name), **report}), sync=True, storage=storage)
    reached("report_written")
    durable.rename_durably(source, target, storage=storage)
    reached("rejected_moved")
    return target


def _names_in(directory: Path, name: str) -> Iterator[Path]:
    yield directory / name
    for taken in count(2):
        yield directory / f"{taken}-{name}"


def _free_name(directory: Path, name: str, storage: Storage) -> Path:
    return next(path for path in _names_in(directory, name) if not storage.exists(path))


def _return(home: Home, file: Path, job: str, state: State) -> None:
    """Put a file whose bytes are known into `rejected/`. Its report stays true when the first file gets its verdict."""
    waits_for = job if state.rejections.get(job) is None and state.job(job) is not None else None
    put_in_rejected(home, file, file.name, duplicate_report(home, job, state), duplicate_of=waits_for)


def file_sha256(path: Path, *, storage: Storage = REAL) -> str:
    """The SHA-256 of a file, in hexadecimal; its job's id."""
    return describe(path, storage=storage).sha256


def shown_name(path: Path) -> str:
    """A file's name as text that JSON can carry and that is one line anywhere: bytes that are no UTF-8, and characters
    that a terminal would act on, are written out."""
    return shown_text(path.name)


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
