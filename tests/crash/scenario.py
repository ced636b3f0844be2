"""A life of a home, short and eventful, to be recorded: everything in it happens below one directory.

    python -m tests.crash.scenario --base DIRECTORY --worker MODULE [--model DIRECTORY]

A home is made, files come (one is bad, one comes twice, two by command), work is paused and resumed, the daemon is
killed with -9 in the middle of training, and a last one comes to the end. What every process says goes to a separate
file in `said/`: that is what was acknowledged. The user's own words (`put NAME SHA256`) are in `said/user.txt`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from msgspec.structs import replace

from cli.commands.init import create_home
from cli.config.schema import Config
from cli.home.paths import Home
from events.settings import CheckpointSettings, JobSettings, ModelSettings
from journal.durable import fsync_directory
from tests.crash.homes import KEEPSTEP, settings

FAKE, REAL = "tests.harness.worker", "gpu.worker"
RUN_FAKE = [sys.executable, "-P", "-m", "tests.harness.daemon"]
PATIENCE_S = 240.0


class Scenario:
    """The cast: a user who puts files, commands, daemons."""

    def __init__(self, base: Path, worker: str, model: Path | None) -> None:
        self.base, self.worker, self.model = base, worker, model
        self.said, self.channel = base / "said", base / "desk"
        self.said.mkdir()
        self.channel.mkdir()
        self.processes = 0
        self.user = (self.said / "user.txt").open("a", encoding="utf-8", buffering=1)

    def play(self) -> None:
        self.home = self.make_home()
        self.user.write("made\n")
        self.put("high/a-bad.jsonl", self.bad())
        self.put("first.jsonl", self.rows(1))
        daemon, said = self.run()
        self.until(daemon, lambda: "a-bad.jsonl: attempt" in said())
        self.command("add", self.draft("third.jsonl", self.rows(3)))
        self.until(daemon, lambda: "first.jsonl: training" in said())
        self.command("pause")
        self.ended(daemon, 0)
        self.put("again.jsonl", self.rows(1))
        self.put("second.jsonl", self.rows(2))
        self.command("add", self.draft("once-more.jsonl", self.rows(3)))
        self.command("resume")
        daemon, said = self.run()
        self.until(daemon, lambda: said().count("committed step-") >= 2)
        workers = psutil.Process(daemon.pid).children()
        daemon.kill()
        self.ended(daemon, -9)
        for worker in workers if self.worker == FAKE else ():  # the real one sees to it that it dies with its daemon
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        daemon, said = self.run()
        self.ended(daemon, 0)

    def make_home(self) -> Home:
        if self.model is not None:
            job = settings(self.model)
            config = Config(job=replace(job, data=replace(job.data, validation=None)))  # a file less that may be lost
        else:
            often = CheckpointSettings(every_steps=2, every_seconds=0.0, keep=2)
            config = Config(job=JobSettings(model=ModelSettings(path="nowhere"), checkpoints=often))
        return create_home(self.base / "home", model=config.job.model.path, config=config)

    def rows(self, number: int) -> bytes:
        """A file to learn from; another one for each number."""
        if self.worker == FAKE:
            pause = "wait" if number == 1 else "ok"  # so that it cannot be over before the pause comes
            return "\n".join(["ok"] * (4 + number) + [pause] + ["ok"] * 5).encode() + b"\n"
        count = 60 if number == 1 else 20
        rows = ({"prompt": f"What is {n} plus {number}?", "completion": f"It is {n + number}."} for n in range(count))
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    def bad(self) -> bytes:
        return b"ok\nreject\n" if self.worker == FAKE else b'{"prompt": "What"\n'

    def draft(self, name: str, data: bytes) -> str:
        """A file on the user's desk, there to stay."""
        path = self.channel / name
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.utime(path, (1.0, 1.0))  # complete since long ago: the inbox need not wait for it to settle
        return str(path)

    def put(self, name: str, data: bytes) -> None:
        """As a careful user does it: what is put into the inbox was on disk before, and its name is now."""
        target = self.home.inbox / name
        Path(self.draft(target.name, data)).rename(target)
        fsync_directory(target.parent)
        self.user.write(f"put {name} {hashlib.sha256(data).hexdigest()}\n")

    def start(self, what: str, command: list[str]) -> tuple[subprocess.Popen[bytes], Callable[[], str]]:
        self.processes += 1
        path = self.said / f"{self.processes}-{what}.txt"
        with path.open("ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        return process, lambda: path.read_text(encoding="utf-8")

    def run(self) -> tuple[subprocess.Popen[bytes], Callable[[], str]]:
        if self.worker == REAL:
            return self.start("daemon", [*KEEPSTEP, "run", "--until-idle", "--home", str(self.home.root)])
        return self.start("daemon", [*RUN_FAKE, str(self.home.root), self.worker, "--until-idle"])

    def command(self, *words: str) -> None:
        process, said = self.start("command", [*KEEPSTEP, *words, "--home", str(self.home.root)])
        if process.wait(timeout=PATIENCE_S) != 0:
            sys.exit(f"{words}: {said()}")

    def until(self, daemon: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if daemon.poll() is not None or time.monotonic() > deadline:
                sys.exit("the daemon was over before the scenario came to its point")
            time.sleep(0.001)

    def ended(self, daemon: subprocess.Popen[bytes], code: int) -> None:
        found = daemon.wait(timeout=PATIENCE_S)
        if found != code:
            sys.exit(f"the daemon ended with {found}, not with {code}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--worker", choices=[FAKE, REAL], required=True)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    Scenario(arguments.base, arguments.worker, arguments.model).play()


if __name__ == "__main__":
    main()
