"""A checkpoint, written by the commit protocol and read back strictly.

The order is the protocol: every file is written and synced under a staging name, the manifest last; then the
directory gets its final name, and that is synced too. Only after that is it reported, and it counts only once the
daemon has journaled it. A crash at any point leaves debris that nothing names, never half a checkpoint that something
believes. Reading believes nothing either: every byte is checked, and every tensor must be the one that is expected.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from events.kinds import CheckpointReason
from events.values import CheckpointId
from events.worker import CheckpointWritten
from gpu.crashpoints import reached
from gpu.errors import CheckpointBroken, CheckpointForeign, StorageFailed, TrainingDiverged
from gpu.manifest import MANIFEST, Cursor, Lineage, Manifest, describe, verify
from gpu.model import TrainedModel
from journal.durable import fsync_directory, fsync_file, rename_durably

OPTIMIZER = "torch.optim.AdamW"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "trainer_state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint will hold, copied out of the training: later steps do not change it."""

    checkpoint: CheckpointId
    reason: CheckpointReason
    cursor: Cursor
    lineage: Lineage
    environment: dict[str, str]
    weights_file: str
    weights: Tensors
    optimizer: Tensors
    files: Mapping[str, bytes]


def reset_moments(trained: TrainedModel, optimizer: torch.optim.AdamW) -> None:
    """Begin anew: what AdamW would make of itself at its first step, made now, so that it can be saved and loaded at
    any step and is there for parameters that never had a gradient too."""
    for parameter in trained.parameters.values():
        moments = {moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS}
        optimizer.state[parameter] = {"step": torch.zeros(()), **moments}


def copied(trained: TrainedModel, optimizer: torch.optim.AdamW) -> tuple[Tensors, Tensors]:
    """Weights and optimizer state as they are now, in memory of their own."""
    weights = {name: _copy(parameter) for name, parameter in trained.parameters.items()}
    moments = {
        f"{name}.{moment}": _copy(optimizer.state[parameter][moment])
        for name, parameter in trained.parameters.items()
        for moment in MOMENTS
    }
    steps = torch.stack([optimizer.state[parameter]["step"].cpu() for parameter in trained.parameters.values()])
    return weights, {**moments, "step": steps}


def write(checkpoints: Path, snapshot: Snapshot, beat: Callable[[int, int], None]) -> CheckpointWritten:
    """Write `snapshot` below `checkpoints`; what comes back is to be reported.

    `beat` is told how many of how many bytes are written. Raises StorageFailed, TrainingDiverged.
    """
    for name, tensor in (*snapshot.weights.items(), *snapshot.optimizer.items()):
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(snapshot.cursor.global_step, f"{name} holds what is not a number")
    final = checkpoints / snapshot.checkpoint
    staging = checkpoints / f".staging-{snapshot.checkpoint}"
    try:
        checkpoints.mkdir(exist_ok=True)
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir()
        size_bytes, manifest_sha256 = _fill(staging, snapshot, beat)
        reached("staging_fsynced")
        rename_durably(staging, final)
    except SafetensorError as error:
        raise StorageFailed(staging, OSError(str(error))) from error
    except OSError as error:
        raise StorageFailed(staging, error) from error
    reached("renamed")
    return CheckpointWritten(
        attempt=snapshot.lineage.attempt,
        checkpoint=snapshot.checkpoint,
        global_step=snapshot.cursor.global_step,
        step=snapshot.cursor.step,
        parent=snapshot.lineage.parent,
        size_bytes=size_bytes,
        manifest_sha256=manifest_sha256,
        reason=snapshot.reason,
    )


