"""Rows to the tensors of a micro-batch. No randomness, no state."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gpu.data.tokens import Tokens

IGNORED = -100
"""What `cross_entropy` leaves out."""


class Inputs(NamedTuple):
    """One micro-batch, padded at the right."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    columns: torch.Tensor
    """The positions at which any row predicts a trained token; logits anywhere else would be thrown away."""
    targets: torch.Tensor
    """For each row and column the token to predict, or IGNORED."""


def collate(tokens: Tokens, rows: tuple[int, ...], device: torch.device) -> Inputs:
    """The micro-batch of `rows`. Padding is token 0: nothing looks at it, and every vocabulary has it."""
    spans = [tokens.span(row) for row in rows]
    width = max(end - start for start, end in spans)
    input_ids = torch.zeros((len(rows), width), dtype=torch.long)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
    targets = torch.full((len(rows), width), IGNORED)
    for place, (start, end) in enumerate(spans):
        ids = torch.frombuffer(tokens.ids, dtype=torch.int32, count=end - start, offset=start * tokens.ids.itemsize)
        learned = torch.frombuffer(tokens.learned, dtype=torch.bool, count=end - start - 1, offset=start + 1)
        input_ids[place, : len(ids)] = ids
        attention_mask[place, : len(ids)] = 1
        targets[place, : len(ids) - 1] = torch.where(learned, ids[1:].long(), IGNORED)
    columns = (targets != IGNORED).any(dim=0).nonzero().flatten()
    batch = Inputs(input_ids, attention_mask, columns, targets[:, columns])
    return Inputs(*(tensor.to(device) for tensor in batch))
