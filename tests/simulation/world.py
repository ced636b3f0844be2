"""A world around the real daemon: one seed decides what the disk, the clock, the worker and the people do to it.

The daemon, its ledger, the journal, arrivals, sweeping, the commit protocol and the commands are the real ones. What
they ask of the machine they ask of this world, which does small things between any two steps of theirs: the worker
acts, somebody drops a file or types a command, the clock jumps, and at a chosen call a process is killed, the power
goes, or the disk refuses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from cli.commands.init import lay_out
from cli.daemon.loop import Daemon
from cli.daemon.worker.orphans import Orphan
from cli.home.event_store import EventStore
from cli.home.identity import Identity
from cli.home.paths import Home
from cli.inbox.watcher import Inbox
from cli.machine.clock import Clock
from events import messages
from events.settings import LogSettings
from journal.durable import read_file
from tests.harness.fake_disk import Disk, Killed, PowerCut, Process
from tests.simulation.fault import Fault
from tests.simulation.invariants import Invariants, require
from tests.simulation.user_actions import User
from tests.simulation.worker import SimulatedWorker

ROOT = Path("/home")
START = 1_800_000_000.0
CONFIG = b"""
[model]
path = "tiny"
[checkpoints]
every_steps = %d
keep = %d
[worker]
silence_s = 60.0
[evaluation]
every_steps = 2
[samples]
every_steps = 2
[data]
holdout = %.1f
[versions]
gate = "%b"
"""
PATIENCE = 300
TURNS = 6_000
"""Of one daemon; more means that it runs in circles."""
CALLS = 500_000
"""Of one seed, which has a few thousand; for circles without a turn."""


class SimulatedClock(Clock):
    """Passes when the world says so; what it shows may jump."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.shift = 0.0

    def now(self) -> float:
        return START + self.passed + self.shift

    def monotonic(self) -> float:
        return self.passed

    def cpu(self) -> float:
        return self.passed / 1000

    def process_cpu(self) -> float:
        return self.passed / 500


