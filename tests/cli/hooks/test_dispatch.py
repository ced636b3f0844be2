"""Hooks in the life of a daemon: handed over at most once, also across restarts, and never in its way."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import typer

from cli.diagnosis.logs import Filter, last_lines
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.hooks import dispatch as cli_hooks
from cli.hooks.dispatch import POSITION_BYTES, Hooks, read_position, write_position
from cli.hooks.runner import Task
from cli.hooks.trial import try_hooks
from core import commands
from core.state import State
from events.hooks import HookSettings
from journal import Position
from tests.harness.syncs import Syncs

Drop = Callable[..., Path]
Run = Callable[..., list[str]]

ALL = HookSettings(on_held="held", on_recovered="recovered", on_job_finished="finished")


@pytest.fixture
def configure(home: Home) -> Callable[[str, str], None]:
    """`configure("on_held", "command")` sets a hook in the file."""

    def set_key(key: str, value: str) -> None:
        lines = home.config.read_text(encoding="utf-8").splitlines()
        quoted = value if value.startswith("[") or value.replace(".", "").isdecimal() else json.dumps(value)
        lines = [f"{key} = {quoted}" if line.startswith(f"{key} =") else line for line in lines]
        home.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return set_key


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """What would be run, in place of running it."""
    tasks: list[Task] = []
    monkeypatch.setattr(cli_hooks.Runner, "submit", lambda _self, task: tasks.append(task))  # type: ignore[attr-defined]
    return tasks


def hold(store: EventStore, reason: str = "r") -> None:
    store.execute(commands.HoldWork(reason=reason, advice="a"))


def opened(home: Home) -> EventStore:
    store = EventStore.open(home)
    if store.state.daemon.status in {"off", "off_paused"}:
        store.execute(commands.StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""))
    return store


def test_a_finished_file_runs_its_hook_with_the_summary(
    home: Home, drop: Drop, run: Run, configure: Callable[[str, str], None]
) -> None:
    """Once, in the home, without a shell: a name is never a command."""
    configure("on_job_finished", "sh -c 'cat > event; echo \"$KEEPSTEP_JOB_NAME\" > name; echo heard'")
    drop("$(touch owned); a.jsonl", "ok ok")
    run()
    event = json.loads((home.root / "event").read_bytes())
    assert event["hook"] == "job_finished"
    assert event["message"] == "$(touch owned); a.jsonl: trained"
    assert (event["kind"], event["global_step"], event["home"]) == ("job_trained", 2, str(home.root))
    assert (home.root / "name").read_text(encoding="utf-8") == "$(touch owned); a.jsonl\n"
    assert not (home.root / "owned").exists()
    (line,) = last_lines(home.logs, Filter(source="hook"), 9)
    assert (line.level, line.trace) == ("info", "heard")
    (home.root / "event").unlink()
    run()
    assert not (home.root / "event").exists()


def test_a_hook_that_fails_or_hangs_never_touches_training(
    home: Home, drop: Drop, run: Run, configure: Callable[[str, str], None]
) -> None:
    """The log has it, and all files are trained."""
    configure("on_job_rejected", "sleep 60")
    configure("on_job_finished", "/nowhere/at/all")
    configure("timeout_s", "1.0")
    drop("a.jsonl", "reject", "high")
    drop("b.jsonl", "ok")
    began = time.monotonic()
    run()
    assert time.monotonic() - began < 20
    problems = sorted(line.message for line in last_lines(home.logs, Filter("error", source="hook"), 9))
    assert len(problems) == 2
    assert problems[0].startswith("on_job_finished: it could not be started")
    assert problems[1].startswith("on_job_rejected: it did not end within 1 s")


def test_what_happened_before_the_first_hook_is_handed_to_none(home: Home, given: list[Task]) -> None:
    """A config with a new hook does not begin with the past."""
    with closing(opened(home)) as store:
        hold(store, "before")
        hooks = Hooks(home)
        hooks.dispatch(store, HookSettings())
        hooks.dispatch(store, ALL)
        assert given == []
        hold(store, "after")
        hooks.dispatch(store, ALL)
        hooks.dispatch(store, ALL)
        (task,) = given
        assert (task.name, list(task.command)) == ("on_held", ["held"])
        assert json.loads(task.stdin)["message"].startswith("waiting for you: after")


def test_what_was_journaled_before_a_crash_is_handed_over_by_the_next_daemon(home: Home, given: list[Task]) -> None:
    """What others appended while none ran, too; and nothing twice."""
    with closing(opened(home)) as store:
        hooks = Hooks(home)
        hooks.dispatch(store, ALL)
        hold(store, "one")
        hooks.dispatch(store, ALL)
        hold(store, "two")  # and here the daemon was killed
    with closing(EventStore.open(home)) as store:
        store.execute(commands.Resume())
    with closing(opened(home)) as store:
        Hooks(home).dispatch(store, ALL)
        Hooks(home).dispatch(store, ALL)
    assert [task.name for task in given] == ["on_held", "on_held", "on_recovered"]
    assert "two" in json.loads(given[1].stdin)["message"]


def test_it_is_noted_before_it_is_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in the middle of a hook does not run it again: at most once."""

    def killed(_self: object, _task: Task) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_hooks.Runner, "submit", killed)  # type: ignore[attr-defined]
    with closing(opened(home)) as store:
        hooks = Hooks(home)
        hooks.dispatch(store, ALL)
        hold(store)
        with pytest.raises(KeyboardInterrupt):
            hooks.dispatch(store, ALL)
        assert read_position(home) == store.journal.position
        again: list[Task] = []
        monkeypatch.setattr(cli_hooks.Runner, "submit", lambda _self, task: again.append(task))  # type: ignore[attr-defined]
        Hooks(home).dispatch(store, ALL)
        assert again == []


