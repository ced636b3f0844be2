"""A checkpoint: what is copied out of the training, handed to the commit protocol (`commit.py`), and read back.

Reading believes nothing: every byte is checked, and every tensor must be the one that is expected.
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
from gpu.artifacts.commit import Content, commit
from gpu.artifacts.compatibility import OPTIMIZER, Ground, differences
from gpu.artifacts.manifest import MOMENTS, OPTIMIZER_FILE, Cursor, Lineage, Manifest, verify
from gpu.errors import CheckpointBroken, CheckpointForeign, StorageFailed, TrainingDiverged
from gpu.model.build import KINDS, TrainedModel
from gpu.runtime.library_paths import library_path
from journal.storage import REAL

STATE_FILE = "trainer_state.json"

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
    buffers: Tensors = field(default_factory=dict)
    """Saved with the weights: they are part of the model, though they are not trained."""


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


def copied_buffers(trained: TrainedModel) -> Tensors:
    """The persistent buffers as they are now, in memory of their own."""
    return {name: _copy(buffer) for name, buffer in trained.buffers.items()}


def write(checkpoints: Path, snapshot: Snapshot, beat: Callable[[int, int], None]) -> CheckpointWritten:
    """Write `snapshot` below `checkpoints`; what comes back is to be reported.

    `beat` is told how many of how many bytes are written. Raises StorageFailed, TrainingDiverged.
    """
    for name, tensor in (*snapshot.weights.items(), *snapshot.optimizer.items()):
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(snapshot.cursor.global_step, f"{name} holds what is not a number")
    manifest, contents, total = described(snapshot)
    done = 0
    _refuse_without_room(checkpoints, snapshot.checkpoint, total)

    def watch(chunk: bytes) -> None:
        nonlocal done
        done += len(chunk)
        beat(done, total)

    committed = commit(checkpoints, manifest, contents, watch)
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


def described(snapshot: Snapshot) -> tuple[Manifest, Mapping[str, Content], int]:
    """The manifest of a checkpoint (without its files), what its files hold, and how many bytes they will have."""
    tensors = {snapshot.weights_file: {**snapshot.weights, **snapshot.buffers}, OPTIMIZER_FILE: snapshot.optimizer}
    contents: dict[str, Content] = {**snapshot.files, **{name: _saved(group) for name, group in tensors.items()}}
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


def _refuse_without_room(checkpoints: Path, checkpoint: CheckpointId, wanted_bytes: int) -> None:
    """Before the first byte: a disk that was filled to its last block by half a checkpoint has none for the journal,
    nor for anybody else, until that half is swept."""
    try:
        free_bytes = REAL.free_bytes(checkpoints)
    except FileNotFoundError:  # whoever writes makes it
        return
    if free_bytes < wanted_bytes:
        said = f"{free_bytes / 1e6:.1f} MB are free, and the checkpoint has {wanted_bytes / 1e6:.1f} MB"
        raise StorageFailed(checkpoints / checkpoint, OSError(errno.ENOSPC, said))


def _saved(tensors: Tensors) -> Callable[[Path], None]:
    """What writes `tensors` to a file."""

    def save(path: Path) -> None:
        try:
            save_file(dict(tensors), path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise _as_os_error(error) from error

    return save


def _as_os_error(error: SafetensorError) -> OSError:
    """The system's error inside `error`, which has it as text only: `… No space left on device (os error 28)`."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def load(
    directory: Path,
    trained: TrainedModel,
    optimizer: torch.optim.AdamW | None,
    ground: Ground,
    watch: Callable[[bytes], None] = lambda _: None,
) -> Manifest:
    """Put what the checkpoint in `directory` holds into the model and, if given, into the optimizer.

    Raises CheckpointBroken when it is not what it says it is; CheckpointForeign when it is whole, but does not belong
    on this `ground`.
    """
    manifest = verify(directory, watch)
    if found := differences(manifest, ground):
        raise CheckpointForeign(manifest.checkpoint, found)
    weights = _read(directory, trained.weights_file)
    state = _read(directory, OPTIMIZER_FILE)
    with torch.no_grad():
        for name, _, _ in manifest.buffers:
            trained.buffers[name].copy_(weights[name])
        # In the same order, says `differences`; by the names of the checkpoint, which may be older ones.
        names = (name for name, _ in manifest.parameters)
        for name, parameter, step in zip(names, trained.parameters.values(), state["step"], strict=True):
            parameter.copy_(weights[name])
            if optimizer is not None:
                moments = optimizer.state[parameter]
                moments["step"].copy_(step)
                for moment in MOMENTS:
                    moments[moment].copy_(state[f"{name}.{moment}"])
    return manifest


def _read(directory: Path, name: str) -> Tensors:
    """The tensors of a verified file: that they are those which are expected is known, that they are numbers is not."""
    try:
        tensors: Tensors = load_file(library_path(directory / name))
    except (SafetensorError, OSError) as error:
        raise CheckpointBroken(directory.name, f"{name} cannot be read: {error}") from error
    for tensor_name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointBroken(directory.name, f"{name}: {tensor_name} holds what is not a number")
    return tensors


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
