"""`keepstep journal repair` and the daemon."""

from __future__ import annotations

import pytest

from cli.commands.journal_repair import repair_journal
from cli.errors import UserError
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home


def test_the_journal_of_a_daemon_that_runs_is_not_repaired(home: Home) -> None:
    lock = DaemonLock(home)
    lock.take(this_process())
    with pytest.raises(UserError, match="a daemon already runs"):
        repair_journal(home, accept_loss=True)
    lock.release()
    with pytest.raises(UserError, match="the journal is not damaged"):
        repair_journal(home, accept_loss=True)
