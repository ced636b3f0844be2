"""`keepstep failures`: failures as text."""

from __future__ import annotations

from contextlib import closing

import pytest
from msgspec.structs import replace

from cli.diagnosis.failures import failure_text, logs_of, show_failures
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import StartDaemon, StopDaemon
from core.failures import EXPLANATIONS
from projections.failures import Failure

CRASH = Failure(
    name="crash-17",
    seq=17,
    at="2026-11-22T03:00:00.000000Z",
    kind="attempt_failed",
    failure="hang",
    what="a.jsonl",
    message="no progress\nfor long",
    meaning=EXPLANATIONS["hang"].meaning,
    advice=EXPLANATIONS["hang"].advice,
    job="ab" * 32,
    attempt=4,
    global_step=12,
    steps_lost=1,
)


def test_failure_text_says_what_it_means_and_what_to_do() -> None:
    """Each on its own line."""
    first, *more = failure_text(CRASH).splitlines()
    assert first.endswith("crash-17  hang: a.jsonl, attempt 4")
    assert more == [
        "    no progress",
        "    for long",
        f"    means  {EXPLANATIONS['hang'].meaning}; not committed: 1 step",
        f"    do     {EXPLANATIONS['hang'].advice}",
        "    see    `keepstep explain crash-17`, `keepstep logs --attempt 4`",
    ]


def test_a_hold_belongs_to_no_attempt() -> None:
    """And before the first attempt there is nothing in the log to be named."""
    lines = failure_text(replace(CRASH, kind="daemon_held", what="the daemon", steps_lost=0)).splitlines()
    assert lines[0].endswith("hang: the daemon")
    assert "not committed" not in lines[3]
    assert logs_of(replace(CRASH, attempt=None)) is None
    assert failure_text(replace(CRASH, attempt=None)).endswith("`keepstep explain crash-17`")


def test_failure_text_escapes_terminal_characters() -> None:
    """A file may be called anything."""
    assert "\x1b" not in failure_text(replace(CRASH, what="\x1b[2J", message="\x1b]0;x\x07"))


def test_dead_daemon_is_reported_before_the_next_one_journals_it(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal does not know about a kill before the next start."""
    with closing(EventStore.open(home)) as store:
        store.execute(StartDaemon(pid=7, process_started_at=1.0, boot_id="", host="", keepstep=""))
    show_failures(home, all_of_them=False, json=False)
    assert "the daemon (pid 7) died" in capsys.readouterr().out
    with closing(EventStore.open(home)) as store:
        store.execute(StopDaemon(reason="r"))
    show_failures(home, all_of_them=False, json=False)
    assert capsys.readouterr().out == "nothing has failed\n"
