"""The journal: an append-only, fsynced log of records. It detects any damage.

Start at `log.py`: `Journal` opens, reads and appends. `format.py` defines the bytes of a line (described in
`docs/reference/journal-format.md`), `verdicts.py` the outcomes of opening a journal. `reader.py` and `survey.py` only
read. `repair.py` continues a damaged journal. `durable.py` has durable file operations for all packages. No module here
knows the meaning of an event.
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
from journal.reader import RawLine, follow, follow_in_batches, history, last_position, lines
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
    "follow_in_batches",
    "history",
    "last_position",
    "lines",
    "read_line",
    "repair",
    "survey",
]
