"""The loss of training and evaluation."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from events.settings import JobSettings
from gpu.data.plan.batches import MicroBatch
from gpu.data.plan.store import Tokens
from gpu.model.build import TrainedModel
from gpu.training.collate import collate


def summed_loss(trained: TrainedModel, tokens: Tokens, micro_batch: MicroBatch, settings: JobSettings) -> torch.Tensor:
    """Return the cross-entropy of a micro-batch, summed over its trained tokens: a scalar, in nats."""
    inputs = collate(tokens, micro_batch, trained.device, packing=settings.data.packing)
    if trained.head is not None:
        return trained.head.loss(trained.hidden(inputs, trained.head), inputs.labels)
    logits = trained.logits(inputs)
    return cross_entropy(logits.flatten(0, 1).float(), inputs.targets.flatten(), reduction="sum")
