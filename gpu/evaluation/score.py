"""Score a model on rows: loss and right tokens of each row, and KL(base ‖ model).

Scores change nothing: no gradient is kept. The logits of one row at a time are in float32, in chunks of tokens, because
a large vocabulary makes them the largest tensor of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from events.evaluation import Divergence, RowScore
from events.values import number
from gpu.errors import is_out_of_memory
from gpu.evaluation.rows import Row, RowTokens
from gpu.generate.answers import free_cache
from gpu.model.build import TrainedModel
from gpu.training.collate import IGNORED, collate
from journal.failpoints import failpoint

CHUNK_ELEMENTS = 2**24
"""Logits that are in float32 at once: 64 MB."""

REFERENCE_BYTES = 256 << 20
"""Memory for the probabilities of the base, from which the KL divergence is computed: 420 tokens of a vocabulary of
150,000, and more of a smaller one."""

REFERENCE_TOKENS = 4_096
"""More say nothing new."""


class Reference(NamedTuple):
    """The probabilities of the base at some tokens."""

    rows: tuple[Row, ...]
    log_probabilities: tuple[torch.Tensor, ...]
    """For each row: float32 on the CPU, (tokens, vocabulary)."""


def score_rows(
    trained: TrainedModel,
    rows: Sequence[Row],
    batch_size: int,
    watch: Callable[[int, int], None],
    before_batch: Callable[[int], None] = lambda _: None,
) -> list[RowScore]:
    """Return the scores of the rows, in their order. Rows of similar length are computed together; a batch that does
    not fit into memory is halved.

    `watch` receives the rows done and their number before each batch; what it raises ends this. `before_batch` receives
    the number of rows of each batch. Raises torch.OutOfMemoryError if one row alone does not fit.
    """
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    scores: dict[int, RowScore] = {}
    while len(scores) < len(order):
        watch(len(scores), len(order))
        indexes = order[len(scores) : len(scores) + batch_size]
        try:
            before_batch(len(indexes))
            made = _score_batch(trained, [rows[index] for index in indexes])
        except Exception as error:
            if len(indexes) == 1 or not is_out_of_memory(error):
                raise
            made = None
        if made is None:  # after the handler: the error keeps the tensors alive that are to be freed
            free_cache()
            batch_size = -(-len(indexes) // 2)
            continue
        scores.update(zip(indexes, made, strict=True))
        failpoint("evaluated_rows")
    return [scores[index] for index in range(len(rows))]


def _score_batch(trained: TrainedModel, rows: Sequence[Row]) -> list[RowScore]:
    found = []
    for row, (logits, labels) in zip(rows, _token_logits(trained, rows), strict=True):
        loss, right = 0.0, 0
        for some, wanted in _chunks(logits, labels):
            loss += float((some.logsumexp(1) - some.gather(1, wanted[:, None])[:, 0]).sum())
            right += int((some.argmax(1) == wanted).sum())
        found.append(RowScore(id=row.id, job=row.job, tokens=len(labels), loss=number(loss), right=right))
    return found


def reference(trained: TrainedModel, rows: Sequence[Row], watch: Callable[[], None]) -> Reference:
    """Return the probabilities of the base at the first tokens of these rows. `watch` is called before each row."""
    kept, found, room = list[Row](), list[torch.Tensor](), REFERENCE_TOKENS
    for row in rows:
        watch()
        ((logits, _),) = _token_logits(trained, [row])
        room = min(room, REFERENCE_BYTES // (4 * logits.shape[1]) - sum(map(len, found)))
        if room <= 0:
            break
        found.append(logits[:room].float().log_softmax(1).cpu())
        kept.append(row)
        room -= len(found[-1])
    return Reference(tuple(kept), tuple(found))


def divergence(trained: TrainedModel, base: Reference, watch: Callable[[], None]) -> Divergence | None:
    """Return KL(base ‖ model), the mean over the tokens of the reference: Σ p (log p - log q), p of the base. None
    without tokens."""
    total, tokens = 0.0, 0
    for row, theirs in zip(base.rows, base.log_probabilities, strict=True):
        watch()
        ((logits, _),) = _token_logits(trained, [row])
        ours = logits[: len(theirs)].float().log_softmax(1).cpu()
        total += float((theirs.exp() * (theirs - ours)).sum())
        tokens += len(theirs)
    if not tokens:
        return None
    return Divergence(nats=number(max(0.0, total / tokens) if math.isfinite(total) else total), tokens=tokens)


def _token_logits(trained: TrainedModel, rows: Sequence[Row]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield for each row the logits at its trained tokens, (tokens, vocabulary), and the tokens themselves."""
    tokens = RowTokens(rows)
    inputs = collate(tokens, tuple((index,) for index in range(len(rows))), trained.device)
    with torch.no_grad():
        if trained.head is not None:
            hidden, at = trained.hidden(inputs, trained.head), 0
            for index in range(len(rows)):
                start, at = at, at + tokens.trained_in(index)
                yield trained.head.logits(hidden[start:at]), inputs.labels[start:at]
            return
        logits = trained.logits(inputs)
        for some, targets in zip(logits, inputs.targets, strict=True):
            is_trained = targets != IGNORED
            yield some[is_trained], targets[is_trained]


def _chunks(logits: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    size = max(1, CHUNK_ELEMENTS // logits.shape[1])
    for begin in range(0, len(labels), size):
        yield logits[begin : begin + size].float(), labels[begin : begin + size]
