"""`python -P -m gpu.versions.rehearse`, with a `Rehearse` as JSON for its only argument: load what the next step starts
from.

Base, method and checkpoint by the worker's own code, strictly; and the way to a version is rehearsed
(`gpu.versions.rehearsal`), if that was not done before: only that writes, into the cache. Prints a `Rehearsed` or a
`Refusal` as one line of JSON.
"""

from __future__ import annotations

import time
from pathlib import Path

from msgspec import Struct

from events.settings import JobSettings
from events.values import ARITHMETIC, CheckpointId, VersionId
from gpu.ipc.protocol import reply


class Rehearse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be loaded."""

    home: str
    settings: JobSettings
    version: VersionId | None
    """Beside which it goes on; None: the origin."""
    checkpoint: CheckpointId | None
    """None: nothing was learned beside it yet, and the base alone is loaded."""
    environment: dict[str, str] = {}
    """What the job was trained in when training last started; empty: it never was."""


class Rehearsed(Struct, frozen=True, kw_only=True, tag="rehearsed"):
    """It was loaded."""

    global_step: int | None
    """That the checkpoint stands at."""
    parameters: int
    """That are trained."""
    environment: dict[str, str]
    seconds: float


def rehearse(order: Rehearse) -> Rehearsed:
    """Raises ModelUnusable, CheckpointBroken, CheckpointForeign, OSError, RuntimeError."""
    import torch

    from gpu.artifacts import checkpoint
    from gpu.artifacts.compatibility import Ground
    from gpu.artifacts.manifest import read_manifest
    from gpu.data.template.fingerprint import tokenizer_sha256
    from gpu.model.build import build
    from gpu.model.tokenizer import kept_sha256, load_tokenizer
    from gpu.runtime.arithmetic import choose_arithmetic
    from gpu.runtime.determinism import enable_determinism, environment
    from gpu.versions.rehearsal import rehearse as rehearse_the_way

    began = time.monotonic()
    home = Path(order.home)
    device = enable_determinism(order.settings.training.threads)
    fingerprint = tokenizer_sha256(load_tokenizer(order.settings.model, home))
    computes_in = choose_arithmetic(order.settings.training.precision, device, order.environment)
    trained = build(order.settings, home, device, version=order.version, arithmetic=computes_in)
    rehearse_the_way(trained, order.settings, home, order.version, {})
    global_step = None
    if order.checkpoint is not None:
        optimizer = torch.optim.AdamW(trained.parameters.values())
        checkpoint.reset_moments(trained, optimizer)
        directory = home / "checkpoints" / order.checkpoint
        lineage = read_manifest(directory).lineage
        if lineage.tokenizer_sha256 != fingerprint == kept_sha256(directory):
            fingerprint = lineage.tokenizer_sha256  # the same tokenizer, as another version of its library writes it
        ground = Ground(order.settings, trained.shapes, trained.base_sha256, fingerprint, trained.kinds_of_buffers)
        global_step = checkpoint.load(directory, trained, optimizer, ground).cursor.global_step
    return Rehearsed(
        global_step=global_step,
        parameters=sum(parameter.numel() for parameter in trained.parameters.values()),
        environment={**environment(device, trained.libraries), ARITHMETIC: computes_in},
        seconds=time.monotonic() - began,
    )


def main() -> None:
    """Carry out the order on the command line."""
    reply(Rehearse, rehearse)


if __name__ == "__main__":
    main()
