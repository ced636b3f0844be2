"""A worker without torch: it speaks the protocol, learns nothing, and misbehaves on request.

Each line of the data file is one step, and what is in it is done there:

    ok          a step
    die         the process ends, killed
    die-once    the same, the first time only (a file beside the data remembers)
    silent      nothing more is said
    garbage     bytes that are no message
    fail        an error of its own
    phantom     a checkpoint here is reported and is not there
    broken      the disk does not take what is written
    wait        a step that takes until the daemon asks to yield
    wait-once   the same, the first time only
    model       (first line) the model cannot be loaded
    reject      (any line) the file is rejected, by that line's number
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import queue
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import msgspec

from events.messages import (
    AnyFact,
    BackedUp,
    Committed,
    Consolidate,
    Evaluated,
    Failed,
    Hello,
    Loaded,
    Merged,
    Prepare,
    Prepared,
    Rejected,
    Shutdown,
    Step,
    Train,
    Verified,
    VersionWritten,
    Yield,
    Yielded,
)
from events.settings import Plan
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.backup import BackupManifest, back_up
from gpu.artifacts.manifest import MANIFEST, read_manifest
from gpu.artifacts.version_manifest import VersionDirectory, VersionManifest
from gpu.ipc import connection as link
from journal.failpoints import failpoint
from tests.harness.saving import manifest_of, report_of


class FakeWorker:
    """One connection to a daemon."""

    def __init__(self, home: Path, connection: socket.socket) -> None:
        self.home = home
        self.connection = connection
        self.orders: queue.SimpleQueue[Prepare | Train | Consolidate | Yield] = queue.SimpleQueue()
        self.yield_requested = threading.Event()
        self.committed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.job: Prepare | None = None
        self.lines: list[str] = []

    def tell(self, fact: AnyFact) -> None:
        self.connection.sendall(link.encode(fact))

    def listen(self) -> None:
        reader = link.order_reader()
        with contextlib.suppress(OSError):  # a daemon that was killed resets the connection
            while data := self.connection.recv(65536):
                while orders := reader.feed(data):
                    data = b""
                    for order in orders:
                        self.take(order)
        os._exit(0)

    def take(self, order: object) -> None:
        match order:
            case Shutdown():
                os._exit(0)
            case Committed():
                self.committed.put(order.checkpoint)
            case Yield():
                self.yield_requested.set()
                self.orders.put(order)
            case Prepare() | Train() | Consolidate():
                self.orders.put(order)

    def serve(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        self.tell(Hello(attempt=0, pid=os.getpid()))
        while True:
            order = self.orders.get()
            if isinstance(order, Prepare):
                self.prepare(order)
            elif isinstance(order, Train):
                self.train(order)
            elif isinstance(order, Consolidate):
                self.consolidate(order)
            else:
                self.yield_requested.clear()
                failpoint("yield_saved")
                self.tell(Yielded(attempt=order.attempt))
                failpoint("yielded")

    def prepare(self, order: Prepare) -> None:
        failpoint("prepare_asked")
        self.job = order
        self.lines = (self.home / "data" / f"{order.job}.jsonl").read_text(encoding="utf-8").split()
        if "reject" in self.lines:
            line = self.lines.index("reject") + 1
            self.tell(Rejected(attempt=order.attempt, problem="broken_json", line=line, message=f"line {line} is bad"))
            return
        steps = len(self.lines)
        for _ in self.lines:
            failpoint("row_prepared")
        failpoint("prepared")
        fingerprint = hashlib.sha256(order.job.encode()).hexdigest()
        self.tell(
            Prepared(
                attempt=order.attempt,
                plan=Plan(
                    rows=steps,
                    tokens=steps,
                    trained_tokens=steps,
                    truncated_rows=0,
                    epochs=1,
                    steps_per_epoch=steps,
                    steps_total=steps,
                    tokenizer_sha256="",
                    batches_sha256=fingerprint,
                ),
            )
        )
        failpoint("prepared_reported")

    def train(self, order: Train) -> None:
        assert self.job is not None
        if self.lines[0] == "model":
            self.tell(Failed(attempt=order.attempt, failure="model", message="there is no such model", trace=""))
            return
        failpoint("loading")
        failpoint("loaded")
        self.tell(Loaded(attempt=order.attempt, environment={"device": "fake"}))
        failpoint("loaded_reported")
        self.evaluate(order, order.step, order.global_step)
        every = self.job.settings.checkpoints.every_steps
        step, global_step, parent, saved = order.step, order.global_step, order.checkpoint, order.step
        while step < order.until and not self.yield_requested.is_set():
            if not self.behave(self.lines[step], order.attempt):
                return
            step, global_step = step + 1, global_step + 1
            failpoint("step")
            loss = int.from_bytes(hashlib.sha256(f"{self.job.job} {step}".encode()).digest()[:4], "big") / 2**32
            self.tell(
                Step(
                    attempt=order.attempt,
                    global_step=global_step,
                    step=step,
                    epoch=1,
                    loss=loss,
                    grad_norm=1.0,
                    learning_rate=1e-4,
                    tokens=1,
                    seconds=0.01,
                )
            )
            if step == order.until:
                self.evaluate(order, step, global_step)
            if step == order.until or (every and step - saved >= every):
                parent, saved = self.save(order, step, global_step, parent), step
        if step < order.until:
            failpoint("yield_seen")
        if step > saved:
            self.save(order, step, global_step, parent)

    def evaluate(self, order: Train, step: int, global_step: int) -> None:
        """At the beginning of a job and at its end."""
        if not order.evaluates or step not in {0, order.until} or step <= order.evaluated_to:
            return
        self.tell(
            Evaluated(
                attempt=order.attempt,
                global_step=global_step,
                step=step,
                rows=1,
                tokens=1,
                loss=0.5,
                training_loss=0.5 if step else None,
                seconds=0.01,
            )
        )

    def consolidate(self, order: Consolidate) -> None:
        """As `gpu.versions.consolidate`, but that the weights are what was learned, one line more for each
        checkpoint."""
        failpoint("consolidating")
        checkpoint = self.home / "checkpoints" / order.checkpoint
        manifest = read_manifest(checkpoint)
        sha256 = hashlib.sha256((checkpoint / MANIFEST).read_bytes()).hexdigest()
        backup = BackupManifest(
            backup=order.backup,
            reason=f"before {order.version}",
            version=order.parent,
            checkpoint=order.checkpoint,
            checkpoint_sha256=sha256,
            files={},
        )
        made = back_up(self.home / "backups", backup, checkpoint)
        failpoint("backed_up")
        attempt = order.attempt
        self.tell(BackedUp(attempt=attempt, size_bytes=made.size_bytes, manifest_sha256=made.manifest_sha256))
        if self.yield_requested.is_set():
            return
        versions = self.home / "versions"
        before = (versions / order.parent / "model").read_bytes() if order.parent else b""
        sealed = VersionManifest(version=order.version, parent=order.parent, checkpoint=manifest, applied=1.0, files={})

        def prove(_: Path) -> None:
            failpoint("merged")
            self.tell(Merged(attempt=attempt, applied=1.0, in_place=0.5))
            failpoint("verified")
            self.tell(Verified(attempt=attempt, difference=0.0, tolerance=0.1))

        written = VersionDirectory(versions / order.version).write(
            {"model": before + (checkpoint / "weights").read_bytes() + b"\n"},
            lambda files: msgspec.structs.replace(sealed, files=dict(files)),
            prove=prove,
        )
        failpoint("before_version_report")
        self.tell(
            VersionWritten(
                attempt=attempt,
                version=order.version,
                size_bytes=written.size_bytes,
                manifest_sha256=written.manifest_sha256,
            )
        )
        failpoint("version_reported")

    def behave(self, line: str, attempt: int) -> bool:
        """Whether there is a step after all."""
        memory = self.home / "run" / line
        match line:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die-once" if not memory.exists():
                memory.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "silent":
                time.sleep(3600)
            case "garbage":
                self.connection.sendall(b"\x00not a message\n")
                time.sleep(3600)
            case "fail":
                self.tell(Failed(attempt=attempt, failure="code", message="it broke", trace="Traceback: here"))
                return False
            case "broken":
                self.tell(Failed(attempt=attempt, failure="storage", message="cannot write: I/O error", trace=""))
                return False
            case "wait":
                self.yield_requested.wait()
            case "wait-once" if not memory.exists():
                memory.touch()
                self.yield_requested.wait()
        return True

    def save(self, order: Train, step: int, global_step: int, parent: str | None) -> str:
        assert self.job is not None
        manifest = manifest_of(
            order, self.job, step=step, global_step=global_step, steps_total=len(self.lines), parent=parent
        )
        name = manifest.checkpoint
        weights = f"{self.job.job} {step}".encode()
        directory = CheckpointDirectory(self.home / "checkpoints" / name)
        committed = directory.write({"weights": weights}, manifest.with_files)
        if self.lines[step - 1] == "phantom":
            shutil.rmtree(self.home / "checkpoints" / name)
        failpoint("before_report")
        ends = "end" if step == order.until else "yield" if self.yield_requested.is_set() else "steps"
        self.tell(report_of(manifest, committed, ends))
        failpoint("reported")
        assert self.committed.get() == name
        return name


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--socket", type=Path)
    arguments = parser.parse_args()
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        FakeWorker(arguments.home, link.connect(arguments.socket)).serve()


if __name__ == "__main__":
    main()
