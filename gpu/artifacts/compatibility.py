"""Whether a whole checkpoint belongs to what is about to be trained; if not, every difference by its name.

Learned weights mean something only beside the base, the tokenizer and the method that they were learned with. Put
beside others they load without complaint and are wrong, so whatever would change their meaning is refused. What only
decides how training goes on (data, learning rate, dropout, …) may differ from job to job, and what decides the bits of
it (libraries, threads, device) is announced in `loaded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import to_builtins

from events.settings import FullSettings, JobSettings, MethodSettings
from gpu.artifacts.manifest import Buffers, Manifest, Parameters

OPTIMIZER = "torch.optim.AdamW"


class Ground(NamedTuple):
    """What is about to be trained, as a checkpoint's manifest has it."""

    settings: JobSettings
    parameters: Parameters
    base_sha256: str
    tokenizer_sha256: str
    buffers: Buffers = ()
    batches_sha256: str | None = None
    """The plan, where a job is gone on with from a checkpoint of its own; another job's plan is another."""


def differences(manifest: Manifest, ground: Ground) -> list[str]:
    """Why what the checkpoint holds does not belong on this ground, each reason in its own words; none if it does."""
    found = list(_of_method(manifest, ground))
    theirs, ours = manifest.lineage, ground
    if theirs.base_sha256 and theirs.base_sha256 != ours.base_sha256:  # "": of before it was written down
        found.append(
            f"the base model at {ours.settings.model.path} is not the one that it was trained on: its SHA-256 was "
            f"{theirs.base_sha256}, is {ours.base_sha256}"
        )
    if theirs.tokenizer_sha256 != ours.tokenizer_sha256:
        found.append(
            f"the tokenizer or chat template of {ours.settings.model.path} is not the one that it was trained with: "
            f"its SHA-256 was {theirs.tokenizer_sha256}, is {ours.tokenizer_sha256}"
        )
    if manifest.buffers and manifest.buffers != ours.buffers:  # (): of before they were saved, when none had changed
        found.append("its buffers are not those of the model, by name, shape or kind of number")
    if ours.batches_sha256 not in {None, theirs.batches_sha256}:
        found.append("the batches behind it are planned otherwise than those before it (rows, seed, geometry)")
    if manifest.optimizer != OPTIMIZER:
        found.append(f"it was trained with {manifest.optimizer}, not with {OPTIMIZER}")
    return found


def _of_method(manifest: Manifest, ground: Ground) -> Iterator[str]:
    theirs, ours = _named(manifest.lineage.settings.method), _named(ground.settings.method)
    if theirs["kind"] != ours["kind"]:
        theirs, ours = {"kind": theirs["kind"]}, {"kind": ours["kind"]}  # the others are not comparable
    # Whether the targets differ is told by the parameters: "all-linear" and the list of all layers are the same.
    parameters = renamed(manifest.parameters)
    same = parameters == ground.parameters
    said = [
        f"it has {name}={theirs[name]}, the settings say {name}={ours[name]}"
        for name in theirs
        if theirs[name] != ours[name] and not (same and name == "target_modules")
    ]
    yield from said
    if not same and not said:
        yield _of_parameters(parameters, ground.parameters)


def renamed(parameters: Parameters) -> Parameters:
    """The parameters under the names of today: earlier keepsteps left the adapter's name in those of an embedding."""
    return tuple((name.removesuffix(".default"), shape) for name, shape in parameters)


def _named(method: MethodSettings) -> dict[str, object]:
    """The settings that decide what the trained parameters are and mean."""
    if isinstance(method, FullSettings):
        return {"kind": "full"}
    targets = method.target_modules
    return {
        **{name: value for name, value in to_builtins(method).items() if name != "dropout"},
        "target_modules": targets if isinstance(targets, str) else ",".join(sorted(targets)),
    }


def _of_parameters(theirs: Parameters, ours: Parameters) -> str:
    """The first difference, where no setting explains it: the model itself is another."""
    if sorted(theirs) == sorted(ours):
        return "its parameters are in another order than the model's"
    their_shapes, our_shapes = dict(theirs), dict(ours)
    for name in sorted(their_shapes.keys() - our_shapes.keys()):
        return f"it holds the parameter {name}, which the model does not have"
    for name in sorted(our_shapes.keys() - their_shapes.keys()):
        return f"it lacks the parameter {name}"
    name = next(name for name, shape in theirs if our_shapes[name] != shape)
    return f"its parameter {name} is {their_shapes[name]}, the model's is {our_shapes[name]}"
