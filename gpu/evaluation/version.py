"""Evaluate a version: both suites, on the version and on its parent.

What was measured on the parent before, on the same device with the same libraries, is not measured again. One model is
in memory at a time. The results file is durable before it is reported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from events.evaluation import EvaluationResults, ModelResults, scores_of
from events.messages import EvaluateVersion, VersionEvaluated
from events.settings import JobSettings
from gpu.artifacts.version_manifest import VersionDirectory, version_directory
from gpu.data.encode.encoder import Encoder
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.errors import YieldRequested
from gpu.evaluation.models import load_model, release_memory
from gpu.evaluation.question_files import SuiteQuestion
from gpu.evaluation.questions import AnswerTools, answer_questions, chosen_questions
from gpu.evaluation.results import compare, content_of, read_results, suites_fingerprint, write_results
from gpu.evaluation.rows import Encoding, Row, held_out_rows
from gpu.evaluation.score import Reference, divergence, reference, score_rows
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.build import TrainedModel
from gpu.model.limits import read_limits
from gpu.model.tokenizer import explain_load_errors, load_saved_tokenizer
from gpu.runtime.determinism import enable_determinism
from gpu.runtime.faults import inject_out_of_memory
from journal.failpoints import failpoint


class _Evaluation:
    """The evaluation of one version."""

    def __init__(self, home: Path, order: EvaluateVersion, channel: WorkerChannel) -> None:
        self.home, self.order, self.channel = home, order, channel
        self.heartbeats = Heartbeats(channel, order.attempt)
        self.beat_load(force=True)
        directory = version_directory(home, order.version)
        manifest = VersionDirectory(directory).verify(every_byte=False).checkpoint
        self.settings = _with_origin(manifest.lineage.settings, order)
        self.device = enable_determinism(self.settings.training.threads)
        with explain_load_errors(f"the tokenizer of {order.version}"):
            tokenizer = load_saved_tokenizer(directory)
        limits = read_limits(directory)
        self.tools = AnswerTools(tokenizer, Encoder(tokenizer, self.settings.data, limits), limits, home)
        encoding = Encoding(tokenizer, tokenizer_sha256(tokenizer), limits)
        self.rows, self.problems = held_out_rows(home, order.suites, encoding, self.beat_load)
        self.questions, problems = chosen_questions(home, order.suites)
        self.problems += problems

    # -- progress -----------------------------------------------------------------------------------------------------

    def beat_load(self, *, force: bool = False) -> None:
        """Report progress while nothing is measured. Raises YieldRequested."""
        self._stop_if_asked()
        self.heartbeats.beat("load", 0, 1, force=force)

    def beat(self, done: int, total: int) -> None:
        """Report progress of a measurement. Raises YieldRequested."""
        self._stop_if_asked()
        self.heartbeats.beat("evaluate", done, total)

    def _stop_if_asked(self) -> None:
        if self.channel.yield_requested():
            failpoint("yield_seen")
            raise YieldRequested("the next attempt evaluates again")

    # -- the two models -----------------------------------------------------------------------------------------------

    def load(self, version: str | None) -> TrainedModel:
        """Load a version, or the origin."""
        self.beat_load(force=True)
        return load_model(self.home, version, self.settings, self.device, lambda _: self.beat_load())

    def measure_parent(self) -> tuple[ModelResults, Reference]:
        """Measure the parent where its results are missing, and its probabilities on what is new."""
        order = self.order
        trained = self.load(order.parent)
        earlier = read_results(self.home, order.parent_results)
        known = earlier.results if earlier and earlier.environment == trained.environment else ModelResults()
        rows = {row.id: row for row in known.rows}
        answers = {each.content: each for each in known.questions}
        limit = order.suites.max_new_tokens
        missing = [row for row in self.rows if row.id not in rows]
        unanswered = [each for each in self.questions if content_of(each, limit) not in answers]
        made = self.measure(trained, missing, unanswered)
        rows |= {row.id: row for row in made.rows}
        answers |= {each.content: each for each in made.questions}
        results = ModelResults(
            rows=tuple(replace(rows[row.id], job=row.job) for row in self.rows),
            questions=tuple(answers[content_of(each, limit)] for each in self.questions),
        )
        new = [row for row in self.rows if row.job in order.suites.new]
        return results, reference(trained, new, self.beat_load)

    def measure(self, trained: TrainedModel, rows: Sequence[Row], questions: Sequence[SuiteQuestion]) -> ModelResults:
        """Measure a model."""
        self.heartbeats.beat("evaluate", 0, len(rows), force=True)
        attempt = self.order.attempt
        scored = score_rows(
            trained,
            rows,
            self.settings.training.batch_size,
            self.beat,
            lambda count: inject_out_of_memory("suites", attempt, count),
        )
        answered = answer_questions(trained, questions, self.order.suites.max_new_tokens, self.tools, self.beat)
        return ModelResults(rows=tuple(scored), questions=tuple(answered))


def evaluate_version(home: Path, order: EvaluateVersion, channel: WorkerChannel) -> None:
    """Carry out `order`. Raises ArtifactBroken, ModelUnusable, StorageFailed, YieldRequested, OSError."""
    failpoint("evaluating_version")
    began = time.perf_counter()
    work = _Evaluation(home, order, channel)
    parent: ModelResults | None = None
    base = Reference((), ())
    is_measured = bool(work.rows or work.questions)
    if is_measured and order.has_parent:
        parent, base = work.measure_parent()
        failpoint("parent_evaluated")
        release_memory()
    results, found, environment = ModelResults(), None, dict[str, str]()
    if is_measured:
        trained = work.load(order.version)
        environment = trained.environment
        results = work.measure(trained, work.rows, work.questions)
        found = divergence(trained, base, work.beat_load)
    fingerprint = suites_fingerprint(work.rows, work.questions, order.suites.max_new_tokens)
    comparison = None
    if order.has_parent:
        comparison = compare(order.parent, parent or ModelResults(), results, fingerprint)
    file = write_results(
        home,
        EvaluationResults(
            evaluation=order.evaluation,
            subject=order.version,
            suites_sha256=fingerprint,
            environment=environment,
            results=results,
            parent=order.parent,
            parent_results=parent,
            divergence=found,
            problem="; ".join(work.problems),
        ),
    )
    channel.send(
        VersionEvaluated(
            attempt=order.attempt,
            version=order.version,
            results=file,
            scores=scores_of(results),
            comparison=comparison,
            divergence=found,
            suites_sha256=fingerprint,
            seconds=time.perf_counter() - began,
            problem="; ".join(work.problems),
        )
    )
    failpoint("evaluation_reported")


def _with_origin(settings: JobSettings, order: EvaluateVersion) -> JobSettings:
    """Return the settings with the origin where it is now, and without code of the model."""
    now = order.model or settings.model
    model = replace(settings.model, path=now.path, revision=now.revision, trust_remote_code=False)
    return replace(settings, model=model)
