"""The errors of the journal, named by their cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from journal.verdicts import Finding


class JournalError(Exception):
    """Base of all errors that `journal` defines."""


class JournalMissing(JournalError):
    """There is no journal at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"there is no journal at {path}. Nothing was changed. "
            "Check the path; `keepstep init` makes a new home with an empty journal."
        )


class JournalExists(JournalError):
    """`path` exists, so no journal can be created there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path} already exists and will not be overwritten. Choose another directory.")


class JournalDamaged(JournalError):
    """Acknowledged records are lost or changed. Data: `finding` and its `path`, `offset`, `seq`."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self.path = finding.path
        self.offset = finding.offset
        self.seq = finding.seq
        super().__init__(
            f"the journal is damaged: {finding}. Nothing was changed, and keepstep does not run on it. "
            "Restore the journal from a backup, or examine it with `keepstep journal verify` and accept the loss of "
            "records with `keepstep journal repair --accept-loss`."
        )


class JournalReadFailed(JournalError):
    """The disk could not be read. The bytes may still exist, so nothing is judged and nothing is changed."""

    def __init__(self, path: Path, offset: int, error: OSError) -> None:
        self.path = path
        self.offset = offset
        self.error = error
        super().__init__(
            f"{path} cannot be read at byte {offset}: {error.strerror or error}. Nothing was changed. "
            "Check the disk (kernel log, permissions, free file handles) and try again; do not repair the journal."
        )


class FormatUnknown(JournalError):
    """A segment is intact, but has a format that this program does not know."""

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        self.version = version
        super().__init__(
            f"{path} has journal format {version}, which this program does not know. Nothing was changed. "
            "It was probably written by a newer keepstep; use that one."
        )


class PositionLost(JournalError):
    """A position of the caller is not part of the journal (any more).

    A repair abandoned its record, or a reader without the lock saw a transaction that was undone before it was
    acknowledged.
    """

    def __init__(self, seq: int, crc: str) -> None:
        self.seq = seq
        self.crc = crc
        super().__init__(
            f"record {seq} (crc {crc}) is not part of the journal any more. "
            "Discard the state up to there and read the journal from its start."
        )


class StorageFailed(JournalError):
    """A write or an fsync failed, so the content of the disk is unknown. There is no retry and no acknowledgement."""

    def __init__(self, path: Path, error: OSError | None, consequence: str = "") -> None:
        self.path = path
        self.error = error
        what = "an append was interrupted" if error is None else (error.strerror or str(error))
        super().__init__(
            f"writing to {path} failed: {what}. "
            + (
                consequence
                or "Nothing was acknowledged, and this process will not write again. "
                "Check the disk (kernel log, mount options), then start again: opening the journal finds what was kept."
            )
        )


class NoSpace(StorageFailed):
    """The disk is full. The unacknowledged append was undone, and the journal stays usable."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            path,
            error,
            "The unfinished record was removed, and everything before it is safe. "
            "Free some space on that disk and try again.",
        )


class JournalPoisoned(StorageFailed):
    """An earlier write of this `Journal` failed; it never writes again."""


class LockBusy(JournalError):
    """Another process held the append lock for too long."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        super().__init__(
            f"{path} was held by another process for more than {timeout_s:g} s. Nothing was changed. "
            f"Try again; if it stays, find the holder with `fuser -v {path}` and check what it waits for."
        )
