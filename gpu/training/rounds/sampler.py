"""Samples: at a step boundary, the model answers a few prompts with its weights as they are.

Samples change nothing: no gradient is kept, the modes are restored, and each micro-batch of training seeds the random
generators itself. So a run with samples and a run without them end with the same bits.

A round is taken only if it costs at most `cost_max` of the training since the last one (`gpu.training.rounds.spacing`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch

from events.generation import Sampling
from events.matching import matches
from events.messages import Sampled, SamplesFailed, SamplesPutOff
from events.samples import (
    ANSWER_BYTES,
    EXPECTED_BYTES,
    PROMPT_BYTES,
    PROMPTS_MAX,
    SampleAnswer,
    SampleBudget,
    SamplePlan,
    SamplesSettings,
    clipped,
)
from gpu.data.encode.encoder import Encoder
from gpu.data.plan.held_out import validation_path
from gpu.errors import SamplingFailed, YieldRequested, is_out_of_memory
from gpu.generate.answers import Reply, answer_all, answering, free_cache
from gpu.generate.questions import (
    Question,
    QuestionMaker,
    QuestionsUnusable,
    questions_of_file,
    questions_of_tokens,
)
from gpu.generate.sampling import choose_sampling, end_tokens
from gpu.runtime.driver import is_driver_error
from gpu.runtime.faults import inject_out_of_memory
from gpu.training.attempt import Attempt
from gpu.training.rounds.spacing import Spacing, TooExpensive

NO_ROWS = (
    "there are no held-out rows to ask: set [data] validation or holdout (and [evaluation] rows), or name a file of "
    "prompts: `keepstep config set samples.prompts=FILE`"
)


class _Tools(NamedTuple):
    """What a round needs besides the model."""

    encoder: Encoder
    maker: QuestionMaker
    ends: list[int]


@dataclass
class Sampler:
    """Takes the samples of one attempt."""

    attempt: Attempt
    plan: SamplePlan
    budget: SampleBudget

    def __post_init__(self) -> None:
        self._asked = self.budget.asked
        self._sampled_to = self.budget.sampled_to
        self._spacing = Spacing(self.budget.trained_s, self.budget.round_s)
        self._problem = ""
        """Why the last round failed."""
        self._made: _Tools | None = None
        self._questions: list[Question] | None = None

    def add_training(self, seconds: float) -> None:
        """Count the seconds of a step."""
        self._spacing.add_training(seconds)

    def visit(self, step: int, global_step: int) -> None:
        """Take samples if they are due at this step boundary. An error ends the round, not the training.

        Raises SamplingFailed if this process cannot be used after the error.
        """
        if (order := self.attempt.channel.take_sample_order()) is not None:
            if (order.plan.settings.prompts, order.plan.prompts_sha256) != (
                self.plan.settings.prompts,
                self.plan.prompts_sha256,
            ):
                self._questions = None
            if order.plan != self.plan:
                self._spacing.forget_cost()
            self.plan, self._asked = order.plan, self._asked or order.asked
        if not self._is_due(step):
            return
        spare_s, round_s = self._spacing.spare_s(self.plan.settings.cost_max), self._spacing.round_s
        if not self._asked and round_s is not None and round_s > spare_s:
            self._put_off(step, global_step)
            return
        with suppress(YieldRequested):  # the next attempt samples here
            self._take(step, global_step, math.inf if self._asked else spare_s)

    def _is_due(self, step: int) -> bool:
        prompts = self.plan.settings.prompts
        has_rows = self.attempt.prepared.validation is not None
        is_on = not self.budget.abandoned and (isinstance(prompts, str) or (prompts > 0 and has_rows))
        return self._asked or (is_on and step > self._sampled_to and self._is_planned(step))

    def _is_planned(self, step: int) -> bool:
        every = self.plan.settings.every_steps
        return every > 0 and step > 0 and (step % every == 0 or step == self.attempt.prepared.batches.steps_total)

    def _take(self, step: int, global_step: int, spare_s: float) -> None:
        """Take samples and report them, or why there are none. Raises YieldRequested, SamplingFailed."""
        began = time.perf_counter()
        problem, failure = "", "prompts"
        self.attempt.heartbeats.beat("sample", 0, 1, force=True)
        try:
            questions = self._find_questions()
            if questions is None:
                if not self._asked:
                    return  # as evaluations: without held-out rows there is nothing to do
                problem = NO_ROWS
            else:
                self._answer(questions, step, global_step, began, spare_s)
                return
        except YieldRequested:
            raise
        except TooExpensive as found:
            self._spacing.stopped_early(found, began, spare_s)
        except (QuestionsUnusable, OSError) as error:
            problem = f"{self._name_of_prompts()} cannot be used: {error}"
        except Exception as error:
            if is_driver_error(error):
                raise SamplingFailed(error) from error
            failure = "out_of_memory" if is_out_of_memory(error) else "code"
            problem = " ".join(str(error).split()) or type(error).__name__
        # After the handlers: an error keeps the tensors alive that are to be freed.
        if not problem:
            self._put_off(step, global_step)
            return
        free_cache()
        is_known, self._problem = problem == self._problem and not self._asked, problem
        if is_known and failure == "prompts":  # it stays until somebody changes the file or the settings
            self._end_round(step)
            return
        self.attempt.channel.send(
            SamplesFailed(
                attempt=self.attempt.number,
                global_step=global_step,
                step=step,
                asked=self._asked,
                failure=failure,  # type: ignore[arg-type]  # one of the three above
                message=problem,
                seconds=time.perf_counter() - began,
            )
        )
        self._end_round(step)

    def _answer(self, questions: list[Question], step: int, global_step: int, began: float, spare_s: float) -> None:
        settings, tools = self.plan.settings, self._tools()
        asked = Sampling(
            temperature=settings.temperature or None,
            max_tokens=settings.max_new_tokens,
            seed=settings.seed,
            greedy=settings.temperature == 0,
        )
        used = choose_sampling(asked, self.attempt.trained.model.generation_config)
        limits = self.attempt.limits()

        def watch(done: int, total: int) -> None:
            self.attempt.heartbeats.beat("sample", done, total)
            if self.attempt.channel.yield_requested():
                raise YieldRequested("the next attempt samples again")
            self._spacing.check(began, done, total, spare_s)

        with answering(self.attempt.trained.model):
            replies = answer_all(
                self.attempt.trained.model,
                [question.ids for question in questions],
                used,
                tools.ends,
                limits.positions if limits.positions is not None else limits.trained_positions,
                self.attempt.trained.arithmetic,
                watch,
                before_batch=lambda count: inject_out_of_memory("samples", global_step, count),
            )
        answers = tuple(
            _compared(question, reply, tools.maker, settings)
            for question, reply in zip(questions, replies, strict=True)
        )
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        self.attempt.channel.send(
            Sampled(
                attempt=self.attempt.number,
                global_step=global_step,
                step=step,
                asked=self._asked,
                answers=answers,
                match=settings.match,
                think_tag=settings.think_tag,
                temperature=settings.temperature,
                seed=settings.seed,
                tokens=sum(reply.tokens for reply in replies),
                seconds=seconds,
            )
        )
        self._end_round(step, seconds)

    def _end_round(self, step: int, seconds: float | None = None) -> None:
        self._sampled_to, self._asked = max(step, self._sampled_to), False
        self._spacing.end_round(seconds)

    def _put_off(self, step: int, global_step: int) -> None:
        """Report, once for each cost, that samples are put off."""
        settings, total = self.plan.settings, self.attempt.prepared.batches.steps_total
        self._sampled_to = max(step, self._sampled_to)
        found = self._spacing.put_off(step, settings.every_steps, total, settings.cost_max)
        if found is not None:
            self.attempt.channel.send(
                SamplesPutOff(attempt=self.attempt.number, global_step=global_step, step=step, **found._asdict())
            )

    # -- questions ------------------------------------------------------------------------------------------------

    def _find_questions(self) -> list[Question] | None:
        """Return the questions; None if there are no held-out rows. Raises QuestionsUnusable, OSError."""
        if self._questions is None:
            self._questions = self._read_questions()
        return self._questions or None

    def _read_questions(self) -> list[Question]:
        settings, tools = self.plan.settings, self._tools()
        if self.plan.problem:
            raise QuestionsUnusable(self.plan.problem)
        if settings.prompts == 0:
            raise QuestionsUnusable("[samples] prompts is 0")
        if isinstance(settings.prompts, int):
            rows = self.attempt.prepared.validation
            return [] if rows is None else questions_of_tokens(rows, settings.prompts, tools.maker)
        path = validation_path(self.attempt.home, self.plan.prompts_sha256)
        assert path is not None  # the daemon keeps the file, or says why it cannot

        def beat() -> None:
            self.attempt.heartbeats.beat("sample", 0, 1)
            if self.attempt.channel.yield_requested():
                raise YieldRequested("the next attempt samples again")

        return questions_of_file(
            path, self.attempt.prepared.settings.data, tools.encoder, tools.maker, PROMPTS_MAX, beat
        )

    def _tools(self) -> _Tools:
        if self._made is None:
            tokenizer = self.attempt.tokenizer()
            encoder = Encoder(tokenizer, self.attempt.prepared.settings.data, self.attempt.limits())
            ends = end_tokens(self.attempt.trained.model.generation_config, tokenizer, encoder.end_of_turn)
            self._made = _Tools(encoder, QuestionMaker(tokenizer), ends)
        return self._made

    def _name_of_prompts(self) -> str:
        prompts = self.plan.settings.prompts
        return f"the file of prompts {prompts}" if isinstance(prompts, str) else "the held-out rows"


def _compared(question: Question, reply: Reply, maker: QuestionMaker, settings: SamplesSettings) -> SampleAnswer:
    """Return the answer as it is journaled. It is compared whole."""
    text = maker.decode(reply.ids)
    return SampleAnswer(
        prompt_id=question.id,
        prompt=clipped(question.prompt, PROMPT_BYTES),
        expected=clipped(question.expected, EXPECTED_BYTES),
        answer=clipped(text, ANSWER_BYTES),
        match=matches(settings.match, text, question.expected, pattern=settings.pattern, think_tag=settings.think_tag),
        thinks=bool(settings.think_tag) and settings.think_tag in _with_special(reply.ids, maker),
        tokens=reply.tokens,
        finish=reply.finish,
    )


def _with_special(ids: Sequence[int], maker: QuestionMaker) -> str:
    """Return the text with special tokens: a think tag may be one."""
    return maker.decode(ids, special=True)
