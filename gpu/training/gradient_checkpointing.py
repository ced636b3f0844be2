"""Gradient checkpointing: keep the inputs of layers only, and compute each layer again in the backward pass.

It needs far less memory and about a third more time (https://arxiv.org/abs/1604.06174). A layer that is computed again
repeats to the bit, dropout included, so weights do not depend on it: it may change between two attempts at a job.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from gpu.data.plan.prepare import PreparedJob
from gpu.errors import ModelUnusable
from gpu.model.build import TrainedModel
from gpu.model.training_memory import CPU_SHARE, GPU_SHARE, load_shape, plan_memory
from gpu.runtime.memory_limits import total_bytes

log = logging.getLogger(__name__)


def decide_gradient_checkpointing(prepared: PreparedJob, trained: TrainedModel, home: Path) -> None:
    """Switch it on or off as the settings say; "auto": on if the estimate of a step's memory exceeds the device's.

    Raises ModelUnusable if the settings say "on" and the model has no such layers.
    """
    settings = prepared.settings
    layers = [module for module in trained.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    wanted = settings.training.gradient_checkpointing
    if wanted == "on" and not layers:
        raise ModelUnusable(
            "this model has no gradient checkpointing in transformers. Set [training] gradient_checkpointing = "
            '"auto" or "off" in keepstep.toml.'
        )
    if wanted == "auto" and layers:
        memory, wanted = _planned(prepared, trained, home), "off"
        if memory is not None:
            wanted = "on"
            log.info("gradient checkpointing is on: a step would take about %.1f GB without", memory / 1e9)
    for layer in layers:
        layer.gradient_checkpointing = wanted == "on"
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def _planned(prepared: PreparedJob, trained: TrainedModel, home: Path) -> float | None:
    """Return the bytes of a step without gradient checkpointing if they exceed the device; None if they fit."""
    settings = prepared.settings
    shape = load_shape(settings, home)
    if shape is None:
        return None
    longest = settings.data.max_length if settings.data.packing else int(prepared.tokens.lengths().max())
    positions = settings.training.batch_size * longest
    usable = usable_bytes(trained.device)
    plan = plan_memory(shape, settings, positions, on_cpu=trained.device.type == "cpu", usable_bytes=usable)
    return plan.without_bytes if plan.checkpoints else None


def usable_bytes(device: torch.device) -> float:
    """Return the bytes of memory that training on `device` may take."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE)
    return CPU_SHARE * total_bytes()
