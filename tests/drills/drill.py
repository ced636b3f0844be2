"""One drill: a home, its daemon, one trouble, and what came of it, as the journal says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from cli.commands.init import create_home
from cli.config.schema import Config, WorkerSettings
from cli.home.paths import Home
from events import kinds
from events.codec import Record, decode_record
from events.settings import CheckpointSettings, JobSettings, ModelSettings
from journal import START, follow
from tests.crash.homes import KEEPSTEP, log_of, make_home, start_process, state_of, trained
from tests.waiting import eventually

PATIENCE_S = 240.0
FAKE, REAL = "tests.harness.worker", "gpu.worker"

QUICK = WorkerSettings(silence_s=6.0, silence_times=2.0, silence_min_s=5.0, step_silence_min_s=3.0)
"""For the fake worker, which is never slow."""

SLOW_DEADLINES = WorkerSettings(silence_s=180.0, silence_times=2.0, silence_min_s=8.0, step_silence_min_s=6.0)
"""For the real one: what is known is held against short floors, what is not (torch, from a cold disk) has time."""


class Row(NamedTuple):
    """What a drill shows: a row of the page."""

    drill: str
    detected: str
    after: str
    lost: str
    did: str


class Drill:
    """A home in which one thing goes wrong."""

    def __init__(self, home: Home, worker: str) -> None:
        self.home, self._worker = home, worker
        self.once = home.root.parent / f"{home.root.name}-trouble"
        self.clock = home.root.parent / f"{home.root.name}-clock"
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def fake(cls, root: Path, **files: str) -> Drill:
        """With the fake worker, which needs no torch; each file has the steps that are named."""
        often = CheckpointSettings(every_steps=2, every_seconds=0.0, keep=2)
        config = Config(job=JobSettings(model=ModelSettings(path="nowhere"), checkpoints=often), worker=QUICK)
        drill = cls(create_home(root, model="nowhere", config=config), FAKE)
        for name, steps in files.items():
            path = drill.home.inbox / f"{name}.jsonl"
            path.write_text("\n".join([*steps.split(), f"ok-{name}"]) + "\n", encoding="utf-8")
            os.utime(path, (1.0, 1.0))
        return drill

    @classmethod
    def real(cls, root: Path) -> Drill:
        """With a tiny model, and two files for it."""
        home = make_home(root)
        text = home.config.read_text(encoding="utf-8")
        for key in ("silence_s", "silence_times", "silence_min_s", "step_silence_min_s"):
            before = f"\n{key} = {getattr(WorkerSettings(), key)}"
            assert text.count(before) == 1
            text = text.replace(before, f"\n{key} = {getattr(SLOW_DEADLINES, key)}")
        home.config.write_text(text, encoding="utf-8")
        return cls(home, REAL)

    # -- what is done to it -----------------------------------------------------------------------------------------

    def start(
        self, trouble: str = "never:1:hang", pace_s: float = 0.0, *, disk: Path | None = None, **environment: str
    ) -> None:
        """The daemon; `trouble` comes over its worker, or what the environment says. `disk`: what it fills, where that
        is the trouble."""
        self.process = start_process(
            self.home,
            [sys.executable, "-P", "-m", "tests.drills.daemon", str(self.home.root)],
            KEEPSTEP_DRILL=trouble,
            KEEPSTEP_DRILL_ONCE=str(self.once),
            KEEPSTEP_DRILL_PACE=str(pace_s),
            KEEPSTEP_DRILL_CLOCK=str(self.clock),
            KEEPSTEP_DRILL_WORKER=self._worker,
            KEEPSTEP_DRILL_DISK=str(disk),
            **environment,
        )

    def command(self, *words: str) -> None:
        """A command of keepstep's."""
        done = start_process(self.home, [*KEEPSTEP, *words, "--home", str(self.home.root)]).wait(60)
        assert done == 0, log_of(self.home)

    def ended(self, code: int = 0) -> None:
        """The daemon ended by itself: 1 if a file failed for good."""
        assert self.process is not None
        assert self.process.wait(PATIENCE_S) == code, log_of(self.home)

    def until(self, condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Wait for it."""
        eventually(condition, patience_s, report=lambda: log_of(self.home))

    def close(self) -> None:
        """Whatever became of it, nothing of it is left."""
        for each in self.workers():
            each.kill()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    # -- what became of it ------------------------------------------------------------------------------------------

    def workers(self) -> list[psutil.Process]:
        """The processes that are workers of this home."""
        found = []
        for each in psutil.process_iter(["cmdline"]):
            words = each.info["cmdline"] or []
            if str(self.home.root) in words and "--socket" in words:
                found.append(each)
        return found

    def troubled_at(self) -> float:
        """When it began."""
        return float(self.once.read_text(encoding="utf-8").split()[0])

    def records(self) -> list[Record]:
        """The journal."""
        return list(follow(self.home.journal, decode_record, START)[0])

    def events(self, *wanted: type) -> list[kinds.AnyEvent]:
        """Its events of these kinds."""
        return [each.event for each in self.records() if isinstance(each.event, wanted)]

    def first(self, kind: type, since: float = 0.0) -> tuple[kinds.AnyEvent, float]:
        """The first event of a kind that was journaled after this time, and when."""
        for each in self.records():
            at = datetime.fromisoformat(each.at).timestamp()
            if isinstance(each.event, kind) and at >= since:
                return each.event, at
        raise AssertionError(f"no {kind.__name__}\n{log_of(self.home)}")

    def assert_trained_as(self, calm: dict[str, str]) -> None:
        """All of both files was trained, to the bits of `calm`."""
        assert len(self.events(kinds.JobTrained)) == 2
        assert self.weights() == calm

    def weights(self) -> dict[str, str]:
        """What was trained: SHA-256 by file, without the one that names where the model lies."""
        return {name: sha256 for name, sha256 in trained(self.home).items() if name != "adapter_config.json"}

    def log(self) -> str:
        """Everything that was logged."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.home.logs.glob("*.jsonl")))

    def again(self) -> int:
        """How many steps were run a second time: what was reached and not committed when trouble came.

        Nothing that was committed is lost: every attempt continues exactly after the last commit, no step of the whole
        is missing, and all of them are committed in the end.
        """
        committed, reached, again = 0, 0, 0
        for event in (each.event for each in self.records()):
            match event:
                case kinds.TrainingStarted():
                    assert event.global_step == reached == committed
                case kinds.StepReached():
                    assert event.global_step == reached + 1
                    reached = event.global_step
                case kinds.CheckpointCommitted():
                    committed = event.global_step
                case kinds.AttemptFailed() | kinds.AttemptInterrupted():
                    again, reached = again + reached - committed, committed
                case kinds.CheckpointQuarantined() | kinds.DivergenceDetected():
                    raise AssertionError(event)
        state = state_of(self.home)
        assert state.head.global_step == committed == reached
        return again

    def lost(self) -> str:
        """The same, in words."""
        again = self.again()
        if not again:
            return "nothing"
        return f"nothing committed; {again} step{'s' if again > 1 else ''} run again, with the same bits"
