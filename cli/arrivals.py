"""How a file becomes a job, whatever happens on the way.

    data/.arriving/<priority>[-again]-<nonce>/<name>   the file is in keepstep's hands (moved from the inbox, or copied)
    file_enqueued                                      journaled: it is a job
    data/<sha256>.jsonl                                its bytes, under their own hash

The last two happen under the append lock. Killed anywhere, the file stands in exactly one of these places, and
`finish_arrivals` takes it on from there. `data/<sha256>.jsonl` exists only for what was journaled, so its existence
is how an earlier file with the same bytes is known, however long ago that was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import msgspec

from cli.clock import timestamp
from cli.home import Home
from cli.identical import identical
from cli.ledger import Ledger
from cli.ownership import NotTaken, bring, make_ours, safe_name
from cli.terminal import shown_text
from core.commands import AddFile, RecordRejectedMoved, RemoveJob, Skip
from core.decide import decide
from core.errors import Refused
from core.state import State
from events.kinds import AnyEvent, RejectedFileMoved
from events.places import JobRemoved
from events.values import PRIORITIES, Priority
from gpu.crashpoints import reached
from gpu.manifest import describe, describe_open
from journal import durable
from journal.storage import REAL, NotAFile, Storage
from projections.seal import UNREADABLE

AGAIN = "again"
"""In the name of an arriving directory: bytes that were accepted before are to be learned once more."""


def take_all(
    ledger: Ledger, files: Iterable[tuple[Path, Priority]], refuse: Callable[[Path, str], None]
) -> Iterator[AnyEvent]:
    """Make jobs of complete files in the inbox; `refuse` hears of those that may not be read. Raises as below."""
    for path, priority in files:
        try:
            yield from take_from_inbox(ledger, path, priority)
        except FileNotFoundError:
            continue  # taken back before it was accepted
        except NotTaken as error:
            refuse(path, error.reason)
        except PermissionError as error:
            refuse(path, error.strerror or str(error))


def take_from_inbox(ledger: Ledger, path: Path, priority: Priority) -> Sequence[AnyEvent]:
    """Make a job of a complete file in the inbox.

    Raises cli.ownership.NotTaken, OSError, journal.errors.StorageFailed.
    """
    with _new_directory(ledger.home, priority) as directory:
        bring(ledger.home, path, directory)
        reached("arrival_moved")
        return _finish_or_put_back(ledger, directory)


def take_copy(
    ledger: Ledger, path: Path, priority: Priority, *, again: bool = False, name: str = ""
) -> Sequence[AnyEvent]:
    """Make a job of a copy of `path`, which stays where it is; `again`: also of bytes that were accepted before.
    `name`: what the job is called, if not as the file.

    Raises OSError, journal.errors.StorageFailed; core.errors.Refused if bytes that are in hand are to be learned again.
    """
    with _new_directory(ledger.home, f"{priority}-{AGAIN}" if again else priority) as directory:
        storage = ledger.home.storage
        durable.copy_durably(path, directory / safe_name(name or path.name), storage=storage)
        reached("arrival_copied")
        return _finish(ledger, directory)


def finish_arrivals(ledger: Ledger) -> None:
    """Take on what an earlier process had in its hands when it died. Raises as `take_copy`."""
    storage, arriving = ledger.home.storage, _arriving(ledger.home)
    if not storage.exists(arriving):
        return
    durable.fsync_directory(ledger.home.data, storage=storage)  # where a name was given and its sync failed
    for name in sorted(storage.names(arriving)):
        with suppress(FileNotFoundError), _held(storage, arriving / name) as ours:
            if ours:
                # Its process may have died before it could sync these. A file that it moved on is at its new place on
                # disk with that, before this directory, which it was moved out of, can be gone.
                for there in (arriving, arriving / name):
                    durable.fsync_directory(there, storage=storage)
                # Refused: to be trained again, and in progress; its source is where it was. PermissionError: put back.
                # NotTaken: in rejected/.
                with suppress(Refused, NotTaken, PermissionError):
                    _finish_or_put_back(ledger, arriving / name)


def _finish_or_put_back(ledger: Ledger, directory: Path) -> Sequence[AnyEvent]:
    """As `_finish`. A file that this process may not read goes back into the inbox, where `cli.inbox` tells of it; and
    PermissionError is raised."""
    try:
        return _finish(ledger, directory)
    except PermissionError:
        home, storage = ledger.home, ledger.home.storage
        lanes = {"high": home.inbox / "high", "low": home.inbox / "low"}
        lane = lanes.get(_priority(directory), home.inbox)
        for name in storage.names(directory):
            if storage.why_unreadable(directory / name) is not None:
                durable.make_directory(lane, storage=storage)
                durable.rename_durably(directory / name, _free_name(lane, name, storage), storage=storage)
        raise


def _finish(ledger: Ledger, directory: Path) -> Sequence[AnyEvent]:
    """From the arriving directory to the end. Once more, from wherever it was left, is the same."""
    home, storage = ledger.home, ledger.home.storage
    names = sorted(storage.names(directory))
    for name in names:
        if durable.is_temporary(name):  # a copy that was not finished; its source is where it was
            storage.unlink(directory / name)
    file = next((directory / name for name in names if not durable.is_temporary(name)), None)
    if file is None:  # moved on by a process that died behind that
        return ()
    try:
        make_ours(home, file)
    except NotAFile:
        _set_aside(home, directory, file, "no_file", EXCHANGED)
        return ()
    except NotTaken as error:
        _set_aside(home, directory, file, "not_taken", error.reason)
        raise
    job = _settled_sha256(file, storage)
    target = home.data_file(job)
    again = _is_again(directory)
    with ledger.exclusive():
        known = storage.exists(target)
        journaled = not known and ledger.state.job(job) is not None
        events: Sequence[AnyEvent] = ()
        if not journaled:
            name, size_bytes = shown_name(file), storage.stat(file).st_size
            add = AddFile(
                job=job, name=name, size_bytes=size_bytes, priority=_priority(directory), known=known, again=again
            )
            if again:
                known = _forget(ledger, add, file, target)
            events = ledger.execute(add)
        reached("arrival_journaled")
        if known:
            _return(home, file, job, ledger.state)
        else:
            durable.rename_durably(file, target, storage=storage)
        reached("arrival_named")
    return events


def _forget(ledger: Ledger, add: AddFile, file: Path, target: Path) -> bool:
    """Make known bytes unknown, of which a verified copy is on its way: it then arrives like new ones. False.

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
    return False


