"""Whether a model can be trained on packed rows: tried, not assumed.

Of most decoders transformers keeps packed rows apart by where their positions begin anew. A model with a state that
runs along the sequence (Mamba, linear attention, convolutions), or with positions of its own making, does not hear of
it, and nothing would say so: a row would be learned in the light of whatever happened to be packed before it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from gpu.errors import ModelUnusable

if TYPE_CHECKING:
    from gpu.model.build import TrainedModel

TRIED_TOKENS = 24
"""Of each of two rows: more than any convolution within a layer is wide, and below every window of attention."""

PLACED = 0.05
"""Behind another row, a row's logits may differ from those that it has alone by this share of what they do when it is
not kept apart. If its positions do begin anew, only rounding is left, in bfloat16 a hundredth."""


def refuse_what_cannot_be_packed(trained: TrainedModel) -> None:
    """Raises ModelUnusable if a row is not computed as it is alone when another one is packed before it."""
    base = getattr(trained.model, "get_base_model", lambda: trained.model)()
    if "position_ids" not in inspect.signature(base.forward).parameters or not _keeps_apart(trained):
        raise ModelUnusable(
            f"{type(base).__name__} cannot be trained with [data] packing = true: what it computes of a row depends on "
            "the row packed before it. Set packing = false in keepstep.toml."
        )


def _keeps_apart(trained: TrainedModel) -> bool:
    model, device = trained.model, trained.device
    size = int(model.config.get_text_config().vocab_size)
    ids = (torch.arange(2 * TRIED_TOKENS, device=device) * 7919 % size)[None]  # any that differ will do
    running = torch.arange(2 * TRIED_TOKENS, device=device)[None]
    anew = running % TRIED_TOKENS
    second = slice(TRIED_TOKENS, None)
    was_training = model.training
    model.eval()  # no dropout
    try:
        packed, sensed = _logits_and_what_they_sense(model, ids, anew)
        with torch.no_grad():
            alone = _logits(model, ids[:, second], anew[:, second])
            mixed = _logits(model, ids, running)[:, second]
    finally:
        model.train(was_training)
    placed = (packed - alone).abs().max() <= PLACED * (mixed - alone).abs().max()
    # not almost: what attention leaves out has a weight of 0
    return bool(placed and not sensed[:, :TRIED_TOKENS].any() and sensed[:, second].any())


def _logits(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, position_ids=positions).logits.float()
    return logits


def _logits_and_what_they_sense(
    model: Any, ids: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the second row, and how they change with what goes in for each token of both."""
    embedded: list[torch.Tensor] = []

    def catch(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = model.get_input_embeddings().register_forward_hook(catch)
    try:
        logits = _logits(model, ids, positions)[:, TRIED_TOKENS:]
        (sensed,) = torch.autograd.grad(logits.square().sum(), embedded[0])
    finally:
        hook.remove()
    return logits.detach(), sensed
