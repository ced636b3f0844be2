"""The event store: the journal, the folded state and the snapshot of one process.

Each change takes these steps: take the lock, fold what others wrote, decide, append, fold, write the views. So a
command is durable when it returns, with or without a daemon, and the views are never ahead of the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cli.errors import UserError
from cli.home.paths import Home
from cli.home.snapshot_reader import position_of, witnesses
from cli.machine.clock import timestamp
from cli.machine.overhead import OverheadMeter
from core.commands import AnyCommand, CreateHome
from core.decide import decide
from core.errors import IllegalEvent
from core.state import State
from events.codec import Record, decode_record, encode, kind_of
from events.kinds import AnyEvent
from events.messages import Heartbeat
from events.text import carried
from journal import Journal, Transaction
from journal.durable import claim_directory
from journal.errors import JournalMissing, PositionLost
from journal.failpoints import journaled_failpoint
from journal.writer import FULL
from projections.fold import fold
from projections.machine import MachineView, write_machine
from projections.machine_samples import SAMPLE_EVERY_S, append_sample, sample_of
from projections.progress import Folded
from projections.snapshot import Snapshot, read_snapshot, reducer_version, write_snapshot
from projections.status import read_status, write_status
from projections.status_view import status_view

HEARTBEAT_EVERY_S = 2.0
"""The status file is written this often even if nothing happens, so that a reader sees that the daemon is alive."""

SNAPSHOT_EVERY = 2_000
"""Records between snapshots. A start replays at most this many in some milliseconds; a snapshot costs about one."""

SNAPSHOT_EVERY_SHARE = 20
"""With a long queue: one record for this many waiting jobs. A snapshot of 100,000 jobs takes a third of a second; after
5,000 records that is less than the records cost."""


class EventStore:
    """Open it with `EventStore.open`, change it with `execute`; `save_snapshot` before `close` makes the next start
    fast."""

    def __init__(self, home: Home, journal: Journal[Record], folded: Folded, snapshot_seq: int) -> None:
        self.home = home
        self.journal = journal
        self.folded = folded
        self.meter = OverheadMeter(home.clock)
        """Measures the CPU time of journal and views; the daemon adds its other work."""
        self.heartbeat_at = 0.0
        """Unix time of the daemon's last heartbeat, shown in the status; only the daemon sets it."""
        self.received: Heartbeat | None = None
        """The worker's last heartbeat; only the daemon sets it."""
        self._sampled_at = 0.0
        self._snapshot_seq = snapshot_seq
        self._transaction: Transaction[Record] | None = None
        self._unreported: list[AnyEvent] = []
        """Events of other processes that are folded and not yet returned by `catch_up`."""

    @classmethod
    def create(cls, home: Home, command: CreateHome) -> None:
        """Create the journal of a new home."""
        now = home.clock.now()
        first = [encode(carried(event)) for event in decide(State(), command, now)]
        Journal.create(home.journal, at=timestamp(now), first=first, storage=home.storage)

    @classmethod
    def open(cls, home: Home, *, from_first_record: bool = False) -> EventStore:
        """Recover the journal and fold it, from the snapshot or from the first record.

        Raises journal.errors.JournalError, events.errors.UnknownEvent, core.errors.IllegalEvent.
        """
        witness = read_snapshot(home.snapshot, storage=home.storage)
        snapshot = None if from_first_record else witness
        try:
            return cls._open_after(home, snapshot, witness)
        except (PositionLost, IllegalEvent):
            if snapshot is None:
                raise
            return cls._open_after(home, None, witness)  # the snapshot is a cache and may be wrong

    @classmethod
    def _open_after(cls, home: Home, snapshot: Snapshot | None, witness: Snapshot | None) -> EventStore:
        after = position_of(snapshot)
        try:
            journal = Journal.open(
                home.journal,
                decode=decode_record,
                after=after,
                witnesses=witnesses(home, witness),
                storage=home.storage,
            )
        except JournalMissing as error:
            raise UserError(
                f"{home.root} has a config and no journal", "if it never ran, remove keepstep.toml and `keepstep init`"
            ) from error
        folded = snapshot.folded if snapshot else Folded()
        try:
            for batch in journal.read():
                for record in batch:
                    folded = fold(folded, record)
        except BaseException:
            journal.close()
            raise
        return cls(home, journal, folded, snapshot.seq if snapshot else 0)

    @property
    def state(self) -> State:
        """The state after the last record that this process has folded."""
        return self.folded.state

    def execute(self, *commands: AnyCommand) -> Sequence[AnyEvent]:
        """Decide on commands in order and journal their events in one transaction; durable when this returns.

        Raises core.errors.Refused with the reason; journal.errors.StorageFailed.
        """
        with self.exclusive() as transaction:
            now = self.home.clock.now()
            folded, events = self.folded, list[AnyEvent]()
            for command in commands:
                for event in [carried(event) for event in decide(folded.state, command, now)]:
                    folded = fold(folded, _unwritten(event))  # before the write: an illegal event is never journaled
                    events.append(event)
            if events:
                with self.meter.part("the journal"):
                    records = transaction.append([encode(event) for event in events], at=timestamp(now))
                self._apply(records)
                for event in events:
                    journaled_failpoint(kind_of(event))
            return events

    @contextmanager
    def exclusive(self) -> Iterator[Transaction[Record]]:
        """Hold the append lock, with the records of other processes folded. `execute` inside the block shares it."""
        if self._transaction is not None:
            yield self._transaction
            return
        with self.journal.transaction() as transaction:
            self._transaction = transaction
            try:
                self._apply(transaction.others)
                self._unreported += [record.event for record in transaction.others]
                yield transaction
            finally:
                self._transaction = None

    def catch_up(self) -> Sequence[AnyEvent]:
        """Fold the records of other processes. Returns their events since the last call."""
        with self.meter.part("the journal"), self.exclusive():
            events, self._unreported = self._unreported, []
        for event in events:
            journaled_failpoint(kind_of(event))
        return events

    def write_status(self) -> None:
        """Write the status file. Call it inside `exclusive`: an older view must not replace a newer one."""
        position = self.journal.position
        heartbeat_at = self.heartbeat_at
        if not heartbeat_at and (shown := read_status(self.home.status, storage=self.home.storage)):
            heartbeat_at = shown.daemon.heartbeat_at
        with self.meter.part("views"), writing_view(self.home):
            view = status_view(
                self.folded,
                seq=position.seq,
                crc=position.crc,
                heartbeat_at=heartbeat_at,
                received=self.received,
            )
            write_status(self.home.status, view, storage=self.home.storage)

    def write_machine_view(self, view: MachineView) -> None:
        """Write the measurements of the machine, next to the status."""
        with self.meter.part("views"), self.exclusive(), writing_view(self.home):
            write_machine(self.home.machine, view, storage=self.home.storage)
            if abs(view.at - self._sampled_at) >= SAMPLE_EVERY_S:
                self._sampled_at = view.at
                append_sample(self.home.machine_samples, sample_of(view), storage=self.home.storage)

    def write_heartbeat(self) -> None:
        """Write the daemon's heartbeat into the status, every HEARTBEAT_EVERY_S seconds."""
        now = self.home.clock.now()
        if abs(now - self.heartbeat_at) >= HEARTBEAT_EVERY_S:  # abs: the clock may have been set back
            self.heartbeat_at = now
            with self.exclusive():
                self.write_status()

    def save_snapshot(self) -> None:
        """Write the folded state to disk, for the next start."""
        at = self.journal.position
        snapshot = Snapshot(at.seq, at.crc, at.segment, at.offset, reducer_version(), self.folded)
        with self.meter.part("views"), writing_view(self.home):
            write_snapshot(self.home.snapshot, snapshot, storage=self.home.storage)
        self._snapshot_seq = at.seq

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def _apply(self, records: Sequence[Record]) -> None:
        if not records:
            return
        for record in records:
            self.folded = fold(self.folded, record)
        self.write_status()
        every = max(SNAPSHOT_EVERY, len(self.state.queue) // SNAPSHOT_EVERY_SHARE)
        if self.journal.position.seq - self._snapshot_seq >= every:
            self.save_snapshot()


@contextmanager
def writing_view(home: Home) -> Iterator[None]:
    """Skip a view that a full disk does not take; readers see that the old one is out of date. Also skip a view whose
    directory was deleted, and make the directory again."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        if home.storage.exists(home.root):  # else the home was moved: make nothing in its old place
            claim_directory(home.status.parent, storage=home.storage)
    except OSError as error:
        if error.errno not in FULL:
            raise


def _unwritten(event: AnyEvent) -> Record:
    return Record(seq=0, at="", durable=0, prev="", event=event, crc="")