EXCHANGED = "what lay in the inbox under this name was exchanged for something that is no file"


def _set_aside(home: Home, directory: Path, file: Path, problem: str, message: str) -> None:
    """Move to `rejected/` what was exchanged between the look at it and the move. Nothing is read through it."""
    target = home.rejected / f"{directory.name}-{safe_name(file.name)}"
    report = msgspec.json.format(
        msgspec.json.encode({"file": shown_name(file), "problem": problem, "message": message})
    )
    durable.write_atomically(
        target.with_name(f"{target.name}.report.json"), report + b"\n", sync=True, storage=home.storage
    )
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
        report: dict[str, object] = {
            "problem": rejection.problem,
            "line": rejection.line,
            "message": rejection.message,
            "job": job,
            "at": timestamp(home.clock.now()),
        }
        if (found := _found_in(home, job)) is not None:
            report["report"] = found
        target = put_in_rejected(home, home.data_file(job), rejection.name, report)
        return ledger.execute(RecordRejectedMoved(job=job, path=home.relative(target)))


def _found_in(home: Home, job: str) -> msgspec.Raw | None:
    """The report of what was found in the file of a job; None if there is none."""
    try:
        data = durable.read_file(home.reports / f"{job}.json", storage=home.storage)
        msgspec.json.decode(data)
    except UNREADABLE:
        return None  # a view: it says more than the rejection does, and nothing needs it
    return msgspec.Raw(data)


