"""Leftovers are deleted; named directories, unfinished work of others and user files stay."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from cli.commands.journal_repair import repair_journal
from cli.daemon.sweep import DELETING, deleted_directories, discard, sweep, sweep_temporaries
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


def test_pruning_deletes_the_named_checkpoint_and_no_other(home: Home) -> None:
    """The worker may have written the next checkpoint, and its report may still be on the way."""
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
        DELETING + "step-00000001-attempt-0001",
        ".condemned-step-00000002-attempt-0001",  # as earlier versions named it
        "notes",
        ".hidden",
    )
    store = EventStore.open(home)
    sweep(store)
    store.close()
    assert names(home) == {"notes", ".hidden"}


def test_sockets_of_dead_workers_are_deleted(home: Home) -> None:
    """Only those: the lock next to them stays."""
    (home.run / "worker-0123.sock").touch()
    home.daemon_lock.touch()
    sweep_temporaries(home)
    assert [path.name for path in home.run.iterdir()] == ["daemon.lock"]


def test_after_a_repair_nothing_unnamed_is_deleted(home: Home) -> None:
    """The lost records may have named it; also if the repair itself was killed at that moment."""
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
    """It would fold and sweep while the daemon does."""
    lock = DaemonLock(home)
    lock.take(this_process())
    with pytest.raises(UserError, match="already runs"):
        repair_journal(home, accept_loss=True)
    lock.release()


def test_an_outdated_status_is_not_believed(home: Home) -> None:
    """The status file is older than the journal, so the journal is read."""
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


def test_a_start_keeps_the_tokens_of_jobs_in_progress_and_no_others(home: Home) -> None:
    """Not those of other files, and nothing that was not finished; what is somebody else's stays."""
    mine, other = f"{JOB}-{'0' * 24}", f"{OTHER}-{'0' * 24}"
    keep_tokens(home, mine, other, f".staging-{mine}.parts", f".staging-{mine}", DELETING + other, "notes")
    store = in_progress(home)
    sweep(store)
    assert {path.name for path in home.tokens.iterdir()} == {mine, "notes"}
    store.close()


def test_the_end_of_a_job_deletes_its_tokens(home: Home) -> None:
    """However the job ends. Files that a worker may be writing are left to the next start."""
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


def test_a_daemon_keeps_no_tokens_of_a_trained_file(trained: Home) -> None:
    assert trained.tokens.exists()
    assert not list(trained.tokens.iterdir())


def test_a_start_deletes_the_files_of_a_killed_rehearsal(home: Home) -> None:
    """But not those of a running process, which may be `keepstep doctor`."""
    for pid in (999_999_999, os.getpid()):
        (home.rehearsal / str(pid)).mkdir(parents=True)
        (home.rehearsal / str(pid) / "model.safetensors").write_bytes(b"half")
    with closing(EventStore.open(home)) as store:
        sweep(store)
    assert [path.name for path in home.rehearsal.iterdir()] == [str(os.getpid())]
