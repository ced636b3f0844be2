"""Settings for a new home that fit its model and its machine, and why they were chosen.

Only `keepstep init` uses this. A key that is missing in an older keepstep.toml keeps the default of `events.settings`,
so nothing changes in a home that exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from cli.config.schema import METHODS, Config
from cli.machine.detect import Machine
from events.settings import (
    ConsolidationSettings,
    DataSettings,
    DiskSettings,
    JobSettings,
    ModelSettings,
    RetentionSettings,
    TrainingSettings,
)
from gpu.model.size import ModelSize
from gpu.model.training_memory import CHUNK_BYTES, CPU_SHARE, FLOAT32_BYTES, GPU_SHARE, LOGIT_COPIES

NIGHT = "03:00"
VERSIONS_KEPT = 10

STEP_ROWS = 16
"""Examples in a step, whatever their split into micro-batches: so machines with less memory train alike."""
MICRO_BATCHES = (8, 4, 2, 1)
"""On a CPU a micro-batch of more than four is no faster."""
CPU_MICRO_BATCH_MAX = 4
LENGTHS = (2048, 1024, 512, 256)
"""Limits for the length of an example, tokens. Most instructions and chats are shorter than the first."""
CPU_LENGTH_MAX = 1024

BYTES_4BIT = 0.6
"""Bytes for each parameter of a model in 4 bits: half a byte, and the embedding in 16 bits."""
BYTES_FULL = 16
"""Bytes for each parameter that is trained: float32 weight, gradient and two moments of AdamW."""
ADAPTER_SHARE = 0.012
"""Parameters of an adapter of rank 16 on all linear layers, as a share of the model's."""
ACTIVATION_NUMBERS = 34
"""Numbers kept for the backward pass, for each token, layer and unit of width: half of the bytes in table 2 of
https://arxiv.org/abs/2205.05198, which are for 16 bits."""

Dtype = Literal["float32", "bfloat16"]


class Fitted(NamedTuple):
    """A config, and the reasons for what it chose, each under a heading."""

    config: Config
    reasons: Sequence[tuple[str, str]]
    warnings: Sequence[str]


class Weights(NamedTuple):
    """The form of the weights in memory."""

    method: str
    dtype: Dtype
    bytes_per_parameter: float
    why: str = ""
    """The reason for this form; "": the user asked for it."""


def fit(model: ModelSettings, size: ModelSize | None, machine: Machine, *, method: str, zone: str) -> Fitted:
    """The config of a new home. `size` None: unknown. `method` "": choose. `zone`: the machine's time zone."""
    has_bf16 = machine.gpu is not None and machine.gpu.has_bf16
    memory = machine.gpu.memory_bytes * GPU_SHARE if machine.gpu is not None else machine.memory_bytes * CPU_SHARE
    weights, warnings = _choose_weights(size, machine, memory, method)
    length = _length_max(size, machine)
    batch = CPU_MICRO_BATCH_MAX
    if size is not None and size.parameters and size.width and size.layers:
        batch, length, fits = _choose_batch(size, weights, machine, memory, length)
        if not fits:
            warnings.append(_too_large(size, weights, memory))
    training = replace(
        training_of(weights.method),
        batch_size=batch,
        gradient_accumulation=STEP_ROWS // batch,
        precision="bf16" if has_bf16 else "fp32",
    )
    config = Config(
        job=JobSettings(
            model=ModelSettings(path=model.path, revision=model.revision, dtype=weights.dtype),
            method=METHODS[weights.method](),  # type: ignore[arg-type]  # each of them is one of MethodSettings
            data=DataSettings(max_length=length),
            training=training,
        ),
        consolidation=ConsolidationSettings(schedule=NIGHT, timezone=zone),
        retention=RetentionSettings(versions=VERSIONS_KEPT),
        disk=DiskSettings(soft_gb="auto", hard_gb="auto"),
    )
    return Fitted(config, _reasons(config, size, machine, weights), warnings)


def training_of(method: str) -> TrainingSettings:
    """The settings that fit a method on any machine."""
    if method == "full":
        return TrainingSettings(learning_rate=1e-5)  # the learning rate of an adapter would destroy the model
    return TrainingSettings()


