"""A worker without torch that keeps every promise of the real one: `python -m tests.crash.plain_worker`.

What it learns is a chain of hashes: after each step, a hash of the state before and of the step. So its weights prove,
as the real ones do, that every step was made once, in order, from the state that was committed. Checkpoints are
written by the commit protocol and read back strictly, and failures are named by the real worker's own code.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from events.messages import Hello, Loaded, Prepare, Prepared, Step, Train, Yielded
from events.settings import Plan
from events.values import CheckpointReason
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.ipc.connection import connect
from gpu.ipc.worker_channel import SocketChannel
from gpu.worker import run_order
from tests.harness.saving import manifest_of, report_of

if TYPE_CHECKING:
    from gpu.session import Session

WEIGHTS = "weights.safetensors"
WEIGHTS_BYTES = 128 << 10
STEP_S = 0.03


class PlainSession:
    """What `gpu.session.Session` is to the real worker."""

    def __init__(self, home: Path, channel: SocketChannel) -> None:
        self._home, self._channel = home, channel
        self._job: Prepare | None = None
        self._steps = 0

    def prepare(self, order: Prepare) -> None:
        self._steps = len((self._home / "data" / f"{order.job}.jsonl").read_bytes().splitlines())
        self._job = order
        plan = Plan(
            rows=self._steps,
            tokens=self._steps,
            trained_tokens=self._steps,
            truncated_rows=0,
            epochs=1,
            steps_per_epoch=self._steps,
            steps_total=self._steps,
            tokenizer_sha256="",
            batches_sha256=order.job,
        )
        self._channel.send(Prepared(attempt=order.attempt, plan=plan))

    def train(self, order: Train) -> None:
        assert self._job is not None
        state = b""
        if order.checkpoint is not None:
            directory = self._home / "checkpoints" / order.checkpoint
            CheckpointDirectory(directory).verify()
            state = (directory / WEIGHTS).read_bytes()[:32]
        self._channel.send(Loaded(attempt=order.attempt, environment={"device": "plain"}))
        every, saved, parent = self._job.settings.checkpoints.every_steps, order.step, order.checkpoint
        for step in range(order.step + 1, order.until + 1):
            global_step = order.global_step + step - order.step
            time.sleep(STEP_S)
            state = hashlib.sha256(state + f"{self._job.job} {step}".encode()).digest()
            self._channel.send(
                Step(
                    attempt=order.attempt,
                    global_step=global_step,
                    step=step,
                    epoch=1,
                    loss=int.from_bytes(state[:4], "big") / 2**32,
                    grad_norm=1.0,
                    learning_rate=1e-4,
                    tokens=1,
                    seconds=STEP_S,
                )
            )
            ends = step == order.until or self._channel.yield_requested()
            if ends or step - saved >= every:
                reason: CheckpointReason = "end" if step == order.until else "yield" if ends else "steps"
                parent, saved = self._save(order, state, step, global_step, parent, reason), step
            if ends:
                return

    def discard(self) -> None:
        self._job = None

    def _save(
        self, order: Train, state: bytes, step: int, global_step: int, parent: str | None, reason: CheckpointReason
    ) -> str:
        assert self._job is not None
        manifest = manifest_of(
            order, self._job, step=step, global_step=global_step, steps_total=self._steps, parent=parent
        )
        directory = CheckpointDirectory(self._home / "checkpoints" / manifest.checkpoint)
        done = directory.write({WEIGHTS: state * (WEIGHTS_BYTES // len(state))}, manifest.with_files)
        self._channel.send(report_of(manifest, done, reason))
        self._channel.wait_committed(manifest.checkpoint)
        return manifest.checkpoint


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--socket", type=Path)
    arguments, _ = parser.parse_known_args()
    channel = SocketChannel(connect(arguments.socket))
    channel.send(Hello(attempt=0, pid=os.getpid()))
    session = PlainSession(arguments.home, channel)
    while True:
        order = channel.next_order()
        if isinstance(order, Prepare | Train):
            run_order(order, cast("Session", session), channel)
        else:
            channel.send(Yielded(attempt=order.attempt))


if __name__ == "__main__":
    main()
