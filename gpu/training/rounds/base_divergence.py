"""How far the trained weights are from the version that they started from, on answers of the model.

Forgetting grows with this divergence on the new task (https://arxiv.org/abs/2509.04259).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax

from gpu.model.build import TrainedModel
from gpu.runtime.arithmetic import autocasts

ANSWERS_MAX = 16
"""Answers that are measured: each takes two forward passes."""


def base_divergence(
    trained: TrainedModel, answers: Sequence[tuple[Sequence[int], Sequence[int]]], watch: Callable[[], None]
) -> float | None:
    """Return KL(weights ‖ base) per token, nats: the mean over the tokens of the first answers.

    `answers`: tokens of prompts and of their answers. None: there are none, or the base is not in memory, because every
    weight is trained. The caller has put the model into the state in which it answers.
    """
    if not trained.adapted:
        return None
    total, tokens = 0.0, 0
    for prompt, answer in [each for each in answers if each[1]][:ANSWERS_MAX]:
        watch()
        ids = torch.tensor([[*prompt, *answer]], device=trained.device)
        now = _log_probabilities(trained, ids, len(answer))
        with _without_adapter(trained.model):
            before = _log_probabilities(trained, ids, len(answer))
        total += float(kl_div(before, now, reduction="sum", log_target=True))
        tokens += len(answer)
    return total / tokens if tokens else None


def _log_probabilities(trained: TrainedModel, ids: torch.Tensor, count: int) -> torch.Tensor:
    """Return the log-probabilities of the next token before each of the last `count` tokens: (count, vocabulary)."""
    with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16, enabled=autocasts(trained.arithmetic)):
        logits = trained.model(input_ids=ids).logits[0, -count - 1 : -1]
    return log_softmax(logits.float(), dim=-1)


@contextmanager
def _without_adapter(model: Any) -> Iterator[None]:
    """Compute as the base does. Afterwards the same parameters are trained as before."""
    layers = model.base_model
    layers.disable_adapter_layers()
    try:
        yield
    finally:
        layers.enable_adapter_layers()
