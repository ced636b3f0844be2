"""Faults that tests inject into a worker by name, in addition to kills (`journal/failpoints.py`).

`KEEPSTEP_FAULTS=forward:7` makes memory run out in the forward pass of global step 7; commas separate several faults.
With `forward:7:N`, memory runs out whenever more than N sequences are computed together (by default more than one).
Without the variable nothing happens.
"""

from __future__ import annotations

import os

import torch

FAULTS = {
    "forward": "memory runs out in the model's forward pass",
    "backward": "memory runs out in the backward pass, after part of the gradients",
    "update": "memory runs out in the optimizer, after it has changed the weights",
    "evaluation": "memory runs out in an evaluation",
    "suites": "memory runs out while held-out rows are scored after a job; of a version, at this attempt",
    "samples": "memory runs out while samples are generated",
    "nan_evaluation": "the loss of an evaluation is not a number",
    "nan": "the loss is not a number",
    "nan_gradient": "a gradient is not a number, though the loss is",
    "spike": "the loss is a hundred times what it was",
}


def is_injected(fault: str, global_step: int, sequences: int = 2) -> bool:
    """True if the environment injects this fault at this step, for this number of sequences."""
    assert fault in FAULTS, f"{fault} is in no table of gpu/runtime/faults.py"
    wanted = os.environ.get("KEEPSTEP_FAULTS")
    if not wanted:
        return False
    for each in wanted.split(","):
        name, _, rest = each.partition(":")
        step, _, most = rest.partition(":")
        if name == fault and int(step) == global_step and sequences > int(most or 1):
            return True
    return False


def inject_out_of_memory(fault: str, global_step: int, sequences: int) -> None:
    """Raise torch.OutOfMemoryError if the environment injects this fault here."""
    if is_injected(fault, global_step, sequences):
        raise torch.OutOfMemoryError(f"injected fault: {FAULTS[fault]}")
