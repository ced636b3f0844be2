"""The verdict on an opened journal: one table, from facts to a verdict.

Each fact is a yes or a no:

    readable    the disk returned every byte
    headers     every segment exists, has a valid header, and continues the one before it
    rest        bytes follow the last whole transaction of the segment: half a line, half a transaction, garbage
    covered     among them a valid record states that the first missing one was on disk before it
    promised    the next segment states more bytes, or others, than this one has
    witnessed   a file outside of the journal has seen a record that the journal does not have

and each row of CASES reads, column by column: `1` the fact holds, `0` it does not, `-` it does not matter. The rows
exclude each other and cover all combinations, which `tests/journal/test_verdicts.py` tries.

A rest without proof is not damage: a record is acknowledged after its fdatasync. A machine that stops during an append
leaves any part of that transaction, in any order of sectors, and nobody relies on it.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import NamedTuple

from journal.format import Witness


class Verdict(enum.Enum):
    """An instruction for the handling of a journal."""

    CLEAN = "clean"
    """Continue."""
    TORN = "torn"
    """Copy the rest to `torn/` and continue in a new segment; never edit the old one."""
    DAMAGED = "damaged"
    """Refuse and change nothing; only the user may accept the loss."""
    UNREADABLE = "unreadable"
    """Stop and change nothing; try again on a healthy disk."""


class Facts(NamedTuple):
    """The facts at the end of a segment. The module's docstring explains them."""

    readable: bool
    headers: bool
    rest: bool
    covered: bool
    promised: bool
    witnessed: bool


class Case(NamedTuple):
    """A row of the table."""

    name: str
    pattern: str
    verdict: Verdict
    meaning: str

    def fits(self, facts: Facts) -> bool:
        return all(wanted in ("-", "1" if fact else "0") for wanted, fact in zip(self.pattern, facts, strict=True))


CASES: tuple[Case, ...] = (
    #     facts:      readable, headers, rest, covered, promised, witnessed
    Case("unreadable", "0-----", Verdict.UNREADABLE, "the disk did not return the bytes"),
    Case("headless", "10----", Verdict.DAMAGED, "a segment is missing, or its header is not the one that was written"),
    Case("covered", "11-1--", Verdict.DAMAGED, "a later record proves that it was on disk"),
    Case("promised", "11-01-", Verdict.DAMAGED, "the next segment states what was there"),
    Case("witnessed", "11-001", Verdict.DAMAGED, "a file outside of the journal has seen it"),
    Case("torn", "111000", Verdict.TORN, "the last append did not finish and was not acknowledged"),
    Case("clean", "110000", Verdict.CLEAN, "every record is valid"),
)


def judge(facts: Facts) -> Case:
    """Return the row that matches."""
    return next(case for case in CASES if case.fits(facts))


class Finding(NamedTuple):
    """The place where reading ended, and the verdict."""

    case: Case
    path: Path
    offset: int
    """The first byte of `path` that is not valid."""
    seq: int
    """The first missing record."""
    last_seq: int
    """The last record that is proven to have existed; `seq` - 1 if none is."""
    witnesses: tuple[Witness, ...] = ()
    """The witnesses that have seen missing records."""

    @property
    def verdict(self) -> Verdict:
        return self.case.verdict

    def __str__(self) -> str:
        if self.verdict is Verdict.CLEAN:
            return f"{self.case.meaning}, up to record {self.seq - 1}"
        lost = f"record {self.seq}" + (f" to at least {self.last_seq}" if self.last_seq > self.seq else "")
        seen = "".join(f"; {w.name} has seen record {w.seq} with crc {w.crc}" for w in self.witnesses)
        return f"{self.path}, byte {self.offset}: {lost} cannot be read back, and {self.case.meaning}{seen}"
