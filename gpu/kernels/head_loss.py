"""The loss from hidden states, without the logits of all positions.

The output layer of a small model costs as much as several of its layers, and its logits are the largest tensor of a
step: (tokens x vocabulary) in float32. Here only the hidden states at trained positions are multiplied, in chunks, and
each chunk's gradient is computed at once; what is kept is the gradient of the hidden states. The chunks are added in
order.

The gradient of the cross-entropy for one position with logits z and target t is softmax(z) - 1[t]. With a soft cap c
(Gemma 2, https://arxiv.org/abs/2408.00118), z = c tanh(u / c), it is multiplied by ∂z/∂u = 1 - (z / c)².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gpu.kernels.product import linear
from gpu.model.build import set_eval_mode
from gpu.model.held_weights import HeldLinear

CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**27}
"""Logits in one chunk, by type of device: on a CPU 16 MB in float32, which its cache holds; on a GPU 512 MB."""

ROWS_MIN = 16
"""Rows in a chunk, at least, however large the vocabulary."""

TRIAL_TOKENS = 8
TOLERANCE = 1e-3
"""Largest difference of logits in the trial, as a share of the largest logit."""


@dataclass(frozen=True)
class Head:
    """The output layer of a model, and how its inputs are computed."""

    decoder: Any
    """Computes the hidden states: (sequences, width, hidden)."""
    layer: Any
    """The output layer; its weight is (vocabulary, hidden)."""
    cap: float | None
    onednn: bool

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits, (tokens, vocabulary). `hidden`: (tokens, hidden)."""
        layer = self.layer
        return _logits(hidden, layer.weight, getattr(layer, "bias", None), self.cap, onednn=self.onednn)

    def loss(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of `labels` (tokens), summed, in nats. `hidden`: (tokens, hidden)."""
        bias = getattr(self.layer, "bias", None)
        total: torch.Tensor = _HeadLoss.apply(
            hidden, self.layer.weight, bias, labels, self.cap, self.onednn, torch.is_grad_enabled()
        )
        return total


def find_head(model: Any, *, onednn: bool) -> Head | None:
    """Return the head of `model`; None if its logits are more than a product of hidden states with one matrix.

    A trial decides: the logits of a few tokens must be those of the model itself.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    layer, decoder = inner.get_output_embeddings(), getattr(inner, inner.base_model_prefix, None)
    if layer is None or decoder is None or decoder is inner or type(layer) not in {torch.nn.Linear, HeldLinear}:
        return None
    cap = getattr(inner.config.get_text_config(), "final_logit_softcapping", None)
    head = Head(decoder, layer, float(cap) if cap else None, onednn)
    return head if _computes_logits(head, inner, layer) else None


def _computes_logits(head: Head, inner: Any, layer: Any) -> bool:
    ids = torch.arange(TRIAL_TOKENS, device=layer.weight.device)[None] % layer.weight.shape[0]
    mask, was_training = torch.ones_like(ids), inner.training
    set_eval_mode(inner)
    try:
        with torch.no_grad():
            expected = inner(input_ids=ids, attention_mask=mask).logits.float()
            states = getattr(head.decoder(input_ids=ids, attention_mask=mask), "last_hidden_state", None)
            if states is None:
                return False
            found = _logits(states.flatten(0, 1), layer.weight, layer.bias, head.cap, onednn=head.onednn)
    finally:
        inner.train(was_training)
    return found.shape == expected[0].shape and bool(
        (found - expected[0]).abs().max() <= TOLERANCE * expected.abs().max()
    )


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, cap: float | None, *, onednn: bool
) -> torch.Tensor:
    """Return float32 logits, (rows, vocabulary), from products in the dtype of `hidden`."""
    dtype = hidden.dtype
    logits = linear(hidden, weight.to(dtype), None if bias is None else bias.to(dtype), onednn=onednn).float()
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]  # torch is Any here
    """The summed loss: (tokens, hidden) to a scalar in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        cap: float | None,
        onednn: bool,
        keeps_gradients: bool,
    ) -> torch.Tensor:
        needs_hidden, needs_weight, needs_bias = (each and keeps_gradients for each in ctx.needs_input_grad[:3])
        product = weight.to(hidden.dtype)
        of_hidden = torch.empty_like(hidden) if needs_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias and bias is not None else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        size = max(ROWS_MIN, CHUNK_ELEMENTS[hidden.device.type] // len(weight))
        for begin in range(0, len(labels), size):
            rows, wanted = hidden[begin : begin + size], labels[begin : begin + size, None]
            logits = _logits(rows, product, bias, cap, onednn=onednn)
            sums = logits.logsumexp(1, keepdim=True)
            loss += (sums - logits.gather(1, wanted)).sum()
            if of_hidden is None and of_weight is None:
                continue
            slope = None if cap is None else logits.div(cap).square_().neg_().add_(1)
            gradient = logits.sub_(sums).exp_()
            gradient.scatter_(1, wanted, gradient.gather(1, wanted) - 1)
            if slope is not None:
                gradient.mul_(slope)
            if of_bias is not None:
                of_bias += gradient.sum(0)
            gradient = gradient.to(hidden.dtype)
            if of_hidden is not None:
                of_hidden[begin : begin + size] = linear(gradient, product.T, onednn=onednn)
            if of_weight is not None:
                of_weight += linear(gradient.T, rows.T, onednn=onednn)
        ctx.gradients = (of_hidden, of_weight, of_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_weight, of_bias = ctx.gradients
        ctx.gradients = None
        scaled = (None if each is None else each.mul_(gradients[0]) for each in (of_hidden, of_weight, of_bias))
        return (*scaled, None, None, None, None)