def skip_job(ledger: Ledger, job: str | None) -> Sequence[AnyEvent]:
    """Pass a job over; None: the current one. Raises core.errors.Refused, and as `take_copy`.

    Its file may still be on its way. A job that is skipped is known no more but by its file in `data/`, so that is put
    there first: else it would be accepted again by whoever takes the file on.
    """
    finish_arrivals(ledger)
    return ledger.execute(Skip(job=job))


def put_in_rejected(home: Home, source: Path, name: str, report: dict[str, object]) -> Path:
    """Move `source` to `rejected/` beside its report, which is written first. Done already is the same as done.

    A file of that name may lie there from an earlier night: nothing is overwritten.
    """
    storage, names = home.storage, _names_in(home.rejected, safe_name(name))
    before = target = next(names)
    while storage.exists(target):
        before, target = target, next(names)
    if not storage.exists(source):  # moved by a process that may have died before it could sync that
        for directory in (home.rejected, source.parent):
            durable.fsync_directory(directory, storage=storage)
        return before
    text = msgspec.json.format(msgspec.json.encode({"file": _text(name), **report}), indent=2)
    report_path = target.with_name(f"{target.name}.report.json")
    durable.write_atomically(report_path, text + b"\n", sync=True, storage=storage)
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
    message = f"this file {identical(job, state)}"
    report: dict[str, object] = {"problem": "duplicate", "line": None, "message": message, "job": job}
    if (first := state.job(job) or state.rejections.get(job)) is not None:
        report["first"] = first.name
    put_in_rejected(home, file, file.name, {**report, "at": timestamp(home.clock.now())})


def file_sha256(path: Path, *, storage: Storage = REAL) -> str:
    """The SHA-256 of a file, in hexadecimal; its job's id."""
    return describe(path, storage=storage).sha256


def shown_name(path: Path) -> str:
    """A file's name as text that JSON can carry and that is one line anywhere: bytes that are no UTF-8, and characters
    that a terminal would act on, are written out."""
    return shown_text(path.name)


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _settled_sha256(path: Path, storage: Storage) -> str:
    """The hash of a file as it is on disk, and that did not change while it was read.

    Its writer may still have it open. And an fsync of it may have failed before, its writer's or ours: after that the
    cache shows what the disk never got.
    """
    while True:
        with durable.opened(storage, path, os.O_RDONLY) as fd:
            before = storage.fstat(fd)
            storage.fsync(fd)
            storage.drop_cache(fd)
            digest = describe_open(fd, storage=storage).sha256
            after = storage.fstat(fd)
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return digest


def _arriving(home: Home) -> Path:
    return home.data / ".arriving"


@contextmanager
def _new_directory(home: Home, kind: str) -> Iterator[Path]:
    """A directory for one arrival of this kind, held while the block runs and removed behind it if it is empty then."""
    arriving, storage = _arriving(home), home.storage
    if not home.arriving_is_durable or not storage.exists(arriving):  # once a process: a sync is what a file costs
        durable.make_directory(arriving, storage=storage)
        home.arriving_is_durable = True
    directory = arriving / f"{kind}-{storage.random_name()}{storage.random_name()}"
    storage.mkdir(directory)
    durable.fsync_directory(arriving, storage=storage)
    with _held(storage, directory):
        yield directory


@contextmanager
def _held(storage: Storage, directory: Path) -> Iterator[bool]:
    """Whether this process holds the arrival in `directory`; if another living one does, it is at work there."""
    with durable.opened(storage, directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        if not storage.try_lock(fd):
            yield False
            return
        try:
            yield True
        except Exception:
            _remove_if_empty(storage, directory)
            raise
        _remove_if_empty(storage, directory)


def _remove_if_empty(storage: Storage, directory: Path) -> None:
    with suppress(OSError):  # not empty: what is in it will be taken on at the next start
        storage.rmdir(directory)


def _is_again(directory: Path) -> bool:
    return directory.name.split("-")[1:2] == [AGAIN]


def _priority(directory: Path) -> Priority:
    word = directory.name.partition("-")[0]
    for priority in PRIORITIES:
        if priority == word:
            return priority
    return "normal"
