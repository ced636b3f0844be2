"""A life with a daemon that is disturbed and never left alone for long: who starts it again, what it trains from, and
how a drill reaches into its worker, its config and its machine."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import psutil

from cli.config.schema import WorkerSettings
from cli.home.paths import Home
from events import kinds
from events.event import Event
from journal import durable
from tests.crash.homes import log_of, make_home
from tests.crash.life import Life

LOOK_EVERY_S = 0.05
FILES_AHEAD = 3
"""So many are to be trained at least, as long as there is something to learn."""

PACE_S = 0.15
"""That each step takes at least: what is done to a step must not come after the end of the file."""

CHANGED = {
    "every_steps = 2": "every_steps = 4",
    "grace_s = 30.0": "grace_s = 1.0",
    f"silence_s = {WorkerSettings().silence_s}": "silence_s = 40.0",
    f"silence_times = {WorkerSettings().silence_times}": "silence_times = 2.0",
    f"silence_min_s = {WorkerSettings().silence_min_s}": "silence_min_s = 10.0",
    f"step_silence_min_s = {WorkerSettings().step_silence_min_s}": "step_silence_min_s = 6.0",
}
"""Of the homes of `tests/crash`: fewer commits, and deadlines that pass while somebody waits. A worker that loads torch
from a cold disk on a busy machine has as long as nobody knows better."""

ENDINGS = {0, -9, 130}
"""Of a daemon that was told to stop, was killed, or was told twice."""


class Now:
    """What the events say of now: after an hour there are too many to be asked each time."""

    def __init__(self) -> None:
        self.counts: Counter[type[Event]] = Counter()
        self.done: set[str] = set()
        """Jobs that were trained or skipped."""
        self.abandoned: dict[str, None] = {}
        """Jobs that nobody has retried yet."""
        self.is_held = False
        """Whether the daemon waits for a person."""
        self.wants_a_version = False
        """Whether a consolidation is asked for and neither done nor dropped."""
        self.deaths = 0
        """Attempts that failed since the last commit."""
        self.step = 0
        """The global step that was reached last."""

    def see(self, event: kinds.AnyEvent) -> None:
        """One more."""
        self.counts[type(event)] += 1
        match event:
            case kinds.StepReached():
                self.step = event.global_step
            case kinds.CheckpointCommitted():
                self.deaths = 0
            case kinds.AttemptFailed():
                self.deaths += 1
            case kinds.JobTrained() | kinds.JobSkipped():
                self.done.add(event.job)
                self.deaths = 0
            case kinds.JobFailed():
                self.abandoned[event.job] = None
            case kinds.JobRetried():
                self.abandoned.pop(event.job, None)
            case kinds.DaemonHeld() | kinds.Resumed():
                self.is_held = isinstance(event, kinds.DaemonHeld)
            case kinds.ConsolidationRequested() | kinds.VersionPublished() | kinds.ConsolidationCancelled():
                self.wants_a_version = isinstance(event, kinds.ConsolidationRequested)


class SoakLife(Life):
    """What happens to one home for an hour."""

    def __init__(self, home: Home, choose: Random) -> None:
        self.now, self._noted = Now(), 0
        super().__init__(home, choose)
        self.never = (kinds.DivergenceDetected, kinds.CheckpointQuarantined)
        next_to = home.root.parent
        self.orders = next_to / f"{home.root.name}-orders"
        self.clock = next_to / f"{home.root.name}-clock"
        self.memory = next_to / f"{home.root.name}-memory"
        self.feeding = True
        self.starts = self.resumed = self.retried = 0
        self.config = home.config.read_text(encoding="utf-8")
        """As it is to be; what stands on disk may be somebody's edit."""
        self.between: Callable[[], None] = lambda: None
        """Called while something is waited for."""

    @classmethod
    def at(cls, root: Path, choose: Random) -> SoakLife:
        """In a new home, with a tiny model next to it."""
        home = make_home(root)
        for path in home.inbox.glob("*.jsonl"):
            path.unlink()
        text = home.config.read_text(encoding="utf-8")
        for before, now in CHANGED.items():
            assert text.count(f"\n{before}") == 1, before
            text = text.replace(f"\n{before}", f"\n{now}")
        home.config.write_text(text, encoding="utf-8")
        return cls(home, choose)

    # -- the daemon -------------------------------------------------------------------------------------------------

    def start_disturbed(self) -> None:
        """A daemon that does not end by itself, on a machine that can be changed."""
        self.starts += 1
        self.start_as(
            [sys.executable, "-P", "-m", "tests.drills.daemon", str(self.home.root), "--stay"],
            KEEPSTEP_DRILL_ORDERS=str(self.orders),
            KEEPSTEP_DRILL_PACE=str(PACE_S),
            KEEPSTEP_DRILL_WORKER="gpu.worker",
            KEEPSTEP_DRILL_CLOCK=str(self.clock),
            KEEPSTEP_DRILL_MEMORY=str(self.memory),
        )

    def tend(self) -> None:
        """What a person, and anyone who starts daemons, would do now: start it, feed it, answer where it asks."""
        if not self.runs():
            if self.process is not None:
                code = self.ended()
                assert code in ENDINGS, f"the daemon ended with {code}\n{log_of(self.home)}"
            self.start_disturbed()
        self.look()
        if self.feeding:
            for _ in range(FILES_AHEAD - self.left()):
                self.more()
        if self.now.is_held and self.home.config.read_text(encoding="utf-8") == self.config:
            self.resumed += self.command("resume") == 0
        for job in list(self.now.abandoned):
            self.retried += self.command("retry", job[:12]) == 0
        self.between()

    @property
    def restarts(self) -> int:
        """How often a daemon was started again."""
        return max(0, self.starts - 1)

    def wait(self, condition: Callable[[], object], patience_s: float) -> bool:
        """Whether it came to be so in time; the life continues meanwhile."""
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.tend()
            time.sleep(LOOK_EVERY_S)
        return True

    def spend(self, seconds: float) -> None:
        """Let time pass."""
        self.wait(lambda: False, seconds)

    def pass_by(self, seconds: float) -> None:
        """Let time pass in which nothing is asked of the daemon."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.between()
            time.sleep(LOOK_EVERY_S)

    def leave(self) -> None:
        """The daemon ends in good order, if it does not by itself just now."""
        self.feeding = False
        if self.runs():
            self.command("stop")
        code = self.ended()
        assert code in ENDINGS, f"the daemon ended with {code}\n{log_of(self.home)}"

    def close(self) -> None:
        """Whatever became of it, nothing of it is left."""
        worker = self.worker()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if worker is not None and worker.is_running():
            worker.kill()

    def worker(self) -> psutil.Process | None:
        """Its process, if there is one."""
        try:
            children = psutil.Process(self.daemon.pid).children() if self.runs() else []
            return next((each for each in children if "--socket" in each.cmdline()), None)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return None

    # -- what is done to it -----------------------------------------------------------------------------------------

    def order(self, point: str, what: str) -> None:
        """The worker that comes to that point next does it."""
        self._taken.unlink(missing_ok=True)
        durable.write_atomically(self.orders, f"{point}:{what}".encode(), sync=False)

    def withdraw(self) -> None:
        """Nobody does it any more."""
        self.orders.unlink(missing_ok=True)

    def obeyed(self) -> bool:
        """Whether a worker took the order."""
        return self._taken.exists()

    @property
    def _taken(self) -> Path:
        return self.orders.with_suffix(".taken")

    def edit(self, before: str, now: str, *, stays: bool = False) -> None:
        """Change keepstep.toml after the daemon's back; `advice` takes it back unless it `stays`."""
        assert self.config.count(before) == 1, before
        text = self.config.replace(before, now)
        self.config = text if stays else self.config
        durable.write_atomically(self.home.config, text.encode(), sync=False)

    def learn_at(self, rate: float) -> None:
        """Files that are begun from now on are trained at this rate."""
        (line,) = [line for line in self.config.splitlines() if line.startswith("learning_rate = ")]
        self.edit(f"\n{line}\n", f"\nlearning_rate = {rate}\n", stays=True)

    def advice(self) -> None:
        """keepstep.toml is as it was."""
        durable.write_atomically(self.home.config, self.config.encode(), sync=False)

    # -- what became of it ------------------------------------------------------------------------------------------

    def look(self) -> list[kinds.AnyEvent]:
        """Every event so far; of those that are new it is noted what they say of now."""
        events = super().look()
        for event in events[self._noted :]:
            self.now.see(event)
        self._noted = len(events)
        return events

    def seen(self, wanted: Sequence[type[Event]], since: int) -> kinds.AnyEvent | None:
        """The first event of these kinds after so many."""
        return next((event for event in self.look()[since:] if isinstance(event, tuple(wanted))), None)

    def count(self, *wanted: type[Event]) -> int:
        """How many events of these kinds there are."""
        self.look()
        return sum(self.now.counts[kind] for kind in wanted)

    def left(self) -> int:
        """How many files are still to be trained."""
        self.look()
        return len(self.given.keys() - self.now.done)
