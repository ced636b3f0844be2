"""Answer the questions of a home greedily, and judge the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from events.evaluation import RESULT_BYTES, QuestionResult, Suites
from events.generation import Sampling
from events.samples import clipped
from gpu.data.encode.encoder import Encoder
from gpu.evaluation.judge import judge
from gpu.evaluation.question_files import SuiteQuestion, read_questions
from gpu.evaluation.results import content_of
from gpu.generate.answers import Watch, answer_all, answering
from gpu.generate.prompt import PromptRefused, make_prompt
from gpu.generate.questions import QuestionMaker
from gpu.generate.sampling import choose_sampling, end_tokens
from gpu.model.build import TrainedModel
from gpu.model.limits import ModelLimits

PROBLEMS_SHOWN = 3
"""Problems of question files that are named; the number of the others follows."""


class AnswerTools(NamedTuple):
    """What answers need besides the model."""

    tokenizer: Any
    encoder: Encoder
    limits: ModelLimits
    home: Path


def chosen_questions(home: Path, suites: Suites) -> tuple[list[SuiteQuestion], list[str]]:
    """Return the questions of the home, at most as many as the suites want, and what cannot be used.

    Those with the lowest hashes of their ids are taken, so that the same are taken each time.
    """
    if not suites.questions_max:
        return [], []
    found = read_questions(home)
    problems = [problem.text for problem in found.problems[:PROBLEMS_SHOWN]]
    if len(found.problems) > PROBLEMS_SHOWN:
        problems.append(f"{len(found.problems) - PROBLEMS_SHOWN} more problems in evaluation/")
    questions = list(found.questions)
    if len(questions) > suites.questions_max:
        lowest = sorted(questions, key=lambda each: hashlib.sha256(each.id.encode()).digest())
        taken = {each.id for each in lowest[: suites.questions_max]}
        questions = [each for each in questions if each.id in taken]
    return questions, problems


def answer_questions(
    trained: TrainedModel,
    questions: Sequence[SuiteQuestion],
    max_new_tokens: int,
    tools: AnswerTools,
    watch: Watch,
) -> list[QuestionResult]:
    """Return the results of the questions, in their order. `watch` is called after each token of a batch, and while a
    command judges; what it raises ends this.

    Raises torch.OutOfMemoryError if one prompt alone does not fit.
    """
    limits, model = tools.limits, trained.model
    context = limits.positions if limits.positions is not None else limits.trained_positions
    prompts: dict[int, list[int]] = {}
    results: dict[int, QuestionResult] = {}
    for index, question in enumerate(questions):
        try:
            prompts[index] = make_prompt(tools.encoder, question.messages, context, max_new_tokens).ids
        except PromptRefused as refused:
            results[index] = _result(question, max_new_tokens, "", right=False, problem=str(refused))
    ends = end_tokens(model.generation_config, tools.tokenizer, tools.encoder.end_of_turn)
    sampling = choose_sampling(Sampling(max_tokens=max_new_tokens, seed=0, greedy=True), model.generation_config)
    with answering(model):
        replies = answer_all(model, list(prompts.values()), sampling, ends, context, trained.arithmetic, watch)
    maker = QuestionMaker(tools.tokenizer)
    for index, reply in zip(prompts, replies, strict=True):
        question, answer = questions[index], maker.decode(reply.ids)
        watch(len(results), len(questions))

        def wait(done: int = len(results)) -> None:
            watch(done, len(questions))

        judged = judge(question.check, question.messages, question.expected, answer, tools.home, wait)
        results[index] = _result(question, max_new_tokens, answer, right=bool(judged.right), problem=judged.problem)
    return [results[index] for index in range(len(questions))]


def _result(question: SuiteQuestion, max_new_tokens: int, answer: str, *, right: bool, problem: str) -> QuestionResult:
    return QuestionResult(
        id=question.id,
        content=content_of(question, max_new_tokens),
        suite=question.file.removesuffix(".jsonl"),
        prompt=clipped(question.prompt, RESULT_BYTES),
        expected=clipped(question.expected, RESULT_BYTES),
        answer=clipped(answer, RESULT_BYTES),
        right=right,
        problem=clipped(problem, RESULT_BYTES),
    )
