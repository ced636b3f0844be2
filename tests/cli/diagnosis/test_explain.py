"""`keepstep explain` and `keepstep crashes`, as a person sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.diagnosis.explain import explain
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core import commands

Drop = Callable[..., Path]
Run = Callable[..., list[str]]
Told = Callable[[str], list[str]]

COMMAND = [sys.executable, "-P", "-c", "from cli.main import main; main()"]


@pytest.fixture
def told(home: Home, capsys: pytest.CaptureFixture[str]) -> Told:
    """The lines of a story, without their times."""

    def lines(wanted: str) -> list[str]:
        capsys.readouterr()
        explain(home, wanted, json=False)
        shown = capsys.readouterr().out.splitlines()
        return [line[18:] if line.startswith("  ") else line for line in shown]

    return lines


def test_the_story_of_a_job_that_was_killed_once(home: Home, drop: Drop, run: Run, told: Told) -> None:
    """From the queue to the weights."""
    drop("a.jsonl", "ok ok ok ok die-once ok")
    run()
    job = next(iter(load_state(home)[0].state.recovery.replay_ranges)).job.id
    lines = told("a.jsonl")
    assert lines[0] == f"a.jsonl, job {job[:12]}"
    assert lines[1] == "a.jsonl is in the queue"
    assert any(line.startswith("attempt 1 failed (killed): the worker was killed by SIGKILL") for line in lines)
    assert "a.jsonl: training continues after step 3" in lines
    assert lines[-3:] == [
        "a.jsonl: trained",
        "now   its 6 steps are in the weights of the head",
        "next  nothing; it is finished",
    ]
    assert told(job[:6]) == lines


def test_the_story_of_a_job_that_was_given_up_and_of_one_that_waits(
    home: Home, drop: Drop, run: Run, told: Told
) -> None:
    """With the command that goes on."""
    drop("a.jsonl", "model")
    drop("b.jsonl", "ok", "low")
    with pytest.raises(UserError):
        run()
    assert told("a.jsonl")[-2] == "now   in hand, queued"
    assert told("a.jsonl")[-1].startswith("next  waiting for you: there is no such model; do what the message says")
    assert told("b.jsonl")[-2] == "now   number 1 of 1 in the queue"
    with closing(EventStore.open(home)) as store:
        store.execute(commands.Skip(job=None))
    assert told("a.jsonl")[-2] == "now   done with: a.jsonl: skipped"


def test_the_story_of_a_crash_a_step_and_a_checkpoint(home: Home, drop: Drop, run: Run, told: Told) -> None:
    """Each by the name that others give it."""
    drop("a.jsonl", "ok ok ok ok die-once ok")
    run()
    crash = keepstep(home, "crashes", "--json").stdout
    (found,) = json.loads(crash)
    lines = told(found["name"])
    assert lines[0].startswith(
        f"{found['name']}, killed: the worker's process was killed, by a person or another program"
    )
    assert lines[-2] == "now   1 step had not been committed; what followed is above"
    assert "`keepstep logs --attempt 1`" in lines[-1]
    head = load_state(home)[0].state.head.checkpoint
    assert head is not None
    assert told("5")[0] == "step 5: step 5 of 6 of a.jsonl"
    assert told("5")[-2] == f"now   in the weights of the head; first in {head.id}"
    assert told(head.id)[-2:] == [
        "now   the head: what the next step starts from",
        "next  the next commit follows it",
    ]
    assert told("step-00000003-attempt-0001")[-2] == "now   kept, behind the head"


def test_the_story_of_a_version_and_of_what_was_left_behind(home: Home, drop: Drop, run: Run, told: Told) -> None:
    """What it is made of; and where a head that moved away can be found again."""
    drop("a.jsonl", "ok ok")
    run()
    with closing(EventStore.open(home)) as store:
        store.execute(commands.RequestConsolidation(description="the notes", after_current=False, scheduled_for=None))
    run()
    lines = told("v001")
    assert lines[:2] == ["version v001", "consolidation requested: the notes"]
    assert lines[-2] == "now   what is trained beside; step 2, made of a.jsonl"
    assert told("a.jsonl")[-2] == "now   its 2 steps are in the weights of the head, in v001"
    drop("b.jsonl", "ok ok ok")
    run()
    last = load_state(home)[0].state.head.checkpoint
    assert last is not None
    with closing(EventStore.open(home)) as store:
        store.execute(commands.RollBack())
    assert told("b.jsonl")[-2] == "now   what it taught was left behind when the head was moved"
    assert told(last.id)[-1] == f"next  `keepstep versions restore {last.id}` goes back to it"
    assert told("4")[-2] == "now   it is not committed"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("nope.jsonl", "knows no job nope.jsonl"),
        ("crash-1", "knows no crash crash-1"),
        ("99", "knows no step 99"),
        ("v001", "knows no version v001"),
        ("step-00000001-attempt-0001", "knows no checkpoint"),
        ("crash-x", "knows no job crash-x"),
        ("", "knows no job"),
    ],
)
def test_what_the_journal_does_not_know_is_said(home: Home, wanted: str, message: str) -> None:
    """With where to look."""
    with pytest.raises(UserError, match=message) as refused:
        explain(home, wanted, json=False)
    assert refused.value.advice


def test_two_files_of_one_name_are_told_apart_by_their_number(home: Home, drop: Drop, run: Run, told: Told) -> None:
    """The message names both."""
    drop("a.jsonl", "ok")
    run()
    drop("a.jsonl", "ok ok")
    run()
    with pytest.raises(UserError, match="several files are called") as refused:
        told("a.jsonl")
    for job in refused.value.advice.removeprefix("name the first digits of one: ").split(", "):
        assert told(job)[0] == f"a.jsonl, job {job}"


def keepstep(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "KEEPSTEP_HOME": str(home.root)}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_the_commands_as_people_type_them(home: Home, drop: Drop, run: Run) -> None:
    """Plain, as JSON, and refused in a sentence."""
    assert keepstep(home, "crashes").stdout == "nothing has gone wrong\n"
    drop("a\x1b[2J.jsonl", "ok die-once ok")
    run()
    crashes = keepstep(home, "crashes", "--all").stdout
    assert "crash-" in crashes
    assert "killed: a\\x1b[2J.jsonl, attempt 1" in crashes
    assert "\x1b" not in crashes
    (crash,) = json.loads(keepstep(home, "crashes", "--json").stdout)
    assert crash["logs"] == "keepstep logs --attempt 1"
    lineage = json.loads(keepstep(home, "explain", crash["name"], "--json").stdout)
    assert {"title", "now", "next", "moments"} == set(lineage)
    assert {"seq", "at", "text"} == set(lineage["moments"][0])
    assert "killed" in keepstep(home, "logs", "--level", "error").stdout
    for arguments, message in ((["explain", "x"], "knows no job x"), (["hooks", "test"], "no hook is set")):
        done = keepstep(home, *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
