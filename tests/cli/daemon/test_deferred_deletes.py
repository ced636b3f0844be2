"""A deletion that fails is reported and retried."""

from __future__ import annotations

import errno
from contextlib import closing
from pathlib import Path

import pytest

from cli.daemon.deferred_deletes import RETRY_AFTER_S, DeferredDeletes
from cli.daemon.sweep import sweep
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.machine.clock import Clock
from journal.storage import Storage


class Stubborn(Storage):
    """A disk that refuses to delete, with an error code."""

    code = errno.EBUSY

    def unlink(self, path: Path) -> None:
        if self.code:
            raise OSError(self.code, "busy", str(path))
        super().unlink(path)


class Standing(Clock):
    at = 0.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def stubborn(home: Home) -> Home:
    home.storage, home.clock = Stubborn(), Standing()
    (home.versions / "v001").mkdir(parents=True)
    (home.versions / "v001" / "weights").write_text("w", encoding="utf-8")
    return home


def test_a_failed_delete_is_reported_once_and_retried_until_it_succeeds(stubborn: Home) -> None:
    said: list[str] = []
    deferred_deletes = DeferredDeletes(stubborn, said.append)
    deferred_deletes.discard(stubborn.versions / "v001")
    assert said == ["versions/v001 cannot be deleted yet (busy); keepstep tries again"]
    deferred_deletes.retry()  # not due
    stubborn.clock.at = RETRY_AFTER_S  # type: ignore[attr-defined]
    deferred_deletes.retry()
    assert len(said) == 1
    assert list(stubborn.versions.iterdir())
    stubborn.storage.code = 0  # type: ignore[attr-defined]
    stubborn.clock.at = 2 * RETRY_AFTER_S  # type: ignore[attr-defined]
    deferred_deletes.retry()
    assert not list(stubborn.versions.iterdir())
    assert not deferred_deletes.pending


def test_leftovers_that_cannot_be_deleted_do_not_stop_a_start(stubborn: Home) -> None:
    """What a killed consolidation left, and what was half deleted before: both are tried again later."""
    for name in (".staging-v001", ".condemned-v002"):
        (stubborn.versions / name).mkdir()
        (stubborn.versions / name / "weights").write_text("w", encoding="utf-8")
    said: list[str] = []
    deferred_deletes = DeferredDeletes(stubborn, said.append)
    with closing(EventStore.open(stubborn)) as store:
        sweep(store, deferred_deletes.discard)
    assert len(said) == len(deferred_deletes.pending) == 3
    stubborn.storage.code = 0  # type: ignore[attr-defined]
    stubborn.clock.at = RETRY_AFTER_S  # type: ignore[attr-defined]
    deferred_deletes.retry()
    assert not list(stubborn.versions.iterdir())


def test_a_full_disk_is_the_daemons_to_wait_out(stubborn: Home) -> None:
    stubborn.storage.code = errno.ENOSPC  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="busy"):
        DeferredDeletes(stubborn, print).discard(stubborn.versions / "v001")
