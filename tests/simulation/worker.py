"""The fake worker inside of the simulation: it may die, stop to speak, or speak nonsense."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from core.worker_exit import Ending
from events import messages
from events.self_correction import CorrectionPlan
from events.values import Number
from gpu.errors import ProtocolViolation
from tests.harness.fake_disk import Killed, Process
from tests.harness.fake_worker import FakeWorker

if TYPE_CHECKING:
    from tests.simulation.world import World


class SimulatedWorker(FakeWorker):
    """`cli.daemon.ports.Worker`, in this process."""

    bad_line = b"bad"

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world.root, process)
        self.world = world
        self.process = process
        self.sent: set[tuple[type, int]] = set()
        self.connected = False
        self.outbox: deque[messages.AnyFact | bytes] = deque()
        self.silent = False

    # -- the daemon's side ------------------------------------------------------------------------------------------

    def send(self, message: messages.AnyOrder) -> None:
        self.sent.add((type(message), message.attempt))
        super().send(message)

    def receive(self) -> list[messages.AnyFact]:
        if not self.connected and not self.process.dead:
            self.connected = True
            return []
        facts: list[messages.AnyFact] = []
        while self.outbox:
            fact = self.outbox.popleft()
            if isinstance(fact, bytes):
                if facts:
                    self.outbox.appendleft(fact)
                    break
                raise ProtocolViolation(fact, "simulated")
            facts.append(fact)
            self.world.invariants.facts.append(fact)
            if self.world.random.random() < 0.5:
                break
        if not facts and self.process.dead:
            raise EOFError
        return facts

    def has_ended(self) -> bool:
        return self.process.dead

    def exit_status(self) -> Ending:
        return Ending(killed_by="SIGKILL")

    def show_stacks(self) -> bool:
        return False

    def end(self) -> None:
        self.process.die()
        if self.world.worker is self:  # nobody waits for it any more
            self.world.worker = None

    def has_news(self) -> bool:
        return not self.connected or bool(self.outbox) or self.process.dead

    # -- the worker's side ------------------------------------------------------------------------------------------

    def report(self, fact: messages.AnyFact) -> None:
        self.outbox.append(fact)

    def act(self) -> bool:
        """Do one small thing; False if there is nothing to do. A worker that is killed in it is dead, no more."""
        if self.process.dead or not self.connected or self.silent:
            return False
        try:
            return super().act()
        except Killed:
            self.process.die()
            return True

    def leave(self) -> None:
        self.process.die()

    def contents(self) -> dict[str, bytes]:
        return {**super().contents(), "state": b"s" * 700}

    def evaluate(self, order: messages.Train) -> None:
        """Some evaluations fail. Which ones follows from the weights, so the next attempt fails there as well."""
        if int(self.weights[8:10], 16) < 12:
            self.abandon(
                messages.Failed(attempt=order.attempt, failure="code", message="a bug", trace="", phase="evaluate")
            )
        else:
            super().evaluate(order)

    def sample(self, order: messages.Train, samples: messages.Sample) -> None:
        """Some rounds cost too much, fail, or end the worker. Which ones follows from the weights."""
        lot, at = int(self.weights[10:12], 16), {"global_step": self.global_step, "step": self.step}
        if lot < 12:
            self.abandon(
                messages.Failed(attempt=order.attempt, failure="code", message="a bug", trace="", phase="sample")
            )
        elif lot < 30:
            self._sampled, self._samples = self.step, replace(samples, asked=False)
            self.report(
                messages.SamplesFailed(
                    attempt=order.attempt, asked=samples.asked, failure="code", message="m", seconds=0.01, **at
                )
            )
        elif lot < 60 and not samples.asked:
            self._sampled = self.step
            self.report(
                messages.SamplesPutOff(
                    attempt=order.attempt, round_s=9.0, trained_s=1.0, cost_max=0.01, next_step=100, **at
                )
            )
        else:
            super().sample(order, samples)

    def correct(self, order: messages.Train, plan: CorrectionPlan) -> None:
        """Some rounds fail, cost too much, or end the worker. Which ones follows from the weights."""
        lot, at = int(self.weights[16:18], 16), {"global_step": self.global_step, "step": self.step}
        if lot < 10:
            self.abandon(
                messages.Failed(attempt=order.attempt, failure="code", message="a bug", trace="", phase="self_correct")
            )
        elif lot < 24:
            self.fail_round(order, "m")
        elif lot < 40:
            self._corrected = self.step
            self.report(
                messages.SelfCorrectionPutOff(
                    attempt=order.attempt, round_s=9.0, trained_s=1.0, cost_max=0.1, next_step=None, **at
                )
            )
        else:
            super().correct(order, plan)

    def evaluate_end(self, order: messages.Train) -> None:
        """The same, at the end of a job."""
        if int(self.weights[12:14], 16) < 12:
            self.abandon(
                messages.Failed(attempt=order.attempt, failure="code", message="a bug", trace="", phase="evaluate")
            )
        else:
            super().evaluate_end(order)

    def evaluate_version(self, order: messages.EvaluateVersion) -> Iterator[messages.AnyFact]:
        """Some evaluations of a version fail each time, some only in every second attempt."""
        lot = int(self._read_weights(self.root / "versions" / order.version)[14:16], 16)
        if lot < 40 or (lot < 90 and order.attempt % 2):
            self.abandon(messages.Failed(attempt=order.attempt, failure="code", message="a bug", trace=""))
            return
        yield from super().evaluate_version(order)

    def evaluation(self) -> tuple[Number, float | None]:
        lot = int(self.weights[8:10], 16)
        return "NaN" if lot < 24 else int(self.weights[:8], 16) / 2**32, 0.1 if self.step else None