def _choose_weights(size: ModelSize | None, machine: Machine, memory: float, method: str) -> tuple[Weights, list[str]]:
    """The form of the weights, and warnings. QLoRA is chosen only where it runs and nothing else fits."""
    has_bf16 = machine.gpu is not None and machine.gpu.has_bf16
    if method == "full":
        return Weights("full", "float32", BYTES_FULL), []
    device = "the GPU" if machine.gpu is not None else "the CPU"
    wide = Weights("lora", "float32", 4.0, f"{device} has no bfloat16" if machine.gpu is not None else "")
    narrow = Weights("lora", "bfloat16", 2.0, f"{device} computes in it" if has_bf16 else "float32 ones do not fit")
    four_bit = Weights("qlora", "bfloat16" if has_bf16 else "float32", BYTES_4BIT)
    if method == "qlora":
        missing = [] if machine.has_bitsandbytes else ["qlora needs bitsandbytes: `pip install 'keepstep[qlora]'`"]
        return four_bit, missing
    parameters = size.parameters if size is not None else 0
    plain = narrow if has_bf16 or parameters * wide.bytes_per_parameter > memory else wide
    if machine.gpu is None or parameters * plain.bytes_per_parameter <= memory:
        return plain, []
    if method == "" and machine.has_bitsandbytes:
        why = f"{plain.dtype} ones do not fit"
        return four_bit._replace(why=why), []
    how = "--method qlora" if machine.has_bitsandbytes else "`pip install 'keepstep[qlora]'`, then --method qlora"
    return plain, [f"4-bit weights need less memory: {how} with a new home"]


def _length_max(size: ModelSize | None, machine: Machine) -> int:
    """The longest example: what the model was made for, and no more than is usual for the device."""
    usual = LENGTHS[0] if machine.gpu is not None else CPU_LENGTH_MAX
    return min(usual, size.positions) if size is not None and size.positions >= 8 else CPU_LENGTH_MAX


def _choose_batch(
    size: ModelSize, weights: Weights, machine: Machine, memory: float, length: int
) -> tuple[int, int, bool]:
    """The micro-batch and the longest example that fit into memory, and False if none does."""
    largest = MICRO_BATCHES[0] if machine.gpu is not None else CPU_MICRO_BATCH_MAX
    for tokens in [length, *(each for each in LENGTHS if each < length)]:
        for batch in MICRO_BATCHES:
            if batch <= largest and memory_bytes(size, weights, batch * tokens, machine) <= memory:
                return batch, tokens, True
    return 1, length, False


def memory_bytes(size: ModelSize, weights: Weights, tokens: int, machine: Machine) -> float:
    """Estimate the memory of a step with a micro-batch of `tokens`, bytes."""
    number_bytes = 2 if machine.gpu is not None and machine.gpu.has_bf16 else 4
    fixed = size.parameters * weights.bytes_per_parameter
    if weights.method != "full":
        fixed += size.parameters * ADAPTER_SHARE * BYTES_FULL
    activations = ACTIVATION_NUMBERS / 2 * size.width * size.layers * number_bytes
    logits = min(tokens * FLOAT32_BYTES * size.vocabulary, CHUNK_BYTES[machine.gpu is None])
    return fixed + tokens * activations + LOGIT_COPIES * logits


def _too_large(size: ModelSize, weights: Weights, memory: float) -> str:
    needs = size.parameters * weights.bytes_per_parameter
    return (
        f"training may not fit into memory: the weights take {bytes_text(needs)}, and {bytes_text(memory)} can be "
        "used; choose a smaller model, or a machine with more memory"
    )


def _reasons(config: Config, size: ModelSize | None, machine: Machine, weights: Weights) -> Sequence[tuple[str, str]]:
    job, gpu = config.job, machine.gpu
    whole = f"{machine.cores} cores, {bytes_text(machine.memory_bytes)} of memory"
    kind = "4-bit" if weights.method == "qlora" else weights.dtype
    micro_batches = f"{job.training.gradient_accumulation} micro-batches of {job.training.batch_size}"
    known = []
    if size is not None and size.parameters:
        held = bytes_text(size.parameters * weights.bytes_per_parameter)
        known.append(f"{parameters_text(size.parameters)} parameters, {held} in memory")
    if size is not None and size.positions:
        known.append(f"made for {size.positions} tokens")
    return [
        ("machine", f"no GPU; {whole}" if gpu is None else f"{gpu.name}, {bytes_text(gpu.memory_bytes)}; {whole}"),
        *([("size", ", ".join(known))] if known else []),
        ("method", f"{weights.method} on {kind} weights{weights.why and f': {weights.why}'}"),
        ("step", f"{STEP_ROWS} rows ({micro_batches}), at most {job.data.max_length} tokens each"),
        ("nightly", f"a version at {NIGHT} ({config.consolidation.timezone}), if something was trained"),
        ("disk", f"older checkpoints and backups go when space is low; {VERSIONS_KEPT} versions stay"),
    ]


def bytes_text(count: float) -> str:
    """A size in bytes, short.

    >>> bytes_text(107_904), bytes_text(538_060_032), bytes_text(25e9)
    ('0.1 MB', '538 MB', '25 GB')
    """
    if count < 1e9:
        return f"{count / 1e6:.1f} MB" if count < 1e7 else f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"


def parameters_text(count: int) -> str:
    """A number of parameters as model cards write it.

    >>> parameters_text(134_515_008), parameters_text(7_615_616_512), parameters_text(9_000)
    ('135M', '7.6B', '9,000')
    """
    if count >= 1e9:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.0f}M" if count >= 1e6 else f"{count:,}"
