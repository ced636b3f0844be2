"""Export a version or a checkpoint as a model: `python -P -m gpu.versions.export ORDER`, an `ExportRequest` as JSON.

Base and trained weights are merged into a directory that plain transformers loads. It is written under a staging name,
loaded, compared with base and checkpoint on fixed prompts, and only then renamed. Prints an `Exported` or a `Refusal`
as one line of JSON.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from gpu.artifacts.commit import staging_of
from gpu.artifacts.manifest import FileEntry
from gpu.artifacts.version_manifest import VersionDirectory, VersionManifest, card
from gpu.errors import MergeRefused
from gpu.ipc.protocol import Exported, ExportRequest, run_request
from gpu.versions.logit_check import TOLERANCE, refuse_unless_close
from gpu.versions.merged_model import Sources, checkpoint_sources, make_manifest, open_merged_model, version_sources


def export(order: ExportRequest) -> Exported:
    """Write the model to `order.target`. Raises WorkerError, OSError, ValueError."""
    sources, target = _sources(order), Path(order.target)
    distance = math.nan
    try:
        with open_merged_model(sources, order.dtype) as merged:
            model_card = card(make_manifest(sources, merged), merged.stored_as)
            contents = {**merged.contents, "README.md": model_card.encode()}

            def prove(staging: Path) -> None:
                nonlocal distance
                distance = refuse_unless_close(staging, sources.reference, merged.stored_as)

            def complete_manifest(files: Mapping[str, FileEntry]) -> VersionManifest:
                return replace(make_manifest(sources, merged), files=dict(files))

            committed = VersionDirectory(target).write(contents, complete_manifest, prove=prove)
    finally:
        shutil.rmtree(staging_of(target), ignore_errors=True)  # a completed export has been renamed
    return Exported(
        target=order.target,
        size_bytes=committed.size_bytes,
        dtypes=merged.dtypes,
        applied=merged.tally.applied,
        difference=distance,
        tolerance=TOLERANCE[merged.stored_as],
    )


def _sources(order: ExportRequest) -> Sources:
    home = Path(order.home)
    if order.checkpoint is not None:
        return checkpoint_sources(home, Path(order.checkpoint), order.version, order.model)
    if order.version is None:
        raise MergeRefused("neither a checkpoint nor a version was named")
    return version_sources(home, order.version, order.model)


def main() -> None:
    """Answer the request on the command line."""
    run_request(ExportRequest, export)


if __name__ == "__main__":
    main()
