"""A worker without torch: messages of the daemon in, facts out, one small action a call.

Its weights are a hash of everything that they were trained on, so they prove that each step ran once and in order.
It reads its data, writes checkpoints and publishes versions by the real commit protocol. Two adapters use it:
`tests/harness/worker.py` is a process that speaks over the socket, `tests/simulation/worker.py` runs in the process
of the simulation, on a simulated disk.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from events.evaluation import EvaluationResults, ModelResults, QuestionResult, scores_of
from events.messages import (
    AnyFact,
    AnyOrder,
    BackedUp,
    CheckpointBad,
    CheckpointWritten,
    Committed,
    Consolidate,
    Evaluated,
    EvaluateVersion,
    Failed,
    Heartbeat,
    JobEvaluated,
    Loaded,
    Merged,
    Prepare,
    Prepared,
    Rejected,
    Sample,
    Sampled,
    Shutdown,
    Step,
    Train,
    Verified,
    VersionEvaluated,
    VersionWritten,
    Yield,
    Yielded,
)
from events.samples import SampleAnswer
from events.settings import Plan
from events.values import CheckpointReason, Number, checkpoint_id, evaluation_of_job
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.backup import BackupManifest, back_up
from gpu.artifacts.manifest import MANIFEST, Cursor, Lineage, Manifest, describe
from gpu.artifacts.version_manifest import VersionDirectory, VersionManifest, read_version_manifest
from gpu.errors import CheckpointBroken, StorageFailed
from gpu.evaluation.results import compare, write_results
from gpu.worker import classify_failure
from journal.durable import read_file
from journal.failpoints import failpoint
from journal.storage import REAL, Storage

SUITES = "ab" * 32
"""The fingerprint of the ten questions that it asks."""

UNTRAINED = hashlib.sha256(b"the base").hexdigest()
"""The weights of the origin."""


def train_step(weights: str, job: str, step: int) -> str:
    """The weights after one more step."""
    return hashlib.sha256(f"{weights} {job} {step}".encode()).hexdigest()


class FakeWorker(ABC):
    """`send` takes a message, `act` does one small thing, `report` passes a fact to the daemon."""

    bad_line = b"reject"
    """A data file with this line is rejected."""
    weights_file = "weights"
    """The file of a checkpoint and of a version that holds the weights."""
    environment = "fake"

    def __init__(self, root: Path, storage: Storage = REAL) -> None:
        self.root = root
        self.storage = storage
        self.messages: deque[AnyOrder] = deque()
        self.lines: list[bytes] = []
        """Of the prepared file: one line is one step."""
        self.weights = UNTRAINED
        self.step = self.global_step = 0
        self.training: Train | None = None
        self.prepared: Prepare | None = None
        self._consolidating: Iterator[AnyFact] | None = None
        self._saved = 0
        self._parent: str | None = None
        self._awaited: str | None = None
        """The checkpoint that is written and not yet committed."""
        self._evaluated = self._sampled = self._suites_step = -1
        self._samples: Sample | None = None
        """The plan of samples, and whether a person wants some at once."""

    # -- what an adapter says otherwise -----------------------------------------------------------------------------

    @abstractmethod
    def report(self, fact: AnyFact) -> None:
        """Pass a fact to the daemon."""

    @abstractmethod
    def leave(self) -> None:
        """End the process of the worker."""

    def may_step(self, order: Train) -> bool:
        """True if the next step can run now. An adapter misbehaves here."""
        return True

    def contents(self) -> dict[str, bytes]:
        """The files of a checkpoint."""
        return {self.weights_file: self.weights.encode()}

    def evaluation(self) -> tuple[Number, float | None]:
        """The loss on held-out rows, and that of training."""
        return 0.5, 0.5 if self.step else None

    # -- messages ---------------------------------------------------------------------------------------------------

    def send(self, message: AnyOrder) -> None:
        """Receive a message. A commit counts at once, whatever the worker does."""
        if isinstance(message, Sample):
            if self.training is not None and self.training.attempt == message.attempt:
                asked = message.asked or (self._samples is not None and self._samples.asked)
                self._samples = replace(message, asked=asked)
        elif isinstance(message, Committed):
            if self._awaited == message.checkpoint:
                self._awaited, self._parent = None, message.checkpoint
        else:
            self.messages.append(message)

    def yield_requested(self) -> bool:
        """True if the daemon wants the current work to stop."""
        return any(isinstance(message, Yield) for message in self.messages)

    def act(self) -> bool:
        """Do one thing; False if there is nothing to do."""
        if self.training is not None:
            return self._train(self.training)
        if self._consolidating is not None:
            fact = None if self.yield_requested() else next(self._consolidating, None)
            if fact is None:
                self._consolidating = None
            else:
                self.report(fact)
            return True
        if not self.messages:
            return False
        message = self.messages.popleft()
        try:
            self._begin(message)
        except OSError as error:
            self.fail(message.attempt, error)
        return True

    def _begin(self, message: AnyOrder) -> None:
        match message:
            case Prepare():
                self._prepare(message)
            case Train():
                self.load(message)
            case Consolidate():
                failpoint("consolidating")
                self._consolidating = self._consolidate(message)
            case EvaluateVersion():
                failpoint("evaluating_version")
                self._consolidating = self.evaluate_version(message)
            case Yield():
                failpoint("yield_saved")
                self.report(Yielded(attempt=message.attempt))
                failpoint("yielded")
            case Shutdown():
                self.leave()

    def fail(self, attempt: int, error: Exception) -> None:
        """Report the failure under the name that the real worker gives it."""
        failure, _ = classify_failure(error)
        self.abandon(Failed(attempt=attempt, failure=failure, message=str(error), trace=""))

    def abandon(self, fact: Failed) -> None:
        """Report a failure and forget the work."""
        self.report(fact)
        self.training = self.prepared = self._consolidating = None

    # -- prepare ----------------------------------------------------------------------------------------------------

    def _prepare(self, order: Prepare) -> None:
        failpoint("prepare_asked")
        if self.yield_requested():
            return
        path = self.root / "data" / f"{order.job}.jsonl"
        try:
            data = read_file(path, storage=self.storage)
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != order.job:
            message = f"the data file {path} has changed"
            self.report(Failed(attempt=order.attempt, failure="data", message=message, trace=""))
            return
        lines = data.split()
        if self.bad_line in lines:
            at = lines.index(self.bad_line) + 1
            message = f"line {at} is no JSON"
            self.report(Rejected(attempt=order.attempt, problem="broken_json", line=at, message=message))
            return
        if not lines:
            message = "there is no row in it"
            self.report(Rejected(attempt=order.attempt, problem="no_rows", line=None, message=message))
            return
        for _ in lines:
            failpoint("row_prepared")
        failpoint("prepared")
        self.prepared, self.lines = order, lines
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
        self.report(Prepared(attempt=order.attempt, plan=plan))
        failpoint("prepared_reported")

    # -- train ------------------------------------------------------------------------------------------------------

    def load(self, order: Train) -> None:
        """Load what training starts from."""
        assert self.prepared is not None, "told to train before it was prepared"
        assert self.prepared.attempt == order.attempt, "told to train what another attempt prepared"
        failpoint("loading")
        self.weights = UNTRAINED
        if order.base is not None:
            directory = self.root / "versions" / order.base
            problem = self._find_base_problem(directory)
            if problem is not None:
                message = f"{order.base} is not what was published: {problem}"
                self.report(Failed(attempt=order.attempt, failure="model", message=message, trace=""))
                return
            self.weights = self._read_weights(directory)
        if order.checkpoint is not None:
            directory = self.root / "checkpoints" / order.checkpoint
            try:
                manifest = CheckpointDirectory(directory, self.storage).verify()
            except CheckpointBroken as error:
                self.report(CheckpointBad(attempt=order.attempt, checkpoint=order.checkpoint, problem=error.problem))
                return
            assert manifest.cursor.global_step == order.global_step, "the head does not stand where the order says"
            self.weights = self._read_weights(directory)
        self.training, self._parent, self._awaited = order, order.checkpoint, None
        self.step = self._saved = order.step
        self.global_step = order.global_step
        self._evaluated, self._sampled, self._suites_step = order.evaluated_to, -1, -1
        self._samples = None
        if order.samples is not None and order.sample_plan is not None:
            self._sampled = order.samples.sampled_to
            self._samples = Sample(attempt=order.attempt, plan=order.sample_plan, asked=order.samples.asked)
        failpoint("loaded")
        self.report(Loaded(attempt=order.attempt, environment={"device": self.environment}))
        failpoint("loaded_reported")

    def _read_weights(self, directory: Path) -> str:
        return read_file(directory / self.weights_file, storage=self.storage)[: len(UNTRAINED)].decode()

    def _find_base_problem(self, directory: Path) -> str | None:
        """Like `gpu.artifacts.version_manifest.find_base_problem`, without the files of a real model."""
        try:
            manifest = read_version_manifest(directory, storage=self.storage)
        except (OSError, ValueError) as error:
            return str(error)
        found = describe(directory / self.weights_file, storage=self.storage)
        return None if found == manifest.files.get(self.weights_file) else "its weights have another SHA-256"

    def _train(self, order: Train) -> bool:
        assert self.prepared is not None
        if self._awaited is not None:
            return False
        stops = self.yield_requested()
        if self._evaluation_is_due(order) and not stops:
            self._evaluated = self.step
            self.evaluate(order)
            return True
        if self._samples is not None and not stops and self._samples_are_due(order, self._samples):
            self.sample(order, self._samples)
            return True
        if self._end_is_evaluated(order) and not stops:
            self._suites_step = self.step
            self.evaluate_end(order)
            return True
        if self.step < order.until and not stops:
            every = self.prepared.settings.checkpoints.every_steps
            if every and self.step - self._saved >= every:
                self._save(order, "steps")
                return True
            if not self.may_step(order):
                return self.training is None
            self._step(order)
            return True
        if self.step < order.until:
            failpoint("yield_seen")
        if self.step > self._saved:
            self._save(order, "end" if self.step == order.until else "yield")
            return True
        self.training = None
        return True

    def _step(self, order: Train) -> None:
        assert self.prepared is not None
        self.step += 1
        self.global_step += 1
        self.weights = train_step(self.weights, self.prepared.job, self.step)
        failpoint("step")
        self.report(
            Step(
                attempt=order.attempt,
                global_step=self.global_step,
                step=self.step,
                epoch=1,
                loss=int(self.weights[:8], 16) / 2**32,
                grad_norm=1.0,
                learning_rate=1e-4,
                tokens=1,
                seconds=0.01,
            )
        )

    def _evaluation_is_due(self, order: Train) -> bool:
        assert self.prepared is not None
        every = self.prepared.settings.evaluation.every_steps
        due = self.step in {0, order.until} or (every and self.step % every == 0)
        return bool(order.evaluates and due and self.step > self._evaluated)

    def evaluate(self, order: Train) -> None:
        """Report the loss on held-out rows."""
        loss, training_loss = self.evaluation()
        self.report(
            Evaluated(
                attempt=order.attempt,
                global_step=self.global_step,
                step=self.step,
                rows=1,
                tokens=1,
                loss=loss,
                training_loss=training_loss,
                seconds=0.01,
            )
        )

    def _end_is_evaluated(self, order: Train) -> bool:
        wanted = order.suites is not None and bool(order.suites.files)
        return wanted and self.step == order.until and self.step > self._suites_step

    def evaluate_end(self, order: Train) -> None:
        """Report what the weights say to ten questions."""
        failpoint("evaluated_rows")
        failpoint("job_rows_evaluated")
        measured = _measured(self.weights)
        results = EvaluationResults(
            evaluation=evaluation_of_job(self.global_step, order.attempt),
            subject="the job",
            suites_sha256=SUITES,
            environment={},
            results=measured,
        )
        try:
            file = write_results(self.root, results, storage=self.storage)
        except StorageFailed as error:
            self.fail(order.attempt, error)
            return
        failpoint("job_evaluated")
        self.report(
            JobEvaluated(
                attempt=order.attempt,
                global_step=self.global_step,
                step=self.step,
                results=file,
                scores=scores_of(measured),
                divergence=None,
                suites_sha256=SUITES,
                seconds=0.01,
                problem="",
            )
        )

    def _samples_are_due(self, order: Train, samples: Sample) -> bool:
        every = samples.plan.settings.every_steps
        planned = every and self.step and (self.step % every == 0 or self.step == order.until)
        has_prompts = isinstance(samples.plan.settings.prompts, str) or order.evaluates
        has_prompts = has_prompts and order.samples is not None and not order.samples.abandoned
        return samples.asked or bool(has_prompts and planned and self.step > self._sampled)

    def sample(self, order: Train, samples: Sample) -> None:
        """Report the answers to one prompt; they follow from the weights."""
        settings, asked = samples.plan.settings, samples.asked
        self._sampled, self._samples = self.step, replace(samples, asked=False)
        failpoint("token_generated")
        answer = SampleAnswer(
            prompt_id="0123456789ab",
            prompt="What are the weights?",
            expected=self.weights[:8],
            answer=self.weights[:8],
            match=True,
            thinks=False,
            tokens=8,
            finish="end",
        )
        failpoint("answered")
        self.report(
            Sampled(
                attempt=order.attempt,
                global_step=self.global_step,
                step=self.step,
                asked=asked,
                answers=(answer,),
                match=settings.match,
                think_tag=settings.think_tag,
                temperature=settings.temperature,
                seed=settings.seed,
                tokens=8,
                seconds=0.01,
            )
        )

    # -- save -------------------------------------------------------------------------------------------------------

    def _save(self, order: Train, reason: CheckpointReason) -> None:
        manifest = self._manifest(order)
        try:
            directory = CheckpointDirectory(self.root / "checkpoints" / manifest.checkpoint, self.storage)
            done = directory.write(self.contents(), manifest.with_files)
        except StorageFailed as error:
            self.fail(order.attempt, error)
            return
        self.saved(manifest.checkpoint)
        failpoint("before_report")
        self._saved, self._awaited = self.step, manifest.checkpoint
        self.report(
            CheckpointWritten(
                attempt=order.attempt,
                checkpoint=manifest.checkpoint,
                global_step=self.global_step,
                step=self.step,
                parent=self._parent,
                size_bytes=done.size_bytes,
                manifest_sha256=done.manifest_sha256,
                reason=reason,
            )
        )
        failpoint("reported")

    def saved(self, checkpoint: str) -> None:
        """A checkpoint is on disk and not reported. An adapter misbehaves here."""
        del checkpoint  # only adapters use it

    def _manifest(self, order: Train) -> Manifest:
        """The manifest of a checkpoint at this step, its files not yet named."""
        assert self.prepared is not None
        job = self.prepared.job
        return Manifest(
            checkpoint=checkpoint_id(self.global_step, order.attempt),
            cursor=Cursor(job=job, global_step=self.global_step, step=self.step, steps_total=order.until, epoch=1),
            lineage=Lineage(
                attempt=order.attempt,
                parent=self._parent,
                data_sha256=job,
                batches_sha256="",
                tokenizer_sha256="",
                settings=self.prepared.settings,
            ),
            parameters=(),
            optimizer="none",
            environment={},
            files={},
        )

    # -- consolidate ------------------------------------------------------------------------------------------------

    def _consolidate(self, order: Consolidate) -> Iterator[AnyFact]:
        """Like `gpu.versions.consolidate`: the same protocol. The weights are those of the checkpoint."""
        attempt, checkpoint = order.attempt, self.root / "checkpoints" / order.checkpoint
        try:
            manifest = CheckpointDirectory(checkpoint, self.storage).verify()
            backup = BackupManifest(
                backup=order.backup,
                reason=f"before {order.version}",
                version=order.parent,
                checkpoint=order.checkpoint,
                checkpoint_sha256=describe(checkpoint / MANIFEST, storage=self.storage).sha256,
                files={},
            )
            copied = back_up(self.root / "backups", backup, checkpoint, storage=self.storage)
            failpoint("backed_up")
            yield BackedUp(attempt=attempt, size_bytes=copied.size_bytes, manifest_sha256=copied.manifest_sha256)
            failpoint("merged")
            yield Merged(attempt=attempt, applied=1.0, in_place=0.5)
            weights = read_file(checkpoint / self.weights_file, storage=self.storage)
            version = VersionManifest(
                version=order.version, parent=order.parent, checkpoint=manifest, applied=1.0, files={}
            )
            failpoint("verified")
            yield Verified(attempt=attempt, difference=0.0, tolerance=0.1)
            written = VersionDirectory(self.root / "versions" / order.version, self.storage).write(
                {self.weights_file: weights, f"learned/{order.checkpoint}/{self.weights_file}": weights},
                lambda files: replace(version, files=dict(files)),
            )
            failpoint("before_version_report")
            yield VersionWritten(
                attempt=attempt,
                version=order.version,
                size_bytes=written.size_bytes,
                manifest_sha256=written.manifest_sha256,
            )
            failpoint("version_reported")
        except CheckpointBroken as error:
            yield CheckpointBad(attempt=attempt, checkpoint=order.checkpoint, problem=error.problem)
        except (StorageFailed, OSError) as error:
            self.fail(attempt, error)

    # -- evaluate a version -----------------------------------------------------------------------------------------

    def evaluate_version(self, order: EvaluateVersion) -> Iterator[AnyFact]:
        """Like `gpu.evaluation.version`: the same protocol. The weights decide which of ten answers are right."""
        try:
            before = None
            if order.has_parent:
                directory = self.root / "versions" / order.parent if order.parent is not None else None
                before = _measured(self._read_weights(directory) if directory is not None else UNTRAINED)
                failpoint("parent_evaluated")
                yield Heartbeat(attempt=order.attempt, phase="evaluate", done=1, total=2)
            measured = _measured(self._read_weights(self.root / "versions" / order.version))
            file = write_results(
                self.root,
                EvaluationResults(
                    evaluation=order.evaluation,
                    subject=order.version,
                    suites_sha256=SUITES,
                    environment={},
                    results=measured,
                    parent=order.parent,
                    parent_results=before,
                ),
                storage=self.storage,
            )
            yield VersionEvaluated(
                attempt=order.attempt,
                version=order.version,
                results=file,
                scores=scores_of(measured),
                comparison=compare(order.parent, before, measured, SUITES) if before is not None else None,
                divergence=None,
                suites_sha256=SUITES,
                seconds=0.01,
                problem="",
            )
            failpoint("evaluation_reported")
        except (StorageFailed, OSError) as error:
            self.fail(order.attempt, error)


def _measured(weights: str) -> ModelResults:
    """Ten answers; about two of three are right."""
    return ModelResults(
        questions=tuple(
            QuestionResult(
                id=str(number),
                content=str(number),
                suite="ten",
                prompt="What is next?",
                expected="1",
                answer=weights[number],
                right=weights[number] < "b",
            )
            for number in range(10)
        )
    )
