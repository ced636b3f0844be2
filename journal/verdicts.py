"""What an opened journal may turn out to be: one table, from facts to a verdict.

Each fact is a yes or a no:

    readable    the disk gave back every byte that was asked for
    headers     every segment is there, begins with a whole header, and continues the one before it
    rest        bytes follow the last whole transaction of the segment: half a line, half a transaction, rubbish
    covered     among them a whole record says that the first missing one was on disk before it was written
    promised    the next segment states more, or other bytes, than are found in this one
    witnessed   somebody outside of the journal remembers a record that is not in it

and each row of CASES reads, column by column: `1` the fact holds, `0` it does not, `-` it does not matter. The rows
exclude each other and leave nothing out; `tests/journal/test_verdicts.py` tries all combinations.

Why a rest without proof is no damage: a record is acknowledged after its fdatasync, so a machine that stops in the
middle of an append leaves any part of that one transaction, in any order of sectors. It was promised to nobody.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import NamedTuple

from journal.format import Witness


class Verdict(enum.Enum):
    """What is to be done about it."""

    CLEAN = "clean"
    """Go on."""
    TORN = "torn"
    """Keep the rest in `torn/`, continue in a new segment; never edit the old one."""
    DAMAGED = "damaged"
    """Refuse, change nothing; only a person may accept the loss."""
    UNREADABLE = "unreadable"
    """Stop; touch nothing; try again on a healthy disk."""


class Facts(NamedTuple):
    """What was found at the place where reading ended. The legend is the module's docstring."""

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
    Case("unreadable", "0-----", Verdict.UNREADABLE, "the disk did not give the bytes back"),
    Case("headless", "10----", Verdict.DAMAGED, "a segment is missing, or its header is not what was written"),
    Case("covered", "11-1--", Verdict.DAMAGED, "a later record proves that it was on disk"),
    Case("promised", "11-01-", Verdict.DAMAGED, "the next segment states what was there"),
    Case("witnessed", "11-001", Verdict.DAMAGED, "it is remembered outside of the journal"),
    Case("torn", "111000", Verdict.TORN, "the last append never finished, and nobody was told that it had"),
    Case("clean", "110000", Verdict.CLEAN, "every record is valid"),
)


def judge(facts: Facts) -> Case:
    """The one row that fits."""
    return next(case for case in CASES if case.fits(facts))


class Finding(NamedTuple):
    """Where reading ended and what that means."""

    case: Case
    path: Path
    offset: int
    """The first byte of `path` that is not believed."""
    seq: int
    """The first record that is not there."""
    last_seq: int
    """The last record that something proves to have been there; `seq` - 1 if nothing does."""
    witnesses: tuple[Witness, ...] = ()
    """Those that remember what is not there."""

    @property
    def verdict(self) -> Verdict:
        return self.case.verdict

    def __str__(self) -> str:
        if self.verdict is Verdict.CLEAN:
            return f"{self.case.meaning}, up to record {self.seq - 1}"
        lost = f"record {self.seq}" + (f" to at least {self.last_seq}" if self.last_seq > self.seq else "")
        told = "".join(f"; {w.name} remembers record {w.seq} with crc {w.crc}" for w in self.witnesses)
        return f"{self.path}, byte {self.offset}: {lost} cannot be read back, and {self.case.meaning}{told}"
