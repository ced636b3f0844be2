"""Drills: others take the memory; somebody edits the config. The real daemon, and a worker that trains nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cli.commands.init import create_home
from cli.config.schema import Config
from cli.daemon.resource_monitor import MEASURE_EVERY_S
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core.state import State
from events import codec, kinds
from events.codec import decode_record
from events.kinds import ConfigChanged, ConfigFixed, ConfigRefused, MemoryLow, MemoryRecovered
from events.settings import CheckpointSettings, JobSettings, LoraSettings, MemorySettings, ModelSettings
from journal import START, durable, follow
from tests.drills.drill import Row
from tests.waiting import PATIENCE_S, eventually

ROOT = Path(__file__).parents[2]

GB = 10**9
ROOMY = {"total": 100 * GB, "available": 90 * GB}
FULL = {"total": 100 * GB, "available": 6 * GB}
"""Others use nearly all of it: 94 %."""
HOVERING = {"total": 100 * GB, "available": 20 * GB}
"""80 %: better than the limit, and not yet well."""

PRESSURE = "memory taken by others while training"
EDITED = "config edited during training: what is harmless"
CONFIG_ERROR = "config edited during training: what decides what the weights mean"
BROKEN = "config edited: half a file"
ROWS = (PRESSURE, EDITED, CONFIG_ERROR, BROKEN)

Record = Callable[[Row], None]


class Drill:
    """A home, its daemon, and a machine whose memory is as told."""

    def __init__(self, root: Path) -> None:
        config = Config(
            job=JobSettings(
                model=ModelSettings(path="nowhere"), checkpoints=CheckpointSettings(every_steps=1, every_seconds=0.0)
            ),
            memory=MemorySettings(grace_s=1.0),
        )
        self.home = create_home(root, model="nowhere", config=config)
        self.daemon: subprocess.Popen[str] | None = None
        self.memory_is(ROOMY)

    def start(self) -> None:
        """The daemon."""
        command = [
            sys.executable,
            "-P",
            "-m",
            "tests.drills.short_of_memory",
            str(self.home.root),
            "tests.harness.worker",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.daemon = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    def stop(self) -> str:
        """In good order; what it said."""
        assert self.daemon is not None
        self.daemon.terminate()
        said, _ = self.daemon.communicate(timeout=PATIENCE_S)
        assert self.daemon.returncode == 0, said
        self.daemon = None
        return said

    def memory_is(self, figures: dict[str, int]) -> None:
        """From now on."""
        bytes_by_name = {
            "MemTotal": figures["total"],
            "MemAvailable": figures["available"],
            "SwapTotal": 0,
            "SwapFree": 0,
        }
        text = "".join(f"{name}: {value // 1024} kB\n" for name, value in bytes_by_name.items())
        durable.write_atomically(self.home.run / "meminfo", text.encode(), sync=False)

    def drop(self, name: str, steps: str) -> None:
        """Put a complete file into the inbox."""
        path = self.home.inbox / f".{name}"
        path.write_text("\n".join(steps.split()) + "\n", encoding="utf-8")
        os.utime(path, (1.0, 1.0))
        path.rename(self.home.inbox / name)

    def edit(self, before: str, now: str) -> None:
        """Change keepstep.toml after its back."""
        text = self.home.config.read_text(encoding="utf-8")
        assert before in text
        self.home.config.write_text(text.replace(before, now, 1), encoding="utf-8")

    def events(self, kind: type[Any]) -> list[Any]:
        """Those of a kind that were journaled so far."""
        return [record.event for record in self.records() if isinstance(record.event, kind)]

    def times(self, kind: type[Any]) -> list[float]:
        """When those of a kind were journaled."""
        found = [record.at for record in self.records() if isinstance(record.event, kind)]
        return [datetime.fromisoformat(at).timestamp() for at in found]

    def records(self) -> list[codec.Record]:
        """Everything that was journaled so far."""
        return list(follow(self.home.journal, decode_record, START)[0])

    @property
    def state(self) -> State:
        """What the journal says of now."""
        return load_state(self.home)[0].state

    def wait(self, condition: Callable[[], bool], what: str) -> float:
        """Until it is so; how long it took, in seconds."""
        return eventually(condition, report=lambda: f"{what} did not happen")


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Drill]:
    """A new home."""
    made = Drill(tmp_path / "home")
    yield made
    if made.daemon is not None:
        made.daemon.kill()
        made.daemon.communicate()


def status(home: Home) -> dict[str, Any]:
    """`keepstep status --json`."""
    command = [sys.executable, "-P", "-m", "cli", "status", "--json", "--home", str(home.root)]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return dict(json.loads(said.stdout))


def available(home: Home) -> int:
    """Bytes of memory, at the daemon's last look."""
    return int(status(home)["machine"]["memory"]["available_bytes"])


