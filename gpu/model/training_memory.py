"""Estimate the memory that training a model takes, from its config and the headers of its weights. No torch.

The estimate is for planning: it says which settings cannot work, not how many bytes are used.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from msgspec import MsgspecError, Struct

from events.settings import AdapterSettings, JobSettings, MethodSettings, ModelSettings, QloraSettings
from gpu.errors import ModelUnusable
from gpu.model.base import base_directory
from gpu.model.limits import EMBEDDING, POSITIONS, Shapes, read_limits, read_shapes, read_text_config
from gpu.model.size import read_number

FLOAT32_BYTES = 4

ADAM_MOMENTS = 2
"""AdamW keeps two float32 numbers for each trained parameter: https://arxiv.org/abs/1711.05101."""

QUANTIZED_BYTES = 0.5 + 0.0625
"""Bytes of a weight in 4 bits, with a float32 scale for each block of 64 (QLoRA, section 3:
https://arxiv.org/abs/2305.14314)."""

LIBRARIES_BYTES = 500_000_000
"""Resident memory of a worker that has loaded torch and transformers, and no model."""

LOGIT_COPIES = 3
"""float32 copies of the logits at the same time: the logits, their log-softmax, and the gradient of one of them."""

OVERHEAD = 1.3
"""Memory of a step, by what it keeps: temporary tensors, and what the allocator cannot use. Measured with SmolLM2-135M,
LoRA and float32 on a CPU: 6.7 GB resident at 2,048 positions and 2.5 GB at 512, estimated as 6.8 and 2.6 GB."""

_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output|score)\.weight$")


class ModelShape(Struct, frozen=True, kw_only=True):
    """Counts of a model under the settings."""

    parameters: int
    trained: int
    """Parameters that the method trains."""
    quantized: int
    """Frozen parameters that the method holds in 4 bits."""
    layers: int
    hidden: int
    """Width of the residual stream."""
    mlp: int
    """Width inside of the feed-forward part."""
    queries: int
    """Width of all query heads together."""
    keys: int
    """Width of all key heads together; the values have the same."""
    vocabulary: int
    positions: int | None = None
    """Longest text that the model takes or was trained with, in tokens; None: unknown."""


class MemoryEstimate(Struct, frozen=True, kw_only=True):
    """Memory of training, in bytes."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    checkpoint_bytes: int
    """The copy of trained weights and moments from which a checkpoint is written while the next steps run. It is in
    main memory, so it counts only if training runs on the CPU."""
    libraries_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        return sum(getattr(self, name) for name in self.__struct_fields__)


def load_shape(settings: JobSettings, home: Path) -> ModelShape | None:
    """Return the size of the model of the settings; None if its files are not here, or do not say it."""
    try:
        directory = _local_directory(settings.model, home)
        return read_shape(directory, settings.method)
    except (ModelUnusable, OSError, ValueError, LookupError, TypeError, MsgspecError):
        return None  # the check of the rows reports what is wrong with the model


def _local_directory(model: ModelSettings, home: Path) -> Path:
    return base_directory(model.path, home, revision=model.revision, fetch=False)


def read_shape(directory: Path, method: MethodSettings) -> ModelShape | None:
    """Return the size of the model in `directory`; None if its files do not say it. Raises OSError, ValueError."""
    shapes, config, limits = read_shapes(directory), read_text_config(directory), read_limits(directory)
    layers, hidden, heads = (read_number(config, name) for name in ("layers", "width", "heads"))
    if not shapes or not layers or not hidden or not heads:
        return None
    linear = {name: shape for name, shape in shapes.items() if _is_linear(name, shape)}
    parameters = sum(map(math.prod, shapes.values()))
    head_size = read_number(config, "head_size") or hidden // heads
    return ModelShape(
        parameters=parameters,
        trained=_trained(linear, method) if isinstance(method, AdapterSettings) else parameters,
        quantized=sum(map(math.prod, linear.values())) if isinstance(method, QloraSettings) else 0,
        layers=layers,
        hidden=hidden,
        mlp=read_number(config, "mlp") or 4 * hidden,
        queries=heads * head_size,
        keys=(read_number(config, "key_heads") or heads) * head_size,
        vocabulary=read_number(config, "vocabulary"),
        positions=limits.positions or limits.trained_positions,
    )


def estimate_memory(shape: ModelShape, settings: JobSettings, tokens: int, *, on_cpu: bool) -> MemoryEstimate:
    """Estimate the memory of a step whose largest micro-batch has `tokens` positions, padding included.

    Weights: frozen ones in `[model] dtype` or in 4 bits, trained ones in float32. Each trained parameter also has a
    float32 gradient and two moments of AdamW: 16 bytes, as in ZeRO (https://arxiv.org/abs/1910.02054, section 3.1).

    Activations: what a forward pass keeps for the backward pass. It is counted by layer and token as in Korthikanti et
    al. (https://arxiv.org/abs/2205.05198, section 4.1), but for RMSNorm, rotary positions and a gated MLP, without
    dropout, and with fused attention, which keeps no scores:

        6 · hidden   inputs, normalized inputs and outputs of both norms
        4 · queries  queries before and after the rotation, attention's output, and its copy
        4 · keys     keys before and after the rotation, values, and their copy
        4 · mlp      gate, its activation, up, and their product

    numbers of four bytes (two in bf16), and the logits of all positions in float32 (`LOGIT_COPIES`); all of it times
    `OVERHEAD`.
    """
    frozen = 0 if shape.trained == shape.parameters else shape.parameters
    frozen_bytes = 2 if settings.model.dtype == "bfloat16" else FLOAT32_BYTES
    weights = round((frozen - shape.quantized) * frozen_bytes + shape.quantized * QUANTIZED_BYTES) if frozen else 0
    trained = shape.trained * FLOAT32_BYTES
    number_bytes = 2 if settings.training.precision == "bf16" else FLOAT32_BYTES
    in_layer = 6 * shape.hidden + 4 * shape.queries + 4 * shape.keys + 4 * shape.mlp
    logits = LOGIT_COPIES * shape.vocabulary * FLOAT32_BYTES
    return MemoryEstimate(
        weights_bytes=weights + trained,
        gradients_bytes=trained,
        optimizer_bytes=ADAM_MOMENTS * trained,
        activations_bytes=round(OVERHEAD * tokens * (shape.layers * in_layer * number_bytes + logits)),
        checkpoint_bytes=(1 + ADAM_MOMENTS) * trained if on_cpu else 0,
        libraries_bytes=LIBRARIES_BYTES,
    )


def _trained(linear: Shapes, method: AdapterSettings) -> int:
    """Return the parameters of the adapter: two matrices for each adapted layer, and DoRA's magnitudes."""
    magnitudes = getattr(method, "use_dora", False)
    adapted = [shape for name, shape in linear.items() if _is_adapted(name.removesuffix(".weight"), method)]
    return sum(method.r * (rows + columns) + (rows if magnitudes else 0) for rows, columns in adapted)


def _is_adapted(name: str, method: AdapterSettings) -> bool:
    targets = method.target_modules
    if isinstance(targets, str):
        return targets.lower() == "all-linear" or re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    other = EMBEDDING.search(name) or POSITIONS.search(name) or _HEAD.search(name)
    return len(shape) == 2 and name.endswith(".weight") and not other
