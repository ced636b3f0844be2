"""`keepstep explain`, `failures` and `logs`: what they print."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.diagnosis.explain import show_explanation
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core import commands

Drop = Callable[..., Path]
Run = Callable[..., list[str]]
Explained = Callable[[str], list[str]]

COMMAND = [sys.executable, "-P", "-c", "from cli.main import main; main()"]


@pytest.fixture
def explained(home: Home, capsys: pytest.CaptureFixture[str]) -> Explained:
    """The lines of an explanation, without their times."""

    def lines(wanted: str) -> list[str]:
        capsys.readouterr()
        show_explanation(home, wanted, json=False)
        shown = capsys.readouterr().out.splitlines()
        return [re.sub(r"^  +(?:[-\d]{10} [:\d]{8} \w+  )?", "", line) for line in shown]

    return lines


def test_explain_job_that_was_killed_once(home: Home, drop: Drop, run: Run, explained: Explained) -> None:
    """From the queue to the weights."""
    drop("a.jsonl", "ok ok ok ok die-once ok")
    run()
    job = next(iter(load_state(home)[0].state.recovery.replay_ranges)).job.id
    lines = explained("a.jsonl")
    assert lines[0] == f"a.jsonl, job {job[:12]}"
    assert lines[1] == "a.jsonl is in the queue"
    assert any(line.startswith("attempt 1 failed (killed): the worker was killed by SIGKILL") for line in lines)
    assert "a.jsonl: training continues after step 3" in lines
    assert lines[-3:] == [
        "a.jsonl: trained",
        "now   all 6 steps are in the head",
        "next  nothing; it is finished",
    ]
    assert explained(job[:6]) == lines


def test_explain_skipped_job_and_waiting_job(home: Home, drop: Drop, run: Run, explained: Explained) -> None:
    """With the command that continues."""
    drop("a.jsonl", "model")
    drop("b.jsonl", "ok", "low")
    with pytest.raises(UserError):
        run()
    assert explained("a.jsonl")[-2] == "now   in progress: queued"
    assert explained("a.jsonl")[-1].startswith(
        "next  waiting for you: there is no such model; do what the message says"
    )
    assert explained("b.jsonl")[-2] == "now   number 1 of 1 in the queue"
    with closing(EventStore.open(home)) as store:
        store.execute(commands.Skip(job=None))
    assert explained("a.jsonl")[-2] == "now   finished: a.jsonl: skipped"


def test_explain_failure_step_and_checkpoint(home: Home, drop: Drop, run: Run, explained: Explained) -> None:
    """Each by the name that other commands print."""
    drop("a.jsonl", "ok ok ok ok die-once ok")
    run()
    crash = keepstep(home, "failures", "--json").stdout
    (found,) = json.loads(crash)
    lines = explained(found["name"])
    assert lines[0].startswith(
        f"{found['name']}, killed: the worker's process was killed, by a person or another program"
    )
    assert lines[-2] == "now   1 step not committed; the events above followed"
    assert "`keepstep logs --attempt 1`" in lines[-1]
    head = load_state(home)[0].state.head.checkpoint
    assert head is not None
    assert explained("5")[0] == "step 5: step 5 of 6 of a.jsonl"
    assert explained("5")[-2] == f"now   in the head; first in {head.id}"
    assert explained(head.id)[-2:] == [
        "now   the head: the next step starts from it",
        "next  the next commit becomes the head",
    ]
    assert explained("step-00000003-attempt-0001")[-2] == "now   kept, older than the head"


def test_explain_version_and_detached_checkpoint(home: Home, drop: Drop, run: Run, explained: Explained) -> None:
    """What it is made of; and how to go back to a detached head."""
    drop("a.jsonl", "ok ok")
    run()
    with closing(EventStore.open(home)) as store:
        store.execute(commands.RequestConsolidation(description="the notes", after_current=False, scheduled_for=None))
    run()
    lines = explained("v001")
    assert lines[:2] == ["version v001", "consolidation requested: the notes"]
    assert lines[-2] == "now   the base of the head; step 2, made of a.jsonl"
    assert explained("a.jsonl")[-2] == "now   all 2 steps are in the head, in v001"
    drop("b.jsonl", "ok ok ok")
    run()
    last = load_state(home)[0].state.head.checkpoint
    assert last is not None
    with closing(EventStore.open(home)) as store:
        store.execute(commands.RollBack())
    assert explained("b.jsonl")[-2] == "now   no longer in the weights: the head was moved away"
    assert explained(last.id)[-1] == f"next  to go back to it: keepstep versions restore {last.id}"
    assert explained("4")[-2] == "now   not committed"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("nope.jsonl", "there is no job nope.jsonl"),
        ("crash-1", "there is no failure crash-1"),
        ("99", "there is no step 99"),
        ("v001", "there is no version v001"),
        ("step-00000001-attempt-0001", "there is no checkpoint"),
        ("crash-x", "there is no job crash-x"),
        ("", "there is no job"),
    ],
)
def test_explain_refuses_unknown_things(home: Home, wanted: str, message: str) -> None:
    """With where to look."""
    with pytest.raises(UserError, match=message) as refused:
        show_explanation(home, wanted, json=False)
    assert refused.value.advice


def test_two_files_of_one_name_are_distinguished_by_id(home: Home, drop: Drop, run: Run, explained: Explained) -> None:
    """The message names both."""
    drop("a.jsonl", "ok")
    run()
    drop("a.jsonl", "ok ok")
    run()
    with pytest.raises(UserError, match=r"a\.jsonl names 2 jobs") as refused:
        explained("a.jsonl")
    for job in re.findall(r"\(([0-9a-f]{12})\)", refused.value.reason):
        assert explained(job)[0] == f"a.jsonl, job {job}"


def keepstep(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "KEEPSTEP_HOME": str(home.root)}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_explain_failures_and_logs_as_commands(home: Home, drop: Drop, run: Run) -> None:
    """Plain, as JSON, and refused in a sentence."""
    assert keepstep(home, "failures").stdout == "nothing has failed\n"
    drop("a\x1b[2J.jsonl", "ok die-once ok")
    run()
    failures = keepstep(home, "failures", "--all").stdout
    assert "crash-" in failures
    assert "killed: a\\x1b[2J.jsonl, attempt 1" in failures
    assert "\x1b" not in failures
    old = keepstep(home, "crashes", "--json")
    assert "keepstep crashes is now keepstep failures" in old.stderr
    (crash,) = json.loads(old.stdout)
    assert [crash] == json.loads(keepstep(home, "failures", "--json").stdout)
    assert crash["logs"] == "keepstep logs --attempt 1"
    lineage = json.loads(keepstep(home, "explain", crash["name"], "--json").stdout)
    assert {"title", "now", "next", "moments"} == set(lineage)
    assert {"seq", "at", "text"} == set(lineage["moments"][0])
    assert "killed" in keepstep(home, "logs", "--level", "error").stdout
    for arguments, message in ((["explain", "x"], "there is no job x"), (["hooks", "test"], "no hook is set")):
        done = keepstep(home, *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
