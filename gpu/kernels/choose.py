"""Choose the kernels of a job and put them into its model.

Kernels decide the bits, so they must not change within a job. A new job gets all that fit its model. The journal
records them with each training start (`training_started.environment`), the next order to train the same job contains
them, and it gets the same ones. A job that began before there were kernels keeps the plain operations. See
docs/decisions/0019.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from events.settings import JobSettings
from events.values import KERNELS, PLAIN_KERNELS
from gpu.kernels.head_loss import find_head
from gpu.kernels.lora import fuse_adapters
from gpu.kernels.product import onednn_is_available
from gpu.model.build import TrainedModel
from gpu.runtime.determinism import hardware

log = logging.getLogger(__name__)

LORA, LOSS, ONEDNN = "lora-1", "loss-1", "onednn-1"
"""Names in the journal. A kernel that computes other bits gets another number."""

ALL = frozenset({LORA, LOSS, ONEDNN})

Kernels = frozenset[str]


def wanted_kernels(settings: JobSettings, recorded: Mapping[str, str], device: torch.device) -> Kernels:
    """Return the kernels for a job on `device`.

    `recorded`: the environment that this job was trained in before; empty for a new job. On the same hardware with the
    same torch its kernels stay. On another, the bits differ anyway.
    """
    if recorded and all(recorded.get(name) == value for name, value in hardware(device).items()):
        return ALL & frozenset(recorded.get(KERNELS, PLAIN_KERNELS).split())
    return ALL if settings.training.kernels == "auto" else frozenset()


def install_kernels(trained: TrainedModel, wanted: Kernels) -> None:
    """Put those of the kernels that fit into the model; `trained.kernels` names them."""
    used = set()
    onednn = ONEDNN in wanted and trained.device.type == "cpu" and onednn_is_available()
    if LORA in wanted and trained.adapted:
        fused, adapted = fuse_adapters(trained.model, onednn=onednn)
        used |= {LORA} if fused else set()
        if fused < adapted:
            log.info("%d of %d adapted layers have no faster kernel; peft computes them", adapted - fused, adapted)
    if LOSS in wanted:
        trained.head = find_head(trained.model, onednn=onednn)
        used |= {LOSS} if trained.head is not None else set()
        if trained.head is None:
            log.info("this model's output layer has no faster kernel; it computes all logits")
    trained.kernels = " ".join(sorted(used | ({ONEDNN} if onednn and used else set()))) or PLAIN_KERNELS
