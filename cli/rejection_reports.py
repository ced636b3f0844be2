"""The reports in `rejected/`: what they say of a rejected file, and of files with the same bytes.

A file may arrive while the first file with its bytes has no verdict. Its report then depends on that verdict:

    reports/<job>.duplicates     the names of the reports that depend on a job, each between two NUL bytes

A report is noted before it is written. When the job is rejected, each noted report gets the reasons. Reports that a
person removed or replaced stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cli.clock import timestamp
from cli.home import Home
from cli.identical import identical
from cli.terminal import printable
from core.state import Rejection, State
from events.values import JobId
from journal import durable
from projections.seal import UNREADABLE

PROBLEM = "duplicate"
"""What a report says as long as the first file is not rejected."""


def note_duplicate(home: Home, job: JobId, report: Path) -> None:
    """Remember that `report`, which is about to be written, depends on the verdict on `job`. Raises OSError."""
    storage, note = home.storage, _note(home, job)
    is_new = not storage.exists(note)
    durable.make_directory(home.reports, storage=storage)
    with durable.opened(storage, note, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
        durable.write_all(storage, fd, b"\0" + os.fsencode(report.name) + b"\0")
        storage.fsync(fd)
    if is_new:
        durable.fsync_directory(home.reports, storage=storage)


def reject_duplicates(home: Home, job: JobId, first: str, verdict: Mapping[str, object]) -> None:
    """Give the verdict on `job` to the reports that depend on it. `first`: the name of its file. Twice is as once.

    Raises OSError.
    """
    storage, note = home.storage, _note(home, job)
    if not storage.exists(note):
        return
    with durable.opened(storage, note, os.O_RDONLY) as fd:
        names = set(b"".join(durable.chunks(storage, fd)).split(b"\0")) - {b""}
    for name in sorted(names):
        path = home.rejected / os.fsdecode(name)
        try:
            report = msgspec.json.decode(durable.read_file(path, storage=storage), type=dict[str, object])
        except UNREADABLE:
            continue  # a person removed or replaced it
        if (report.get("problem"), report.get("job")) == (PROBLEM, job):
            durable.write_atomically(
                path, encode_report({**report, **_as_first(first, verdict)}), sync=True, storage=storage
            )


def forget_duplicates(home: Home, job: JobId) -> None:
    """Remove the note of a job whose verdict all reports have. Raises OSError."""
    if home.storage.exists(_note(home, job)):
        home.storage.unlink(_note(home, job))


def _as_first(first: str, verdict: Mapping[str, object]) -> dict[str, object]:
    """The verdict on the file that a person called `first`, as one on a file with the same bytes."""
    message = f"this file is identical to {printable(first)}, which was rejected: {verdict['message']}"
    return {**verdict, "first": first, "message": message}


def encode_report(report: Mapping[str, object]) -> bytes:
    """The bytes of a report in `rejected/`."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def verdict_report(home: Home, job: JobId, rejection: Rejection) -> dict[str, object]:
    """What the report of a rejected file says, without the file's name."""
    report: dict[str, object] = {
        "problem": rejection.problem,
        "line": rejection.line,
        "message": rejection.message,
        "job": job,
        "at": timestamp(home.clock.now()),
    }
    if (found := _found_in(home, job)) is not None:
        report["report"] = found
    return report


def duplicate_report(home: Home, job: JobId, state: State) -> dict[str, object]:
    """What the report of a file says that has the bytes of `job`, which arrived before it."""
    if (rejection := state.rejections.get(job)) is not None:
        return _as_first(rejection.name, verdict_report(home, job, rejection))
    message, at = f"this file {identical(job, state)}", timestamp(home.clock.now())
    report: dict[str, object] = {"problem": PROBLEM, "line": None, "message": message, "job": job, "at": at}
    if (first := state.job(job)) is not None:
        report["first"] = first.name
    return report


def _found_in(home: Home, job: JobId) -> msgspec.Raw | None:
    """The report of what was found in the file of a job; None if there is none."""
    try:
        data = durable.read_file(home.reports / f"{job}.json", storage=home.storage)
        msgspec.json.decode(data)
    except UNREADABLE:
        return None  # a view: it says more than the rejection does, and nothing needs it
    return msgspec.Raw(data)


def _note(home: Home, job: JobId) -> Path:
    return home.reports / f"{job}.duplicates"
