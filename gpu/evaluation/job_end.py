"""The evaluation at the end of a job: some rows and questions of both suites, with the weights after the last step.

It changes nothing: no gradient is kept, the modes are restored, and each micro-batch of training seeds the random
generators itself. So a run with it and a run without it end with the same bits. It takes at most `SECONDS_MIN`, or
`COST_MAX` of the training of the attempt if that is more. An error ends it, and not the training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from events.evaluation import Divergence, EvaluationResults, ModelResults, ResultsFile, RowScore, Suites, scores_of
from events.messages import JobEvaluated
from events.settings import AdapterSettings
from events.values import evaluation_of_job
from gpu.data.encode.encoder import Encoder
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.errors import EvaluationFailed, StorageFailed, YieldRequested
from gpu.evaluation.questions import AnswerTools, answer_questions, chosen_questions
from gpu.evaluation.results import suites_fingerprint, write_results
from gpu.evaluation.rows import Encoding, Row, held_out_rows
from gpu.evaluation.score import divergence, reference, score_rows
from gpu.generate.answers import answering, free_cache
from gpu.runtime.driver import is_driver_error
from gpu.runtime.faults import inject_out_of_memory
from gpu.training.attempt import Attempt
from journal.failpoints import failpoint

SECONDS_MIN = 60.0
COST_MAX = 0.1
"""Share of the training of the attempt."""


class _TimeIsUp(Exception):
    """The evaluation has taken as long as it may."""


@dataclass
class JobEnd:
    """Evaluates the end of one attempt at a job."""

    attempt: Attempt
    suites: Suites

    def __post_init__(self) -> None:
        self._trained_s = 0.0
        self._ends_at = 0.0
        self._problems: list[str] = []

    def add_training(self, seconds: float) -> None:
        """Count the seconds of a step."""
        self._trained_s += seconds

    def evaluate(self, step: int, global_step: int) -> None:
        """Evaluate and report; report nothing if the daemon asks to yield or there is nothing to evaluate.

        Raises EvaluationFailed if this process cannot be used after the error, or the disk fails.
        """
        began = time.monotonic()
        self._ends_at = began + max(SECONDS_MIN, COST_MAX * self._trained_s)
        with suppress(YieldRequested):  # the next attempt evaluates here
            self._evaluate(step, global_step, began)

    def _evaluate(self, step: int, global_step: int, began: float) -> None:
        self._problems = []
        results, found, fingerprint, file = ModelResults(), None, "", None
        try:
            rows, tools = self._read()
            questions, problems = chosen_questions(self.attempt.home, self.suites)
            self._problems += problems
            if not rows and not questions and not self._problems:
                return
            fingerprint = suites_fingerprint(rows, questions, self.suites.max_new_tokens)
            with answering(self.attempt.trained.model):
                results = ModelResults(rows=tuple(self._score(rows, global_step)))
                found = self._divergence(rows)
            failpoint("job_rows_evaluated")
            if questions:
                self.attempt.heartbeats.beat("evaluate", 0, 1, force=True)
                answered = answer_questions(
                    self.attempt.trained, questions, self.suites.max_new_tokens, tools, self._watch
                )
                results = ModelResults(rows=results.rows, questions=tuple(answered))
        except YieldRequested:
            raise
        except _TimeIsUp:
            self._problems.append(f"the evaluation took more than {self._ends_at - began:.0f} s, and ended early")
        except Exception as error:
            if is_driver_error(error) or isinstance(error, StorageFailed):
                raise EvaluationFailed(error) from error
            self._problems.append(" ".join(str(error).split()) or type(error).__name__)
        free_cache()  # after the handlers: an error keeps the tensors alive that are to be freed
        if results.rows or results.questions:
            file = self._write(results, found, fingerprint, global_step)
        failpoint("job_evaluated")
        self.attempt.channel.send(
            JobEvaluated(
                attempt=self.attempt.number,
                global_step=global_step,
                step=step,
                results=file,
                scores=scores_of(results),
                divergence=found,
                suites_sha256=fingerprint,
                seconds=time.monotonic() - began,
                problem="; ".join(self._problems),
            )
        )

    def _watch(self, done: int, total: int) -> None:
        self.attempt.heartbeats.beat("evaluate", done, total)
        if self.attempt.channel.yield_requested():
            failpoint("yield_seen")
            raise YieldRequested("the next attempt evaluates again")
        if time.monotonic() > self._ends_at:
            raise _TimeIsUp

    def _read(self) -> tuple[list[Row], AnswerTools]:
        tokenizer, limits, settings = self.attempt.tokenizer(), self.attempt.limits(), self.attempt.prepared.settings
        tools = AnswerTools(tokenizer, Encoder(tokenizer, settings.data, limits), limits, self.attempt.home)
        if not self.suites.files or self.suites.rows_max == 0:
            return [], tools
        encoding = Encoding(tokenizer, tokenizer_sha256(tokenizer), limits)
        rows, problems = held_out_rows(self.attempt.home, self.suites, encoding, lambda: self._watch(0, 1))
        self._problems += problems
        return rows, tools

    def _score(self, rows: Sequence[Row], global_step: int) -> list[RowScore]:
        return score_rows(
            self.attempt.trained,
            rows,
            self.attempt.prepared.settings.training.batch_size,
            self._watch,
            lambda count: inject_out_of_memory("suites", global_step, count),
        )

    def _divergence(self, rows: Sequence[Row]) -> Divergence | None:
        """Return the divergence from the base, which answers while the adapter is switched off; None without one."""
        if not isinstance(self.attempt.prepared.settings.method, AdapterSettings):
            return None  # memory holds no second model
        new = [row for row in rows if row.job in self.suites.new]

        def watch() -> None:
            self._watch(0, len(new))

        with self.attempt.trained.model.disable_adapter():
            base = reference(self.attempt.trained, new, watch)
        return divergence(self.attempt.trained, base, watch)

    def _write(
        self, results: ModelResults, found: Divergence | None, fingerprint: str, global_step: int
    ) -> ResultsFile:
        """Write the results. Raises EvaluationFailed."""
        content = EvaluationResults(
            evaluation=evaluation_of_job(global_step, self.attempt.number),
            subject=self.attempt.prepared.job,
            suites_sha256=fingerprint,
            environment=self.attempt.trained.environment,
            results=results,
            divergence=found,
            problem="; ".join(self._problems),
        )
        try:
            return write_results(self.attempt.home, content)
        except StorageFailed as error:
            raise EvaluationFailed(error) from error