class World:
    """Everything but the daemon; `cli.daemon.ports.Ports` to it."""

    def __init__(self, seed: int, *, note: Callable[[str], None] = lambda _: None) -> None:
        self.seed, self.random = seed, Random(seed)
        self.note = note
        self.root = ROOT
        self.clock = SimulatedClock()
        self.disk = Disk(self.random, self.clock.now)
        self.disk.before_call = self._before_call
        self.invariants = Invariants(self)
        self.worker: SimulatedWorker | None = None
        self.daemon: Process | None = None
        self.inbox: Inbox | None = None
        self.on_signal: Callable[[str], None] = lambda _: None
        self.faults: dict[int, Fault] = {}
        """By the number of the process."""
        self.worker_fault: Callable[[], Fault | None] = lambda: None
        self.cut_at: int | None = None
        self.full_at: int | None = None
        self.calls = 0
        self.turns = 0
        self.hostile = True
        self.files = 0
        self.contents: list[bytes] = []
        self.copies: dict[str, bytes] = {}
        """Of files in which a bit flipped, as they were: what a backup would hold."""
        self.keen = self.random.random() < 0.3
        """Whether its people care for versions and backups more than for files."""
        self.user = User(self)
        self._said: list[messages.AnyFact] = []
        root = self.disk.process("the system")
        root.mkdir(ROOT)
        root.mkdir(Path("/outside"))
        self.disk.sync_directory(self.disk.root)
        self.gate = (b"off", b"hold", b"warn", b"hold")[self.seed // 2 % 4]
        self.every, self.keep = self.random.randint(1, 3), self.random.randint(1, 3)

    def home(self, process: Process) -> Home:
        return Home(ROOT, storage=process, clock=self.clock)

    # -- the machine's side of every call

    def _before_call(self, process: Process, name: str, path: str) -> None:
        self.calls += 1
        assert self.calls < CALLS, "no end in sight"
        if self.calls == self.cut_at:
            self.note(f"  the power goes at {name} {path} of {process.name}")
            raise PowerCut
        if self.calls == self.full_at:
            self.disk.capacity = self.disk.used_bytes() + self.random.choice([0, 0, 300, 3_000])
            self.note(f"  the disk is full at {name} {path} of {process.name}")
        if "/status/" in path and name in {"rename", "unlink"}:  # or an older view could replace a newer one
            require(process.number in self.disk.find("/home/journal/lock").holder, "views change under the append lock")
        fault = self.faults.get(process.number)
        if fault is not None:
            before = fault.struck
            try:
                fault.strike(process, name, path)
            finally:
                if fault.struck > before:
                    self.invariants.struck(fault.kind)
                    if fault.struck == 1:
                        self.note(f"  {process.name}: {fault.kind} at {name} {path}")
        if (
            name == "lock"
            and process is self.daemon
            and path.endswith("/journal/lock")
            and self.hostile
            and self.random.random() < 0.01
        ):
            self.user.act()

    # -- the surroundings of the daemon

    @contextlib.contextmanager
    def listening(self, inbox: Inbox, on_signal: Callable[[str], None], logs: LogSettings) -> Iterator[None]:
        inbox.directories()
        self.inbox, self.on_signal = inbox, on_signal
        try:
            yield
        finally:
            self.inbox = None

    def start_worker(self) -> Any:
        process = self.disk.process("worker")
        if (fault := self.worker_fault()) is not None:
            self.faults[process.number] = fault
        self.worker = SimulatedWorker(self, process)
        return self.worker

    def measure(self, worker: Any) -> None:
        return None

    def end_orphans(self) -> list[Orphan]:
        return []

    def identity(self) -> Identity:
        return Identity(self.disk.processes, self.clock.now(), "boot", "here")

    def exit_now(self, code: int) -> None:
        assert self.daemon is not None
        self.daemon.die()
        raise Killed

    def wait(self, seconds: float) -> list[Any]:
        self.turns += 1
        assert self.turns < TURNS, "no end in sight"
        random, worked = self.random, False
        for _ in range(random.randint(1, 4)):
            if self.worker is not None:
                worked |= self.worker.act()
        if self.hostile:
            if random.random() < (0.2 if self.keen else 0.06):
                self.user.act()
            if random.random() < 0.01:
                self.clock.shift += random.choice([-86_400.0, -3_600.0, -1.0, 1.0, 3_600.0, 86_400.0])
            if self.worker is not None and random.random() < 0.012:
                self._misbehave(self.worker)
        if self.disk.capacity is not None and random.random() < 0.1:
            self.note("  there is room again")
            self.disk.capacity, self.full_at = None, None
        if self.turns > PATIENCE:  # whatever there was no room for, somebody made some
            for fault in self.faults.values():
                fault.lifted = True
        self.clock.passed += 0.01 if worked else random.choice([seconds, 0.5, 3.0])
        return [self.worker] if self.worker is not None and self.worker.has_news() else []

    def _misbehave(self, at_work: SimulatedWorker) -> None:
        what = self.random.choice(["die", "silent", "garbage", "late", "late", "late"])
        if what == "die":
            at_work.process.die()
        elif what == "silent":
            at_work.silent = True
        elif what == "garbage":
            at_work.outbox.append(b"no message")
        elif self.invariants.facts:
            fact = self.random.choice(self.invariants.facts)
            running = self.invariants.running_attempt
            if fact.attempt != running:
                at_work.outbox.append(fact)

    @contextlib.contextmanager
    def store(self, process: Process) -> Iterator[EventStore]:
        store = EventStore.open(self.home(process))
        try:
            yield store
        finally:
            store.close()

    # -- files that come

    def content(self) -> bytes:
        self.files += 1
        if self.contents and self.random.random() < 0.15:
            return self.random.choice(self.contents)
        lines = [f"{self.files}.{line}" for line in range(self.random.randint(1, 4))]
        if self.random.random() < 0.1:
            lines.append("bad")
        self.contents.append("\n".join(lines).encode() + b"\n")
        return self.contents[-1]

    def drop(self, process: Process) -> None:
        """A file is put into the inbox: whole and closed, or slowly."""
        lane = self.random.choice(["", "", "high", "low"])
        path = ROOT / "inbox" / lane / f"file-{self.files}.jsonl"
        data = self.content()
        if self.random.random() < 0.3:  # its writer does not say when it is done
            self.write(process, path, data[: len(data) // 2])
            self.clock.passed += 1.0
            self.write(process, path, data[len(data) // 2 :])
            return
        self.write(process, path, data)
        if self.inbox is not None and self.random.random() < 0.8:
            self.inbox.notify()

    def write(self, process: Process, path: Path, data: bytes) -> None:
        fd = process.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        process.write(fd, data)
        process.close(fd)

    # -- lives

    def lay_out(self) -> None:
        """Make the home; killed in it, it is made again."""
        lay_out(
            self.home(self.disk.process("init")), CONFIG % (self.every, self.keep, 0.1 * (self.seed % 2), self.gate)
        )

    def run_daemon(self) -> BaseException | None:
        """One life of a daemon: how it ended, None if in good order."""
        self.daemon = process = self.disk.process("daemon")
        self.turns = 0
        if (fault := self.faults.pop(0, None)) is not None:
            self.faults[process.number] = fault
        home, write_line = self.home(process), lambda line: self.note(f"    {line}")
        daemon = Daemon(home, until_idle=True, write=write_line, ports=self)
        try:
            daemon.run()
        except (Killed, PowerCut, Exception) as error:  # noqa: BLE001 - whatever ended it, the caller judges it
            return error
        finally:
            process.die()
            if self.worker is not None:
                self.worker.process.die()
            self.worker = None
        return None

    def cut_power(self) -> None:
        """What a power cut leaves; every process is gone."""
        self.disk.cut_power()

    def read(self, path: Path) -> bytes:
        """As somebody sees it who disturbs nothing."""
        return read_file(path, storage=self.inspector())

    def inspector(self) -> Process:
        """A process whose calls are not counted and do not fail."""
        return Inspector(self.disk)


class Inspector(Process):
    """Looks, and is not there."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk, "inspector", -1)

    def _call(self, name: str, path: str) -> None:
        pass