def test_what_cannot_be_noted_is_not_run(home: Home, given: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """And the daemon continues."""
    with closing(opened(home)) as store:
        hooks = Hooks(home)
        hooks.dispatch(store, ALL)
        hold(store)

        def failing(_home: Home, _position: Position) -> None:
            raise OSError(errno.EIO, "I/O error")

        with monkeypatch.context() as broken:
            broken.setattr(cli_hooks, "write_position", failing)
            hooks.dispatch(store, ALL)
        assert given == []
        hold(store, "later")
        hooks.dispatch(store, ALL)
        assert len(given) == 1


def test_old_news_is_none(home: Home, given: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that was away for days does not begin with what happened then."""
    with closing(opened(home)) as store:
        Hooks(home).dispatch(store, ALL)
        hold(store)
        monkeypatch.setattr(cli_hooks, "AGE_MAX_S", -1.0)
        Hooks(home).dispatch(store, ALL)
    assert given == []


def test_a_note_of_another_journal_is_as_none(home: Home, given: list[Task]) -> None:
    """Nor is one that cannot be read believed."""
    with closing(opened(home)) as store:
        write_position(home, Position(2, "00000000", 1, 400))
        hooks = Hooks(home)
        hooks.dispatch(store, ALL)
        hold(store)
        hooks.dispatch(store, ALL)
        assert [task.name for task in given] == ["on_held"]
        home.hooks.write_bytes(b"\xff")
        assert read_position(home) is None


def test_the_note_has_always_the_same_length(home: Home) -> None:
    """It is written in place, and a full disk has room for it."""
    home.hooks.parent.mkdir(exist_ok=True)
    write_position(home, Position(2**40, "ffffffff", 2**20, 2**40))
    write_position(home, Position(1, "00000000", 1, 1))
    assert home.hooks.stat().st_size == POSITION_BYTES
    assert read_position(home) == Position(1, "00000000", 1, 1)


def test_the_name_of_a_job_that_is_gone_is_looked_up(home: Home, drop: Drop, run: Run, given: list[Task]) -> None:
    """It has left the state before its hook is run."""
    with closing(opened(home)) as store:
        Hooks(home).dispatch(store, ALL)
    drop("a.jsonl", "ok")
    run()
    with closing(opened(home)) as store:
        Hooks(home).dispatch(store, ALL)
    (task,) = given
    assert json.loads(task.stdin)["job_name"] == "a.jsonl"
    assert json.loads(task.stdin)["message"] == "a.jsonl: trained"


def test_a_notification_is_a_separate_process_for_what_was_chosen(home: Home, given: list[Task]) -> None:
    """Its addresses go by its standard input: no list of processes shows them."""
    settings = HookSettings(notify=("json://user:secret@localhost",), notify_on=("held",))
    with closing(opened(home)) as store:
        hooks = Hooks(home)
        hooks.dispatch(store, settings)
        hold(store)
        store.execute(commands.Resume())
        hooks.dispatch(store, settings)
    (task,) = given
    assert list(task.command)[-2:] == ["-m", "cli.hooks.notification"]
    assert "secret" not in " ".join(task.command) + str(task.environment)
    assert json.loads(task.stdin)["urls"] == ["json://user:secret@localhost"]


def test_hooks_can_be_tried(
    home: Home, configure: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """One sample event by default, or all; how each went is said, and nothing is journaled."""
    with pytest.raises(UserError, match="no hook is set"):
        try_hooks(home, None)
    configure("on_held", "sh -c 'echo \"$KEEPSTEP_HOOK $KEEPSTEP_SEQ\"'")
    configure("on_job_failed", "false")
    assert try_hooks(home, "on_held")
    assert "    held 0\n" in capsys.readouterr().out
    assert not try_hooks(home, None)
    shown = capsys.readouterr().out
    assert "on_job_failed: it ended with exit code 1" in shown
    assert "held 0" not in shown
    assert "one other event" in shown
    assert not try_hooks(home, None, every=True)
    assert "held 0" in capsys.readouterr().out
    with pytest.raises(UserError, match="neither on_diverged nor a notification"):
        try_hooks(home, "diverged")
    with pytest.raises(typer.BadParameter, match="'x' is not one of job_finished, "):
        try_hooks(home, "x")


def test_a_command_with_an_open_quote_is_refused(home: Home, configure: Callable[[str, str], None]) -> None:
    """When the config is read, not when something has happened."""
    configure("on_held", "echo 'oh")
    with pytest.raises(UserError, match=r"hooks\.on_held is not a valid command"):
        try_hooks(home, None)


def test_the_name_of_a_finished_job_is_read_once_from_the_journal(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a start; a job that is known costs no second reading."""
    with closing(EventStore.open(home)) as store:
        for job, name in (("a" * 64, "a.jsonl"), ("b" * 64, "b.jsonl")):
            store.execute(commands.AddFile(job=job, name=name, size_bytes=1, priority="normal", known=False))
    hooks = Hooks(home)
    assert hooks._name("b" * 64, State()) == "b.jsonl"
    monkeypatch.setattr(cli_hooks, "read_records", lambda _: pytest.fail("the journal was read again"))
    assert hooks._name("b" * 64, State()) == "b.jsonl"


def test_a_position_survives_a_power_cut(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the hooks of the last events would run a second time."""
    syncs = Syncs(monkeypatch)
    with closing(EventStore.open(home)) as store:
        write_position(home, store.journal.position)
    assert f"content of {home.hooks.name}" not in syncs.lacks(home.hooks)
