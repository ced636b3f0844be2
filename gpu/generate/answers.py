"""Answer many prompts with a model that is in memory, in batches of prompts of about the same length.

The caller owns the model: sampling while it trains, evaluation suites. The cache of keys and values of a batch is freed
when the batch is done. Nothing that decides the bits of training changes: no gradient is kept, and the modes of the
model and of torch are restored (`answering`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch

from events.generation import Finish, SamplingInUse
from gpu.errors import is_out_of_memory
from gpu.generate.sampling import generation_config
from gpu.generate.stream import StopRequested
from gpu.model.build import set_eval_mode
from gpu.runtime.arithmetic import Arithmetic, autocasts
from gpu.runtime.determinism import seed_generators
from journal.failpoints import failpoint

BATCH_MAX = 16
"""Prompts that are answered together: more take memory that training needs."""


class Watch(Protocol):
    """Called after each token of a batch. It may raise to end the round."""

    def __call__(self, done: int, total: int) -> None:
        """`done` of at most `total` steps of generation are done; a step makes a token of each answer of a batch."""


class Reply(NamedTuple):
    """The tokens of an answer, without the one that ends it."""

    ids: list[int]
    finish: Finish
    tokens: int
    """Generated tokens, with the one that ends the answer."""


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Put a model into the state in which it answers, and restore its state and that of torch."""
    was_training = model.training
    is_strict, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    set_eval_mode(model)
    # Some operations of generation have no deterministic form on a GPU. No trained bit depends on them.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(is_strict, warn_only=only_warns)
        if was_training:
            model.train()
        free_cache()


def free_cache() -> None:
    """Return the memory of a batch to the GPU: its blocks have other sizes than those of training."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def answer_all(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingInUse,
    ends: list[int],
    context: int | None,
    arithmetic: Arithmetic,
    watch: Watch,
    *,
    batch_max: int = BATCH_MAX,
    before_batch: Callable[[int], None] = lambda _: None,
) -> list[Reply]:
    """Return an answer to each prompt, which is a list of token ids, in their order.

    `ends`: tokens that end an answer. `context`: the longest prompt with its answer; None: unlimited. `before_batch`
    receives the number of prompts of each batch. A batch that does not fit into memory is halved.

    Raises what `watch` raises; torch.OutOfMemoryError if one prompt alone does not fit.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies: dict[int, Reply] = {}
    size, steps_done = batch_max, 0
    while len(replies) < len(order):
        indexes = order[len(replies) : len(replies) + size]
        batches_left = -(-(len(order) - len(replies)) // size)
        total = steps_done + batches_left * sampling.max_tokens

        def count(step: int, done: int = steps_done, total: int = total) -> None:
            watch(done + step, total)

        try:
            before_batch(len(indexes))
            batch = [prompts[index] for index in indexes]
            made = _answer_batch(model, batch, sampling, ends, context, arithmetic, count)
        except Exception as error:
            if len(indexes) == 1 or not is_out_of_memory(error):
                raise
            made = None
        if made is None:  # after the handler: the error keeps the tensors alive that are to be freed
            free_cache()
            size = -(-len(indexes) // 2)
            continue
        replies.update(zip(indexes, made, strict=True))
        steps_done += sampling.max_tokens
        failpoint("answered")
    return [replies[index] for index in range(len(prompts))]


def _answer_batch(
    model: Any,
    prompts: list[Sequence[int]],
    sampling: SamplingInUse,
    ends: list[int],
    context: int | None,
    arithmetic: Arithmetic,
    count: Callable[[int], None],
) -> list[Reply]:
    """Return the answers to a few prompts, which are padded on the left."""
    longest = max(map(len, prompts))
    tokens_max = sampling.max_tokens if context is None else min(sampling.max_tokens, context - longest)
    if tokens_max < 1:
        return [Reply([], "context", 0) for _ in prompts]
    padding = ends[0] if ends else 0
    device = model.device
    rows = [[padding] * (longest - len(each)) + list(each) for each in prompts]
    mask = [[0] * (longest - len(each)) + [1] * len(each) for each in prompts]
    ids = torch.tensor(rows, device=device)
    steps = 0

    def is_stopped() -> bool:
        nonlocal steps
        steps += 1
        failpoint("token_generated")
        count(steps)
        return False

    seed_generators("generate", sampling.seed)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=autocasts(arithmetic)):
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.tensor(mask, device=device),
            generation_config=generation_config(model.generation_config, sampling, tokens_max, ends, padding),
            stopping_criteria=[StopRequested(is_stopped)],
        )
    at_limit: Finish = "length" if tokens_max == sampling.max_tokens else "context"
    return [_reply(row, ends, at_limit) for row in made[:, longest:].tolist()]


def _reply(ids: list[int], ends: list[int], at_limit: Finish) -> Reply:
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    return Reply(ids, at_limit, len(ids)) if end is None else Reply(ids[:end], "end", end + 1)
