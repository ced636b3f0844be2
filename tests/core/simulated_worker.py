"""A worker without a process: orders in, facts out, as `gpu/worker.py` does it, one small action at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from events import messages
from events.course import Course
from events.evaluation import Comparison, QuestionScore, ResultsFile, Scores
from events.settings import JobSettings, Plan
from events.values import CheckpointReason, checkpoint_id

if TYPE_CHECKING:
    from tests.core.world import World

CHECKPOINT_BYTES = 1000
"""What each checkpoint takes on the disk."""

VERSION_BYTES = 9000
"""What each version takes."""


def plan(steps_total: int, *, seed: int = 1) -> Plan:
    """The plan of a job of one epoch."""
    return Plan(
        rows=steps_total * 4,
        tokens=steps_total * 100,
        trained_tokens=steps_total * 60,
        truncated_rows=0,
        epochs=1,
        steps_per_epoch=steps_total,
        steps_total=steps_total,
        tokenizer_sha256="aa" * 32,
        batches_sha256=f"{seed:064x}",
    )


SEQUENCES = 4
"""In each micro-batch."""


def bits(job: str, step: int, seed: int, parts: int = 1) -> tuple[float, float]:
    """Loss and gradient norm of a step: the same whenever it is run under the same seed, in as many parts."""
    return 1.0 / (step + int(job, 16) * 100 + seed / 7 + (parts - 1) / 1000), float(step + seed)


@dataclass
class Training:
    """The work of a simulated worker that is in progress."""

    order: messages.Train
    job: str
    settings: JobSettings
    global_step: int
    step: int
    saved_step: int
    parent: str | None
    awaited: str | None = None
    """The checkpoint that is written and not yet committed."""
    course: Course = field(default_factory=Course)
    evaluated_to: int = -1
    stuck: bool = False
    """A step does not fit, and it waits for another course."""


@dataclass
class Worker:
    """Carries out orders, one small action a call, and puts facts into its outbox."""

    world: World
    orders: deque[messages.AnyOrder] = field(default_factory=deque)
    sent: set[tuple[type, int]] = field(default_factory=set)
    outbox: deque[messages.AnyFact] = field(default_factory=deque)
    prepared: messages.Prepare | None = None
    training: Training | None = None
    merging: Iterator[messages.AnyFact] | None = None

    def deliver(self, order: messages.AnyOrder) -> None:
        """An order arrives. A commit is seen at once, whatever the hands do."""
        self.sent.add((type(order), order.attempt))
        if isinstance(order, messages.Committed):
            if self.training is not None and self.training.awaited == order.checkpoint:
                self.training.awaited = None
                self.training.parent = order.checkpoint
            return
        if isinstance(order, messages.RunAgain):
            if self.training is not None:
                self.training.course, self.training.stuck = order.course, False
            return
        self.orders.append(order)

    def act(self) -> bool:
        """Do one thing; False if there is nothing to do."""
        if self.training is not None:
            return self._train(self.training)
        if self.merging is not None:
            fact = None if self._yield_asked() else next(self.merging, None)
            if fact is None:
                self.merging = None
            else:
                self.outbox.append(fact)
            return True
        if not self.orders:
            return False
        order = self.orders.popleft()
        match order:
            case messages.Prepare():
                self._prepare(order)
            case messages.Train():
                self._load(order)
            case messages.Consolidate():
                self.merging = self._consolidation(order)
            case messages.EvaluateVersion():
                self.merging = iter((self._version_evaluated(order),))
            case messages.Yield():
                self.outbox.append(messages.Yielded(attempt=order.attempt))
        return True

    def _yield_asked(self) -> bool:
        return any(isinstance(order, messages.Yield) for order in self.orders)

    def _prepare(self, order: messages.Prepare) -> None:
        if self._yield_asked():
            return
        steps_total = self.world.steps[order.job]
        if steps_total == 0:
            self.outbox.append(
                messages.Rejected(attempt=order.attempt, problem="broken_json", line=1, message="line 1 is no JSON")
            )
            return
        self.prepared = order
        made = plan(steps_total, seed=order.settings.training.seed)
        self.outbox.append(messages.Prepared(attempt=order.attempt, plan=made))

    def _load(self, order: messages.Train) -> None:
        assert self.prepared is not None
        assert self.prepared.attempt == order.attempt, "told to train before it was prepared"
        if order.checkpoint in self.world.spoiled:
            bad = messages.CheckpointBad(attempt=order.attempt, checkpoint=order.checkpoint, problem="a flipped bit")
            self.outbox.append(bad)
            return
        self.training = Training(
            order,
            self.prepared.job,
            self.prepared.settings,
            order.global_step,
            order.step,
            order.step,
            order.checkpoint,
            course=order.course,
            evaluated_to=order.evaluated_to,
        )
        self.outbox.append(messages.Loaded(attempt=order.attempt, environment={"torch": "2"}))

    def _consolidation(self, order: messages.Consolidate) -> Iterator[messages.AnyFact]:
        attempt = order.attempt
        if order.checkpoint in self.world.spoiled:
            yield messages.CheckpointBad(attempt=attempt, checkpoint=order.checkpoint, problem="a flipped bit")
            return
        yield messages.BackedUp(attempt=attempt, size_bytes=CHECKPOINT_BYTES, manifest_sha256="cc" * 32)
        yield messages.Merged(attempt=attempt, applied=0.99, in_place=0.02)
        yield messages.Verified(attempt=attempt, difference=0.001, tolerance=0.1)
        yield messages.VersionWritten(
            attempt=attempt, version=order.version, size_bytes=VERSION_BYTES, manifest_sha256="dd" * 32
        )

    def _version_evaluated(self, order: messages.EvaluateVersion) -> messages.VersionEvaluated:
        total = 10 if self.world.measures else 0
        scores = Scores(questions=QuestionScore(total=total, right=min(total, self.world.right)))
        parent = Scores(questions=QuestionScore(total=total, right=total))
        return messages.VersionEvaluated(
            attempt=order.attempt,
            version=order.version,
            results=ResultsFile(id=order.evaluation, sha256="ee" * 32, size_bytes=100),
            scores=scores,
            comparison=Comparison(parent=order.parent, scores=parent) if order.has_parent else None,
            divergence=None,
            suites_sha256="ff" * 32,
            seconds=1.0,
            problem="",
        )

    def _train(self, at: Training) -> bool:
        if at.awaited is not None or at.stuck:
            return False
        if self._evaluation_is_due(at):
            self.outbox.append(self._evaluated(at))
            return True
        if at.step < at.order.until and not self._yield_asked():
            if at.step - at.saved_step >= at.settings.checkpoints.every_steps:
                self._save(at, "steps")
                return True
            self.outbox.append(self._step(at))
            return True
        if at.step > at.saved_step:
            self._save(at, "end" if at.step == at.order.until else "yield")
            return True
        self.training = None
        return True

    def _evaluation_is_due(self, at: Training) -> bool:
        due = at.step in {0, at.order.until} or at.step % at.settings.evaluation.every_steps == 0
        return at.order.evaluates and due and at.step > at.evaluated_to and not self._yield_asked()

    def _evaluated(self, at: Training) -> messages.Evaluated:
        at.evaluated_to = at.step
        training_loss = bits(at.job, at.step, at.settings.training.seed)[0] if at.step else None
        loss = self.world.validation.get(at.step, training_loss or 1.0)
        return messages.Evaluated(
            attempt=at.order.attempt,
            global_step=at.global_step,
            step=at.step,
            rows=4,
            tokens=40,
            loss=loss,
            training_loss=training_loss,
            seconds=0.1,
        )

    def _step(self, at: Training) -> messages.AnyFact:
        step, attempt = at.step + 1, at.order.attempt
        aside, parts = step in at.course.skipped, at.course.parts_at(step)
        sequences = -(-SEQUENCES // parts)
        if not aside and sequences > self.world.room.get((at.job, step), SEQUENCES):
            at.stuck = True
            return messages.OutOfMemory(
                attempt=attempt,
                global_step=at.global_step + 1,
                step=step,
                sequences=sequences,
                during="gradients",
                message="no memory",
            )
        if not aside and (at.job, step) in self.world.poisoned:
            self.training = None
            return messages.BatchSuspect(
                attempt=attempt,
                global_step=at.global_step + 1,
                step=step,
                loss="NaN",
                grad_norm="NaN",
                suspicion="not_finite",
                message="loss NaN",
                lines=(4 * step - 3, 4 * step),
                earlier={},
            )
        at.step += 1
        at.global_step += 1
        loss, norm = bits(at.job, at.step, at.settings.training.seed, parts)
        return messages.Step(
            attempt=attempt,
            global_step=at.global_step,
            step=at.step,
            epoch=1,
            loss="NaN" if aside else loss,
            grad_norm=0.0 if aside else norm,
            learning_rate=0.0 if aside else 1e-4,
            tokens=0 if aside else 100,
            seconds=0.5,
        )

    def _save(self, at: Training, reason: CheckpointReason) -> None:
        at.saved_step = at.step
        at.awaited = checkpoint_id(at.global_step, at.order.attempt)
        self.outbox.append(
            messages.CheckpointWritten(
                attempt=at.order.attempt,
                checkpoint=at.awaited,
                global_step=at.global_step,
                step=at.step,
                parent=at.parent,
                size_bytes=CHECKPOINT_BYTES,
                manifest_sha256="bb" * 32,
                reason=reason,
            )
        )