def test_under_pressure_work_ends_after_a_commit_and_continues_by_itself(drill: Drill, record: Record) -> None:
    """Noticed within seconds; the worker goes, and its memory; nothing that was committed is trained again."""
    drill.drop("a.jsonl", "ok ok wait-once ok ok")
    drill.start()
    drill.wait(lambda: drill.state.attempts.reached.step == 2, "two steps")
    drill.memory_is(FULL)
    seen_s = drill.wait(lambda: bool(drill.events(MemoryLow)), "memory_low")
    assert seen_s < 2 * MEASURE_EVERY_S
    drill.wait(lambda: bool(drill.events(kinds.AttemptYielded)), "attempt_yielded")
    said = status(drill.home)
    assert said["health"].startswith("waiting for memory: other processes use 9")
    assert said["timing"]["waits_for"] == "memory"
    assert available(drill.home) == FULL["available"]
    drill.wait(lambda: not list(drill.home.run.glob("worker-*.sock")), "the end of the worker")
    drill.memory_is(HOVERING)
    drill.wait(lambda: available(drill.home) == HOVERING["available"], "a look at it")
    roomy_at = time.time()
    drill.memory_is(ROOMY)
    well_s = drill.wait(lambda: bool(drill.events(MemoryRecovered)), "memory_recovered")
    drill.wait(lambda: drill.state.outcomes.counts.trained == 1, "the job")
    drill.stop()
    (recovered_at,) = drill.times(MemoryRecovered)
    assert recovered_at > roomy_at, "it is not well before it is below the lower limit"
    assert [event.step for event in drill.events(kinds.StepReached)] == [1, 2, 3, 4, 5]
    assert len(drill.events(MemoryLow)) == len(drill.events(MemoryRecovered)) == 1
    detected = "`memory_low`: others use 95 % of what the worker leaves them"
    did = f"ended after a commit, the worker and its memory gone; continued {well_s:.1f} s after there was memory again"
    record(Row(PRESSURE, detected, f"{seen_s:.1f} s", "nothing", did))


def test_under_pressure_nothing_is_begun_and_a_stop_is_obeyed(drill: Drill) -> None:
    """The file waits; what a person wants is done all the same."""
    drill.memory_is(FULL)
    drill.drop("a.jsonl", "ok ok")
    drill.start()
    drill.wait(lambda: bool(drill.events(MemoryLow)), "memory_low")
    drill.wait(lambda: drill.state.queue.front() is not None, "the file")
    time.sleep(1.0)  # what is not to come can only be waited for
    drill.stop()
    assert not drill.events(kinds.AttemptStarted)
    drill.memory_is(ROOMY)
    drill.start()
    drill.wait(lambda: drill.state.outcomes.counts.trained == 1, "the job")
    drill.stop()


