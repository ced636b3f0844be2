"""The loss on rows that are never learned.

It is computed on the weights as they stand and changes nothing: no gradient is kept, and each micro-batch that is
learned seeds its own random numbers. So a run that is evaluated, and one that is not, end with the same bits.
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
from gpu.model.build import BITSANDBYTES, TrainedModel
from gpu.runtime.faults import run_out, strikes
from gpu.training.loss import summed_loss
from journal.failpoints import failpoint


class Measured(NamedTuple):
    """What was computed."""

    rows: int
    tokens: int
    """Whose prediction the loss is over."""
    loss: Number
    """Cross-entropy per token, nats."""
    seconds: float


def is_due(step: int, steps_total: int, settings: EvaluationSettings) -> bool:
    """Whether a job is evaluated behind its step `step` (0: at its beginning).

    >>> [step for step in range(8) if is_due(step, 7, EvaluationSettings(every_steps=3))]
    [0, 3, 6, 7]
    """
    return step in {0, steps_total} or (settings.every_steps > 0 and step % settings.every_steps == 0)


def steps_since(step: int, settings: EvaluationSettings) -> int:
    """How many steps lie between the evaluation behind step `step` and the one before it.

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
) -> Measured:
    """The loss on all rows of `tokens`, with a sign of progress behind each micro-batch.

    Raises YieldAsked between two micro-batches, and EvaluationFailed for whatever else goes wrong.
    """
    began = time.perf_counter()
    heartbeats.beat("evaluate", 0, len(tokens), force=True)
    _without_dropout(trained)
    try:
        loss = _mean_loss(trained, tokens, settings, global_step, channel, heartbeats)
    except YieldRequested:
        raise
    except Exception as error:
        raise EvaluationFailed(error) from error
    finally:
        trained.model.train()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # its blocks have other sizes than those of training
    failpoint("evaluated")
    return Measured(len(tokens), _predicted(tokens), number(loss), time.perf_counter() - began)


def _mean_loss(
    trained: TrainedModel,
    tokens: Tokens,
    settings: JobSettings,
    global_step: int,
    channel: WorkerChannel,
    heartbeats: Heartbeats,
) -> float:
    """Rows of about equal length together; fewer at once from where so many do not fit into memory."""
    waiting = sorted(range(len(tokens)), key=tokens.length)
    together, done, loss = settings.training.batch_size, 0, 0.0
    while done < len(waiting):
        if channel.yield_requested():
            failpoint("yield_seen")
            raise YieldRequested("an evaluation can be begun again at any time")
        rows = waiting[done : done + together]
        try:
            loss += _summed(trained, tokens, tuple((row,) for row in rows), settings, global_step)
        except Exception as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
            together = -(-len(rows) // 2)
            continue
        done += len(rows)
        failpoint("evaluated_rows")
        heartbeats.beat("evaluate", done, len(waiting))
    return math.nan if strikes("nan_evaluation", global_step) else loss / _predicted(tokens)


def _summed(
    trained: TrainedModel, tokens: Tokens, micro_batch: MicroBatch, settings: JobSettings, global_step: int
) -> float:
    run_out("evaluation", global_step, len(micro_batch))
    with torch.no_grad():  # not `inference_mode`: what a model keeps for later could not be trained with any more
        return float(summed_loss(trained, tokens, micro_batch, settings))


def _without_dropout(trained: TrainedModel) -> None:
    """As a model is asked; but layers of bitsandbytes stay as they are trained. On some processors the first question
    has them pack their weights anew (`Linear4bit.forward`), and from there on training would round otherwise."""
    trained.model.eval()
    for module in trained.model.modules():
        if type(module).__module__.startswith(f"{BITSANDBYTES}."):
            module.training = True


def _predicted(tokens: Tokens) -> int:
    return sum(tokens.trained_in(row) for row in range(len(tokens)))
