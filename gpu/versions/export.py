"""A version or a checkpoint as a model of its own: `python -P -m gpu.versions.export`, with an `Order` as JSON for its
only argument.

What it was trained beside and what it learned become ordinary weights in a directory that plain transformers loads. It
is written under a staging name, loaded again, held against base and checkpoint on fixed prompts, and only then named.
Prints an `Exported` or a `Refusal` as one line of JSON.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from gpu.artifacts.commit import publish, staging_of
from gpu.artifacts.manifest import FileEntry
from gpu.artifacts.version_manifest import SEAL, card
from gpu.errors import MergeRefused
from gpu.ipc.protocol import Exported, Order, reply
from gpu.versions.logit_check import TOLERANCE, difference, refuse_unless_alike
from gpu.versions.merged_model import Sources, of_checkpoint, of_version, ordinary, sealed_as


def export(order: Order) -> Exported:
    """Raises WorkerError, OSError, ValueError."""
    sources, target = _sources(order), Path(order.target)
    distance = math.nan
    try:
        with ordinary(sources, order.dtype) as made:
            told = sealed_as(sources, made)
            contents = {**made.contents, "README.md": card(told, made.stored_as).encode()}

            def prove(staging: Path) -> None:
                nonlocal distance
                distance = difference(staging, sources.reference)
                refuse_unless_alike(distance, made.stored_as)

            def seal(entries: Mapping[str, FileEntry]) -> tuple[str, bytes]:
                said = replace(sealed_as(sources, made), files=dict(entries))
                return SEAL, said.encode()

            committed = publish(target, contents, seal, prove=prove)
    finally:
        shutil.rmtree(staging_of(target), ignore_errors=True)  # what has its name is there no more
    return Exported(
        target=order.target,
        size_bytes=committed.size_bytes,
        dtypes=made.dtypes,
        applied=made.tally.applied,
        difference=distance,
        tolerance=TOLERANCE[made.stored_as],
    )


def _sources(order: Order) -> Sources:
    home = Path(order.home)
    if order.checkpoint is not None:
        return of_checkpoint(home, Path(order.checkpoint), order.version)
    if order.version is None:
        raise MergeRefused("neither a checkpoint nor a version was named")
    return of_version(home, order.version)


def main() -> None:
    """Carry out the order on the command line."""
    reply(Order, export)


if __name__ == "__main__":
    main()
