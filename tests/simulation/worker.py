"""A worker that learns nothing and forgets nothing: its weights are a hash over everything they were trained on.

It speaks the real protocol, reads its data and writes its checkpoints through the simulated disk, by the real commit
protocol, one small action a call; and it may die, fall silent, or speak nonsense.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cli.home.paths import Home
from core.worker_exit import Ending
from events import messages
from events.settings import Plan
from events.values import Number
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.backup import BackupManifest, back_up
from gpu.artifacts.manifest import MANIFEST, describe
from gpu.artifacts.version_manifest import VersionDirectory, VersionManifest, read_version_manifest
from gpu.errors import CheckpointBroken, ProtocolViolation, StorageFailed
from gpu.worker import classify_failure
from journal.durable import read_file
from tests.harness.saving import manifest_of, report_of
from tests.simulation.disk import Killed, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

UNTRAINED = hashlib.sha256(b"the base").hexdigest()


def trained(weights: str, job: str, step: int) -> str:
    """The weights after one more step."""
    return hashlib.sha256(f"{weights} {job} {step}".encode()).hexdigest()


class SimulatedWorker:
    """`cli.daemon.ports.Worker`, in this process."""

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.home = Home(world.root, storage=process, clock=world.clock)
        self.sent: set[tuple[type, int]] = set()
        self.connected = False
        self.outbox: deque[messages.AnyFact | bytes] = deque()
        self.orders: deque[messages.AnyOrder] = deque()
        self.mood = "well"
        self._prepared: messages.Prepare | None = None
        self._training: messages.Train | None = None
        self._merging: Iterator[messages.AnyFact] | None = None
        self._parent: str | None = None
        self._awaited: str | None = None
        self._weights = UNTRAINED
        self._step = self._global_step = self._saved = 0
        self._evaluated = -1

    # -- the daemon's side

    def send(self, order: messages.AnyOrder) -> None:
        self.sent.add((type(order), order.attempt))
        if isinstance(order, messages.Committed):
            if self._awaited == order.checkpoint:
                self._awaited, self._parent = None, order.checkpoint
        else:
            self.orders.append(order)

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
            self.world.books.facts.append(fact)
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

    # -- its own

    def act(self) -> bool:
        """One small thing; False if there is nothing to do. A worker that is killed in it is simply dead."""
        if self.process.dead or not self.connected or self.mood == "silent":
            return False
        try:
            return self._act()
        except Killed:
            self.process.die()
            return True

    def _act(self) -> bool:
        if self._training is not None:
            return self._train(self._training)
        if self._merging is not None:
            fact = None if self._yield_asked() else next(self._merging, None)
            if fact is None:
                self._merging = None
            else:
                self.outbox.append(fact)
            return True
        if not self.orders:
            return False
        order = self.orders.popleft()
        try:
            if isinstance(order, messages.Prepare):
                self._prepare(order)
            elif isinstance(order, messages.Train):
                self._load(order)
            elif isinstance(order, messages.Consolidate):
                self._merging = self._consolidation(order)
            elif isinstance(order, messages.Yield):
                self.outbox.append(messages.Yielded(attempt=order.attempt))
            elif isinstance(order, messages.Shutdown):
                self.process.die()
        except OSError as error:
            self._fail(order.attempt, error)
        return True

    def _fail(self, attempt: int, error: Exception) -> None:
        failure, _ = classify_failure(error)
        self.outbox.append(messages.Failed(attempt=attempt, failure=failure, message=str(error), trace=""))
        self._training = self._prepared = self._merging = None

    def _yield_asked(self) -> bool:
        return any(isinstance(order, messages.Yield) for order in self.orders)

    def _prepare(self, order: messages.Prepare) -> None:
        if self._yield_asked():
            return
        path = self.home.data_file(order.job)
        try:
            data = read_file(path, storage=self.process)
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != order.job:
            message = f"the data file {path} has changed"
            self.outbox.append(messages.Failed(attempt=order.attempt, failure="data", message=message, trace=""))
            return
        lines = data.split()
        if b"bad" in lines:
            at = lines.index(b"bad") + 1
            message = f"line {at} is no JSON"
            self.outbox.append(
                messages.Rejected(attempt=order.attempt, problem="broken_json", line=at, message=message)
            )
            return
        if not lines:
            self.outbox.append(
                messages.Rejected(attempt=order.attempt, problem="no_rows", line=None, message="there is no row in it")
            )
            return
        self._prepared = order
        plan = Plan(
            rows=len(lines),
            tokens=len(lines),
            trained_tokens=len(lines),
            truncated_rows=0,
            epochs=1,
            steps_per_epoch=len(lines),
            steps_total=len(lines),
            tokenizer_sha256="",
            batches_sha256=order.job,
        )
        self.outbox.append(messages.Prepared(attempt=order.attempt, plan=plan))

    def _load(self, order: messages.Train) -> None:
        assert self._prepared is not None, "told to train before it was prepared"
        assert self._prepared.attempt == order.attempt, "told to train what another attempt prepared"
        self._weights = UNTRAINED
        if order.base is not None:
            problem = self._find_base_problem(order.base)
            if problem is not None:
                message = f"{order.base} is not what was published: {problem}"
                self.outbox.append(messages.Failed(attempt=order.attempt, failure="model", message=message, trace=""))
                return
            self._weights = read_file(self.home.versions / order.base / "weights", storage=self.process).decode()
        if order.checkpoint is not None:
            directory = self.home.checkpoints / order.checkpoint
            try:
                manifest = CheckpointDirectory(directory, self.process).verify()
            except CheckpointBroken as error:
                bad = messages.CheckpointBad(attempt=order.attempt, checkpoint=order.checkpoint, problem=error.problem)
                self.outbox.append(bad)
                return
            assert manifest.cursor.global_step == order.global_step, "the head does not stand where the order says"
            self._weights = read_file(directory / "weights", storage=self.process).decode()
        self._training, self._parent, self._awaited = order, order.checkpoint, None
        self._step = self._saved = order.step
        self._evaluated = order.evaluated_to
        self._global_step = order.global_step
        self.outbox.append(messages.Loaded(attempt=order.attempt, environment={"torch": "2"}))

    def _find_base_problem(self, base: str) -> str | None:
        """As `gpu.artifacts.version_manifest.find_base_problem`, without the files of a real model."""
        directory = self.home.versions / base
        try:
            sealed = read_version_manifest(directory, storage=self.process)
        except (OSError, ValueError) as error:
            return str(error)
        found = describe(directory / "weights", storage=self.process)
        return None if found == sealed.files.get("weights") else "its weights have another SHA-256"

    def _consolidation(self, order: messages.Consolidate) -> Iterator[messages.AnyFact]:
        """As `gpu.versions.consolidate`: the same protocol, and weights that are those of the checkpoint."""
        attempt, checkpoint = order.attempt, self.home.checkpoints / order.checkpoint
        try:
            manifest = CheckpointDirectory(checkpoint, self.process).verify()
            sha256 = describe(checkpoint / MANIFEST, storage=self.process).sha256
            backup = BackupManifest(
                backup=order.backup,
                reason=f"before {order.version}",
                version=order.parent,
                checkpoint=order.checkpoint,
                checkpoint_sha256=sha256,
                files={},
            )
            made = back_up(self.home.backups, backup, checkpoint, storage=self.process)
            yield messages.BackedUp(attempt=attempt, size_bytes=made.size_bytes, manifest_sha256=made.manifest_sha256)
            yield messages.Merged(attempt=attempt, applied=1.0, in_place=0.5)
            weights = read_file(checkpoint / "weights", storage=self.process)
            sealed = VersionManifest(
                version=order.version, parent=order.parent, checkpoint=manifest, applied=1.0, files={}
            )
            yield messages.Verified(attempt=attempt, difference=0.0, tolerance=0.1)
            written = VersionDirectory(self.home.versions / order.version, self.process).write(
                {"weights": weights, f"learned/{order.checkpoint}/weights": weights},
                lambda files: replace(sealed, files=dict(files)),
            )
            yield messages.VersionWritten(
                attempt=attempt,
                version=order.version,
                size_bytes=written.size_bytes,
                manifest_sha256=written.manifest_sha256,
            )
        except CheckpointBroken as error:
            yield messages.CheckpointBad(attempt=attempt, checkpoint=order.checkpoint, problem=error.problem)
        except (StorageFailed, OSError) as error:
            self._fail(attempt, error)

    def _train(self, order: messages.Train) -> bool:
        if self._awaited is not None:
            return False
        assert self._prepared is not None
        if order.evaluates and self._evaluated < self._step and not self._yield_asked():
            self._evaluated = self._step
            if self._step % 2 == 0 or self._step == order.until:
                self._evaluate(order)
                return True
        if self._step < order.until and not self._yield_asked():
            every = self._prepared.settings.checkpoints.every_steps
            if self._step - self._saved >= every:
                self._save(order, "steps")
                return True
            self._step += 1
            self._global_step += 1
            self._weights = trained(self._weights, self._prepared.job, self._step)
            self.outbox.append(
                messages.Step(
                    attempt=order.attempt,
                    global_step=self._global_step,
                    step=self._step,
                    epoch=1,
                    loss=int(self._weights[:8], 16) / 2**32,
                    grad_norm=1.0,
                    learning_rate=1e-4,
                    tokens=1,
                    seconds=0.01,
                )
            )
            return True
        if self._step > self._saved:
            self._save(order, "end" if self._step == order.until else "yield")
            return True
        self._training = None
        return True

    def _evaluate(self, order: messages.Train) -> None:
        """Once in a while it is no number, or fails; either follows from the weights, so it comes again."""
        lot = int(self._weights[8:10], 16)
        if lot < 12:
            failed = messages.Failed(attempt=order.attempt, failure="code", message="a bug", trace="", evaluating=True)
            self.outbox.append(failed)
            self._training = self._prepared = None
            return
        loss: Number = "NaN" if lot < 24 else int(self._weights[:8], 16) / 2**32
        self.outbox.append(
            messages.Evaluated(
                attempt=order.attempt,
                global_step=self._global_step,
                step=self._step,
                rows=1,
                tokens=1,
                loss=loss,
                training_loss=0.1 if self._step else None,
                seconds=0.01,
            )
        )

    def _save(self, order: messages.Train, reason: messages.CheckpointReason) -> None:
        assert self._prepared is not None
        manifest = manifest_of(
            order,
            self._prepared,
            step=self._step,
            global_step=self._global_step,
            steps_total=order.until,
            parent=self._parent,
        )
        contents = {"weights": self._weights.encode(), "state": b"s" * 700}
        try:
            directory = CheckpointDirectory(self.home.checkpoints / manifest.checkpoint, self.process)
            committed = directory.write(contents, manifest.with_files)
        except StorageFailed as error:
            self._fail(order.attempt, error)
            return
        self._saved, self._awaited = self._step, manifest.checkpoint
        self.outbox.append(report_of(manifest, committed, reason))
