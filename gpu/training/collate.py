"""Rows to the tensors of a micro-batch. No randomness, no state."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gpu.data.plan.batches import MicroBatch
from gpu.data.plan.store import Tokens

IGNORED = -100
"""What `cross_entropy` leaves out."""


class Inputs(NamedTuple):
    """One micro-batch, padded at the right."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    """1 where there is a token. None if rows are packed: positions then say what may look at what."""
    columns: torch.Tensor
    """The positions at which any sequence predicts a trained token; logits anywhere else would be thrown away."""
    targets: torch.Tensor
    """For each sequence and column the token to predict, or IGNORED."""
    position_ids: torch.Tensor | None = None
    """For packed rows: from 0 in each row, and in the padding. Where they begin anew, transformers parts what is before
    from what is behind (`masking_utils.find_packed_sequence_indices`), whatever else masks attention."""


def collate(tokens: Tokens, micro_batch: MicroBatch, device: torch.device, *, packing: bool = False) -> Inputs:
    """The micro-batch with these sequences of rows. Padding is token 0: nothing looks at it, and every vocabulary has
    it. The first token of a row is never learned, so nothing is predicted from one row into the next."""
    sequences = [[tokens.span(row) for row in rows] for rows in micro_batch]
    sizes = [sum(end - start for start, end in spans) for spans in sequences]
    width = max(sizes)
    input_ids = np.zeros((len(sequences), width), np.int64)
    positions = np.zeros((len(sequences), width), np.int64)
    targets = np.full((len(sequences), width), IGNORED, np.int64)
    for place, spans in enumerate(sequences):
        at = 0
        for start, end in spans:
            size = end - start
            ids = input_ids[place, at : at + size]
            ids[:] = tokens.ids[start:end]
            positions[place, at : at + size] = np.arange(size)
            trained = tokens.trained[start + 1 : end] != 0
            targets[place, at : at + size - 1][trained] = ids[1:][trained]
            at += size
        positions[place, at:] = np.arange(width - at)
    columns = np.flatnonzero((targets != IGNORED).any(axis=0))
    mask = (np.arange(width) < np.array(sizes)[:, None]).astype(np.int64)

    def tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Inputs(
        input_ids=tensor(input_ids),
        attention_mask=None if packing else tensor(mask),
        position_ids=tensor(positions) if packing else None,
        columns=tensor(columns),
        targets=tensor(targets[:, columns]),
    )
