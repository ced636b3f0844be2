"""The journal: an append-only log of bytes that is on disk when it says so, and that says so when it is damaged.

Start at `log.py`: `Journal` opens, reads and appends. `format.py` is what a line looks like (in prose:
`docs/reference/journal-format.md`), `verdicts.py` what an opened journal can turn out to be. `reader.py` and `survey.py` look
without touching; `repair.py` goes on after damage; `durable.py` is for everybody who writes files. Nothing here knows
what an event means.
"""

from journal.errors import (
    FormatUnknown,
    JournalDamaged,
    JournalError,
    JournalExists,
    JournalMissing,
    JournalPoisoned,
    JournalReadFailed,
    LockBusy,
    NoSpace,
    PositionLost,
    StorageFailed,
)
from journal.format import START, Decoded, Line, Position, Witness, read_line
from journal.log import Journal, Transaction
from journal.reader import RawLine, follow, history, last_position, lines
from journal.repair import repair
from journal.survey import Survey, survey
from journal.verdicts import Finding, Verdict

__all__ = [
    "START",
    "Decoded",
    "Finding",
    "FormatUnknown",
    "Journal",
    "JournalDamaged",
    "JournalError",
    "JournalExists",
    "JournalMissing",
    "JournalPoisoned",
    "JournalReadFailed",
    "Line",
    "LockBusy",
    "NoSpace",
    "Position",
    "PositionLost",
    "RawLine",
    "StorageFailed",
    "Survey",
    "Transaction",
    "Verdict",
    "Witness",
    "follow",
    "history",
    "last_position",
    "lines",
    "read_line",
    "repair",
    "survey",
]