def test_a_harmless_edit_holds_from_the_next_file_on_and_is_journaled(drill: Drill, record: Record) -> None:
    """The running job ends as it was begun."""
    drill.drop("a.jsonl", "ok ok wait-once ok")
    drill.start()
    drill.wait(lambda: drill.state.attempts.reached.step == 2, "two steps")
    drill.edit("learning_rate = 0.0002", "learning_rate = 0.0001")
    time.sleep(1.0)  # what is not to come can only be waited for
    assert status(drill.home)["config_error"] is None
    drill.drop("b.jsonl", "ok")
    _let_go(drill)
    drill.wait(lambda: drill.state.outcomes.counts.trained == 2, "both jobs")
    said = drill.stop()
    assert "for the next job: training.learning_rate 0.0002 → 0.0001; a.jsonl keeps its settings" in said
    rates = {event.job: event.settings.training.learning_rate for event in drill.events(kinds.AttemptStarted)}
    (changed,) = drill.events(ConfigChanged)
    assert rates[changed.job] == 0.0001
    assert [(each.key, each.before, each.now) for each in changed.changes] == [
        ("training.learning_rate", "0.0002", "0.0001")
    ]
    assert sorted(rates.values()) == [0.0001, 0.0002]
    did = "the running file was finished as it was started; the new rate holds for the next one"
    record(Row(EDITED, "`config_changed`: training.learning_rate 0.0002 → 0.0001", "at the next file", "nothing", did))


def test_an_edit_that_changes_what_weights_mean_is_seen_at_once_and_not_used(drill: Drill, record: Record) -> None:
    """Said in status and log; the running job is not touched; nothing is begun under it; once fixed, work continues."""
    drill.drop("a.jsonl", "ok ok wait-once ok")
    drill.drop("b.jsonl", "ok")
    drill.start()
    drill.wait(lambda: drill.state.attempts.reached.step == 2, "two steps")
    attempt = drill.state.attempts.current
    drill.edit("r = 16", "r = 8")
    seen_s = drill.wait(lambda: bool(drill.events(ConfigRefused)), "config_refused")
    assert seen_s < 5.0
    assert drill.state.attempts.current == attempt
    assert "method.r is 8, and the weights were trained with 16" in status(drill.home)["config_error"]["reason"]
    _let_go(drill)
    drill.wait(lambda: drill.state.daemon.hold is not None, "a hold")
    methods = {event.settings.method for event in drill.events(kinds.AttemptStarted)}
    assert methods == {LoraSettings()}
    assert drill.state.outcomes.counts.trained == 1
    drill.edit("r = 8", "r = 16")
    drill.wait(lambda: bool(drill.events(ConfigFixed)), "config_fixed")
    _command(drill.home, "resume")
    drill.wait(lambda: drill.state.outcomes.counts.trained == 2, "both jobs")
    drill.stop()
    assert len(drill.events(ConfigRefused)) == 1
    detected = "`config_refused`: method.r is 8, and the weights were trained with 16"
    did = "the running file was finished as it was started, nothing started under it; fixed and resumed, it continued"
    record(Row(CONFIG_ERROR, detected, f"{seen_s:.1f} s", "nothing", did))


def test_a_broken_file_is_refused_and_the_limits_that_were_in_force_stay(drill: Drill, record: Record) -> None:
    """Half an edit, saved; and then the whole of it."""
    drill.start()
    drill.wait(lambda: drill.state.daemon.status == "idle", "a daemon")
    drill.edit("soft_gb = 0.0", "soft_gb = ")
    seen_s = drill.wait(lambda: bool(drill.events(ConfigRefused)), "config_refused")
    drill.edit("soft_gb = ", "soft_gb = 0.001")
    drill.wait(lambda: bool(drill.events(ConfigChanged)), "config_changed")
    drill.stop()
    (changed,) = drill.events(ConfigChanged)
    assert (changed.job, changed.changes[0].key) == (None, "disk.soft_gb")
    assert drill.state.config.error is None
    detected = "`config_refused`: the file cannot be read"
    record(
        Row(BROKEN, detected, f"{seen_s:.1f} s", "nothing", "continued under the settings in force until it was whole")
    )


def _let_go(drill: Drill) -> None:
    """The step that waits for the daemon to ask continues: paused, and resumed."""
    _command(drill.home, "pause")
    drill.wait(lambda: drill.state.daemon.status == "paused", "a pause")
    _command(drill.home, "resume")


def _command(home: Home, name: str) -> None:
    command = [sys.executable, "-P", "-m", "cli", name, "--home", str(home.root)]
    subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
