"""Load what the next step starts from: `python -P -m gpu.versions.rehearse REQUEST`, a `Rehearse` as JSON.

Base, method and checkpoint are loaded by the code of the worker. A consolidation is rehearsed
(`gpu.versions.rehearsal`) if that was not done before; only this writes, into the cache. Prints a `Rehearsed` or a
`Refusal` as one line of JSON.
"""

from __future__ import annotations

import time
from pathlib import Path

from msgspec import Struct

from events.settings import JobSettings
from events.values import CheckpointId, VersionId
from gpu.ipc.protocol import run_request


class Rehearse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request: base, method and checkpoint to load."""

    home: str
    settings: JobSettings
    version: VersionId | None
    """The version that training continues on; None: the origin."""
    checkpoint: CheckpointId | None
    """None: nothing was trained on the version yet, and the base alone is loaded."""
    environment: dict[str, str] = {}
    """The environment of the last attempt; empty if there was none."""


class Rehearsed(Struct, frozen=True, kw_only=True, tag="rehearsed"):
    """The answer: what was loaded."""

    global_step: int | None
    """The step of the checkpoint; None: no checkpoint was loaded."""
    parameters: int
    """Number of trained parameters."""
    environment: dict[str, str]
    seconds: float


def rehearse(order: Rehearse) -> Rehearsed:
    """Load and rehearse. Raises ModelUnusable, CheckpointBroken, CheckpointForeign, OSError, RuntimeError."""
    import torch

    from gpu.artifacts import checkpoint
    from gpu.artifacts.compatibility import TrainingTarget
    from gpu.artifacts.manifest import read_manifest
    from gpu.data.template.fingerprint import tokenizer_sha256
    from gpu.kernels.choose import install_kernels, wanted_kernels
    from gpu.model.build import build
    from gpu.model.tokenizer import comparable_sha256, load_tokenizer
    from gpu.runtime.arithmetic import choose_arithmetic
    from gpu.runtime.determinism import enable_determinism
    from gpu.versions.rehearsal import rehearse as rehearse_consolidation

    began = time.monotonic()
    home = Path(order.home)
    device = enable_determinism(order.settings.training.threads)
    fingerprint = tokenizer_sha256(load_tokenizer(order.settings.model, home))
    computes_in = choose_arithmetic(order.settings.training.precision, device, order.environment)
    trained = build(order.settings, home, device, version=order.version, arithmetic=computes_in)
    install_kernels(trained, wanted_kernels(order.settings, order.environment, device))
    rehearse_consolidation(trained, order.settings, home, order.version, {})
    global_step = None
    if order.checkpoint is not None:
        optimizer = torch.optim.AdamW(trained.parameters.values())
        checkpoint.reset_moments(trained, optimizer)
        directory = home / "checkpoints" / order.checkpoint
        lineage = read_manifest(directory).lineage
        fingerprint = comparable_sha256(fingerprint, lineage.tokenizer_sha256, directory)
        target = TrainingTarget(order.settings, trained.shapes, trained.base_sha256, fingerprint, trained.buffer_kinds)
        global_step = checkpoint.load(directory, trained, optimizer, target).cursor.global_step
    return Rehearsed(
        global_step=global_step,
        parameters=sum(parameter.numel() for parameter in trained.parameters.values()),
        environment=trained.environment,
        seconds=time.monotonic() - began,
    )


def main() -> None:
    """Answer the request on the command line."""
    run_request(Rehearse, rehearse)


if __name__ == "__main__":
    main()
