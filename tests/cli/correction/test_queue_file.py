"""A file of self-correction is queued once, whatever kills the daemon or its worker on the way."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cli.correction.build import PROVENANCE
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from events import kinds
from events.kinds import AnyEvent
from tests.harness.daemon import ROOT

Events = Callable[[], list[AnyEvent]]
Drop = Callable[..., Path]

SETTINGS = {
    'kind = "off"': 'kind = "rejection"',
    "queue_every = 200": "queue_every = 4",
    "cost_max = 0.1": "cost_max = 1000",
}

POINTS = [
    "corrected:2",
    "journaled_self_correction_answered:2",
    "journaled_self_correction_file_started",
    "correction_staged",
    "arrival_copied",
    "arrival_journaled:3",
    "arrival_named:3",
    "correction_accepted",
    "journaled_self_correction_file_queued",
]
"""Each step from an answer to the file in the queue."""


def rows(start: int, count: int) -> str:
    """Rows without white space: the fake worker takes each word for a row."""
    made = [{"prompt": f"{number}+1=", "completion": str(number + 1)} for number in range(start, start + count)]
    return " ".join(json.dumps(row, separators=(",", ":")) for row in made)


@pytest.fixture
def correcting(home: Home, drop: Drop) -> Home:
    """A home with two files: the second one is long enough for four rows."""
    text = home.config.read_text(encoding="utf-8")
    before, section, after = text.partition("[self_correction]")
    for old, new in {**SETTINGS, "every_steps = 200": "every_steps = 1"}.items():
        assert old in after
        after = after.replace(old, new, 1)
    home.config.write_text(before + section + after, encoding="utf-8")
    drop("a.jsonl", rows(0, 8))
    drop("b.jsonl", rows(100, 6))
    return home


def run(home: Home, point: str = "") -> int:
    """A daemon in another process, which may be killed at a point; its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    if point:
        environment |= {"KEEPSTEP_FAILPOINT": point, "KEEPSTEP_FAILPOINT_ONCE": str(home.root.parent / "died")}
    words = [sys.executable, "-P", "-m", "tests.harness.daemon", str(home.root), "tests.harness.worker", "--until-idle"]
    return subprocess.run(words, env=environment, capture_output=True, check=False, timeout=120).returncode


def made_rows(events: Sequence[AnyEvent], home: Home) -> list[dict[str, object]]:
    """The rows of the file, which is checked against its name."""
    (queued,) = [each for each in events if isinstance(each, kinds.SelfCorrectionFileQueued)]
    data = home.data_file(queued.job).read_bytes()
    assert hashlib.sha256(data).hexdigest() == queued.job
    return [json.loads(line) for line in data.splitlines()]


def test_enough_rows_become_a_file_with_low_priority(correcting: Home, events: Events) -> None:
    """It is trained after the others; nothing is asked until the next version."""
    assert run(correcting) == 0
    happened = events()
    (started,) = [each for each in happened if isinstance(each, kinds.SelfCorrectionFileStarted)]
    (queued,) = [each for each in happened if isinstance(each, kinds.SelfCorrectionFileQueued)]
    (enqueued,) = [each for each in happened if isinstance(each, kinds.FileEnqueued) and each.job == queued.job]
    assert (enqueued.name, enqueued.priority) == ("self-correction-0001.jsonl", "low")
    assert [each.name for each in happened if isinstance(each, kinds.FileEnqueued)][-1] == enqueued.name
    assert queued.job in {each.job for each in happened if isinstance(each, kinds.JobTrained)}
    assert (started.first_round, started.last_round) == (1, 4)
    rounds = [each for each in happened if isinstance(each, kinds.SelfCorrectionAnswered)]
    assert [each.round for each in rounds] == [1, 2, 3, 4]
    found = made_rows(happened, correcting)
    assert len(found) == queued.rows + queued.references + queued.replayed
    assert {str(row[PROVENANCE]["prompt_row"]).partition(":")[0] for row in found} == {rounds[0].prompts[0].job}  # type: ignore[index]
    assert not list(correcting.run.glob("self-correction*"))


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_gives_the_same_file_once(point: str, correcting: Home, events: Events) -> None:
    """No row twice, none lost, the same rows again: the file has the bytes of an undisturbed run."""
    calm = Home(correcting.root.parent / "calm")
    subprocess.run(["cp", "-a", str(correcting.root), str(calm.root)], check=True)
    assert run(calm) == 0
    run(correcting, point)
    assert (correcting.root.parent / "died").exists(), "the point was not reached"
    assert run(correcting) == 0
    from events.codec import decode_record
    from journal import START, follow

    quiet = [record.event for record in follow(calm.journal, decode_record, START)[0]]
    happened = events()
    assert made_rows(happened, correcting) == made_rows(quiet, calm)
    names = [each.name for each in happened if isinstance(each, kinds.FileEnqueued)]
    assert names.count("self-correction-0001.jsonl") == 1
    assert not [each for each in happened if isinstance(each, kinds.FileDuplicate)]
    trained = [each.job for each in happened if isinstance(each, kinds.JobTrained)]
    assert len(trained) == len(set(trained)) == 3
    rounds = [each for each in happened if isinstance(each, kinds.SelfCorrectionAnswered)]
    assert [(each.round, each.global_step, each.prompts) for each in rounds] == [
        (each.round, each.global_step, each.prompts) for each in quiet if isinstance(each, kinds.SelfCorrectionAnswered)
    ]


def test_a_data_file_that_is_gone_stops_it_and_resume_tries_again(correcting: Home, events: Events) -> None:
    """Nothing else stops: the files are trained."""
    run(correcting, "journaled_self_correction_file_started")
    (asked,) = [each for each in events() if isinstance(each, kinds.SelfCorrectionFileStarted)]
    data = correcting.data_file(asked.replay[0])
    kept = data.read_bytes()
    data.unlink()
    assert run(correcting) == 0
    (stopped,) = [each for each in events() if isinstance(each, kinds.SelfCorrectionStopped)]
    assert stopped.cause == "data"
    assert asked.replay[0] in stopped.message
    data.write_bytes(kept)
    from cli.commands.correction.resume import resume_correction

    resume_correction(correcting)
    assert run(correcting) == 0
    assert len(made_rows(events(), correcting)) > 0
    assert load_state(correcting)[0].state.self_correction.files == 1
