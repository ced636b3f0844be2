"""Estimate the memory that training a model takes, from its config and the headers of its weights. No torch.

The estimate is for planning: it says which settings cannot work, not how many bytes are used.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from msgspec import MsgspecError, Struct

from events.settings import AdapterSettings, JobSettings, LoraSettings, MethodSettings, ModelSettings, QloraSettings
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

CHUNK_BYTES = {True: 16e6, False: 512e6}
"""float32 logits of one chunk of the loss, on a CPU (True) or a GPU: `gpu.kernels.head_loss`."""

GPU_SHARE, CPU_SHARE = 0.9, 0.7
"""Shares of the memory that training may take: of a GPU, all but the driver's; of a machine, others need some."""

OVERHEAD = 1.3
"""Memory of a step with the operations of torch and peft, by what it keeps: temporary tensors, and what the allocator
cannot use. Measured with the layers of SmolLM2-135M, LoRA and float32 on a CPU: ten of 30 layers 3.3 GB resident at
2,048 positions, estimated as 3.7 GB; all of them 6.7 GB, estimated as 6.8 GB."""

FUSED_OVERHEAD = 1.0
"""The same with the kernel for LoRA layers: 1.8 GB, estimated as 1.9 GB."""

RECOMPUTED_LAYER = 3
"""With gradient checkpointing: memory of the layer that is computed again, by what it keeps without; it holds the
gradients too. 1.16 GB, estimated as 1.17 GB."""

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
    """Frozen weights."""
    trained_bytes: int
    """Trained weights: the adapter, or with full weights all of them."""
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    """What the layers keep for the backward pass."""
    logits_bytes: int
    """The logits of the largest chunk of the loss, and what is computed of them."""
    checkpoint_bytes: int
    """The copy of trained weights and moments from which a checkpoint is written while the next steps run. It is in
    main memory, so it counts only if training runs on the CPU."""
    libraries_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        return sum(getattr(self, name) for name in self.__struct_fields__)


class MemoryPlan(Struct, frozen=True):
    """The memory of a step, and how it is kept within the device."""

    memory: MemoryEstimate
    checkpoints: bool
    """True if layers are computed again in the backward pass (`gpu.training.gradient_checkpointing`)."""
    without_bytes: int
    """The memory of the step without that."""


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


def plan_memory(
    shape: ModelShape, settings: JobSettings, tokens: int, *, on_cpu: bool, usable_bytes: float
) -> MemoryPlan:
    """Return the memory of a step under the setting of gradient checkpointing; "auto": on if the step is too large."""
    without = estimate_memory(shape, settings, tokens, on_cpu=on_cpu)
    wanted = settings.training.gradient_checkpointing
    checkpoints = wanted == "on" or (wanted == "auto" and without.total_bytes > usable_bytes)
    memory = estimate_memory(shape, settings, tokens, on_cpu=on_cpu, checkpoints=True) if checkpoints else without
    return MemoryPlan(memory, checkpoints, without.total_bytes)


def estimate_memory(
    shape: ModelShape, settings: JobSettings, tokens: int, *, on_cpu: bool, checkpoints: bool = False
) -> MemoryEstimate:
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

    numbers of four bytes (two in bf16), times `OVERHEAD` or `FUSED_OVERHEAD`. With `checkpoints`: the input of each
    layer, and one layer that is computed again. The logits: of all positions in float32 (`LOGIT_COPIES`) with plain
    operations, of one chunk with the kernel for the loss. A model for which that kernel is not made needs more.
    """
    frozen = 0 if shape.trained == shape.parameters else shape.parameters
    frozen_bytes = 2 if settings.model.dtype == "bfloat16" else FLOAT32_BYTES
    weights = round((frozen - shape.quantized) * frozen_bytes + shape.quantized * QUANTIZED_BYTES) if frozen else 0
    trained = shape.trained * FLOAT32_BYTES
    number_bytes = 2 if settings.training.precision == "bf16" else FLOAT32_BYTES
    in_layer = 6 * shape.hidden + 4 * shape.queries + 4 * shape.keys + 4 * shape.mlp
    is_plain = settings.training.kernels == "plain"
    is_fused = isinstance(settings.method, LoraSettings) and not settings.method.use_dora and not is_plain
    overhead = FUSED_OVERHEAD if is_fused else OVERHEAD
    numbers = shape.layers * shape.hidden + RECOMPUTED_LAYER * in_layer if checkpoints else shape.layers * in_layer
    logits = LOGIT_COPIES * min(
        tokens * shape.vocabulary * FLOAT32_BYTES, math.inf if is_plain else CHUNK_BYTES[on_cpu]
    )
    return MemoryEstimate(
        weights_bytes=weights,
        trained_bytes=trained,
        gradients_bytes=trained,
        optimizer_bytes=ADAM_MOMENTS * trained,
        activations_bytes=round(overhead * tokens * numbers * number_bytes),
        logits_bytes=round(overhead * logits),
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
