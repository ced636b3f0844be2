"""What can be wrong with a journal, named by whose fault it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from journal.verdicts import Finding


class JournalError(Exception):
    """Base of everything that `journal` raises on purpose."""


class JournalMissing(JournalError):
    """There is no journal at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"there is no journal at {path}. Nothing was changed. "
            "Check the path; `keepstep init` makes a new home with an empty journal."
        )


class JournalExists(JournalError):
    """A journal was to be made at `path`, where something already is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path} already exists and will not be overwritten. Choose another directory.")


class JournalDamaged(JournalError):
    """Records that were acknowledged are gone or changed. Data: everything in `finding`."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self.path = finding.path
        self.offset = finding.offset
        self.seq = finding.seq
        super().__init__(
            f"the journal is damaged: {finding}. Nothing was changed, and nothing will run on it. "
            "Restore the journal from a backup, or look at it with `keepstep journal verify` and give the lost "
            "records up with `keepstep journal repair --accept-loss`."
        )


class JournalReadFailed(JournalError):
    """The disk did not give the bytes back. They may still be there, so nothing is judged and nothing is touched."""

    def __init__(self, path: Path, offset: int, error: OSError) -> None:
        self.path = path
        self.offset = offset
        self.error = error
        super().__init__(
            f"{path} cannot be read at byte {offset}: {error.strerror or error}. Nothing was changed. "
            "Look at the disk (kernel log, permissions, free file handles) and try again; do not repair the journal."
        )


class FormatUnknown(JournalError):
    """The segment is whole, but written in a format that this program does not know."""

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        self.version = version
        super().__init__(
            f"{path} has journal format {version}, which this program does not know. Nothing was changed. "
            "It was probably written by a newer keepstep; use that one."
        )


class PositionLost(JournalError):
    """A position that the caller remembers is not part of the journal (any more): a repair gave its record up, or a
    reader without the lock had seen a transaction that was taken back before it was acknowledged."""

    def __init__(self, seq: int, crc: str) -> None:
        self.seq = seq
        self.crc = crc
        super().__init__(
            f"record {seq} (crc {crc}) is not part of the journal any more. "
            "Discard what was folded up to there and read the journal from its start."
        )


class StorageFailed(JournalError):
    """A write or an fsync failed, so what is on disk is not known. No retry, no acknowledgement."""

    def __init__(self, path: Path, error: OSError | None, consequence: str = "") -> None:
        self.path = path
        self.error = error
        what = "an append was interrupted" if error is None else (error.strerror or str(error))
        super().__init__(
            f"writing to {path} failed: {what}. "
            + (
                consequence
                or "Nothing was acknowledged, and this process will not write again. "
                "Look at the disk (kernel log, mount options), then start again: opening the journal finds out what "
                "was kept."
            )
        )


class NoSpace(StorageFailed):
    """The disk is full. What had not been acknowledged was taken back, and the journal is still healthy."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            path,
            error,
            "The unfinished record was taken back, and everything before it is safe. "
            "Make room on that disk and try again.",
        )


class JournalPoisoned(StorageFailed):
    """An earlier write of this process failed; the same `Journal` never writes again."""


class LockBusy(JournalError):
    """Another process held the append lock for too long."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        super().__init__(
            f"{path} was held by another process for more than {timeout_s:g} s. Nothing was changed. "
            f"Try again; if it stays, find the holder with `fuser -v {path}` and see what it is waiting for."
        )
