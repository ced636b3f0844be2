"""`keepstep self-correction`: rounds, files, answers, why it waits or stopped, and `resume`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import StopSelfCorrection
from tests.cli.arguments.test_completion import completed
from tests.cli.correction.test_queue_file import rows
from tests.cli.test_commands import keepstep


@pytest.fixture
def corrected(home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]) -> Home:
    """Two files, rounds after each step of the second one, and a file of four rows."""
    text = home.config.read_text(encoding="utf-8")
    before, section, after = text.partition("[self_correction]")
    for old, new in {
        'kind = "off"': 'kind = "rejection"',
        "every_steps = 200": "every_steps = 1",
        "queue_every = 200": "queue_every = 4",
        "cost_max = 0.1": "cost_max = 1000",
    }.items():
        after = after.replace(old, new, 1)
    home.config.write_text(before + section + after, encoding="utf-8")
    drop("a.jsonl", rows(0, 8))
    drop("b.jsonl", rows(100, 6))
    said = "\n".join(run())
    assert "self-correction after step 1: " in said
    assert "self-correction-0001.jsonl: 4 rows of own answers" in said
    return home


def test_rounds_and_files_are_listed(corrected: Home) -> None:
    """With what the next round waits for."""
    shown = keepstep("self-correction", home=corrected)
    assert shown.returncode == 0, shown.stderr
    assert "the first base has had its file; the next answers follow after the next version" in shown.stdout
    lines = shown.stdout.splitlines()
    assert len([line for line in lines if " of 2 " in line]) == 4
    assert any(line.startswith("self-correction-0001.jsonl") for line in lines)
    assert all(len(line) <= 120 for line in lines)


def test_json_has_all_of_it(corrected: Home) -> None:
    found = json.loads(keepstep("self-correction", "--json", home=corrected).stdout)
    assert [each["round"] for each in found["rounds"]] == [1, 2, 3, 4]
    (file,) = found["files"]
    assert (file["first_round"], file["last_round"], file["rows"]) == (1, 4, 4)


def test_the_answers_of_a_round_stand_with_their_rows(corrected: Home) -> None:
    """And a round that does not exist is named with those that do."""
    shown = keepstep("self-correction", "--round", "2", home=corrected)
    assert shown.returncode == 0
    assert shown.stdout.startswith("round 2 after step 10: ")
    assert "a.jsonl:" in shown.stdout
    assert "✗ b" in shown.stdout
    missing = keepstep("self-correction", "--round", "9", home=corrected)
    assert missing.returncode == 1
    assert "there is no round 9" in missing.stderr
    assert "numbered 1 to 4" in missing.stderr
    assert set(completed("keepstep self-correction show --round ", corrected.root)) >= {"1", "2", "3", "4"}


def test_a_stop_is_shown_and_resumed(corrected: Home) -> None:
    """In the status too; `resume` without a stop is refused."""
    with closing(EventStore.open(corrected)) as store:
        store.execute(StopSelfCorrection(cause="distinct", message="its answers become alike"))
    for command in ("self-correction", "status"):
        shown = keepstep(command, home=corrected).stdout
        assert "its answers become alike" in " ".join(shown.split())
        assert "`keepstep self-correction resume`" in " ".join(shown.split())
    resumed = keepstep("self-correction", "resume", home=corrected)
    assert resumed.returncode == 0
    assert resumed.stdout.startswith("self-correction is resumed")
    again = keepstep("self-correction", "resume", home=corrected)
    assert again.returncode == 1
    assert "has not stopped itself" in again.stderr


def test_a_home_where_it_is_off_says_how_to_turn_it_on(home: Home) -> None:
    shown = keepstep("self-correction", home=home)
    assert shown.returncode == 0
    assert "`keepstep config set self_correction.kind=rejection`" in " ".join(shown.stdout.split())


def status(home: Home) -> Any:
    return json.loads(keepstep("status", "--json", home=home).stdout)


def test_the_status_has_the_last_figures(corrected: Home) -> None:
    found = status(corrected)["self_correction"]
    assert (found["rounds"], found["files"], found["waiting"], found["stopped"]) == (4, 1, 0, "")
    assert found["pass_rate"] is not None
