"""Run trained steps again: `python -P -m gpu.training.rerun REQUEST`, a `Rerun` as JSON.

The worker's code runs on the data of the home and writes into a scratch directory; the home is only read. The result
has the bits of the first run. Prints a `Reran` or a `Refusal` as one line of JSON, and its progress on standard error
if that is a terminal.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from events.course import Course
from events.messages import AnyFact, CheckpointWritten, Loaded, OutOfMemory, Prepare, Prepared, Step, Train
from events.values import CheckpointId, Number
from gpu.errors import MicrobatchTooLarge, PlanChanged
from gpu.ipc.protocol import Reran, Rerun, RerunRange, run_request

if TYPE_CHECKING:
    from gpu.session import Session


class RecordingChannel:
    """A `WorkerChannel` that commits every checkpoint at once and keeps only the newest."""

    def __init__(self, checkpoints: Path, say: Callable[[str], None]) -> None:
        self._checkpoints = checkpoints
        self._say = say
        self.newest: CheckpointId | None = None
        self.bits: list[tuple[int, Number, Number]] = []
        self.environment: dict[str, str] = {}
        self.batches_sha256 = ""

    def send(self, fact: AnyFact) -> None:
        """Record a fact."""
        if isinstance(fact, Step):
            self.bits.append((fact.global_step, fact.loss, fact.grad_norm))
            self._say(f"\rstep {fact.global_step}")
        elif isinstance(fact, Prepared):
            self.batches_sha256 = fact.plan.batches_sha256
        elif isinstance(fact, Loaded):
            self.environment = fact.environment
        elif isinstance(fact, CheckpointWritten):
            before, self.newest = self.newest, fact.checkpoint
            if before is not None and before != self.newest:
                shutil.rmtree(self._checkpoints / before)

    def take_sample_order(self) -> None:
        """Nobody reads samples of a rerun."""

    def take_correction_order(self) -> None:
        """A rerun has no self-correction."""

    def yield_requested(self) -> bool:
        """Return False: nobody asks a rerun to yield."""
        return False

    def is_committed(self, checkpoint: CheckpointId) -> bool:
        """Return True for the newest checkpoint: it counts as soon as it is reported."""
        return checkpoint == self.newest

    def wait_committed(self, checkpoint: CheckpointId) -> None:
        """Return at once: a checkpoint is reported before it is waited for."""
        assert self.is_committed(checkpoint)

    def request_course(self, fact: OutOfMemory) -> Course:
        """Raise MicrobatchTooLarge: smaller parts would give other bits."""
        raise MicrobatchTooLarge(fact.global_step, fact.step, fact.sequences, fact.message)


def rerun(order: Rerun, say: Callable[[str], None] = lambda _: None) -> Reran:
    """Run the steps again. `say` receives the progress. Raises WorkerError, OSError, ValueError."""
    from gpu.session import Session

    home, scratch = Path(order.home), Path(order.scratch)
    channel = RecordingChannel(scratch, say)
    session, checkpoint = Session(home, channel, scratch), order.checkpoint
    for rerun_range in order.rerun_ranges:
        _run(session, channel, rerun_range, checkpoint)
        checkpoint = channel.newest
    assert checkpoint is not None  # there is at least one range, and each ends with a checkpoint
    say("\n")
    return Reran(checkpoint=checkpoint, bits=tuple(channel.bits), environment=channel.environment)


def _run(session: Session, channel: RecordingChannel, rerun_range: RerunRange, checkpoint: CheckpointId | None) -> None:
    session.prepare(Prepare(attempt=rerun_range.attempt, job=rerun_range.job, settings=rerun_range.settings))
    if channel.batches_sha256 != rerun_range.batches_sha256:
        raise PlanChanged(
            f"the batch plan of {rerun_range.job[:12]} has changed since it was trained: the tokenizer, its chat "
            "template or keepstep itself is another one"
        )
    session.train(
        Train(
            attempt=rerun_range.attempt,
            base=rerun_range.base,
            checkpoint=checkpoint,
            global_step=rerun_range.global_step,
            step=rerun_range.step,
            until=rerun_range.until,
            carry_optimizer=rerun_range.carry_optimizer,
            course=rerun_range.course,
            environment=rerun_range.environment,
        )
    )


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(text)


def main() -> None:
    """Answer the request on the command line."""
    run_request(Rerun, lambda order: rerun(order, _say))


if __name__ == "__main__":
    main()
