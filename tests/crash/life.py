"""One home, all who act on it, and what its journal says of it: to be lived through, killed and compared.

The worker is the real one, or the fake one of `tests/harness`, which trains nothing and needs no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import psutil

from cli.commands.init import create_home
from cli.config.schema import Config
from cli.home.paths import Home
from core.state import State
from events import kinds
from events.codec import decode_record
from events.event import Event
from events.settings import CheckpointSettings, DataSettings, JobSettings, MethodSettings, ModelSettings
from events.values import PRIORITIES, Priority
from journal import START, follow
from tests.crash.homes import KEEPSTEP, OFTEN, log_of, make_home, start_process, state_of
from tests.crash.scenario import FAKE, RUN_FAKE

LOOK_EVERY_S = 0.005
PATIENCE_S = 180.0
GONE_S = 5.0

NEVER = (kinds.DivergenceDetected, kinds.DaemonHeld, kinds.JobFailed, kinds.StorageExhausted)
"""What no kill may ever lead to."""


class Put(NamedTuple):
    """A file that came."""

    name: str
    priority: Priority


class Life:
    """Everything that happens to `home`. `choose` decides what the files are and where they are put."""

    def __init__(self, home: Home, choose: Random, *, fake: bool = False) -> None:
        self.home, self.choose, self.fake = home, choose, fake
        self.process: subprocess.Popen[bytes] | None = None
        self.events: list[kinds.AnyEvent] = []
        self.given: dict[str, Put] = {}
        """Files to learn from, by their SHA-256."""
        self.perhaps: dict[str, Put] = {}
        """The same, of commands that were killed before they had a copy."""
        self.returned: list[str] = []
        """Names of files that must come back: bad ones, and those that came before."""
        self.never: tuple[type[Event], ...] = NEVER
        self._position, self._size = START, -1
        self._began = 0
        self._files = 0
        self._channel = home.root.parent / f"{home.root.name}-desk"
        self._channel.mkdir()
        self._words = home.root.parent / f"{home.root.name}-words"
        self._words.mkdir()
        self.commands: list[subprocess.Popen[bytes]] = []
        """Begun, and not waited for."""

    @classmethod
    def real(cls, root: Path, choose: Random, *, method: MethodSettings | None = None, precision: str = "bf16") -> Life:
        """With a tiny model, and nothing in the inbox."""
        home = make_home(root, method=method, precision=precision)
        for path in home.inbox.glob("*.jsonl"):
            path.unlink()
        return cls(home, choose)

    @classmethod
    def faked(cls, root: Path, choose: Random) -> Life:
        """With the fake worker."""
        often = CheckpointSettings(every_steps=2, every_seconds=0.0, keep=2)
        job = JobSettings(model=ModelSettings(path="nowhere"), checkpoints=often, data=DataSettings(holdout=0.1))
        config = Config(job=job, samples=OFTEN)
        return cls(create_home(root, model="nowhere", config=config), choose, fake=True)

    def copied(self, root: Path) -> Life:
        """A copy of the home, and all that is known of it; no daemon may run here or there."""
        assert self.process is None
        life = Life(Home(Path(shutil.copytree(self.home.root, root))), Random(0), fake=self.fake)
        life.choose.setstate(self.choose.getstate())
        life.given, life.returned, life._files = dict(self.given), list(self.returned), self._files
        return life

    # -- files ------------------------------------------------------------------------------------------------------

    def more(self, priority: Priority | None = None) -> str:
        """Put another file to learn from into the inbox; its SHA-256."""
        return self.put(*self.draft(), priority or self.choose.choice(PRIORITIES))

    def more_slowly(self) -> None:
        """One more whose training does not end before something can be done about it, and the next in the line."""
        if self.fake:  # the real one is slow enough
            self._files += 1
            self.waited.unlink(missing_ok=True)
            steps = ["ok", "ok", "ok", "wait-once", "ok", "ok", "ok", "ok", f"slow-{self._files}"]
            self.put(f"slow-{self._files}.jsonl", "\n".join(steps).encode(), "high")

    @property
    def waited(self) -> Path:
        """While it is there, the fake worker does not wait again."""
        return self.home.run / "wait-once"

    def draft(self) -> tuple[str, bytes]:
        """A name and rows that were never there before."""
        self._files += 1
        number = self._files
        if self.fake:
            rows = [f"ok-{number}-{n}" for n in range(self.choose.randint(8, 12))]
        else:
            rows = [
                json.dumps(
                    {"prompt": f"Round {number}, {n}?", "completion": f"{n * number} " * self.choose.randint(1, 4)}
                )
                for n in range(self.choose.randint(30, 70))
            ]
        return f"file-{number}.jsonl", "".join(row + "\n" for row in rows).encode()

    def put(self, name: str, data: bytes, priority: Priority) -> str:
        """As a careful user does it: whole when its name appears."""
        lane = self.home.inbox if priority == "normal" else self.home.inbox / priority
        self.on_desk(name, data).rename(lane / name)
        job = hashlib.sha256(data).hexdigest()
        self.given.setdefault(job, Put(name, priority))
        return job

    def put_bad(self) -> None:
        """A file that nobody can learn from, of the same name each time."""
        name, lane = "bad.jsonl", self.home.inbox / "high"
        if (lane / name).exists():
            return
        self._files += 1
        rest = f"{name} {self._files}"
        bad = f"ok\nreject\n{rest}\n" if self.fake else f'{{"prompt": "Who", "completion": "Me"}}\n{{"broken {rest}\n'
        self.on_desk(name, bad.encode()).rename(lane / name)
        earlier = sum(each.endswith(name) for each in self.returned)
        self.returned.append(f"{earlier + 1}-{name}" if earlier else name)

    def put_again(self) -> None:
        """The bytes of an earlier file, under another name."""
        path = self.once_more()
        path.rename(self.home.inbox / path.name)

    def once_more(self) -> Path:
        """A file on the desk with bytes that were accepted before; it must come back."""
        accepted = [event.job for event in self.look() if isinstance(event, kinds.JobTrained)]
        self._files += 1
        name = f"again-{self._files}.jsonl"
        self.returned.append(name)
        return self.on_desk(name, self.home.data_file(self.choose.choice(accepted)).read_bytes())

    def expect(self, name: str, data: bytes) -> None:
        """It was given by a command, which may have been killed: before it had a copy, or with one that counts."""
        job = hashlib.sha256(data).hexdigest()
        kept = self.home.data_file(job).exists() or any((self.home.data / ".arriving").glob(f"*/{name}"))
        (self.given if kept else self.perhaps)[job] = Put(name, "normal")

    def spoil_the_head(self) -> None:
        """One bit of the largest file of the newest checkpoint."""
        head = self.state.head.checkpoint
        assert head is not None
        path = max((self.home.checkpoints / head.id).iterdir(), key=lambda path: path.stat().st_size)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def on_desk(self, name: str, data: bytes) -> Path:
        """A file in the user's own directory."""
        path = self._channel / name
        path.write_bytes(data)
        os.utime(path, (1.0, 1.0))  # complete since long ago: the inbox need not wait for it to settle
        return path

    # -- processes --------------------------------------------------------------------------------------------------

    def start(self, *, until_idle: bool = True, **environment: str) -> None:
        """A daemon, the only one."""
        command = (
            [*RUN_FAKE, str(self.home.root), FAKE] if self.fake else [*KEEPSTEP, "run", "--home", str(self.home.root)]
        )
        self.start_as([*command, *(["--until-idle"] if until_idle else [])], **environment)

    def start_as(self, command: Sequence[str], **environment: str) -> None:
        """The same, by another command."""
        assert self.process is None
        self._began = len(self.look())
        self.process = start_process(self.home, command, **environment)

    def command(self, *words: str, **environment: str) -> int:
        """Run a command to its end; its exit code."""
        return self.spawn(*words, **environment).wait(timeout=PATIENCE_S)

    def spawn(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Begin a command."""
        return start_process(self.home, [*KEEPSTEP, *words, "--home", str(self.home.root)], **environment)

    def finish_commands(self) -> None:
        """Wait for those that were begun."""
        for command in self.commands:
            assert command.wait(timeout=PATIENCE_S) == 0, log_of(self.home)
        self.commands.clear()

    def word(self, name: str) -> Path:
        """Where a process leaves word before it kills itself."""
        return self._words / name

    @property
    def daemon(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self.process is not None
        return self.process

    def runs(self) -> bool:
        """Whether the daemon is there."""
        return self.process is not None and self.process.poll() is None

    def kill_daemon(self) -> bool:
        """Kill the daemon; its worker must end with it. False if the daemon had just ended by itself."""
        self.daemon.kill()
        code = self.ended()
        assert code in {-signal.SIGKILL, 0}, f"the daemon ended with {code}\n{log_of(self.home)}"
        return code != 0

    def kill_worker(self) -> bool:
        """Whether there was one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.daemon.pid).children():
                child.kill()
                return True
        return False

    def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the daemon's end; its exit code. Nothing of it may be left."""
        code = self.daemon.wait(timeout=timeout_s)
        self.process = None
        deadline = time.monotonic() + GONE_S
        while left := self._processes():
            assert time.monotonic() < deadline, f"a worker outlived its daemon: {left}"
            time.sleep(0.01)
        return code

    def _processes(self) -> list[int]:
        """Workers of this home."""
        mine = str(self.home.root)
        found = psutil.process_iter(["cmdline"])
        return [each.pid for each in found if mine in (words := each.info["cmdline"] or []) and "--socket" in words]

    # -- what happens -----------------------------------------------------------------------------------------------

    def look(self) -> list[kinds.AnyEvent]:
        """Every event so far."""
        size = sum(path.stat().st_size for path in self.home.journal.glob("*.jsonl"))
        if size != self._size:
            records, self._position = follow(self.home.journal, decode_record, self._position)
            self._size = size
            for record in records:
                assert not isinstance(record.event, self.never), f"{record.event}\n{log_of(self.home)}"
                self.events.append(record.event)
        return self.events

    def since_start(self) -> list[kinds.AnyEvent]:
        """Every event since the daemon was started."""
        return self.look()[self._began :]

    def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
        """Wait for something; whether it came before the daemon ended and patience did."""
        deadline = time.monotonic() + patience_s
        while not condition():
            if not self.runs() or time.monotonic() > deadline:
                return condition()
            time.sleep(LOOK_EVERY_S)
        return True

    def happened(self, kind: type[Event], times: int = 1) -> Callable[[], bool]:
        """A condition: since the daemon was started there was such an event, so often."""
        return lambda: sum(isinstance(event, kind) for event in self.since_start()) >= times

    def is_training(self) -> bool:
        """A condition: steps are being made, and some are left."""
        return self.waited.exists() if self.fake else self.happened(kinds.StepReached, 3)()

    @property
    def paused(self) -> bool:
        """Whether somebody has to say `resume`."""
        words = [e for e in self.look() if isinstance(e, kinds.PauseRequested | kinds.Resumed)]
        return bool(words) and isinstance(words[-1], kinds.PauseRequested)

    @property
    def state(self) -> State:
        """The present."""
        return state_of(self.home)

    def to_the_end(self) -> None:
        """Let everything come to its end, undisturbed."""
        if self.process is not None:
            self.ended()
        self.finish_commands()
        if self.paused:
            assert self.command("resume") == 0, log_of(self.home)
        self.start()
        code = self.ended()
        assert code == 0, f"the last run ended with {code}\n{log_of(self.home)}"
        self.look()
