"""Build the tensors of a micro-batch from rows. A pure function."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gpu.data.plan.batches import MicroBatch
from gpu.data.plan.store import Tokens

IGNORED = -100
"""The target that `cross_entropy` ignores."""


class Inputs(NamedTuple):
    """One micro-batch, padded at the right: (sequences, width) for ids, mask and positions."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    """1 for a token, 0 for padding. None if rows are packed: then `position_ids` decide attention."""
    columns: torch.Tensor
    """(columns): the positions at which any sequence predicts a trained token. Other logits are not needed."""
    targets: torch.Tensor
    """(sequences, columns): the token to predict, or IGNORED."""
    positions: torch.Tensor
    """(trained tokens): the places of all trained tokens in the flattened (sequences * width)."""
    labels: torch.Tensor
    """(trained tokens): the token to predict at each of them."""
    position_ids: torch.Tensor | None = None
    """For packed rows: counted from 0 in each row, and in the padding. Transformers separates the rows where the count
    restarts (`masking_utils.find_packed_sequence_indices`)."""


def collate(tokens: Tokens, micro_batch: MicroBatch, device: torch.device, *, packing: bool = False) -> Inputs:
    """Return the tensors of a micro-batch, on `device`.

    Padding is token 0: nothing attends to it, and every vocabulary has it. The first token of a row is never a target,
    so no row predicts a token of the next one.
    """
    sequences = [[tokens.span(row) for row in rows] for rows in micro_batch]
    sizes = [sum(end - start for start, end in spans) for spans in sequences]
    width = max(sizes)
    input_ids = np.zeros((len(sequences), width), np.int64)
    positions = np.zeros((len(sequences), width), np.int64)
    targets = np.full((len(sequences), width), IGNORED, np.int64)
    for sequence, spans in enumerate(sequences):
        at = 0
        for start, end in spans:
            size = end - start
            ids = input_ids[sequence, at : at + size]
            ids[:] = tokens.ids[start:end]
            positions[sequence, at : at + size] = np.arange(size)
            trained = tokens.trained[start + 1 : end] != 0
            targets[sequence, at : at + size - 1][trained] = ids[1:][trained]
            at += size
        positions[sequence, at:] = np.arange(width - at)
    is_trained = targets != IGNORED
    columns = np.flatnonzero(is_trained.any(axis=0))
    mask = (np.arange(width) < np.array(sizes)[:, None]).astype(np.int64)

    def tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Inputs(
        input_ids=tensor(input_ids),
        attention_mask=None if packing else tensor(mask),
        position_ids=tensor(positions) if packing else None,
        columns=tensor(columns),
        targets=tensor(targets[:, columns]),
        positions=tensor(np.flatnonzero(is_trained)),
        labels=tensor(targets[is_trained]),
    )
