"""The place of what an export of a GGUF file needs until it is done. No torch."""

from __future__ import annotations

from pathlib import Path

from gpu.artifacts.commit import staging_of


def parts_of(target: Path) -> Path:
    """Return the directory: next to `target`, under a name that says that it is not complete."""
    staging = staging_of(target)
    return staging.with_name(f"{staging.name}-parts")
