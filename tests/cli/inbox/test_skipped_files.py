"""Files in the inbox that the daemon may not read: they stay there, and everybody can see why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.home.event_store import EventStore
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from cli.inbox.accept import finish_arrivals
from cli.inbox.skipped_files import skipped_files, write_skipped_files
from tests.harness.rights import ordinary_rights


@pytest.fixture(autouse=True)
def _ordinary() -> Iterator[None]:
    """File modes apply to the user who runs these tests."""
    with ordinary_rights():
        yield


def put(path: Path, text: str, *, mode: int = 0o644) -> Path:
    """A file that is long complete."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1.0, 1.0))
    path.chmod(mode)
    return path


def test_an_unreadable_file_stays_and_the_others_are_trained(home: Home, run: Callable[..., list[str]]) -> None:
    """It is told once a run, `add`, `status` and `doctor` work, and once it may be read it is trained."""
    bad = put(home.inbox / "low" / "bad.jsonl", "ok\nok\n", mode=0)
    put(home.inbox / "good.jsonl", "ok\n")
    for _ in range(2):
        said = run()
        assert len([line for line in said if "inbox/low/bad.jsonl cannot be accepted" in line]) == 1, said
    assert bad.exists()
    assert not list((home.data / ".arriving").iterdir())
    for arguments in (["status"], ["doctor"]):
        shown = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*arguments, "--home", str(home.root)])
        assert "bad.jsonl cannot be accepted: Permission denied" in shown.stdout, arguments
    refused = CliRunner().invoke(app, ["add", str(bad), "--home", str(home.root)])
    assert "cannot be read: Permission denied; nothing was added" in str(refused.exception)
    with closing(EventStore.open(home)) as store:
        assert store.state.outcomes.counts.trained == 1
    bad.chmod(0o644)
    assert not [line for line in run() if "cannot be accepted" in line]
    with closing(EventStore.open(home)) as store:
        assert store.state.outcomes.counts.trained == 2


def test_what_an_earlier_daemon_moved_is_put_back(home: Home) -> None:
    """Next to a file of the same name, in the lane that it came from."""
    arriving = home.data / ".arriving" / "high-0123456789abcdef"
    arriving.mkdir(parents=True)
    put(arriving / "bad.jsonl", "ok\n", mode=0)
    put(home.inbox / "high" / "bad.jsonl", "another\n")
    with closing(EventStore.open(home)) as store:
        finish_arrivals(store)
        finish_arrivals(store)
    assert not arriving.exists()
    assert sorted(path.name for path in (home.inbox / "high").iterdir()) == ["2-bad.jsonl", "bad.jsonl"]
    assert (home.inbox / "high" / "bad.jsonl").read_text(encoding="utf-8") == "another\n"


def test_a_living_daemon_says_what_it_cannot_take(home: Home) -> None:
    """With its own rights: the user who asks may have others."""
    with closing(EventStore.open(home)) as store:
        write_skipped_files(store, {home.inbox / os.fsdecode(b"\xff.jsonl"): "is odd"})
    assert skipped_files(home, alive=False) == []
    lock = DaemonLock(home)
    lock.take(this_process())
    try:
        shown = CliRunner().invoke(app, ["status", "--json", "--home", str(home.root)])
    finally:
        lock.release()
    assert json.loads(shown.stdout)["skipped_files"] == [{"path": "inbox/\\xff.jsonl", "reason": "is odd"}]


def test_a_link_in_the_inbox_is_shown_without_a_daemon(home: Home, drop: Callable[..., Path]) -> None:
    """The command looks for itself."""
    drop("a.jsonl", "ok")
    (home.inbox / "link.jsonl").symlink_to("/etc/passwd")
    (found,) = skipped_files(home, alive=False)
    assert found.path == "inbox/link.jsonl"
    assert "is a link" in found.reason
