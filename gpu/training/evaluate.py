"""Evaluation: the loss on held-out rows.

An evaluation changes nothing: it keeps no gradient, and each micro-batch of training seeds the random generators
itself. So a run with evaluations and a run without them end with the same bits.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch

from events.settings import EvaluationSettings, JobSettings
from events.values import Number, number
from gpu.data.plan.batches import MicroBatch
from gpu.data.plan.store import Tokens
from gpu.errors import EvaluationFailed, YieldRequested, is_out_of_memory
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.build import TrainedModel, set_eval_mode
from gpu.runtime.faults import inject_out_of_memory, is_injected
from gpu.training.loss import summed_loss
from journal.failpoints import failpoint


class Evaluation(NamedTuple):
    """The result of an evaluation."""

    rows: int
    tokens: int
    """Number of predicted tokens: the loss is their mean."""
    loss: Number
    """Cross-entropy per token, nats."""
    seconds: float


def is_due(step: int, steps_total: int, settings: EvaluationSettings) -> bool:
    """Return True if a job is evaluated after its step `step` (0: at its beginning).

    >>> [step for step in range(8) if is_due(step, 7, EvaluationSettings(every_steps=3))]
    [0, 3, 6, 7]
    """
    return step in {0, steps_total} or (settings.every_steps > 0 and step % settings.every_steps == 0)


def steps_since(step: int, settings: EvaluationSettings) -> int:
    """Return the number of steps between the evaluation after step `step` and the one before it.

    >>> [steps_since(step, EvaluationSettings(every_steps=3)) for step in (3, 6, 7)]
    [3, 3, 1]
    """
    return step - (step - 1) // settings.every_steps * settings.every_steps if settings.every_steps else step


def evaluate(
    trained: TrainedModel,
    tokens: Tokens,
    settings: JobSettings,
    global_step: int,
    channel: WorkerChannel,
    heartbeats: Heartbeats,
) -> Evaluation:
    """Return the loss on all rows of `tokens`. A heartbeat follows each micro-batch.

    Raises YieldRequested between two micro-batches; EvaluationFailed for any other error.
    """
    began = time.perf_counter()
    heartbeats.beat("evaluate", 0, len(tokens), force=True)
    set_eval_mode(trained.model)
    try:
        loss = _mean_loss(trained, tokens, settings, global_step, channel, heartbeats)
    except YieldRequested:
        raise
    except Exception as error:
        raise EvaluationFailed(error) from error
    finally:
        trained.model.train()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # blocks of evaluation have other sizes than those of training
    failpoint("evaluated")
    return Evaluation(len(tokens), _count_predicted(tokens), number(loss), time.perf_counter() - began)


def _mean_loss(
    trained: TrainedModel,
    tokens: Tokens,
    settings: JobSettings,
    global_step: int,
    channel: WorkerChannel,
    heartbeats: Heartbeats,
) -> float:
    """Return the mean loss. Rows of similar length form a micro-batch; it is halved when memory runs out."""
    order = sorted(range(len(tokens)), key=tokens.length)
    batch_size, done, loss = settings.training.batch_size, 0, 0.0
    while done < len(order):
        if channel.yield_requested():
            failpoint("yield_seen")
            raise YieldRequested("the next attempt evaluates again")
        rows = order[done : done + batch_size]
        try:
            loss += _sum_losses(trained, tokens, tuple((row,) for row in rows), settings, global_step)
        except Exception as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
            batch_size = -(-len(rows) // 2)
            continue
        done += len(rows)
        failpoint("evaluated_rows")
        heartbeats.beat("evaluate", done, len(order))
    return math.nan if is_injected("nan_evaluation", global_step) else loss / _count_predicted(tokens)


def _sum_losses(
    trained: TrainedModel, tokens: Tokens, micro_batch: MicroBatch, settings: JobSettings, global_step: int
) -> float:
    inject_out_of_memory("evaluation", global_step, len(micro_batch))
    with torch.no_grad():  # not `inference_mode`: tensors that the model caches could not be used in training
        return float(summed_loss(trained, tokens, micro_batch, settings))


def _count_predicted(tokens: Tokens) -> int:
    return sum(tokens.trained_in(row) for row in range(len(tokens)))
