"""Self-correction: at a step boundary, the model answers prompts of trained files, and a verifier judges the answers.

A round changes nothing of what is trained: as samples (`gpu.training.rounds.sampler`), it keeps no gradient, restores
the modes, and is spaced by its cost. Prompts and draws follow from the seed of the settings and the global step, so a
step that runs again has the same round.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch

from events.generation import Sampling
from events.messages import SelfCorrected, SelfCorrectionFailed, SelfCorrectionPutOff
from events.self_correction import (
    ANSWER_BYTES,
    ROUND_BYTES,
    AnsweredPrompt,
    CorrectionPlan,
    OwnAnswer,
    RoundFailure,
    SelfCorrectionSettings,
    round_seed,
)
from events.statistics import distinct_n
from gpu.data.encode.encoder import Encoder
from gpu.data.plan.held_out import read_validation_set, validation_path
from gpu.errors import CorrectionFailed, YieldRequested, is_out_of_memory
from gpu.evaluation.judge import Check, judge
from gpu.generate.answers import Reply, answer_all, answering, free_cache
from gpu.generate.questions import QuestionMaker
from gpu.generate.sampling import choose_sampling, end_tokens
from gpu.runtime.driver import is_driver_error
from gpu.runtime.faults import inject_out_of_memory
from gpu.training.attempt import Attempt
from gpu.training.rounds.base_divergence import base_divergence
from gpu.training.rounds.known_prompts import KnownPrompt, choose_prompts
from gpu.training.rounds.spacing import Spacing, TooExpensive
from journal.failpoints import failpoint

NO_PROMPTS = (
    "no row of the trained files can be asked: each needs a prompt and a trained answer in text, and rows that are "
    "held out are never asked"
)


class _Given(NamedTuple):
    """The answers of a round: all replies to each prompt, and their texts."""

    replies: list[list[Reply]]
    texts: list[list[str]]


@dataclass
class Corrector:
    """Takes the rounds of self-correction of one attempt."""

    attempt: Attempt
    plan: CorrectionPlan | None
    """None: no round is taken, unless an order brings a plan."""

    def __post_init__(self) -> None:
        plan = self.plan
        self._corrected_to = -1 if plan is None else plan.corrected_to
        self._spacing = Spacing(0.0, None) if plan is None else Spacing(plan.trained_s, plan.round_s)

    def add_training(self, seconds: float) -> None:
        """Count the seconds of a step."""
        self._spacing.add_training(seconds)

    def visit(self, step: int, global_step: int) -> None:
        """Take a round if one is due at this step boundary. An error ends the round, not the training.

        Raises CorrectionFailed if this process cannot be used after the error.
        """
        if (order := self.attempt.channel.take_correction_order()) is not None:
            self._follow(order.plan)
        plan = self.plan
        if plan is None or not self._is_due(plan.settings, step):
            return
        spare_s, round_s = self._spacing.spare_s(plan.settings.cost_max), self._spacing.round_s
        if round_s is not None and round_s > spare_s:
            self._put_off(plan.settings, step, global_step)
            return
        with suppress(YieldRequested):  # the next attempt answers here
            self._take(plan, step, global_step, spare_s)

    def _follow(self, plan: CorrectionPlan | None) -> None:
        """Follow another plan from here on."""
        if plan is not None and self.plan is not None and plan.settings != self.plan.settings:
            self._spacing.forget_cost()
        if plan is not None:
            self._corrected_to = max(self._corrected_to, plan.corrected_to)
            self._spacing.trained_s = plan.trained_s
        self.plan = plan

    def _is_due(self, settings: SelfCorrectionSettings, step: int) -> bool:
        if settings.kind == "off" or step == 0 or step <= self._corrected_to:
            return False
        return step % settings.every_steps == 0 or step == self.attempt.prepared.batches.steps_total

    def _take(self, plan: CorrectionPlan, step: int, global_step: int, spare_s: float) -> None:
        """Take a round and report it, or why there is none. Raises YieldRequested, CorrectionFailed."""
        began = time.perf_counter()
        failure: RoundFailure = "code"
        problem = ""
        self.attempt.heartbeats.beat("self_correct", 0, 1, force=True)
        try:
            self._answer(plan, step, global_step, began, spare_s)
        except YieldRequested:
            raise
        except TooExpensive as found:
            self._spacing.stopped_early(found, began, spare_s)
        except _NoPrompts:
            failure, problem = "prompts", NO_PROMPTS
        except _NothingJudged as error:
            failure, problem = "verifier", str(error)
        except OSError as error:
            failure, problem = "prompts", f"the rows of trained files cannot be read: {error}"
        except Exception as error:
            if is_driver_error(error):
                raise CorrectionFailed(error) from error
            failure = "out_of_memory" if is_out_of_memory(error) else "code"
            problem = " ".join(str(error).split()) or type(error).__name__
        else:
            return
        # After the handlers: an error keeps the tensors alive that are to be freed.
        if not problem:
            self._put_off(plan.settings, step, global_step)
            return
        free_cache()
        seconds = time.perf_counter() - began
        self.attempt.channel.send(
            SelfCorrectionFailed(
                attempt=self.attempt.number,
                global_step=global_step,
                step=step,
                failure=failure,
                message=problem,
                seconds=seconds,
            )
        )
        self._end_round(step)

    def _answer(self, plan: CorrectionPlan, step: int, global_step: int, began: float, spare_s: float) -> None:
        settings, seed = plan.settings, round_seed(plan.settings.seed, global_step)
        tokenizer = self.attempt.tokenizer()
        encoder, maker = (
            Encoder(tokenizer, self.attempt.prepared.settings.data, self.attempt.limits()),
            QuestionMaker(tokenizer),
        )
        prompts = self._choose(plan, seed, encoder, maker)
        ends = end_tokens(self.attempt.trained.model.generation_config, tokenizer, encoder.end_of_turn)

        def watch(done: int, total: int) -> None:
            self._beat(done, total)
            self._spacing.check(began, done, total, spare_s)

        with answering(self.attempt.trained.model):
            given = self._generate(settings, seed, prompts, ends, maker, watch, global_step)
            pairs = [
                (prompt.question.ids, replies[0].ids) for prompt, replies in zip(prompts, given.replies, strict=True)
            ]
            kl = base_divergence(self.attempt.trained, pairs, self._beat)
        answered, right = self._judge(settings, prompts, given)
        failpoint("corrected")
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        tokens = sum(reply.tokens for replies in given.replies for reply in replies)
        count = len(prompts) * settings.answers
        self.attempt.channel.send(
            SelfCorrected(
                attempt=self.attempt.number,
                global_step=global_step,
                step=step,
                seed=seed,
                settings=settings,
                prompts=answered,
                chat=encoder.has_chat_template,
                answers=count,
                right=right,
                distinct=_distinct_pairs([reply.ids for replies in given.replies for reply in replies]),
                mean_tokens=tokens / count,
                kl=kl,
                tokens=tokens,
                seconds=seconds,
            )
        )
        self._end_round(step, seconds)

    def _choose(self, plan: CorrectionPlan, seed: int, encoder: Encoder, maker: QuestionMaker) -> list[KnownPrompt]:
        """Return the prompts of a round. Raises _NoPrompts, OSError."""
        job = self.attempt.prepared.settings
        held_out = read_validation_set(
            validation_path(self.attempt.home, job.sources.validation_sha256), job.data
        ).content
        prompts = choose_prompts(
            self.attempt.home / "data",
            plan.sources,
            seed,
            plan.settings.prompts,
            job,
            held_out,
            encoder,
            maker,
            self._beat,
        )
        if not prompts:
            raise _NoPrompts
        return prompts

    def _generate(
        self,
        settings: SelfCorrectionSettings,
        seed: int,
        prompts: Sequence[KnownPrompt],
        ends: list[int],
        maker: QuestionMaker,
        watch: Callable[[int, int], None],
        global_step: int,
    ) -> _Given:
        """Return `settings.answers` answers to each prompt. Each pass over all prompts has its own seed."""
        limits = self.attempt.limits()
        replies: list[list[Reply]] = [[] for _ in prompts]
        for turn in range(settings.answers):
            asked = Sampling(
                temperature=settings.temperature, max_tokens=settings.max_new_tokens, seed=round_seed(seed, turn)
            )

            def watch_turn(done: int, total: int, turn: int = turn) -> None:
                watch(turn * total + done, settings.answers * total)

            made = answer_all(
                self.attempt.trained.model,
                [prompt.question.ids for prompt in prompts],
                choose_sampling(asked, self.attempt.trained.model.generation_config),
                ends,
                limits.positions if limits.positions is not None else limits.trained_positions,
                self.attempt.trained.arithmetic,
                watch_turn,
                before_batch=lambda count: inject_out_of_memory("self_correction", global_step, count),
            )
            for each, reply in zip(replies, made, strict=True):
                each.append(reply)
        return _Given(replies, [[maker.decode(reply.ids) for reply in each] for each in replies])

    def _judge(
        self, settings: SelfCorrectionSettings, prompts: Sequence[KnownPrompt], given: _Given
    ) -> tuple[tuple[AnsweredPrompt, ...], int]:
        """Return the answers with their verdicts, and the number of right ones. Raises _NothingJudged."""
        check = Check(
            settings.match, settings.pattern, settings.command, settings.timeout_s, think_tag=settings.think_tag
        )
        made, right, judged, size, problem = list[AnsweredPrompt](), 0, 0, 0, ""
        for prompt, replies, texts in zip(prompts, given.replies, given.texts, strict=True):
            whole = Counter(text for reply, text in zip(replies, texts, strict=True) if _is_whole(reply, text))
            answers = []
            for text, times in whole.items():
                self._beat()
                verdict = judge(check, prompt.messages, prompt.question.expected, text, self.attempt.home, self._beat)
                problem = problem or verdict.problem
                if verdict.right is None:
                    continue
                judged, right = judged + 1, right + verdict.right * times
                size += len(text.encode())
                if size <= ROUND_BYTES:
                    answers.append(OwnAnswer(text=text, right=verdict.right, times=times))
            left_out = len(replies) - sum(each.times for each in answers)
            made.append(AnsweredPrompt(job=prompt.job, line=prompt.line, answers=tuple(answers), left_out=left_out))
        if problem and not judged:
            raise _NothingJudged(f"[self_correction] command judged no answer: {problem}")
        return tuple(made), right

    def _beat(self, done: int = 0, total: int = 1) -> None:
        self.attempt.heartbeats.beat("self_correct", done, total)
        if self.attempt.channel.yield_requested():
            raise YieldRequested("the next attempt answers again")

    def _end_round(self, step: int, seconds: float | None = None) -> None:
        self._corrected_to = max(step, self._corrected_to)
        self._spacing.end_round(seconds)

    def _put_off(self, settings: SelfCorrectionSettings, step: int, global_step: int) -> None:
        """Report, once for each cost, that a round is put off."""
        self._corrected_to = max(step, self._corrected_to)
        total = self.attempt.prepared.batches.steps_total
        found = self._spacing.put_off(step, settings.every_steps, total, settings.cost_max)
        if found is not None:
            self.attempt.channel.send(
                SelfCorrectionPutOff(attempt=self.attempt.number, global_step=global_step, step=step, **found._asdict())
            )


class _NoPrompts(Exception):
    """There is no row to ask."""


class _NothingJudged(Exception):
    """The program that judges answers does not work."""


def _distinct_pairs(answers: Sequence[Sequence[int]]) -> float:
    """Return distinct-2 of the tokens. The beginning and the end of an answer count as tokens, so that an answer of one
    token has pairs too."""
    return distinct_n([(None, *ids, None) for ids in answers], 2) or 0.0


def _is_whole(reply: Reply, text: str) -> bool:
    """True if an answer may become a row: the model ended it, and it fits into the journal."""
    return reply.finish == "end" and len(text.strip()) > 0 and len(text.encode(errors="replace")) <= ANSWER_BYTES
