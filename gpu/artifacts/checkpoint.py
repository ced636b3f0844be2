"""Checkpoints: copy the state of training, write it by the commit protocol (`commit.py`), and load it again.

Loading trusts nothing: every byte is checked, and every tensor must be the expected one.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from events.messages import CheckpointWritten
from events.values import CheckpointId, CheckpointReason
from gpu.artifacts.artifact import CheckpointDirectory, Watch
from gpu.artifacts.commit import Content
from gpu.artifacts.compatibility import OPTIMIZER, TrainingTarget, differences
from gpu.artifacts.manifest import MOMENTS, OPTIMIZER_FILE, Cursor, Lineage, Manifest
from gpu.errors import CheckpointBroken, CheckpointForeign, StorageFailed, TrainingDiverged
from gpu.model.build import KINDS, TrainedModel
from gpu.runtime.library_paths import library_path
from journal.storage import REAL

STATE_FILE = "trainer_state.json"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint, copied out of the training: later steps do not change it."""

    checkpoint: CheckpointId
    reason: CheckpointReason
    cursor: Cursor
    lineage: Lineage
    environment: dict[str, str]
    weights_file: str
    weights: Tensors
    optimizer: Tensors
    files: Mapping[str, bytes]
    buffers: Tensors = field(default_factory=dict)
    """Persistent buffers. They are saved with the weights, though they are not trained."""


def reset_moments(trained: TrainedModel, optimizer: torch.optim.AdamW) -> None:
    """Set the state of AdamW to what it would be before its first step.

    AdamW itself creates the state at the first step. Creating it now lets it be saved and loaded at any step, also for
    parameters that never had a gradient.
    """
    for parameter in trained.parameters.values():
        moments = {moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS}
        optimizer.state[parameter] = {"step": torch.zeros(()), **moments}


def copy_state(trained: TrainedModel, optimizer: torch.optim.AdamW) -> tuple[Tensors, Tensors]:
    """Return copies of the weights and of the optimizer state, on the CPU."""
    weights = {name: _copy(parameter) for name, parameter in trained.parameters.items()}
    moments = {
        f"{name}.{moment}": _copy(optimizer.state[parameter][moment])
        for name, parameter in trained.parameters.items()
        for moment in MOMENTS
    }
    steps = torch.stack([optimizer.state[parameter]["step"].cpu() for parameter in trained.parameters.values()])
    return weights, {**moments, "step": steps}


def copy_buffers(trained: TrainedModel) -> Tensors:
    """Return copies of the persistent buffers, on the CPU."""
    return {name: _copy(buffer) for name, buffer in trained.buffers.items()}


def write(checkpoints: Path, snapshot: Snapshot, beat: Callable[[int, int], None]) -> CheckpointWritten:
    """Write `snapshot` below `checkpoints`. Return the report for the daemon.

    `beat` receives the bytes written and the bytes in total. Raises StorageFailed, TrainingDiverged.
    """
    for name, tensor in (*snapshot.weights.items(), *snapshot.optimizer.items()):
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(snapshot.cursor.global_step, f"{name} is not finite")
    manifest, contents, total = describe_snapshot(snapshot)
    done = 0
    _refuse_without_space(checkpoints, snapshot.checkpoint, total)

    def watch(chunk: bytes) -> None:
        nonlocal done
        done += len(chunk)
        beat(done, total)

    committed = CheckpointDirectory(checkpoints / snapshot.checkpoint).write(contents, manifest.with_files, watch)
    return CheckpointWritten(
        attempt=snapshot.lineage.attempt,
        checkpoint=snapshot.checkpoint,
        global_step=snapshot.cursor.global_step,
        step=snapshot.cursor.step,
        parent=snapshot.lineage.parent,
        size_bytes=committed.size_bytes,
        manifest_sha256=committed.manifest_sha256,
        reason=snapshot.reason,
    )


