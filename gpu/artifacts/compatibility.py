"""Compare a checkpoint with what is about to be trained, and name every difference.

Trained weights are valid only with the base, tokenizer and method that they were trained with. With others they would
load without an error and be wrong, so such a difference is refused. Settings that only decide how training continues
(data, learning rate, dropout, …) may differ from job to job. What decides the bits (libraries, threads, device) is
reported in `loaded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import to_builtins

from events.settings import FullSettings, JobSettings, MethodSettings
from gpu.artifacts.manifest import Buffers, Manifest, Parameters

OPTIMIZER = "torch.optim.AdamW"


class TrainingTarget(NamedTuple):
    """The training that a checkpoint must fit, in the terms of its manifest."""

    settings: JobSettings
    parameters: Parameters
    base_sha256: str
    tokenizer_sha256: str
    buffers: Buffers = ()
    batches_sha256: str | None = None
    """The batch plan, if a job resumes from its own checkpoint; None otherwise: each job has its own plan."""


def differences(manifest: Manifest, target: TrainingTarget) -> list[str]:
    """Return why the checkpoint does not fit `target`, one message for each reason; [] if it fits."""
    found = list(_method_differences(manifest, target))
    theirs, ours = manifest.lineage, target
    if theirs.base_sha256 and theirs.base_sha256 != ours.base_sha256:  # "": an earlier keepstep did not record it
        found.append(
            f"the base model at {ours.settings.model.path} is not the one that it was trained on: its SHA-256 was "
            f"{theirs.base_sha256}, is {ours.base_sha256}"
        )
    if theirs.tokenizer_sha256 != ours.tokenizer_sha256:
        found.append(
            f"the tokenizer or chat template of {ours.settings.model.path} is not the one that it was trained with: "
            f"its SHA-256 was {theirs.tokenizer_sha256}, is {ours.tokenizer_sha256}"
        )
    if manifest.buffers and manifest.buffers != ours.buffers:  # (): an earlier keepstep did not save them
        found.append("its buffers are not those of the model, by name, shape or dtype")
    if ours.batches_sha256 not in {None, theirs.batches_sha256}:
        found.append("the batches after it are planned otherwise than those before it (rows, seed, geometry)")
    if manifest.optimizer != OPTIMIZER:
        found.append(f"it was trained with {manifest.optimizer}, not with {OPTIMIZER}")
    return found


def _method_differences(manifest: Manifest, target: TrainingTarget) -> Iterator[str]:
    theirs, ours = _compared_settings(manifest.lineage.settings.method), _compared_settings(target.settings.method)
    if theirs["kind"] != ours["kind"]:
        theirs, ours = {"kind": theirs["kind"]}, {"kind": ours["kind"]}  # the others are not comparable
    # The parameters show whether the targets differ: "all-linear" and the list of all layers are the same.
    parameters = current_names(manifest.parameters)
    same = parameters == target.parameters
    found = [
        f"it has {name}={theirs[name]}, the settings say {name}={ours[name]}"
        for name in theirs
        if theirs[name] != ours[name] and not (same and name == "target_modules")
    ]
    yield from found
    if not same and not found:
        yield _parameter_difference(parameters, target.parameters)


def current_names(parameters: Parameters) -> Parameters:
    """Return the parameters under current names. Earlier keepsteps left the adapter's name in those of an embedding."""
    return tuple((name.removesuffix(".default"), shape) for name, shape in parameters)


def _compared_settings(method: MethodSettings) -> dict[str, object]:
    """Return the settings that decide which parameters are trained and how they are used."""
    if isinstance(method, FullSettings):
        return {"kind": "full"}
    targets = method.target_modules
    return {
        **{name: value for name, value in to_builtins(method).items() if name != "dropout"},
        "target_modules": targets if isinstance(targets, str) else ",".join(sorted(targets)),
    }


def _parameter_difference(theirs: Parameters, ours: Parameters) -> str:
    """Return the first difference that no setting explains: the model itself has changed."""
    if sorted(theirs) == sorted(ours):
        return "its parameters are in another order than the model's"
    their_shapes, our_shapes = dict(theirs), dict(ours)
    for name in sorted(their_shapes.keys() - our_shapes.keys()):
        return f"it holds the parameter {name}, which the model does not have"
    for name in sorted(our_shapes.keys() - their_shapes.keys()):
        return f"it lacks the parameter {name}"
    name = next(name for name, shape in theirs if our_shapes[name] != shape)
    return f"its parameter {name} is {their_shapes[name]}, the model's is {our_shapes[name]}"
