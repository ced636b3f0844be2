"""Named faults that a test may have a worker meet, where a process that is killed (`crashpoints.py`) is not enough.

`KEEPSTEP_FAULTS=forward:7` makes memory run out in the forward pass of global step 7; several are parted by commas. It
runs out as often as more than N sequences are computed together (`forward:7:N`; by default one). Without the variable
nothing happens.
"""

from __future__ import annotations

import os

import torch

FAULTS = {
    "forward": "memory runs out in the model's forward pass",
    "backward": "memory runs out in the backward pass, behind part of the gradients",
    "update": "memory runs out in the optimizer, when it has changed the weights",
    "evaluation": "memory runs out in an evaluation",
    "nan_evaluation": "the loss of an evaluation is no number",
    "nan": "the loss is no number",
    "nan_gradient": "the loss is a number, and a gradient is not",
    "spike": "the loss is a hundred times what it was",
}


def strikes(fault: str, global_step: int, sequences: int = 2) -> bool:
    """Whether the environment wants this fault at this step, with so many sequences together."""
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


def run_out(fault: str, global_step: int, sequences: int) -> None:
    """Raises torch.OutOfMemoryError if the environment wants that here."""
    if strikes(fault, global_step, sequences):
        raise torch.OutOfMemoryError(f"a fault that was asked for: {FAULTS[fault]}")
