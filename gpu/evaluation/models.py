"""Load a version or the origin to evaluate it: the weights that a user gets, in the form in which training holds them.

Nothing of it is trainable, and no checkpoint or adapter is loaded.
"""

from __future__ import annotations

import gc
import inspect
from pathlib import Path

import torch

from events.settings import JobSettings
from events.values import VersionId
from gpu.artifacts.artifact import Watch
from gpu.artifacts.version_manifest import find_base_problem, version_directory
from gpu.errors import ModelUnusable
from gpu.kernels.head_loss import find_head
from gpu.model.base import base_directory
from gpu.model.build import TrainedModel, load_weights, set_eval_mode
from gpu.model.held_weights import compute_in_float32
from gpu.model.tokenizer import explain_load_errors
from gpu.runtime.arithmetic import autocasts, choose_arithmetic


def load_model(
    home: Path, version: VersionId | None, settings: JobSettings, device: torch.device, watch: Watch
) -> TrainedModel:
    """Return a version (None: the origin), ready to compute logits and to answer.

    `settings`: those of the last job in the version; they decide data type and arithmetic. `watch` receives each chunk
    of the weights that is verified. Raises ModelUnusable.
    """
    arithmetic = choose_arithmetic(settings.training.precision, device, {})
    with explain_load_errors(f"the model {version or settings.model.path}"):
        if version is None:
            directory = base_directory(settings.model.path, home, revision=settings.model.revision)
        else:
            directory = version_directory(home, version)
            if (problem := find_base_problem(directory, directory, watch)) is not None:
                raise ModelUnusable(f"versions/{version} is not what was published: {problem}. Restore its files.")
        model = load_weights(directory, settings, device, arithmetic)
    model.requires_grad_(False)
    if not autocasts(arithmetic):
        compute_in_float32(model)
    model.to(device)
    set_eval_mode(model)
    loaded = TrainedModel(model=model, device=device, parameters={}, configs={}, weights_file="")
    loaded.arithmetic = arithmetic
    loaded.takes_columns = "logits_to_keep" in inspect.signature(model.forward).parameters
    loaded.head = find_head(model, onednn=False)
    return loaded


def release_memory() -> None:
    """Return the memory of a dropped model to the GPU. Models have reference cycles, so collect first."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
