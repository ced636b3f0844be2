"""Going on after damage to the journal, when a person has decided that what is lost is lost."""

from __future__ import annotations

from contextlib import closing

import typer

from cli.errors import UserError
from cli.home import Home
from cli.identity import DaemonLock
from cli.ledger import Ledger, timestamp
from cli.reading import witnesses
from events.codec import encode
from events.kinds import JournalRepaired
from events.values import is_checkpoint_id
from journal import Survey, Verdict, durable, repair


def repair_journal(home: Home, *, accept_loss: bool) -> None:
    """Give the damaged records up and fold what is left anew.

    Checkpoints that nothing names any more are set aside, not deleted: they may hold what the lost records meant.
    Raises journal.errors.JournalError, UserError while a daemon runs.
    """
    lock = DaemonLock(home.daemon_lock)
    lock.take()
    try:
        facts = repair(
            home.journal,
            accept_loss=accept_loss,
            make_event=_given_up,
            at=timestamp(),
            witnesses=witnesses(home),
        )
        if facts.verdict is not Verdict.DAMAGED:
            raise UserError(f"the journal is not damaged ({facts.verdict.value}); nothing was changed")
        home.status.unlink(missing_ok=True)  # both remember what was given up
        home.snapshot.unlink(missing_ok=True)
        with closing(Ledger.open(home, from_first_record=True)) as ledger:
            set_aside = _set_aside_unnamed(ledger)
            ledger.show()
            ledger.save_snapshot()
            step = ledger.state.global_step
    finally:
        lock.release()
    typer.echo(f"given up: {facts.finding}")
    typer.echo(f"the damaged bytes are kept in {home.journal / 'torn'}")
    for name in set_aside:
        typer.echo(f"set aside: {name} -> quarantine/; no record names it any more")
    typer.echo(f"step {step} is committed; `keepstep run` goes on from there")


def _given_up(facts: Survey) -> bytes:
    finding = facts.finding
    return encode(
        JournalRepaired(first_seq=finding.seq, last_seq=finding.last_seq, problem=f"{finding.case.name}: {finding}")
    )


def _set_aside_unnamed(ledger: Ledger) -> list[str]:
    home = ledger.home
    named = {checkpoint.id for checkpoint in ledger.state.checkpoints}
    unnamed = sorted(
        path for path in home.checkpoints.iterdir() if is_checkpoint_id(path.name) and path.name not in named
    )
    for path in unnamed:
        durable.rename_durably(path, home.quarantine / path.name)
    return [path.name for path in unnamed]
