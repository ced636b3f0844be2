"""Debris goes; what is named, what is just being put in place, and what is somebody else's stays."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from cli.commands.journal_repair import repair_journal
from cli.daemon.sweep import CONDEMNED, deleted_directories, discard, sweep, sweep_temporaries
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from cli.status.report import read_current
from core.commands import AddFile, Pause, Resume, StartAttempt, StartDaemon
from events.codec import encode
from events.kinds import JobSkipped, JobTrained, JournalRepaired, Resumed
from events.settings import JobSettings, ModelSettings


def make(home: Home, *names: str) -> None:
    for name in names:
        (home.checkpoints / name).mkdir()
        (home.checkpoints / name / "file").write_text("x", encoding="utf-8")


def names(home: Home) -> set[str]:
    return {path.name for path in home.checkpoints.iterdir()}


def test_pruning_takes_the_one_that_was_given_up_and_no_other(home: Home) -> None:
    """The worker may have put the next checkpoint in its place, and its word of it may still be on the way."""
    make(home, "step-00000003-attempt-0001", "step-00000009-attempt-0001")
    discard(home, home.checkpoints / "step-00000003-attempt-0001")
    assert names(home) == {"step-00000009-attempt-0001"}


def test_pruning_twice_is_the_same_as_once(home: Home) -> None:
    """A restart may ask for it again."""
    make(home, "step-00000003-attempt-0001")
    for _ in range(2):
        discard(home, home.checkpoints / "step-00000003-attempt-0001")
    assert names(home) == set()


def test_a_start_sweeps_what_no_record_names(home: Home) -> None:
    """Unfinished, unnamed, half deleted: gone. Strangers stay."""
    make(
        home,
        "step-00000009-attempt-0001",
        ".staging-step-00000010-attempt-0001",
        CONDEMNED + "step-00000001-attempt-0001",
        "notes",
        ".hidden",
    )
    store = EventStore.open(home)
    sweep(store)
    store.close()
    assert names(home) == {"notes", ".hidden"}


def test_sockets_of_dead_workers_go(home: Home) -> None:
    """Only those: the lock beside them stays."""
    (home.run / "worker-0123.sock").touch()
    home.daemon_lock.touch()
    sweep_temporaries(home)
    assert [path.name for path in home.run.iterdir()] == ["daemon.lock"]


def test_behind_a_repair_nothing_unnamed_is_deleted(home: Home) -> None:
    """The records that named it may be those that were given up; also if the repair itself was killed just then."""
    make(home, "step-00000009-attempt-0001")
    store = EventStore.open(home)
    with store.exclusive() as transaction:
        repaired = JournalRepaired(first_seq=2, last_seq=3, problem="rot")
        transaction.append([encode(repaired)], at="2026-11-22T03:00:00Z")
    store.close()
    store = EventStore.open(home)
    assert sweep(store) == ["step-00000009-attempt-0001"]
    store.close()
    assert names(home) == set()
    assert (home.quarantine / "step-00000009-attempt-0001" / "file").exists()


def test_a_repair_is_refused_while_a_daemon_runs(home: Home) -> None:
    """It would fold and sweep under the daemon's feet."""
    lock = DaemonLock(home)
    lock.take(this_process())
    with pytest.raises(UserError, match="already runs"):
        repair_journal(home, accept_loss=True)
    lock.release()


def test_a_status_that_is_behind_is_not_believed(home: Home) -> None:
    """Somebody appended, and what was shown of it is gone: the journal is asked."""
    store = EventStore.open(home)
    store.execute(Pause())
    after = home.status.read_bytes()
    store.execute(Resume())
    store.close()
    home.status.write_bytes(after)
    assert read_current(home)[0].daemon.status == "off"


JOB, OTHER = "ab" * 32, "ef" * 32


def keep_tokens(home: Home, *names: str) -> None:
    for name in names:
        (home.tokens / name).mkdir(parents=True)
        (home.tokens / name / "ids.i32").write_bytes(b"1234")


def in_progress(home: Home) -> EventStore:
    """JOB is begun."""
    store = EventStore.open(home)
    store.execute(StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""))
    store.execute(AddFile(job=JOB, name="a.jsonl", size_bytes=1, priority="normal", known=False))
    store.execute(StartAttempt(job=JOB, settings=JobSettings(model=ModelSettings(path="model"))))
    return store


def test_a_start_keeps_the_tokens_of_what_is_in_hand_and_no_others(home: Home) -> None:
    """Not those of other files, and nothing that was not finished; what is somebody else's stays."""
    mine, other = f"{JOB}-{'0' * 24}", f"{OTHER}-{'0' * 24}"
    keep_tokens(home, mine, other, f".staging-{mine}.parts", f".staging-{mine}", CONDEMNED + other, "notes")
    store = in_progress(home)
    sweep(store)
    assert {path.name for path in home.tokens.iterdir()} == {mine, "notes"}
    store.close()


def test_the_end_of_a_job_gives_up_its_tokens(home: Home) -> None:
    """However it ends. What a worker may be writing just now is left to the next start."""
    mine, other = f"{JOB}-{'0' * 24}", f"{OTHER}-{'0' * 24}"
    keep_tokens(home, mine, other, f".staging-{mine}.parts")
    store = in_progress(home)
    for event in (
        JobTrained(job=OTHER, attempt=1, global_step=1, checkpoint="step-00000001-attempt-0001"),
        JobSkipped(job=OTHER),
    ):
        assert deleted_directories(home, store.state, event) == [home.tokens / other]
    assert deleted_directories(home, store.state, Resumed()) == []
    store.close()


def test_a_daemon_that_learned_a_file_keeps_no_tokens_of_it(trained: Home) -> None:
    assert trained.tokens.exists()
    assert not list(trained.tokens.iterdir())


def test_a_start_removes_what_a_killed_rehearsal_left(home: Home) -> None:
    """And nothing of a process that lives: `keepstep doctor` may be at it."""
    for pid in (999_999_999, os.getpid()):
        (home.rehearsal / str(pid)).mkdir(parents=True)
        (home.rehearsal / str(pid) / "model.safetensors").write_bytes(b"half")
    with closing(EventStore.open(home)) as store:
        sweep(store)
    assert [path.name for path in home.rehearsal.iterdir()] == [str(os.getpid())]