def _fill(staging: Path, snapshot: Snapshot, beat: Callable[[int, int], None]) -> tuple[int, str]:
    """Everything into the staging directory, synced. Returns its size in bytes and the manifest's SHA-256."""
    tensors = {snapshot.weights_file: snapshot.weights, OPTIMIZER_FILE: snapshot.optimizer}
    total = sum(map(len, snapshot.files.values())) + sum(
        tensor.nbytes for group in tensors.values() for tensor in group.values()
    )
    done = 0

    def watch(chunk: bytes) -> None:
        nonlocal done
        done += len(chunk)
        beat(done, total)

    entries = {}
    for name in sorted({*tensors, *snapshot.files}):
        if name in tensors:
            save_file(dict(tensors[name]), staging / name, metadata={"format": "pt"})
        else:
            (staging / name).write_bytes(snapshot.files[name])
        fsync_file(staging / name)
        entries[name] = describe(staging / name, watch)
        reached("file_written")
    manifest = Manifest(
        checkpoint=snapshot.checkpoint,
        cursor=snapshot.cursor,
        lineage=snapshot.lineage,
        parameters=tuple((name, tuple(tensor.shape)) for name, tensor in snapshot.weights.items()),
        optimizer=OPTIMIZER,
        environment=snapshot.environment,
        files=entries,
    ).encode()
    reached("before_manifest")
    (staging / MANIFEST).write_bytes(manifest)
    reached("staging_written")
    fsync_file(staging / MANIFEST)
    fsync_directory(staging)
    return sum(entry.size_bytes for entry in entries.values()) + len(manifest), hashlib.sha256(manifest).hexdigest()


def load(
    directory: Path,
    trained: TrainedModel,
    optimizer: torch.optim.AdamW | None,
    watch: Callable[[bytes], None] = lambda _: None,
) -> Manifest:
    """Put what the checkpoint in `directory` holds into the model and, if given, into the optimizer.

    Raises CheckpointBroken when it is not what it says it is; CheckpointForeign when it is whole, but of a model of
    another shape.
    """
    manifest = verify(directory, watch)
    if manifest.parameters != trained.shapes:
        raise CheckpointForeign(_foreign(manifest, trained))
    if manifest.optimizer != OPTIMIZER:
        raise CheckpointForeign(f"{manifest.checkpoint} was trained with {manifest.optimizer}, not with {OPTIMIZER}.")
    shapes = dict(trained.shapes)
    weights = _read(directory, trained.weights_file, shapes)
    state = _read(
        directory,
        OPTIMIZER_FILE,
        {f"{name}.{moment}": shape for name, shape in shapes.items() for moment in MOMENTS} | {"step": (len(shapes),)},
    )
    with torch.no_grad():
        for (name, parameter), step in zip(trained.parameters.items(), state["step"], strict=True):
            parameter.copy_(weights[name])
            if optimizer is not None:
                moments = optimizer.state[parameter]
                moments["step"].copy_(step)
                for moment in MOMENTS:
                    moments[moment].copy_(state[f"{name}.{moment}"])
    return manifest


def _read(directory: Path, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """The tensors of a file: these names, these shapes, float32, finite, and nothing else."""
    try:
        tensors: Tensors = load_file(directory / name)
    except (SafetensorError, OSError) as error:
        raise CheckpointBroken(directory.name, f"{name} cannot be read: {error}") from error
    for missing in sorted(shapes.keys() - tensors.keys()):
        raise CheckpointBroken(directory.name, f"{name} lacks the tensor {missing}")
    for extra in sorted(tensors.keys() - shapes.keys()):
        raise CheckpointBroken(directory.name, f"{name} holds a tensor that is not trained: {extra}")
    for tensor_name, shape in shapes.items():
        tensor = tensors[tensor_name]
        if tuple(tensor.shape) != shape:
            raise CheckpointBroken(directory.name, f"{name}: {tensor_name} is {tuple(tensor.shape)}, not {shape}")
        if tensor.dtype != torch.float32:
            raise CheckpointBroken(directory.name, f"{name}: {tensor_name} is {tensor.dtype}, not float32")
        if not torch.isfinite(tensor).all():
            raise CheckpointBroken(directory.name, f"{name}: {tensor_name} holds what is not a number")
    return tensors


def _foreign(manifest: Manifest, trained: TrainedModel) -> str:
    theirs, ours = set(manifest.parameters), set(trained.shapes)
    example = next(iter(sorted(theirs ^ ours)), None)
    what = f"it differs at {example[0]} {example[1]}" if example else "the parameters are in another order"
    return (
        f"{manifest.checkpoint} was trained with other [model] or [method] settings ({what}). "
        "Set them back in keepstep.toml, or begin anew in a home of its own."
    )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