def describe_snapshot(snapshot: Snapshot) -> tuple[Manifest, Mapping[str, Content], int]:
    """Return the manifest of a checkpoint (without its files), the contents of its files, and their bytes."""
    tensors = {snapshot.weights_file: {**snapshot.weights, **snapshot.buffers}, OPTIMIZER_FILE: snapshot.optimizer}
    contents: dict[str, Content] = {**snapshot.files, **{name: _writer(group) for name, group in tensors.items()}}
    total = sum(map(len, snapshot.files.values())) + sum(
        tensor.nbytes for group in tensors.values() for tensor in group.values()
    )
    manifest = Manifest(
        checkpoint=snapshot.checkpoint,
        cursor=snapshot.cursor,
        lineage=snapshot.lineage,
        parameters=tuple((name, tuple(tensor.shape)) for name, tensor in snapshot.weights.items()),
        buffers=tuple((name, tuple(each.shape), KINDS[each.dtype]) for name, each in snapshot.buffers.items()),
        optimizer=OPTIMIZER,
        environment=snapshot.environment,
        files={},
    )
    return manifest, contents, total


def _refuse_without_space(checkpoints: Path, checkpoint: CheckpointId, wanted_bytes: int) -> None:
    """Raise StorageFailed before the first byte is written if the disk has too little space.

    Half a checkpoint would fill the disk to its last block, and leave none for the journal until it is swept.
    """
    try:
        free_bytes = REAL.free_bytes(checkpoints)
    except FileNotFoundError:  # the writer creates it
        return
    if free_bytes < wanted_bytes:
        message = f"{free_bytes / 1e6:.1f} MB are free, and the checkpoint has {wanted_bytes / 1e6:.1f} MB"
        raise StorageFailed(checkpoints / checkpoint, OSError(errno.ENOSPC, message))


def _writer(tensors: Tensors) -> Callable[[Path], None]:
    """Return a function that writes `tensors` to a file."""

    def save(path: Path) -> None:
        try:
            save_file(dict(tensors), path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise _as_os_error(error) from error

    return save


def _as_os_error(error: SafetensorError) -> OSError:
    """Return the system's error that `error` has as text only: `… No space left on device (os error 28)`."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def load(
    directory: Path,
    trained: TrainedModel,
    optimizer: torch.optim.AdamW | None,
    target: TrainingTarget,
    watch: Watch = lambda _: None,
) -> Manifest:
    """Load the checkpoint in `directory` into the model and, if given, into the optimizer.

    Raises CheckpointBroken if it is damaged; CheckpointForeign if it is intact, but does not fit `target`.
    """
    manifest = CheckpointDirectory(directory).verify(watch=watch)
    if found := differences(manifest, target):
        raise CheckpointForeign(manifest.checkpoint, found)
    weights = _read(directory, trained.weights_file)
    state = _read(directory, OPTIMIZER_FILE) if optimizer is not None else {}
    with torch.no_grad():
        for name, _, _ in manifest.buffers:
            trained.buffers[name].copy_(weights[name])
        # `differences` has made sure of the order. The checkpoint may have the names of an earlier keepstep.
        for at, ((name, _), parameter) in enumerate(zip(manifest.parameters, trained.parameters.values(), strict=True)):
            parameter.copy_(weights[name])
            if optimizer is not None:
                moments = optimizer.state[parameter]
                moments["step"].copy_(state["step"][at])
                for moment in MOMENTS:
                    moments[moment].copy_(state[f"{name}.{moment}"])
    return manifest


def _read(directory: Path, name: str) -> Tensors:
    """Return the tensors of a verified file. Names and shapes are checked already; here each must be finite."""
    try:
        tensors: Tensors = load_file(library_path(directory / name))
    except (SafetensorError, OSError) as error:
        raise CheckpointBroken(directory.name, f"{name} cannot be read: {error}") from error
    for tensor_name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointBroken(directory.name, f"{name}: {tensor_name} is not finite")
    return tensors


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
