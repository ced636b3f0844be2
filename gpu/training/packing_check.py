"""Check by experiment that a model can be trained on packed rows.

For most decoders, transformers separates packed rows where the positions restart at 0. A model with a state along the
sequence (Mamba, linear attention, convolutions), or with its own positions, ignores that without an error: a row would
then be trained with the row before it as its context.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from gpu.errors import ModelUnusable

if TYPE_CHECKING:
    from gpu.model.build import TrainedModel

TEST_TOKENS = 24
"""Length of each of two rows: longer than any convolution in a layer, and shorter than every attention window."""

TOLERANCE = 0.05
"""Largest difference between a packed row's logits and those of the row alone, as a share of the difference without
separation. With restarted positions only rounding is left: in bfloat16, a hundredth."""


def refuse_unpackable(trained: TrainedModel) -> None:
    """Raise ModelUnusable if the logits of a row depend on the row that is packed before it."""
    base = getattr(trained.model, "get_base_model", lambda: trained.model)()
    if "position_ids" not in inspect.signature(base.forward).parameters or not _separates_rows(trained):
        raise ModelUnusable(
            f"{type(base).__name__} cannot be trained with [data] packing = true: its logits for a row depend on the "
            "row packed before it. Set packing = false in keepstep.toml."
        )


def _separates_rows(trained: TrainedModel) -> bool:
    model, device = trained.model, trained.device
    size = int(model.config.get_text_config().vocab_size)
    ids = (torch.arange(2 * TEST_TOKENS, device=device) * 7919 % size)[None]  # any distinct tokens
    running = torch.arange(2 * TEST_TOKENS, device=device)[None]
    restarted = running % TEST_TOKENS
    second = slice(TEST_TOKENS, None)
    was_training = model.training
    model.eval()  # no dropout
    try:
        packed, gradients = _logits_and_gradients(model, ids, restarted)
        with torch.no_grad():
            alone = _logits(model, ids[:, second], restarted[:, second])
            mixed = _logits(model, ids, running)[:, second]
    finally:
        model.train(was_training)
    is_close = (packed - alone).abs().max() <= TOLERANCE * (mixed - alone).abs().max()
    # Exactly 0: attention gives masked tokens the weight 0.
    return bool(is_close and not gradients[:, :TEST_TOKENS].any() and gradients[:, second].any())


def _logits(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, position_ids=positions).logits.float()
    return logits


def _logits_and_gradients(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the second row, and their gradients with respect to the embeddings of both rows."""
    embedded: list[torch.Tensor] = []

    def catch(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = model.get_input_embeddings().register_forward_hook(catch)
    try:
        logits = _logits(model, ids, positions)[:, TEST_TOKENS:]
        (gradients,) = torch.autograd.grad(logits.square().sum(), embedded[0])
    finally:
        hook.remove()
    return logits.detach(), gradients
