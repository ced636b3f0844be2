"""Homes on disks that are to be broken, and daemons that work there without holding a test up.

Whatever a daemon says is kept off its disk, unless the test is about that. Journals are read as plain lines of JSON:
what these tests say about events holds for what is written, not for what some version of the code makes of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.commands.init import create_home
from cli.config.schema import Config
from cli.home.paths import Home
from events.settings import CheckpointSettings, JobSettings, ModelSettings
from journal.log import RESERVE_BYTES
from tests.crash.homes import KEEPSTEP, make_home, trained
from tests.crash.real_disks import Disk, why_not

ROOT = Path(__file__).parents[2]

INODES = 160
"""Few enough to be used up; a home and its training need some sixty."""

needs_real_disks = [
    pytest.mark.skipif(bool(why_not()), reason=f"no real disk to break: {why_not()}"),
    pytest.mark.timeout(180),
]
"""Only root may mount; elsewhere the tests are skipped, and say why."""

PLAIN = [sys.executable, "-P", "-m", "tests.harness.daemon"]


class Running:
    """A daemon, and everything it said so far."""

    def __init__(self, home: Home, log: Path, *, real: bool = False, until_idle: bool = True) -> None:
        self.home, self.log = home, log
        if real:
            command = [*KEEPSTEP, "run", "--home", str(home.root), *(["--until-idle"] if until_idle else [])]
        else:
            command = [*PLAIN, str(home.root), "tests.crash.slow_worker", *(["--until-idle"] if until_idle else [])]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """For the time of a block it and its workers do nothing."""
        processes = [psutil.Process(self.process.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def end(self) -> None:
        """Kill it and its workers, and never wait for one that hangs."""
        with contextlib.suppress(psutil.Error):
            for process in [*psutil.Process(self.process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)


class Scene:
    """A home, its disk, and the daemons that were started there."""

    def __init__(self, disk: Disk, home: Home, logs: Path) -> None:
        self.disk, self.home, self.logs = disk, home, logs
        self.daemons: list[Running] = []

    def start(self, *, real: bool = False, until_idle: bool = True, log: Path | None = None) -> Running:
        daemon = Running(self.home, log or self.logs / f"run-{len(self.daemons)}.log", real=real, until_idle=until_idle)
        self.daemons.append(daemon)
        return daemon

    def at_work(self, log: Path | None = None) -> Running:
        """A daemon that has committed some steps, and has more to do."""
        daemon = self.start(log=log)
        self.until("some steps are committed", lambda: self.steps() >= 6)
        return daemon

    def until(self, what: str, holds: Callable[[], object], *, within_s: float = 15.0) -> None:
        """Wait for it; the test fails with all there is to know if it does not come, or cannot come any more."""
        deadline = time.monotonic() + within_s
        while True:
            alive = not self.daemons or self.daemons[-1].alive
            if holds():
                return
            assert alive, f"the daemon ended, and this did not come: {what}\n{self.report()}"
            assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}\n{self.report()}"
            time.sleep(0.02)

    def ends(self, daemon: Running, *, within_s: float = 60.0) -> int:
        """The exit code of a daemon that is to end by itself."""
        self.until("the daemon ends", lambda: not daemon.alive, within_s=within_s)
        return daemon.process.wait()

    def ends_well(self, daemon: Running, *, within_s: float = 60.0) -> None:
        code = self.ends(daemon, within_s=within_s)
        assert code == 0, f"the daemon ended with {code}\n{self.report()}"

    def keepstep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in this home."""
        return subprocess.run(
            [*KEEPSTEP, *arguments, "--home", str(self.home.root)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def status(self) -> dict[str, Any]:
        """`keepstep status --json`, which must work."""
        done = self.keepstep("status", "--json")
        assert done.returncode == 0, f"status ended with {done.returncode}: {done.stderr}\n{self.report()}"
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """What the journal says, as far as it is whole."""
        return [record["event"] for record in self.records() if kind in ("", record["event"]["kind"])]

    def records(self) -> list[dict[str, Any]]:
        """The journal's records, without the headers of its segments."""
        found = []
        for path in sorted(self.home.journal.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if "event" in record:
                        found.append(record)
        return found

    def steps(self) -> int:
        """How many steps were reached, those that were run again included."""
        return len(self.events("step_reached"))

    def report(self) -> str:
        """What happened, for people."""
        parts = [self.disk.df()]
        for daemon in self.daemons:
            how = "alive" if daemon.alive else f"ended with {daemon.process.returncode}"
            parts.append(f"--- {daemon.log.name} ({how})\n{daemon.said[-3000:]}")
        with contextlib.suppress(OSError):
            logs = sorted(self.home.logs.glob("*.jsonl"))
            parts += [f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in logs]
        with contextlib.suppress(OSError):
            shown = [
                f"{record['seq']:>5} {json.dumps(record['event'])[:300]}"
                for record in self.records()
                if record["event"]["kind"] != "step_reached"
            ]
            parts.append("--- journal\n" + "\n".join(shown[-15:]))
        return "\n".join(parts)


@contextlib.contextmanager
def scene(disk: Disk, home: Home, logs: Path) -> Iterator[Scene]:
    """Nothing that is started in it outlives it."""
    made = Scene(disk, home, logs)
    try:
        yield made
    finally:
        disk.thaw()
        for daemon in made.daemons:
            daemon.end()


def plain_home(root: Path, *, keep: int = 100) -> Home:
    """A home for the slow worker: two files in the inbox, a checkpoint every other step."""
    config = Config(
        job=JobSettings(
            model=ModelSettings(path="nowhere"),
            checkpoints=CheckpointSettings(every_steps=2, every_seconds=0.0, keep=keep),
        )
    )
    home = create_home(root, model="nowhere", config=config)
    put(home.inbox / "first.jsonl", steps=40)
    put(home.inbox / "second.jsonl", steps=20)
    return home


def trained_in_peace(root: Path) -> Home:
    """A home of the real worker, on a disk that is well: all of it trained."""
    home = make_home(root)
    daemon = Running(home, root.with_suffix(".log"), real=True)
    assert daemon.process.wait(timeout=240) == 0, daemon.said
    return home


def put(path: Path, *, steps: int) -> Path:
    """A complete file, of as many steps as lines."""
    path.write_text("".join(f"{path.name}-{number}\n" for number in range(steps)), encoding="utf-8")
    os.utime(path, (1.0, 1.0))
    return path


def is_plain(said: str) -> bool:
    """Whether people are spared what only a programmer could read."""
    return "Traceback" not in said and 'File "' not in said


def weights(home: Home) -> dict[str, str]:
    """What was trained, without the files that name the place of the base model, which is another on each disk."""
    return {name: digest for name, digest in trained(home).items() if name.endswith(".safetensors")}


def has_reserve(home: Home) -> None:
    """Real blocks, not only a size."""
    found = (home.journal / "reserve").stat()
    assert found.st_size >= RESERVE_BYTES
    assert found.st_blocks * 512 >= RESERVE_BYTES


def ended_over_storage(here: Scene, daemon: Running) -> None:
    """Exit code 4, and a sentence for people."""
    code = here.ends(daemon, within_s=30.0)
    assert code == 4, f"the daemon ended with {code}\n{here.report()}"
    assert is_plain(daemon.said), here.report()
    assert "keepstep: " in daemon.said, here.report()
