"""Steps that were learned, learned once more: `python -P -m gpu.training.rerun`, with a `Rerun` as JSON for its only
argument.

The worker's own code on the home's own data, writing into a place of its own; the home is only read. What comes out is
what stood there after those steps, to the bit. Prints a `Reran` or a `Refusal` as one line of JSON, and on standard
error how far it is, if that is a terminal.
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
from gpu.ipc.protocol import ReplayRange, Reran, Rerun, reply

if TYPE_CHECKING:
    from gpu.session import Session


class Recorder:
    """A desk that commits at once and keeps the newest checkpoint only."""

    def __init__(self, checkpoints: Path, say: Callable[[str], None]) -> None:
        self._checkpoints = checkpoints
        self._say = say
        self.newest: CheckpointId | None = None
        self.bits: list[tuple[int, Number, Number]] = []
        self.environment: dict[str, str] = {}
        self.batches_sha256 = ""

    def tell(self, fact: AnyFact) -> None:
        """Hear a fact."""
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

    def yield_requested(self) -> bool:
        """Never."""
        return False

    def is_committed(self, checkpoint: CheckpointId) -> bool:
        """As soon as it was heard of."""
        return checkpoint == self.newest

    def wait_committed(self, checkpoint: CheckpointId) -> None:
        """Whoever waits has said it before."""
        assert self.is_committed(checkpoint)

    def ask_course(self, fact: OutOfMemory) -> Course:
        """There is no other: in other parts it would be other bits. Raises DoesNotFit."""
        raise MicrobatchTooLarge(fact.global_step, fact.step, fact.sequences, fact.message)


def rerun(order: Rerun, say: Callable[[str], None] = lambda _: None) -> Reran:
    """Raises WorkerError, OSError, ValueError."""
    from gpu.session import Session

    home, scratch = Path(order.home), Path(order.scratch)
    channel = Recorder(scratch, say)
    session, checkpoint = Session(home, channel, scratch), order.checkpoint
    for replay_range in order.replay_ranges:
        _run(session, channel, replay_range, checkpoint)
        checkpoint = channel.newest
    assert checkpoint is not None  # there was a stretch, and it ended with a checkpoint
    say("\n")
    return Reran(checkpoint=checkpoint, bits=tuple(channel.bits), environment=channel.environment)


def _run(session: Session, channel: Recorder, replay_range: ReplayRange, checkpoint: CheckpointId | None) -> None:
    session.prepare(Prepare(attempt=replay_range.attempt, job=replay_range.job, settings=replay_range.settings))
    if channel.batches_sha256 != replay_range.batches_sha256:
        raise PlanChanged(
            f"the rows of {replay_range.job[:12]} are planned in another way now than in training: the tokenizer, "
            "its chat template or keepstep itself is not what it was"
        )
    session.train(
        Train(
            attempt=replay_range.attempt,
            base=replay_range.base,
            checkpoint=checkpoint,
            global_step=replay_range.global_step,
            step=replay_range.step,
            until=replay_range.until,
            carry_optimizer=replay_range.carry_optimizer,
            course=replay_range.course,
            environment=replay_range.environment,
        )
    )


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(text)


def main() -> None:
    """Carry out the order on the command line."""
    reply(Rerun, lambda order: rerun(order, _say))


if __name__ == "__main__":
    main()
