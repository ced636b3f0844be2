"""`keepstep journal repair`: drop the damaged records, after the user accepted the loss."""

from __future__ import annotations

from contextlib import closing, suppress

from cli.daemon.sweep import sweep
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from cli.home.snapshot_reader import witnesses
from cli.machine.clock import timestamp
from cli.output.terminal import say
from events.codec import encode
from events.kinds import JournalRepaired
from journal import Survey, Verdict, repair


def repair_journal(home: Home, *, accept_loss: bool) -> None:
    """Drop the damaged records and rebuild the state from the rest.

    Checkpoints that no record names any more move to quarantine/: they may hold what the lost records described.
    Raises journal.errors.JournalError, UserError while a daemon runs.
    """
    lock = DaemonLock(home)
    lock.take(this_process())
    try:
        facts = repair(
            home.journal,
            accept_loss=accept_loss,
            make_event=_repair_event,
            at=timestamp(home.clock.now()),
            witnesses=witnesses(home),
            storage=home.storage,
        )
        if facts.verdict is not Verdict.DAMAGED:
            raise UserError(f"the journal is not damaged ({facts.verdict.value}); nothing was changed")
        for view in (home.status, home.snapshot):  # both include the dropped records
            with suppress(FileNotFoundError):
                home.storage.unlink(view)
        with closing(EventStore.open(home, from_first_record=True)) as store:
            quarantined = sweep(store)  # if this is killed, the next start does the same
            store.write_status()
            store.save_snapshot()
            step = store.state.head.global_step
    finally:
        lock.release()
    say(f"dropped: {facts.finding}")
    say(f"the damaged bytes are kept in {home.journal / 'torn'}")
    for name in quarantined:
        say(f"quarantined: {name} (no record names it any more)")
    say(f"step {step} is committed; `keepstep run` continues from there")


def _repair_event(facts: Survey) -> bytes:
    finding = facts.finding
    return encode(
        JournalRepaired(first_seq=finding.seq, last_seq=finding.last_seq, problem=f"{finding.case.name}: {finding}")
    )
